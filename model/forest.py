"""Forests: monomials arranged so that common beginnings are multiplied only once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import coo_array, csr_array

from anharm.model.crystal import IntArray


class Forest(NamedTuple):
    """One tree of monomials per column, each column belonging to one output and one anchor.

    A node at depth d stands for the product of the d variables on the way to it; the root of each
    tree, at depth 0, for one. Inner nodes are in depth-first order; the leaves of each inner node
    are contiguous. The coefficient of a monomial is stored with the node or leaf that ends it:
    first those of all inner nodes, then those of all leaves.

    Attributes
    ----------
    outputs, anchors : (n_columns,) int
        Which polynomial the column is added to; the lowest body of its monomials.
    node_starts, variable_starts : (n_columns + 1,) int
        Where each column's inner nodes and variables begin.
    variables : (n_used,) int
        The variables (body * 3 + axis) of each column, ascending.
    depths, node_variables : (n_nodes,) int
        Of the inner nodes; a root has the variable -1.
    leaf_starts : (n_nodes + 1,) int
        Where the leaves of each inner node begin.
    leaf_variables : (n_leaves,) int
    """

    outputs: IntArray
    anchors: IntArray
    node_starts: IntArray
    variable_starts: IntArray
    variables: IntArray
    depths: IntArray
    node_variables: IntArray
    leaf_starts: IntArray
    leaf_variables: IntArray

    @property
    def size(self) -> int:
        """Number of coefficients: inner nodes and leaves."""
        return len(self.depths) + len(self.leaf_variables)


def plant(
    variables: IntArray, anchors: IntArray, weights: csr_array
) -> tuple[Forest, IntArray, IntArray, IntArray]:
    """Arrange the monomials of each column of a weight matrix.

    Parameters
    ----------
    variables : (n_terms, n_max) int
        Variables of each monomial, ascending, padded behind with -1.
    anchors : (n_terms,) int
        The lowest body of each monomial.
    weights : (n_terms, n_outputs) sparse
        Coefficients.

    Returns
    -------
    forest : Forest
    places, terms : (n_entries,) int
        For every stored weight, the coefficient of the forest that it is, and its term.
    order : (n_entries,) int
        The order of the stored weights (as in `coo_array(weights)`) in these.
    """
    entries = coo_array(weights)
    factors, homes = variables[entries.row], anchors[entries.row]
    levels = tuple(factors[:, level] for level in range(factors.shape[1] - 1, -1, -1))
    order = np.lexsort((*levels, homes, entries.col))
    pairs = np.column_stack([entries.col, homes])[order]
    begins = np.flatnonzero(np.any(np.diff(pairs, axis=0, prepend=-1) != 0, axis=1))
    starts = np.append(begins, len(order)).astype(np.int64)
    depths, names, ends, node_starts = grow(np.ascontiguousarray(factors[order]), starts)
    used, variable_starts = _used_variables(names, node_starts)
    trees = _separate_leaves(depths, names, node_starts)
    inner_starts, inner_depths, inner_names, leaf_starts, leaf_names, places = trees
    forest = Forest(
        outputs=pairs[begins, 0].astype(np.int64),
        anchors=pairs[begins, 1].astype(np.int64),
        node_starts=inner_starts,
        variable_starts=variable_starts,
        variables=used,
        depths=inner_depths,
        node_variables=inner_names,
        leaf_starts=leaf_starts,
        leaf_variables=leaf_names,
    )
    return forest, places[ends], entries.row[order].astype(np.int64), order


def _used_variables(variables: IntArray, node_starts: IntArray) -> tuple[IntArray, IntArray]:
    """The distinct variables of each column, and where they begin."""
    columns = np.repeat(np.arange(len(node_starts) - 1), np.diff(node_starts))
    width = int(variables.max(initial=0)) + 1
    unique = np.unique(columns * width + variables)
    starts = np.searchsorted(unique, np.arange(len(node_starts)) * width)
    return (unique % width).astype(np.int64), starts.astype(np.int64)


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


@njit(cache=True)
def _place_leaves(
    places: IntArray, parents: IntArray, variables: IntArray, n_inner: int
) -> tuple[IntArray, IntArray]:
    """List the leaves by their inner node, and number those whose place is negative so far."""
    leaves = np.flatnonzero(places < 0)
    leaf_starts = np.zeros(n_inner + 1, dtype=np.int64)
    for node in leaves:
        leaf_starts[parents[node] + 1] += 1
    leaf_starts = np.cumsum(leaf_starts)
    filled = leaf_starts.copy()
    leaf_variables = np.empty(len(leaves), dtype=np.int64)
    for node in leaves:
        leaf = filled[parents[node]]
        filled[parents[node]] += 1
        leaf_variables[leaf] = variables[node]
        places[node] = n_inner + leaf
    return leaf_starts, leaf_variables


@njit(cache=True)
def _separate_leaves(
    depths: IntArray, variables: IntArray, node_starts: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Add a root to every column and list the leaves apart from the inner nodes.

    Returns
    -------
    inner_starts : (n_columns + 1,) int
    inner_depths, inner_variables : (n_inner,) int
    leaf_starts : (n_inner + 1,) int
    leaf_variables : (n_leaves,) int
    places : (n_nodes,) int
        Number of each node among all inner nodes followed by all leaves.
    """
    n_nodes, n_columns = len(depths), len(node_starts) - 1
    places = np.full(n_nodes, -1, dtype=np.int64)
    parents = np.empty(n_nodes, dtype=np.int64)
    path = np.zeros(16, dtype=np.int64)
    inner_starts = np.zeros(n_columns + 1, dtype=np.int64)
    inner_depths = np.zeros(n_nodes + n_columns, dtype=np.int64)
    inner_variables = np.full(n_nodes + n_columns, -1, dtype=np.int64)
    n_inner = 0
    for column in range(n_columns):
        path[0] = n_inner
        n_inner += 1
        stop = node_starts[column + 1]
        for node in range(node_starts[column], stop):
            depth = depths[node]
            parents[node] = path[depth - 1]
            is_leaf = node + 1 == stop or depths[node + 1] <= depth
            if not is_leaf:
                inner_depths[n_inner], inner_variables[n_inner] = depth, variables[node]
                places[node] = path[depth] = n_inner
                n_inner += 1
        inner_starts[column + 1] = n_inner
    leaf_starts, leaf_variables = _place_leaves(places, parents, variables, n_inner)
    return (
        inner_starts,
        inner_depths[:n_inner].copy(),
        inner_variables[:n_inner].copy(),
        leaf_starts,
        leaf_variables,
        places,
    )
