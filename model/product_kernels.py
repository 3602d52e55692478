"""Compiled products of matrices with many columns, kept in registers until they are squared.

A BLAS library writes each product to memory, to be read again for its square, and multiplies
matrices this small at half the speed of these loops. Columns come in chunks of one block of lanes,
each chunk contiguous in memory: rows a fixed distance apart would compete for the same few places
of the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding
from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.lanes import NARROW, Block, broadcast, item, load, multiply_add, store

TOGETHER = 6  # rows of the matrix; so many sums of a block of lanes stay in the registers
_HAS_WIDE_REGISTERS = binding.get_host_cpu_features().get("avx512f", False)
PRODUCT_BLOCK: Block = NARROW if _HAS_WIDE_REGISTERS else (0,)

_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


class Packed(NamedTuple):
    """Matrices for the kernels, one after another, `TOGETHER` rows in a group.

    The last group of each is filled up with zeros.

    Attributes
    ----------
    values : (n, TOGETHER) float
        The columns of each group, up to the last one that is not zero in all its rows.
    starts : (n_groups + 1,) int
        Where the columns of each group begin.
    first_groups : (n_matrices + 1,) int
        Where the groups of each matrix begin.
    """

    values: FloatArray
    starts: IntArray
    first_groups: IntArray


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


def packed(matrices: Iterable[FloatArray], dtype: np.dtype[Any]) -> Packed:
    """Arrange matrices for the kernels."""
    values, lengths, counts = [np.zeros((0, TOGETHER), dtype)], [0], [0]
    for matrix in matrices:
        counts.append(-(-len(matrix) // TOGETHER))
        for first in range(0, len(matrix), TOGETHER):
            rows = matrix[first : first + TOGETHER]
            filled = np.flatnonzero(rows.any(axis=0))
            group = np.zeros((filled[-1] + 1 if len(filled) else 0, TOGETHER), dtype)
            group[:, : len(rows)] = rows[:, : len(group)].T
            values.append(group)
            lengths.append(len(group))
    return Packed(np.concatenate(values), np.cumsum(lengths), np.cumsum(counts))


@_compiled
def combine(
    combinations: Combinations,
    first_row: int,
    last_row: int,
    columns: FloatArray,
    per_row: int,
    n_chunks: int,
    block: Block,
    result: FloatArray,
) -> None:
    """Write some rows of a sparse matrix times some columns.

    Parameters
    ----------
    combinations : Combinations
    first_row, last_row : int
    columns : (n * per_row, width of the block) float
        The chunks of each row side by side.
    per_row, n_chunks : int
        Chunks that belong to one row, and that are wanted, from those of following rows also.
    block : Block
    result : (n_chunks * n_rows, width) float
        Chunk after chunk.
    """
    starts, places, values = combinations
    n_rows = last_row - first_row
    for row in range(n_rows):
        begin, stop = starts[first_row + row], starts[first_row + row + 1]
        for chunk in range(n_chunks):
            total = broadcast(values.dtype.type(0), block)
            for entry in range(begin, stop):
                value = broadcast(values[entry], block)
                found = load(columns, places[entry] * per_row + chunk, block)
                total = multiply_add(value, found, total)
            store(result, chunk * n_rows + row, total)


@_compiled
def sums_of_squares(
    matrices: Packed,
    number: int,
    columns: FloatArray,
    n_columns: int,
    n_chunks: int,
    block: Block,
    result: FloatArray,
    first_chunk: int,
) -> None:
    """Sum over the rows of a matrix of the squares of its products with each column.

    Parameters
    ----------
    matrices : Packed
    number : int
        Which of them.
    columns : (n_chunks * n_columns, width of the block) float
        Chunk after chunk.
    n_columns : int
        Of the matrix.
    n_chunks : int
    block : Block
    result : (n, width) float
    first_chunk : int
        Where in the result the first chunk goes.
    """
    values, starts, first_groups = matrices
    zero = broadcast(values.dtype.type(0), block)
    for chunk in range(n_chunks):
        total = zero
        first = chunk * n_columns
        for group in range(first_groups[number], first_groups[number + 1]):
            begin = starts[group]
            a, b, c, d, e, f = zero, zero, zero, zero, zero, zero
            for index in range(starts[group + 1] - begin):
                value = load(columns, first + index, block)
                place = (begin + index) * TOGETHER
                a = multiply_add(broadcast(item(values, place), block), value, a)
                b = multiply_add(broadcast(item(values, place + 1), block), value, b)
                c = multiply_add(broadcast(item(values, place + 2), block), value, c)
                d = multiply_add(broadcast(item(values, place + 3), block), value, d)
                e = multiply_add(broadcast(item(values, place + 4), block), value, e)
                f = multiply_add(broadcast(item(values, place + 5), block), value, f)
            total = multiply_add(a, a, multiply_add(b, b, multiply_add(c, c, total)))
            total = multiply_add(d, d, multiply_add(e, e, multiply_add(f, f, total)))
        store(result, first_chunk + chunk, total)
