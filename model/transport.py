"""Compiled ways between atoms and lanes, the cells and configurations that vectors hold.

Lanes are numbered by cell and then configuration, and the configurations of an atom lie side by
side in memory, too: what belongs to one cell moves in whole registers.
"""

from __future__ import annotations

from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.lanes import CHUNK_BYTES, copy_chunk, item, set_item, subtract_chunk

_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


@_compiled
def _copy(target: FloatArray, begin: int, source: FloatArray, start: int, length: int) -> None:
    """Numbers of one array, from a flat place on, into another."""
    chunk = CHUNK_BYTES // target.itemsize
    whole = length - length % chunk
    for index in range(0, whole, chunk):
        copy_chunk(target, begin + index, source, start + index)
    for index in range(whole, length):
        set_item(target, begin + index, item(source, start + index))


@_compiled
def _subtract(target: FloatArray, begin: int, source: FloatArray, start: int, length: int) -> None:
    """Subtract numbers of one array, from a flat place on, from those of another."""
    chunk = CHUNK_BYTES // target.itemsize
    whole = length - length % chunk
    for index in range(0, whole, chunk):
        subtract_chunk(target, begin + index, source, start + index)
    for index in range(whole, length):
        value = item(target, begin + index) - item(source, start + index)
        set_item(target, begin + index, value)


@_compiled
def gather(
    displacements: FloatArray, body_atoms: IntArray, first: int, count: int, values: FloatArray
) -> None:
    """Fetch the displacements of every body for some lanes.

    Parameters
    ----------
    displacements : (n_atoms, 3, n_configurations) float
    body_atoms : (n_bodies, n_cells) int
        The atom that each body is, seen from each cell.
    first, count : int
        The lanes.
    values : (3 n_bodies, width) float
        Result, a row for each body and axis.
    """
    n_configurations, n_cells = displacements.shape[2], body_atoms.shape[1]
    width = values.shape[1]
    first_cell, first_configuration = divmod(first, n_configurations)
    for body in range(body_atoms.shape[0]):
        row, atoms = body * 3 * width, body * n_cells
        if n_configurations == 1:
            for lane in range(count):
                place = item(body_atoms, atoms + first + lane) * 3
                for axis in range(3):
                    set_item(values, row + axis * width + lane, item(displacements, place + axis))
            continue
        lane, cell, configuration = 0, first_cell, first_configuration
        while lane < count:
            length = min(n_configurations - configuration, count - lane)
            place = item(body_atoms, atoms + cell) * 3 * n_configurations + configuration
            for axis in range(3):
                start = place + axis * n_configurations
                _copy(values, row + axis * width + lane, displacements, start, length)
            lane, cell, configuration = lane + length, cell + 1, 0


@_compiled
def scatter(
    bodies: IntArray,
    begin: int,
    end: int,
    body_atoms: IntArray,
    first: int,
    count: int,
    gradient: FloatArray,
    forces: FloatArray,
    output: int,
) -> None:
    """Subtract the gradient by some bodies, for some lanes, from the forces.

    Parameters
    ----------
    bodies : (n,) int
        Those from `begin` up to `end` are used.
    begin, end : int
    body_atoms, first, count
        As in `gather`.
    gradient : (3 n_bodies, width) float
    forces : (n_outputs, n_atoms, 3, n_configurations) float
        Result.
    output : int
    """
    n_configurations, n_cells = forces.shape[3], body_atoms.shape[1]
    width, shift = gradient.shape[1], output * forces.shape[1] * 3 * n_configurations
    first_cell, first_configuration = divmod(first, n_configurations)
    for index in range(begin, end):
        body = item(bodies, index)
        row, atoms = body * 3 * width, body * n_cells
        if n_configurations == 1:
            for lane in range(count):
                place = shift + item(body_atoms, atoms + first + lane) * 3
                for axis in range(3):
                    slope = item(gradient, row + axis * width + lane)
                    set_item(forces, place + axis, item(forces, place + axis) - slope)
            continue
        lane, cell, configuration = 0, first_cell, first_configuration
        while lane < count:
            length = min(n_configurations - configuration, count - lane)
            place = shift + item(body_atoms, atoms + cell) * 3 * n_configurations + configuration
            for axis in range(3):
                start = row + axis * width + lane
                _subtract(forces, place + axis * n_configurations, gradient, start, length)
            lane, cell, configuration = lane + length, cell + 1, 0


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def add_up(
    lanes: FloatArray, row: int, first: int, count: int, totals: FloatArray, into: int
) -> None:
    """Add a row of lanes to a row of totals (..., n_configurations), each to its configuration."""
    n_configurations, start = totals.shape[-1], row * lanes.shape[1]
    if n_configurations == 1:
        total = lanes.dtype.type(0)
        for lane in range(count):
            total += item(lanes, start + lane)
        set_item(totals, into, item(totals, into) + total)
        return
    lane, configuration = 0, first % n_configurations
    while lane < count:
        length = min(n_configurations - configuration, count - lane)
        place = into * n_configurations + configuration
        for index in range(length):
            value = item(totals, place + index) + item(lanes, start + lane + index)
            set_item(totals, place + index, value)
        lane, configuration = lane + length, 0
