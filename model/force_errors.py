"""Errors of forces: design rows through the factor of the posterior, panel by panel.

A panel is a range of lanes (cells times configurations): its design rows are computed, brought to
the irreducible parameters and multiplied by the factor while they are in the cache. The rows of all
force components never exist at once, but in strained cells of polar crystals, where the mean over
all atoms is removed from them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.expansion import Expansion
from anharm.model.force_rows import ForceRows
from anharm.model.lanes import SMALL, TINY, WIDE, Block, width_of
from anharm.model.product_kernels import (
    PRODUCT_BLOCK,
    multiply_rows,
    packed,
    sums_of_squares,
)
from anharm.model.program import MonomialTable, Program, configurations_last
from anharm.model.row_kernels import evaluate_rows
from anharm.model.threads import ranges, run_threads

AnyPrecision = NDArray[Any]  # float64 or float32

MEMORY_LIMIT = 256 * 2**20  # bytes of design rows where all must exist at once
PANEL_BYTES = 2 * 2**20  # of design rows in a panel


@dataclass(frozen=True)
class _Matrix:
    """A matrix for the kernels, in either precision."""

    double: tuple[FloatArray, IntArray]
    single: tuple[AnyPrecision, IntArray]

    @classmethod
    def of(cls, matrix: FloatArray) -> _Matrix:
        groups, stops = packed(matrix)
        return cls((groups, stops), (groups.astype(np.float32), stops))

    def in_precision(self, dtype: np.dtype[Any]) -> tuple[AnyPrecision, IntArray]:
        return self.single if dtype == np.float32 else self.double


class PosteriorFactor:
    """A factor of the posterior covariance, S = factor @ factor.T, in either precision.

    Parameters
    ----------
    factor : (n_parameters, n_columns) float
        Usually triangular; what is zero at the end of a column is not multiplied.
    """

    def __init__(self, factor: FloatArray) -> None:
        self.matrix = _Matrix.of(factor.T)


@dataclass(frozen=True)
class _Group:
    """One block of the sum rules: some symmetry-allowed parameters, and those they become."""

    first_row: int
    last_row: int
    parameters: IntArray
    constraint: _Matrix


class _Memory(threading.local):
    """Arrays that each thread keeps from one panel to the next: fresh pages cost more than use."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyPrecision:
        """An array that holds anything."""
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        kept = self._kept.get(name)
        if kept is None or len(kept) < n_bytes:
            kept = self._kept[name] = np.empty(n_bytes, np.uint8)
        found: AnyPrecision = kept[:n_bytes].view(dtype).reshape(shape)
        return found


class ForceErrors:
    """Standard deviations of forces in one supercell, of one cell's program of design rows.

    Parameters
    ----------
    expansion : Expansion
    supercell : Supercell
    program : Program
        One output per symmetry-allowed parameter.
    table : MonomialTable
        That the program was compiled from.
    without_mean : bool
        Remove the mean over the atoms from all rows.
    """

    def __init__(
        self,
        expansion: Expansion,
        supercell: Supercell,
        program: Program,
        table: MonomialTable,
        without_mean: bool = False,
    ) -> None:
        self._n_parameters = expansion.n_parameters
        self._n_sites, self._n_cells = supercell.crystal.n_sites, supercell.n_cells
        self._without_mean = without_mean
        blocks = expansion.constraint_blocks
        order = np.concatenate([rows for rows, _, _ in blocks])
        self._rows = ForceRows.compile(program, table, expansion.bodies, self._n_sites, order)
        self._body_atoms = body_atoms(self._rows.bodies, supercell)
        is_empty = np.ones(self._rows.n_outputs, dtype=bool)
        is_empty[self._rows.forest.outputs] = False
        self._empty = np.flatnonzero(is_empty)
        stops = np.cumsum([len(rows) for rows, _, _ in blocks]).tolist()
        self._groups = [
            _Group(stop - len(rows), stop, parameters, _Matrix.of(values.T))
            for stop, (rows, parameters, values) in zip(stops, blocks, strict=True)
        ]
        self._memory = _Memory()

    def use(self, program: Program) -> None:
        """Go on with other coefficients of the same program."""
        self._rows = self._rows.with_coefficients(program.coefficients)

    def standard_deviations(
        self,
        displacements: FloatArray,
        factor: PosteriorFactor,
        exact: bool = True,
        threads: int = 1,
        panel_bytes: int = PANEL_BYTES,
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
        panel_bytes : int
            Of design rows at one time and thread, unless all must exist at once.
        """
        dtype = np.dtype(float) if exact else np.dtype(np.float32)
        n_configurations = len(displacements)
        n_parts = 1
        if self._without_mean:
            bytes_each = self._rows.n_outputs * self._n_cells * dtype.itemsize
            at_once = max(MEMORY_LIMIT // (bytes_each * threads), 1)
            n_parts = max(-(-n_configurations // at_once), threads)
        tasks, parts = [], []
        for begin, stop in ranges(n_configurations, n_parts):
            by_atom: AnyPrecision = configurations_last(displacements[begin:stop])
            by_atom = by_atom.astype(dtype, copy=False)
            variances = np.empty((self._n_sites, 3, self._n_cells, stop - begin))
            by_lane = variances.reshape(self._n_sites, 3, -1)
            block = self._block(by_lane.shape[2], dtype.itemsize)
            panels = self._panels(by_lane.shape[2], block, dtype, threads, panel_bytes)
            tasks += [partial(self._panel, by_atom, block, factor, by_lane, *p) for p in panels]
            parts.append(variances)
        run_threads([partial(_one_by_one, tasks[n::threads]) for n in range(threads)], threads)
        together = np.sqrt(np.concatenate(parts, axis=3) if len(parts) > 1 else parts[0])
        return np.ascontiguousarray(together.transpose(3, 0, 2, 1)).reshape(displacements.shape)

    def _block(self, n_lanes: int, itemsize: int) -> Block:
        """The smallest block that holds all lanes, if one does."""
        components, product_width = self._n_sites * 3, width_of(PRODUCT_BLOCK, itemsize)
        for block in (TINY, SMALL):
            width = width_of(block, itemsize)
            if n_lanes <= width and components * width % product_width == 0:
                return block
        return WIDE

    def _panels(
        self, n_lanes: int, block: Block, dtype: np.dtype[Any], threads: int, panel_bytes: int
    ) -> list[tuple[int, int]]:
        """Ranges of lanes, whole blocks but for the last."""
        if self._without_mean:
            return [(0, n_lanes)]
        width = width_of(block, dtype.itemsize)
        n_blocks = -(-n_lanes // width)
        at_once = max(panel_bytes // (self._rows.n_outputs * width * dtype.itemsize), 1)
        n_panels = -(-n_blocks // at_once)
        return ranges(n_lanes, -(-n_panels // threads) * threads, grain=width)

    def _panel(
        self,
        by_atom: AnyPrecision,
        block: Block,
        factor: PosteriorFactor,
        variances: FloatArray,
        begin: int,
        stop: int,
    ) -> None:
        """Fill the variances (n_sites, 3, n_lanes) of some lanes."""
        dtype, memory = by_atom.dtype, self._memory.array
        width = width_of(block, dtype.itemsize)
        n_blocks = -(-(stop - begin) // width)
        free = memory("free", (self._rows.n_outputs, n_blocks, width), dtype)
        coefficients, constants = self._rows.in_precision(dtype)
        evaluate_rows(
            self._rows.forest, coefficients, by_atom, self._body_atoms, begin, stop, block, free
        )
        free[self._empty] = 0
        free[self._rows.constant_outputs] += constants[:, None, None]
        n_lanes, n_padded = stop - begin, n_blocks * width
        free = free.reshape(-1, self._n_sites, 3, n_padded)
        if self._without_mean:
            shape = (len(free), self._n_sites, 3, self._n_cells, by_atom.shape[2])
            means = free[..., :n_lanes].reshape(shape).mean(axis=(1, 3))
            free[..., :n_lanes] -= np.tile(means, (1, 1, self._n_cells))[:, None]
        chunks = (free.size // len(free) // width_of(PRODUCT_BLOCK, dtype.itemsize), -1)
        free = free.reshape(len(free), *chunks)
        rows = memory("rows", (self._n_parameters, *free.shape[1:]), dtype)
        for group in self._groups:
            part = free[group.first_row : group.last_row]
            matrix = group.constraint.in_precision(dtype)
            multiply_rows(*matrix, part, group.parameters, PRODUCT_BLOCK, rows)
        total = memory("total", free.shape[1:], dtype)
        sums_of_squares(*factor.matrix.in_precision(dtype), rows, PRODUCT_BLOCK, total)
        variances[:, :, begin:stop] = total.reshape(self._n_sites, 3, n_padded)[..., :n_lanes]


def body_atoms(bodies: IntArray, supercell: Supercell) -> IntArray:
    """(n_bodies, n_cells) supercell atom that each body is, seen from every cell."""
    cells = supercell.cells[None] + bodies[:, None, :3]
    return np.ascontiguousarray(bodies[:, 3:] * supercell.n_cells + supercell.cell_index(cells))


def _one_by_one(tasks: Sequence[Callable[[], None]]) -> None:
    for task in tasks:
        task()
