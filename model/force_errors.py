"""Errors of forces: design rows through the factor of the posterior, block by block of lanes.

The design rows of one block of lanes (cells times configurations) are computed, brought to the
irreducible parameters and multiplied by the factor while they are in the cache. The rows of all
force components never exist at once. In strained cells of polar crystals, where the mean over all
atoms is removed from them, they are computed twice.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.expansion import Expansion
from anharm.model.force_rows import ForceRows
from anharm.model.independent_parameters import IndependentParameters
from anharm.model.lanes import NARROW, SMALL, TINY, Block, width_of
from anharm.model.product_kernels import PRODUCT_BLOCK, Combinations, Packed, packed
from anharm.model.program import (
    MonomialTable,
    Program,
    configurations_first,
    configurations_last,
)
from anharm.model.row_kernels import RowProgram, Workspace, add_to_totals, variances
from anharm.model.threads import ranges, run_threads

AnyPrecision = NDArray[Any]  # float64 or float32
_CACHE_LINE = 64  # bytes


class PosteriorFactor:
    """A factor of the posterior covariance, S = factor @ factor.T, in either precision.

    Parameters
    ----------
    factor : (n_parameters, n_columns) float
    independent : IndependentParameters
        Of the expansion.
    """

    def __init__(self, factor: FloatArray, independent: IndependentParameters) -> None:
        double = packed(independent.triangular_factor(factor))
        self._matrices = {8: double, 4: Packed(double.groups.astype(np.float32), double.stops)}

    def in_precision(self, dtype: np.dtype[Any]) -> Packed:
        """For the kernels."""
        return self._matrices[dtype.itemsize]


class _Memory(threading.local):
    """Arrays that each thread keeps from call to call: fresh pages cost more than their use."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint8)
        self._wanted: tuple[list[tuple[int, int]], np.dtype[Any]] | None = None
        self._arrays: list[AnyPrecision] = []

    def arrays(self, shapes: list[tuple[int, int]], dtype: np.dtype[Any]) -> list[AnyPrecision]:
        """Arrays that hold anything, each from the beginning of a cache line."""
        if self._wanted != (shapes, dtype):
            self._wanted, self._arrays = (shapes, dtype), self._new_arrays(shapes, dtype)
        return self._arrays

    def _new_arrays(
        self, shapes: list[tuple[int, int]], dtype: np.dtype[Any]
    ) -> list[AnyPrecision]:
        sizes = [-(-n * width * dtype.itemsize // _CACHE_LINE) * _CACHE_LINE for n, width in shapes]
        if len(self._kept) < sum(sizes) + _CACHE_LINE:
            self._kept = np.zeros(sum(sizes) + _CACHE_LINE, np.uint8)
        begin = -self._kept.ctypes.data % _CACHE_LINE
        found: list[AnyPrecision] = []
        for (n, width), size in zip(shapes, sizes, strict=True):
            part = self._kept[begin : begin + n * width * dtype.itemsize]
            found.append(part.view(dtype).reshape(n, width))
            begin += size
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
    independent : IndependentParameters
        Of the expansion.
    without_mean : bool
        Remove the mean over the atoms from all rows.
    """

    def __init__(
        self,
        expansion: Expansion,
        supercell: Supercell,
        program: Program,
        table: MonomialTable,
        independent: IndependentParameters,
        without_mean: bool = False,
    ) -> None:
        self._n_parameters = expansion.n_parameters
        self._n_sites, self._n_cells = supercell.crystal.n_sites, supercell.n_cells
        self._without_mean = without_mean
        self._rows = ForceRows.compile(
            program, table, expansion.bodies, self._n_sites, independent.order
        )
        self._largest_group = int(np.diff(self._rows.tables.node_starts.astype(int)).max())
        self._body_atoms = body_atoms(self._rows.bodies, supercell)
        sparse = independent.combinations
        starts, columns = (x.astype(np.uint32) for x in (sparse.indptr, sparse.indices))
        self._combinations = {
            4: Combinations(starts, columns, sparse.data.astype(np.float32)),
            8: Combinations(starts, columns, sparse.data),
        }
        self._memory = _Memory()
        self._use()

    def use(self, program: Program) -> None:
        """Go on with other coefficients of the same program."""
        self._rows = self._rows.with_coefficients(program.coefficients)
        self._use()

    def _use(self) -> None:
        self._programs = {
            dtype.itemsize: RowProgram(
                self._rows.tables,
                *self._rows.in_precision(dtype),
                self._combinations[dtype.itemsize],
                self._body_atoms,
                self._n_sites,
            )
            for dtype in (np.dtype(np.float32), np.dtype(float))
        }

    def standard_deviations(
        self,
        displacements: FloatArray,
        factor: PosteriorFactor,
        exact: bool = True,
        threads: int = 1,
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
        """
        dtype = np.dtype(float) if exact else np.dtype(np.float32)
        by_atom: AnyPrecision = configurations_last(displacements).astype(dtype, copy=False)
        n_configurations = len(displacements)
        n_lanes = self._n_cells * n_configurations
        block = self._block(n_lanes, dtype.itemsize)
        program, matrix = self._programs[dtype.itemsize], factor.in_precision(dtype)
        parts = ranges(n_lanes, threads, grain=width_of(block, dtype.itemsize))
        means: AnyPrecision = np.zeros((0, 3, n_configurations), dtype)
        if self._without_mean:
            sum_over = partial(self._totals, program, by_atom, block)
            found = run_threads([partial(sum_over, *part) for part in parts], threads)
            means = (np.sum(found, axis=0) / (self._n_sites * self._n_cells)).astype(dtype)
        result = np.empty((self._n_sites, self._n_cells, 3, n_configurations))

        def fill(begin: int, stop: int) -> None:
            variances(
                program, matrix, means, by_atom, begin, stop, block, PRODUCT_BLOCK,
                self._workspace(block, dtype), result,
            )  # fmt: skip

        run_threads([partial(fill, *part) for part in parts], threads)
        by_configuration = configurations_first(np.sqrt(result).reshape(1, -1, 3, n_configurations))
        return by_configuration.reshape(displacements.shape)

    def _block(self, n_lanes: int, itemsize: int) -> Block:
        """The smallest block that holds all lanes, if one does."""
        components, product_width = self._n_sites * 3, width_of(PRODUCT_BLOCK, itemsize)
        for block in (TINY, SMALL):
            width = width_of(block, itemsize)
            if n_lanes <= width and components * width % product_width == 0:
                return block
        return NARROW

    def _totals(
        self, program: RowProgram, by_atom: AnyPrecision, block: Block, begin: int, stop: int
    ) -> FloatArray:
        """Sum of the design rows (n_parameters, 3, n_conf) of some lanes."""
        totals = np.zeros((self._n_parameters, 3, by_atom.shape[2]))
        work = self._workspace(block, by_atom.dtype)
        add_to_totals(program, by_atom, begin, stop, block, PRODUCT_BLOCK, work, totals)
        return totals

    def _workspace(self, block: Block, dtype: np.dtype[Any]) -> Workspace:
        width, product_width = (width_of(x, dtype.itemsize) for x in (block, PRODUCT_BLOCK))
        n_chunks = 3 * self._n_sites * width // product_width
        shapes = [
            (3 * len(self._body_atoms), width),
            (self._largest_group + 1, width),
            (self._rows.n_outputs, width),
            (n_chunks * self._n_parameters, product_width),
            (n_chunks, product_width),
        ]
        return Workspace(*self._memory.arrays(shapes, dtype))


def body_atoms(bodies: IntArray, supercell: Supercell) -> IntArray:
    """(n_bodies, n_cells) supercell atom that each body is, seen from every cell."""
    cells = supercell.cells[None] + bodies[:, None, :3]
    return np.ascontiguousarray(bodies[:, 3:] * supercell.n_cells + supercell.cell_index(cells))
