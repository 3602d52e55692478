"""Compiled products of matrices with many columns, kept in registers until they are squared.

A BLAS library writes each product to memory, to be read again for its square, and multiplies
matrices this small at half the speed of these loops. Columns come in chunks of one block of lanes,
each chunk contiguous in memory: rows a fixed distance apart would compete for the same few places
of the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import binding
from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.lanes import NARROW, Block, broadcast, load, multiply_add, store

TOGETHER = 6  # rows of the matrix; so many sums of a block of lanes stay in the registers
_HAS_WIDE_REGISTERS = binding.get_host_cpu_features().get("avx512f", False)
PRODUCT_BLOCK: Block = NARROW if _HAS_WIDE_REGISTERS else (0,)

_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


class Packed(NamedTuple):
    """A matrix for the kernels.

    Attributes
    ----------
    groups : (n_groups, n_columns, TOGETHER) float
        So many rows of the matrix each, the last filled up with zeros.
    stops : (n_groups,) int
        The column behind the last one that is not zero in all rows of the group.
    """

    groups: FloatArray
    stops: IntArray


class Combinations(NamedTuple):
    """A sparse matrix for the kernels, row by row.

    Attributes
    ----------
    starts : (n_rows + 1,) int
        Where the entries of each row begin.
    columns : (n_entries,) int
    values : (n_entries,) float
    """

    starts: IntArray
    columns: IntArray
    values: FloatArray


def packed(matrix: FloatArray) -> Packed:
    """Arrange a matrix for the kernels."""
    n_groups = -(-len(matrix) // TOGETHER)
    rows = np.zeros((n_groups * TOGETHER, matrix.shape[1]), matrix.dtype)
    rows[: len(matrix)] = matrix
    groups = rows.reshape(n_groups, TOGETHER, -1).transpose(0, 2, 1)
    is_filled = (groups != 0).any(axis=2)
    stops = is_filled.shape[1] - np.argmax(is_filled[:, ::-1], axis=1)
    return Packed(np.ascontiguousarray(groups), np.where(is_filled.any(axis=1), stops, 0))


@_compiled
def combine(
    combinations: Combinations, columns: FloatArray, n_chunks: int, block: Block, result: FloatArray
) -> None:
    """Write a sparse matrix times some columns.

    Parameters
    ----------
    combinations : Combinations
    columns : (n * n_chunks, width of the block) float
        The chunks of each row side by side.
    n_chunks : int
    block : Block
    result : (n_chunks * n_rows, width) float
        Chunk after chunk.
    """
    starts, places, values = combinations
    n_rows = len(starts) - 1
    for row in range(n_rows):
        for chunk in range(n_chunks):
            total = broadcast(values.dtype.type(0), block)
            for entry in range(starts[row], starts[row + 1]):
                value = broadcast(values[entry], block)
                found = load(columns, places[entry] * n_chunks + chunk, block)
                total = multiply_add(value, found, total)
            store(result, chunk * n_rows + row, total)


@_compiled
def sums_of_squares(
    matrix: Packed, columns: FloatArray, n_chunks: int, block: Block, result: FloatArray
) -> None:
    """Sum over the rows of a matrix of the squares of its products with each column.

    Parameters
    ----------
    matrix : Packed
    columns : (n_chunks * n_columns of the matrix, width of the block) float
        Chunk after chunk.
    n_chunks : int
    block : Block
    result : (n_chunks, width) float
    """
    groups, stops = matrix
    zero = broadcast(groups.dtype.type(0), block)
    for chunk in range(n_chunks):
        total = zero
        first = chunk * groups.shape[1]
        for group in range(len(groups)):
            a, b, c, d, e, f = zero, zero, zero, zero, zero, zero
            for index in range(stops[group]):
                value = load(columns, first + index, block)
                a = multiply_add(broadcast(groups[group, index, 0], block), value, a)
                b = multiply_add(broadcast(groups[group, index, 1], block), value, b)
                c = multiply_add(broadcast(groups[group, index, 2], block), value, c)
                d = multiply_add(broadcast(groups[group, index, 3], block), value, d)
                e = multiply_add(broadcast(groups[group, index, 4], block), value, e)
                f = multiply_add(broadcast(groups[group, index, 5], block), value, f)
            total = multiply_add(a, a, multiply_add(b, b, multiply_add(c, c, total)))
            total = multiply_add(d, d, multiply_add(e, e, multiply_add(f, f, total)))
        store(result, chunk, total)
