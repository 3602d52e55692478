"""Errors of forces: design rows through the factor of the posterior, block by block of lanes.

The design rows of one block of lanes (cells times configurations) are computed, brought to the
irreducible parameters and multiplied by the factor while they are in the cache, class by class of
components (`component_classes`). The rows of all force components never exist at once. In strained
cells of polar crystals, where the mean over all atoms is removed from them, they are found twice.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anharm.model.component_classes import ComponentClasses, FreeRows, touched_components
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
    """A factor of the posterior covariance, S = factor @ factor.T, arranged when it is needed.

    Parameters
    ----------
    factor : (n_parameters, n_columns) float
    independent : IndependentParameters
        Of the expansion.
    """

    def __init__(self, factor: FloatArray, independent: IndependentParameters) -> None:
        self._factor, self._independent = factor, independent
        self._packed: dict[tuple[ComponentClasses, int], Packed] = {}

    def packed(self, classes: ComponentClasses, dtype: np.dtype[Any]) -> Packed:
        """For the kernels: a triangle for the parameters of each class."""
        key = classes, dtype.itemsize
        if key not in self._packed:
            triangles = self._independent.triangular_factors(self._factor, classes.parameters)
            self._packed[key] = packed(triangles, dtype)
        return self._packed[key]


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
        rows = ForceRows.compile(program, table, expansion.bodies, self._n_sites, independent.order)
        is_used = rows.is_used().reshape(-1, 3 * self._n_sites)
        touched = touched_components(independent.combinations, is_used)
        if without_mean:  # the mean has a part of every parameter
            touched[:] = True
        self._classes = ComponentClasses.of(touched)
        self._largest_class = self._classes.largest
        free = FreeRows.of(self._classes, independent.combinations, is_used)
        self._rows = rows.moved(free.places.ravel(), free.n_rows)
        self._largest_group = int(np.diff(self._rows.tables.node_starts.astype(int)).max())
        self._body_atoms = body_atoms(self._rows.bodies, supercell)
        sparse = free.combinations
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
        classes = self._classes
        self._programs = {
            dtype.itemsize: RowProgram(
                self._rows.tables,
                *self._rows.in_precision(dtype),
                self._combinations[dtype.itemsize],
                _starts(classes.parameters),
                np.concatenate(classes.components),
                _starts(classes.components),
                self._body_atoms,
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
        block = _block(n_lanes, dtype.itemsize)
        program = self._programs[dtype.itemsize]
        factors = factor.packed(self._classes, dtype)
        parts = ranges(n_lanes, threads, grain=width_of(block, dtype.itemsize))
        means: AnyPrecision = np.zeros((0, 3, n_configurations), dtype)
        if self._without_mean:
            sum_over = partial(self._totals, program, by_atom, block)
            found = run_threads([partial(sum_over, *part) for part in parts], threads)
            means = (np.sum(found, axis=0) / (self._n_sites * self._n_cells)).astype(dtype)
        result = np.empty((self._n_sites, self._n_cells, 3, n_configurations))

        def fill(begin: int, stop: int) -> None:
            variances(
                program, factors, means, by_atom, begin, stop, block, _product_block(block),
                self._workspace(block, dtype), result,
            )  # fmt: skip

        run_threads([partial(fill, *part) for part in parts], threads)
        by_configuration = configurations_first(np.sqrt(result).reshape(1, -1, 3, n_configurations))
        return by_configuration.reshape(displacements.shape)

    def _totals(
        self, program: RowProgram, by_atom: AnyPrecision, block: Block, begin: int, stop: int
    ) -> FloatArray:
        """Sum of the design rows (n_parameters, 3, n_conf) of some lanes."""
        totals = np.zeros((self._n_parameters, 3, by_atom.shape[2]))
        work = self._workspace(block, by_atom.dtype)
        add_to_totals(program, by_atom, begin, stop, block, _product_block(block), work, totals)
        return totals

    def _workspace(self, block: Block, dtype: np.dtype[Any]) -> Workspace:
        width, product_width = (width_of(x, dtype.itemsize) for x in (block, _product_block(block)))
        per_component = width // product_width
        shapes = [
            (3 * len(self._body_atoms), width),
            (self._largest_group + 1, width),
            (self._rows.n_outputs, width),
            (self._largest_class * per_component, product_width),
            (3 * self._n_sites * per_component, product_width),
        ]
        return Workspace(*self._memory.arrays(shapes, dtype))


def _block(n_lanes: int, itemsize: int) -> Block:
    """The smallest block that holds all lanes, if one does."""
    return next((x for x in (TINY, SMALL) if n_lanes <= width_of(x, itemsize)), NARROW)


def _product_block(block: Block) -> Block:
    """As wide as the registers allow, and not wider than a block of lanes."""
    return min(block, PRODUCT_BLOCK, key=len)


def _starts(parts: tuple[IntArray, ...]) -> IntArray:
    """Where each of some arrays begins if they are put together, and the end of the last."""
    starts: IntArray = np.cumsum([0, *map(len, parts)])
    return starts


def body_atoms(bodies: IntArray, supercell: Supercell) -> IntArray:
    """(n_bodies, n_cells) supercell atom that each body is, seen from every cell."""
    cells = supercell.cells[None] + bodies[:, None, :3]
    return np.ascontiguousarray(bodies[:, 3:] * supercell.n_cells + supercell.cell_index(cells))
