"""Compiled design rows of forces: values of polynomials, one per force component of the home cell.

Each force component of each parameter is a polynomial of its own in the displacements around it
(`force_rows`), so that the cells of the supercell are lanes from the displacements to the result:
nothing is added up across lanes, as the reverse differentiation of `kernels` must do.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest
from anharm.model.lanes import (
    CHUNK_BYTES,
    Block,
    broadcast,
    load,
    multiply,
    multiply_add,
    store,
)

_MAXIMUM_DEPTH = 8
_CACHE_LINE = 64  # bytes

_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


@_compiled
def _aligned_rows(n_rows: int, like: FloatArray, block: Block) -> FloatArray:
    """Rows of zeros that begin where cache lines do."""
    width = len(block) * CHUNK_BYTES // like.itemsize
    memory = np.zeros((n_rows + 1) * width, like.dtype)
    begin = (-memory.ctypes.data % _CACHE_LINE) // like.itemsize
    return memory[begin : begin + n_rows * width].reshape((-1, width))


@_compiled
def _gather(
    displacements: FloatArray, body_atoms: IntArray, first: int, last: int, values: FloatArray
) -> None:
    """Displacements of every body for the lanes from first to last: cells, then configurations."""
    n_configurations = displacements.shape[2]
    for body in range(len(body_atoms)):
        lane = 0
        cell, configuration = divmod(first, n_configurations)
        while lane < last - first:
            length = min(n_configurations - configuration, last - first - lane)
            source = displacements[body_atoms[body, cell]]
            for axis in range(3):
                row, part = values[body * 3 + axis], source[axis]
                for index in range(length):
                    row[lane + index] = part[configuration + index]
            lane += length
            cell, configuration = cell + 1, 0


@_compiled
def _value(
    forest: Forest,
    column: int,
    coefficients: FloatArray,
    values: FloatArray,
    products: FloatArray,
    block: Block,
) -> FloatArray:
    """The polynomial of a column in every lane."""
    n_nodes = len(forest.depths)
    total = broadcast(coefficients.dtype.type(0), block)
    for node in range(forest.node_starts[column], forest.node_starts[column + 1]):
        slope = broadcast(coefficients[node], block)
        for leaf in range(forest.leaf_starts[node], forest.leaf_starts[node + 1]):
            coefficient = broadcast(coefficients[n_nodes + leaf], block)
            slope = multiply_add(
                coefficient, load(values, forest.leaf_variables[leaf], block), slope
            )
        depth = forest.depths[node]
        product = load(products, 0, block)
        if depth > 0:
            above = load(products, depth - 1, block)
            product = multiply(load(values, forest.node_variables[node], block), above)
            store(products, depth, product)
        total = multiply_add(product, slope, total)
    return total


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def evaluate_rows(
    forest: Forest,
    coefficients: FloatArray,
    displacements: FloatArray,
    body_atoms: IntArray,
    first_lane: int,
    last_lane: int,
    block: Block,
    rows: FloatArray,
) -> None:
    """Values of all columns of a forest, for some lanes.

    All numbers have one precision, float64 or float32.

    Parameters
    ----------
    forest : Forest
        Its outputs are the rows of the result.
    coefficients : (forest.size,) float
    displacements : (n_atoms, 3, n_configurations) float
        Angstrom, in the supercell's order.
    body_atoms : (n_bodies, n_cells) int
        The atom that each body is, seen from each cell.
    first_lane, last_lane : int
        Lanes are numbered by cell and then configuration.
    block : Block
        How many lanes are evaluated at a time.
    rows : (n_outputs, n_blocks, width of a block) float
        Result, eV/Angstrom per unit parameter; lanes beyond the last hold nothing of use. Outputs
        without a column keep what they hold.
    """
    n_blocks, width = rows.shape[1], rows.shape[2]
    target = rows.reshape((-1, width))
    values = _aligned_rows(3 * len(body_atoms), displacements, block)
    products = _aligned_rows(_MAXIMUM_DEPTH, displacements, block)
    products[0] = 1
    for number in range(n_blocks):
        begin = first_lane + number * width
        _gather(displacements, body_atoms, begin, min(begin + width, last_lane), values)
        for column in range(len(forest.outputs)):
            total = _value(forest, column, coefficients, values, products, block)
            store(target, forest.outputs[column] * n_blocks + number, total)
