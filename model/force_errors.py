"""Errors of forces: design rows through the factor of the posterior, block by block of lanes.

The design rows of one block of lanes (cells times configurations) are computed, brought to the
irreducible parameters and multiplied by the factor while they are in the cache, class by class of
components (`component_classes`). The rows of all force components never exist at once.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anharm.model.component_classes import ComponentClasses, FreeRows, touched_components
from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.force_rows import ForceRows
from anharm.model.independent_parameters import IndependentParameters
from anharm.model.lanes import NARROW, SMALL, TINY, Block, width_of
from anharm.model.product_kernels import PRODUCT_BLOCK, Combinations, Packed, packed
from anharm.model.program import configurations_first, configurations_last
from anharm.model.row_kernels import RowProgram, Workspace, rows_at_sites, variances
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


class Memory(threading.local):
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
    """Standard deviations of forces in one supercell.

    Parameters
    ----------
    supercell : Supercell
    rows : ForceRows
        Of the symmetry-allowed parameters, in the order of the independent ones.
    independent : IndependentParameters
        Of the expansion.
    classes : ComponentClasses, optional
        By default those of components that the same parameters touch.
    """

    def __init__(
        self,
        supercell: Supercell,
        rows: ForceRows,
        independent: IndependentParameters,
        classes: ComponentClasses | None = None,
    ) -> None:
        self._n_sites, self._n_cells = supercell.crystal.n_sites, supercell.n_cells
        is_used = rows.is_used().reshape(-1, 3 * self._n_sites)
        if classes is None:
            classes = ComponentClasses.of(touched_components(independent.combinations, is_used))
        self.classes = classes
        self._largest_class = classes.largest
        free = FreeRows.of(classes, independent.combinations, is_used)
        self._rows = rows.moved(free.places.ravel(), free.n_rows)
        self._independent, self._places = independent, free.places
        self._body_atoms = body_atoms(rows.bodies, supercell)
        self._memory = Memory()
        sparse = free.combinations
        starts, columns = (x.astype(np.uint32) for x in (sparse.indptr, sparse.indices))
        self._programs = {
            dtype.itemsize: RowProgram(
                self._rows.tables,
                *self._rows.in_precision(dtype),
                Combinations(starts, columns, sparse.data.astype(dtype)),
                _starts(classes.parameters),
                np.concatenate(classes.components),
                _starts(classes.components),
                self._body_atoms,
                np.zeros(0, dtype),
                np.zeros((0, 3), dtype),
            )
            for dtype in (np.dtype(np.float32), np.dtype(float))
        }

    def strain(self, shifts: FloatArray, means: FloatArray | None) -> None:
        """Go on with other shifts (3 n_bodies,) and means (n_parameters, 3), see `RowProgram`."""
        for itemsize, program in self._programs.items():
            dtype = program.shifts.dtype
            program = program._replace(shifts=shifts.astype(dtype))
            if means is not None:
                program = program._replace(means=means.astype(dtype))
            self._programs[itemsize] = program

    def rows_at_sites(self, shifts: FloatArray) -> FloatArray:
        """(n_parameters, n_sites, 3) design rows of undisplaced atoms for (3 n_bodies,) shifts."""
        work = self._workspace(TINY, np.dtype(float))
        rows_at_sites(self._programs[8]._replace(shifts=shifts), TINY, work)
        rows = np.append(work.free[:, 0], 0.0)[self._places]  # -1 is the zero behind
        return (self._independent.combinations @ rows).reshape(-1, self._n_sites, 3)

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
        factors = factor.packed(self.classes, dtype)
        parts = ranges(n_lanes, threads, grain=width_of(block, dtype.itemsize))
        result = np.empty((self._n_sites, self._n_cells, 3, n_configurations))

        def fill(begin: int, stop: int) -> None:
            variances(
                program, factors, by_atom, begin, stop, block, _product_block(block),
                self._workspace(block, dtype), result,
            )  # fmt: skip

        run_threads([partial(fill, *part) for part in parts], threads)
        by_configuration = configurations_first(np.sqrt(result).reshape(1, -1, 3, n_configurations))
        return by_configuration.reshape(displacements.shape)

    def _workspace(self, block: Block, dtype: np.dtype[Any]) -> Workspace:
        width, product_width = (width_of(x, dtype.itemsize) for x in (block, _product_block(block)))
        per_component = width // product_width
        shapes = [
            (3 * len(self._body_atoms), width),
            (self._rows.largest_group + 1, width),
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
