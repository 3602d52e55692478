"""Forests: monomials arranged so that common beginnings are multiplied only once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import coo_array, csr_array

from anharm.model.crystal import FloatArray, IntArray


class Forest(NamedTuple):
    """One tree of monomials per column, each column belonging to one output and one anchor.

    A monomial of second or higher order is some first factors times its last two. Each node of a
    tree stands for such first factors: at depth d for the product of the d variables on the way to
    it; the root, at depth 0, for one. What the monomials of a node multiply its product with is a
    quadratic form, whose symmetric matrix of second derivatives is stored by rows: three rows, of
    the three axes of one body, together. Nodes are in depth-first order.

    Attributes
    ----------
    outputs, anchors : (n_columns,) int
        Which polynomial the column is added to; the lowest body of its monomials.
    node_starts, body_starts : (n_columns + 1,) int
        Where each column's nodes and bodies begin.
    bodies : (n_used,) int
        The bodies of each column, ascending.
    linear : (n_used, 3) int
        The monomial of first order in each variable (body * 3 + axis); -1 for none.
    depths, node_variables : (n_nodes,) int
        A root has the variable -1.
    row_starts : (n_nodes + 1,) int
        Where the rows of each node's matrix begin, three counted as one.
    row_bodies : (n_rows,) int
    entry_starts : (n_rows + 1,) int
    own_starts : (n_rows, 2) int
        Where the entries of each three rows begin; where those in columns of their own body begin
        and end.
    entry_variables : (n_entries,) int
        The column of the matrix, ascending in each row.
    entry_monomials, entry_factors : (n_entries, 3) int and float
        The monomial that gives the entries of the three rows, and what its coefficient is
        multiplied by: 1, 2 where both variables are the same, and 0 where there is no monomial.
    """

    outputs: IntArray
    anchors: IntArray
    node_starts: IntArray
    body_starts: IntArray
    bodies: IntArray
    linear: IntArray
    depths: IntArray
    node_variables: IntArray
    row_starts: IntArray
    row_bodies: IntArray
    entry_starts: IntArray
    own_starts: IntArray
    entry_variables: IntArray
    entry_monomials: IntArray
    entry_factors: FloatArray


def plant(
    variables: IntArray, anchors: IntArray, weights: csr_array
) -> tuple[Forest, IntArray, IntArray]:
    """Arrange the monomials of each column of a weight matrix.

    Parameters
    ----------
    variables : (n_terms, n_max) int
        Variables of each monomial, ascending, padded behind with -1.
    anchors : (n_terms,) int
        The lowest body of each monomial.
    weights : (n_terms, n_outputs) sparse
        Coefficients; each stored one is a monomial of the forest.

    Returns
    -------
    forest : Forest
    terms : (n_monomials,) int
        The row of the weights that each monomial of the forest is.
    order : (n_monomials,) int
        The order of the stored weights (as in `coo_array(weights)`) in the forest.
    """
    entries = coo_array(weights)
    heads, pairs = _split(variables)
    heads, homes = heads[entries.row], anchors[entries.row]
    levels = tuple(heads[:, level] for level in range(heads.shape[1] - 1, -1, -1))
    order = np.lexsort((*levels, homes, entries.col))
    owners = np.column_stack([entries.col, homes])[order]
    begins = np.flatnonzero(np.any(np.diff(owners, axis=0, prepend=-1) != 0, axis=1))
    starts = np.append(begins, len(order)).astype(np.int64)
    depths, names, ends, node_starts = grow(np.ascontiguousarray(heads[order]), starts)
    n_columns = len(begins)
    columns = np.repeat(np.arange(n_columns), np.diff(starts))
    # One more node, the root, in front of each column; where there are no first factors, `ends`
    # is the last node of the column before.
    roots = node_starts[:-1]
    nodes = ends + 1 + columns
    terms = entries.row[order].astype(np.int64)
    body_starts, bodies, linear = _bodies_of(variables[terms], columns, n_columns)
    rows, entries_of = _matrices(pairs[terms], nodes, len(depths) + n_columns)
    forest = Forest(
        owners[begins, 0].astype(np.int64),
        owners[begins, 1].astype(np.int64),
        node_starts + np.arange(n_columns + 1),
        body_starts,
        bodies,
        linear,
        np.insert(depths, roots, 0),
        np.insert(names, roots, -1),
        *rows,
        *entries_of,
    )
    return forest, terms, order


def _split(variables: IntArray) -> tuple[IntArray, IntArray]:
    """First factors and last two of every monomial; -1 where there is none."""
    orders = (variables >= 0).sum(axis=1)
    places = orders[:, None] - [2, 1]
    pairs = np.take_along_axis(variables, np.maximum(places, 0), axis=1)
    pairs[orders == 1] = -1
    width = max(variables.shape[1] - 2, 0)
    heads = np.where(np.arange(width) < places[:, :1], variables[:, :width], -1)
    return heads, pairs


def _bodies_of(
    factors: IntArray, columns: IntArray, n_columns: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Where the bodies of each column begin, these, and the monomials linear in their variables."""
    width = int(factors.max(initial=0)) // 3 + 1
    keys = columns[:, None] * width + factors // 3
    unique = np.unique(keys[factors >= 0])
    starts = np.searchsorted(unique, np.arange(n_columns + 1) * width)
    linear = np.full((len(unique), 3), -1)
    single = np.flatnonzero((factors >= 0).sum(axis=1) == 1)
    linear[np.searchsorted(unique, keys[single, 0]), factors[single, 0] % 3] = single
    return starts.astype(np.int64), (unique % width).astype(np.int64), linear


def _matrices(
    pairs: IntArray, nodes: IntArray, n_nodes: int
) -> tuple[tuple[IntArray, IntArray, IntArray, IntArray], tuple[IntArray, IntArray, FloatArray]]:
    """The rows of all nodes, their entries, and what the entries are."""
    monomials = np.tile(np.flatnonzero(pairs[:, 0] >= 0), 2)
    nodes, pairs = nodes[monomials], pairs[monomials]
    pairs[len(pairs) // 2 :] = pairs[len(pairs) // 2 :, ::-1]
    width = (int(pairs.max(initial=0)) // 3 + 1) * 3
    bodies, axes = np.divmod(pairs[:, 0], 3)
    distinct, numbers = np.unique(
        (nodes * width + bodies) * width + pairs[:, 1], return_inverse=True
    )
    rows, variables = np.divmod(distinct, width)
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    row_nodes, row_bodies = np.divmod(rows[first], width)
    own = (rows[first] * width + row_bodies * 3)[:, None] + [0, 3]
    entry_monomials = np.zeros((len(distinct), 3), dtype=np.int64)
    entry_monomials[numbers.ravel(), axes] = monomials
    entry_factors = np.zeros((len(distinct), 3))
    np.add.at(entry_factors, (numbers.ravel(), axes), 1.0)
    starts = np.searchsorted(row_nodes, np.arange(n_nodes + 1))
    entry_starts = np.append(first, len(distinct))
    return (
        (starts, row_bodies, entry_starts, np.searchsorted(distinct, own)),
        (variables.astype(np.uint32), entry_monomials, entry_factors),
    )


@njit(cache=True)
def grow(terms: IntArray, starts: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Merge the common beginnings of sorted monomials, column by column, depth first.

    Parameters
    ----------
    terms : (n_terms, n) int
        Variables of each monomial in ascending order, padded behind with -1; the terms of each
        column sorted lexicographically.
    starts : (n_columns + 1,) int
        Where each column's terms begin.

    Returns
    -------
    depths, variables : (n_nodes,) int
    term_nodes : (n_terms,) int
        The node at which each monomial ends.
    node_starts : (n_columns + 1,) int
    """
    n_terms, width = terms.shape
    depths = np.empty(n_terms * width, dtype=np.int64)
    variables = np.empty(n_terms * width, dtype=np.int64)
    term_nodes = np.empty(n_terms, dtype=np.int64)
    node_starts = np.zeros(len(starts), dtype=np.int64)
    n_nodes = 0
    for column in range(len(starts) - 1):
        for term in range(starts[column], starts[column + 1]):
            shared = 0
            if term > starts[column]:
                while (
                    shared < width
                    and terms[term, shared] >= 0
                    and terms[term, shared] == terms[term - 1, shared]
                ):
                    shared += 1
            for level in range(shared, width):
                if terms[term, level] < 0:
                    break
                depths[n_nodes] = level + 1
                variables[n_nodes] = terms[term, level]
                n_nodes += 1
            term_nodes[term] = n_nodes - 1
        node_starts[column + 1] = n_nodes
    return depths[:n_nodes].copy(), variables[:n_nodes].copy(), term_nodes, node_starts


@njit(cache=True)
def parents_of(depths: IntArray, node_starts: IntArray) -> IntArray:
    """Number of the node above each one, counted from 1 in its column; 0 at depth 1."""
    parents = np.zeros(len(depths), dtype=np.int64)
    path = np.zeros(16, dtype=np.int64)
    for column in range(len(node_starts) - 1):
        for node in range(node_starts[column], node_starts[column + 1]):
            parents[node] = path[depths[node] - 1]
            path[depths[node]] = node - node_starts[column] + 1
    return parents
