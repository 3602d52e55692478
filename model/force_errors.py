"""Errors of forces: design rows through the factor of the posterior, block by block.

The design rows of all force components never exist at once in the symmetry-allowed parameters,
only for one block of the sum rules; in the irreducible parameters they are bounded by
`MEMORY_LIMIT`, beyond which configurations, and then the atoms of one, are treated in parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.expansion import Expansion
from anharm.model.kernels import evaluate
from anharm.model.program import Program, block_for, configurations_first, configurations_last
from anharm.model.threads import ranges, run_threads

AnyPrecision = NDArray[Any]  # float64 or float32

MEMORY_LIMIT = 256 * 2**20  # bytes of design rows in the irreducible parameters
_CACHE = 4 * 2**20  # bytes; rows that are added to again and again should stay in the cache
_FACTOR_BLOCK = 256  # rows of the factor
_PANEL = 1536  # force components


class PosteriorFactor:
    """A factor of the posterior covariance, S = factor @ factor.T, in either precision.

    Parameters
    ----------
    factor : (n_parameters, n_columns) float
        Usually triangular; what is zero is not multiplied.
    """

    def __init__(self, factor: FloatArray) -> None:
        transposed = np.ascontiguousarray(factor.T)
        self.double = self._blocks(transposed)
        self.single = [block.astype(np.float32) for block in self.double]

    @staticmethod
    def _blocks(transposed: FloatArray) -> list[FloatArray]:
        """Blocks of rows, each without the columns of zeros at its end."""
        blocks = []
        for begin in range(0, len(transposed), _FACTOR_BLOCK):
            block = transposed[begin : begin + _FACTOR_BLOCK]
            filled = np.flatnonzero(block.any(axis=0))
            blocks.append(np.ascontiguousarray(block[:, : filled[-1] + 1 if len(filled) else 0]))
        return blocks


@dataclass(frozen=True)
class _Group:
    """One block of the sum rules: some outputs of the program, and the parameters they become."""

    columns: IntArray
    rows: IntArray
    n_rows: int
    parameters: IntArray
    constraint: FloatArray  # (n_parameters, n_rows)


@dataclass(frozen=True)
class _Targets:
    """The atoms whose rows are computed, for the cells with clusters that reach them."""

    atoms: IntArray
    body_atoms: IntArray  # (n_bodies, n_cells)
    target_atoms: IntArray  # (n_bodies, n_cells), the number within `atoms`, or len(atoms)

    @property
    def has_others(self) -> bool:
        """Whether one more atom must take what belongs to none of the targets."""
        return self.target_atoms is not self.body_atoms


class ForceErrors:
    """Standard deviations of forces in one supercell, of one cell's program of design rows.

    Parameters
    ----------
    expansion : Expansion
    program : Program
        One output per symmetry-allowed parameter.
    body_atoms : (n_bodies, n_cells) int
    without_mean : bool
        Remove the mean over the atoms from all rows.
    """

    def __init__(
        self,
        expansion: Expansion,
        program: Program,
        body_atoms: IntArray,
        without_mean: bool = False,
    ) -> None:
        self._n_parameters = expansion.n_parameters
        self._programs = {np.dtype(float): program, np.dtype(np.float32): program.single}
        self._body_atoms = body_atoms
        self._without_mean = without_mean
        self._groups = []
        for outputs, parameters, values in expansion.constraint_blocks:
            columns, rows = program.columns_of(outputs)
            constraint = np.ascontiguousarray(values.T)
            self._groups.append(_Group(columns, rows, len(outputs), parameters, constraint))
        sizes = np.diff(program.forest.node_starts) + np.diff(
            program.forest.leaf_starts[program.forest.node_starts]
        )
        self._work = sizes

    def standard_deviations(
        self,
        displacements: FloatArray,
        factor: PosteriorFactor,
        exact: bool = True,
        threads: int = 1,
        memory_limit: int = MEMORY_LIMIT,
    ) -> FloatArray:
        """Root of diag(Phi S Phi^T), shape (n_conf, n_atoms, 3), eV/Angstrom.

        Parameters
        ----------
        displacements : (n_conf, n_atoms, 3) float
            Angstrom, in the supercell's order.
        factor : PosteriorFactor
        exact : bool
            In double precision; otherwise in single, good to 1e-5 of the largest error.
        threads : int
        memory_limit : int
            Bytes of design rows at one time.
        """
        n_configurations, n_atoms, _ = displacements.shape
        blocks: list[AnyPrecision] = list(factor.double if exact else factor.single)
        dtype = np.dtype(float) if exact else np.dtype(np.float32)
        bytes_each = self._n_parameters * n_atoms * 3 * dtype.itemsize
        at_once = max(memory_limit // max(bytes_each, 1), 1)
        n_parts = 1 if self._without_mean else -(-bytes_each // memory_limit)
        result = np.empty((n_configurations, n_atoms, 3))
        for begin, stop in ranges(n_configurations, -(-n_configurations // at_once)):
            by_atom: AnyPrecision = configurations_last(displacements[begin:stop]).astype(
                dtype, copy=False
            )
            for targets in self._targets(n_parts, n_atoms):
                rows = self._rows(by_atom, targets, threads)
                variances = _variances(blocks, rows, threads).astype(float)
                shape = (1, len(targets.atoms), 3, stop - begin)
                std = configurations_first(np.sqrt(variances).reshape(shape))
                result[begin:stop, targets.atoms] = std[0]
        return result

    def _targets(self, n_parts: int, n_atoms: int) -> list[_Targets]:
        """All atoms at once, or those of neighbouring cells in turn."""
        body_atoms = self._body_atoms
        if n_parts == 1:
            return [_Targets(np.arange(n_atoms), body_atoms, body_atoms)]
        n_cells = body_atoms.shape[1]
        found = []
        for begin, stop in ranges(n_cells, n_parts):
            atoms = np.arange(n_atoms).reshape(-1, n_cells)[:, begin:stop].ravel()
            number = np.full(n_atoms, len(atoms))
            number[atoms] = np.arange(len(atoms))
            numbers = number[body_atoms]
            cells = np.flatnonzero((numbers < len(atoms)).any(axis=0))
            found.append(
                _Targets(
                    atoms,
                    np.ascontiguousarray(body_atoms[:, cells]),
                    np.ascontiguousarray(numbers[:, cells]),
                )
            )
        return found

    def _rows(self, by_atom: AnyPrecision, targets: _Targets, threads: int) -> AnyPrecision:
        """Design rows (n_parameters, n_targets * 3 * n_conf)."""
        n_targets, n_configurations = len(targets.atoms), by_atom.shape[2]
        length = n_targets * 3 * n_configurations
        rows = np.empty((self._n_parameters, length), by_atom.dtype)
        for group in self._groups:
            shape = (group.n_rows, n_targets + targets.has_others, 3, n_configurations)
            free = np.zeros(shape, by_atom.dtype)
            pieces = self._pieces(group, free[0].nbytes, n_configurations, threads)
            run_threads(
                [
                    partial(self._accumulate, by_atom, targets, group, pieces[part::threads], free)
                    for part in range(threads)
                ],
                threads,
            )
            kept = free[:, :n_targets]
            if self._without_mean:
                kept -= kept.mean(axis=1, keepdims=True)
            kept = kept.reshape(group.n_rows, length)
            constraint = group.constraint.astype(by_atom.dtype, copy=False)
            run_threads(
                [
                    partial(_constrain, constraint, kept[:, a:b], rows[:, a:b], group.parameters)
                    for a, b in ranges(length, threads)
                ],
                threads,
            )
        return rows

    def _pieces(
        self, group: _Group, bytes_per_row: int, n_configurations: int, threads: int
    ) -> list[tuple[int, int]]:
        """Ranges of a group's columns, which share no row and hold equal work.

        Fetching the displacements of one configuration costs too much to repeat it often.
        """
        count = threads
        if n_configurations >= 8:
            count *= max(-(-group.n_rows * bytes_per_row // (_CACHE * threads)), 1)
        done = np.cumsum(self._work[group.columns])
        wanted = done[-1] * np.arange(1, count) // count if len(done) else np.empty(0, int)
        first = np.searchsorted(group.rows, group.rows[np.searchsorted(done, wanted)])
        bounds = np.unique(np.concatenate([[0], first, [len(done)]]))
        return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def _accumulate(
        self,
        by_atom: AnyPrecision,
        targets: _Targets,
        group: _Group,
        pieces: list[tuple[int, int]],
        free: AnyPrecision,
    ) -> None:
        program = self._programs[by_atom.dtype]
        n_cells = targets.body_atoms.shape[1]
        block = block_for(by_atom.shape[2], n_cells, by_atom.itemsize)
        nothing = np.empty((0, by_atom.shape[2]), by_atom.dtype)
        no_virial = np.empty((0, 9, by_atom.shape[2]), by_atom.dtype)
        for begin, stop in pieces:
            evaluate(
                program.forest, program.coefficients, program.positions,
                group.columns[begin:stop], group.rows[begin:stop], by_atom,
                targets.body_atoms, targets.target_atoms, 0, n_cells,
                nothing, free, no_virial, block,
            )  # fmt: skip


def _constrain(
    constraint: AnyPrecision, free: AnyPrecision, rows: AnyPrecision, parameters: IntArray
) -> None:
    rows[parameters] = constraint @ free


def _variances(blocks: list[AnyPrecision], rows: AnyPrecision, threads: int) -> AnyPrecision:
    """Sum of squares over the columns of the factor, (n,) for rows (n_parameters, n)."""
    n = rows.shape[1]
    variances = np.zeros(n, rows.dtype)

    def add(part: tuple[int, int]) -> None:
        for begin in range(*part, _PANEL):
            panel = rows[:, begin : min(begin + _PANEL, part[1])]
            total = variances[begin : begin + panel.shape[1]]
            for block in blocks:
                spread = block @ panel[: block.shape[1]]
                total += np.einsum("ri,ri->i", spread, spread)

    run_threads([partial(add, part) for part in ranges(n, threads)], threads)
    return variances
