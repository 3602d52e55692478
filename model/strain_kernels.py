"""Compiled parts of the energy in strained cells."""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest

_MAXIMUM_ORDER = 8


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def effective_coefficients(
    strengths: FloatArray,
    targets: IntArray,
    factors: IntArray,
    strains: FloatArray,
    coefficients: FloatArray,
) -> None:
    """Add strength times the product of the strain factors to each contribution's target.

    Parameters
    ----------
    strengths : (n_contributions,) float
    targets : (n_contributions,) int
    factors : (n_contributions, n) int
        Indices into `strains`, padded behind with -1.
    strains : (n_strains,) float
        Components of the strained vectors, Angstrom.
    coefficients : (n_targets,) float
        Result.
    """
    width = factors.shape[1]
    coefficients[:] = 0.0
    for index in range(len(targets)):
        value = strengths[index]
        for level in range(width):
            if factors[index, level] < 0:
                break
            value *= strains[factors[index, level]]
        coefficients[targets[index]] += value


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def strain_gradient(
    strengths: FloatArray,
    targets: IntArray,
    factors: IntArray,
    strains: FloatArray,
    sums: FloatArray,
    gradient: FloatArray,
) -> None:
    """Derivative of sum_target sums[target] * coefficients[target] by each of the strains.

    The arguments are those of `effective_coefficients`; `sums` is (n_targets,), the result
    `gradient` (n_strains,).
    """
    width = factors.shape[1]
    before = np.empty(_MAXIMUM_ORDER)
    gradient[:] = 0.0
    for index in range(len(targets)):
        value = strengths[index] * sums[targets[index]]
        count = 0
        while count < width and factors[index, count] >= 0:
            before[count] = value
            value *= strains[factors[index, count]]
            count += 1
        after = 1.0
        for level in range(count - 1, -1, -1):
            slot = factors[index, level]
            gradient[slot] += before[level] * after
            after *= strains[slot]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def strain_gradient_by_term(
    weights: FloatArray,
    terms: IntArray,
    targets: IntArray,
    factors: IntArray,
    strains: FloatArray,
    vectors: FloatArray,
    sums: FloatArray,
    gradient: FloatArray,
) -> None:
    """The same derivative by the strain itself, per unit coefficient of every term.

    `terms` (n_contributions,) names the term of each contribution, `vectors` (n_vectors, 3) are
    the unstrained ones; the result `gradient` is (n_terms, 3, 3).
    """
    width = factors.shape[1]
    before = np.empty(_MAXIMUM_ORDER)
    gradient[:] = 0.0
    for index in range(len(targets)):
        value = weights[index] * sums[targets[index]]
        count = 0
        while count < width and factors[index, count] >= 0:
            before[count] = value
            value *= strains[factors[index, count]]
            count += 1
        after = 1.0
        for level in range(count - 1, -1, -1):
            slot = factors[index, level]
            vector, axis = divmod(slot, 3)
            for other in range(3):
                gradient[terms[index], axis, other] += (
                    before[level] * after * vectors[vector, other]
                )
            after *= strains[slot]


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
