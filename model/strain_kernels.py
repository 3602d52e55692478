"""Compiled parts of the energy in strained cells."""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest

_MAXIMUM_ORDER = 8


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def products_of(
    parents: IntArray, slots: IntArray, components: FloatArray, values: FloatArray
) -> None:
    """Products of components of strained vectors, the first of which is one.

    Parameters
    ----------
    parents, slots : (n_products - 1,) int
        Of `StrainProducts`.
    components : (n_components,) float
        Angstrom.
    values : (n_products,) float
        Result.
    """
    values[0] = 1.0
    for index in range(len(slots)):
        values[index + 1] = values[parents[index]] * components[slots[index]]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def gradient_of_sum(
    parents: IntArray,
    slots: IntArray,
    components: FloatArray,
    values: FloatArray,
    weights: FloatArray,
    gradient: FloatArray,
) -> None:
    """Add the derivative of the sum of weights times values by each of the components.

    The first arguments are those of `products_of`; the weights (n_products,) are overwritten.
    """
    for index in range(len(slots) - 1, -1, -1):
        parent, slot, weight = parents[index], slots[index], weights[index + 1]
        gradient[slot] += weight * values[parent]
        weights[parent] += weight * components[slot]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def derivatives_of_products(
    parents: IntArray,
    slots: IntArray,
    components: FloatArray,
    vectors: FloatArray,
    values: FloatArray,
    derivatives: FloatArray,
) -> None:
    """Derivatives (n_products, 9) of all products by the strain, of the vectors (n_vectors, 3)."""
    derivatives[0] = 0.0
    for index in range(len(slots)):
        parent, slot = parents[index], slots[index]
        for entry in range(9):
            derivatives[index + 1, entry] = derivatives[parent, entry] * components[slot]
        for other in range(3):
            share = values[parent] * vectors[slot // 3, other]
            derivatives[index + 1, slot % 3 * 3 + other] += share


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def add_weighted(
    weights: FloatArray, rows: IntArray, numbers: IntArray, values: FloatArray, totals: FloatArray
) -> None:
    """Add weight times values (n, 9), of that number, to the row of the totals (m, 9), for each."""
    for index in range(len(weights)):
        row, number, weight = rows[index], numbers[index], weights[index]
        for entry in range(9):
            totals[row, entry] += weight * values[number, entry]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def monomial_sums(
    forest: Forest, displacements: FloatArray, body_atoms: IntArray, sums: FloatArray
) -> None:
    """Sum over all cells of every monomial of a forest, one configuration.

    Parameters
    ----------
    forest : Forest
    displacements : (n_atoms, 3) float
        Angstrom, in the supercell's order.
    body_atoms : (n_bodies, n_cells) int
    sums : (n_monomials,) float
        Result, Angstrom to the power of the order.
    """
    n_bodies, n_cells = body_atoms.shape
    values = np.empty((n_bodies * 3, n_cells))
    for body in range(n_bodies):
        for cell in range(n_cells):
            for axis in range(3):
                values[body * 3 + axis, cell] = displacements[body_atoms[body, cell], axis]
    for index in range(len(forest.bodies)):
        for axis in range(3):
            if forest.linear[index, axis] >= 0:
                sums[forest.linear[index, axis]] = values[forest.bodies[index] * 3 + axis].sum()
    products = np.ones((_MAXIMUM_ORDER, n_cells))
    of_row = np.empty(n_cells)
    for node in range(len(forest.depths)):
        depth = forest.depths[node]
        product = products[depth]
        if depth > 0:
            factor, parent = values[forest.node_variables[node]], products[depth - 1]
            for cell in range(n_cells):
                product[cell] = parent[cell] * factor[cell]
        for row in range(forest.row_starts[node], forest.row_starts[node + 1]):
            for axis in range(3):
                variable = forest.row_bodies[row] * 3 + axis
                factor = values[variable]
                for cell in range(n_cells):
                    of_row[cell] = product[cell] * factor[cell]
                for entry in range(forest.entry_starts[row], forest.entry_starts[row + 1]):
                    other = forest.entry_variables[entry]
                    if other >= variable and forest.entry_factors[entry, axis] > 0:
                        factor = values[other]
                        total = 0.0
                        for cell in range(n_cells):
                            total += of_row[cell] * factor[cell]
                        sums[forest.entry_monomials[entry, axis]] = total
