"""Compiled products of a matrix with many columns, kept in registers until they are squared.

A BLAS library writes each product to memory, to be read again for its square, and multiplies
matrices this small at half the speed of these loops.
"""

from __future__ import annotations

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


def packed(matrix: FloatArray) -> tuple[FloatArray, IntArray]:
    """Arrange a matrix for the kernels.

    Returns
    -------
    groups : (n_groups, n_columns, TOGETHER) float
        So many rows of the matrix each, the last filled up with zeros.
    stops : (n_groups,) int
        The column behind the last one that is not zero in all rows of the group.
    """
    n_groups = -(-len(matrix) // TOGETHER)
    rows = np.zeros((n_groups * TOGETHER, matrix.shape[1]), matrix.dtype)
    rows[: len(matrix)] = matrix
    groups = rows.reshape(n_groups, TOGETHER, -1).transpose(0, 2, 1)
    is_filled = (groups != 0).any(axis=2)
    stops = is_filled.shape[1] - np.argmax(is_filled[:, ::-1], axis=1)
    return np.ascontiguousarray(groups), np.where(is_filled.any(axis=1), stops, 0)


@_compiled
def _products(
    groups: FloatArray, group: int, stop: int, columns: FloatArray, chunk: int, block: Block
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """One group of rows times one chunk of columns."""
    n_chunks = columns.shape[1]
    lanes = columns.reshape((-1, columns.shape[2]))
    a = broadcast(groups.dtype.type(0), block)
    b, c, d, e, f = a, a, a, a, a
    for index in range(stop):
        value = load(lanes, index * n_chunks + chunk, block)
        a = multiply_add(broadcast(groups[group, index, 0], block), value, a)
        b = multiply_add(broadcast(groups[group, index, 1], block), value, b)
        c = multiply_add(broadcast(groups[group, index, 2], block), value, c)
        d = multiply_add(broadcast(groups[group, index, 3], block), value, d)
        e = multiply_add(broadcast(groups[group, index, 4], block), value, e)
        f = multiply_add(broadcast(groups[group, index, 5], block), value, f)
    return a, b, c, d, e, f


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def multiply_rows(
    groups: FloatArray,
    stops: IntArray,
    columns: FloatArray,
    targets: IntArray,
    block: Block,
    result: FloatArray,
) -> None:
    """Write a packed matrix times some columns to rows of the result.

    Parameters
    ----------
    groups, stops : from `packed`
    columns : (n_columns of the matrix, n_chunks, width of the block) float
    targets : (n_rows of the matrix,) int
        The row of the result for each row of the matrix.
    block : Block
    result : (n, n_chunks, width) float
    """
    n_chunks = columns.shape[1]
    rows = result.reshape((-1, result.shape[2]))
    for chunk in range(n_chunks):
        for group in range(len(groups)):
            found = _products(groups, group, stops[group], columns, chunk, block)
            first = group * TOGETHER
            left = len(targets) - first
            store(rows, targets[first] * n_chunks + chunk, found[0])
            if left > 1:
                store(rows, targets[first + 1] * n_chunks + chunk, found[1])
            if left > 2:
                store(rows, targets[first + 2] * n_chunks + chunk, found[2])
            if left > 3:
                store(rows, targets[first + 3] * n_chunks + chunk, found[3])
            if left > 4:
                store(rows, targets[first + 4] * n_chunks + chunk, found[4])
            if left > 5:
                store(rows, targets[first + 5] * n_chunks + chunk, found[5])


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def sums_of_squares(
    groups: FloatArray, stops: IntArray, columns: FloatArray, block: Block, result: FloatArray
) -> None:
    """Sum over the rows of a packed matrix of the squares of its products with each column.

    Parameters
    ----------
    groups, stops : from `packed`
    columns : (n_columns of the matrix, n_chunks, width of the block) float
    block : Block
    result : (n_chunks, width) float
    """
    for chunk in range(columns.shape[1]):
        total = broadcast(result.dtype.type(0), block)
        for group in range(len(groups)):
            a, b, c, d, e, f = _products(groups, group, stops[group], columns, chunk, block)
            total = multiply_add(a, a, multiply_add(b, b, multiply_add(c, c, total)))
            total = multiply_add(d, d, multiply_add(e, e, multiply_add(f, f, total)))
        store(result, chunk, total)
