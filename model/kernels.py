"""Compiled evaluation of polynomials in the displacements, all cells of the supercell at once.

A program is a forest of monomials in depth-first order: a node at depth d multiplies the product
of its ancestors by one displacement component. Walking down forms products, walking back up
accumulates derivatives (reverse differentiation), so each node costs three multiply-adds per cell
whatever its order. Cells (times configurations) are the lanes of vector instructions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray

LANES = 32
_MAXIMUM_DEPTH = 8


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _close(
    depth: int,
    first: int,
    products: FloatArray,
    adjoints: FloatArray,
    slots: IntArray,
    lane_values: FloatArray,
    gradient: FloatArray,
    variables: IntArray,
) -> None:
    """Hand the finished adjoint at `depth` to its variable and to its parent."""
    slot = slots[depth]
    values = lane_values[variables[first + slot]]
    for lane in range(LANES):
        gradient[slot, lane] += adjoints[depth, lane] * products[depth - 1, lane]
        adjoints[depth - 1, lane] += adjoints[depth, lane] * values[lane]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _differentiate(
    start: int,
    stop: int,
    first: int,
    depths: IntArray,
    node_slots: IntArray,
    coefficients: FloatArray,
    variables: IntArray,
    lane_values: FloatArray,
    products: FloatArray,
    adjoints: FloatArray,
    slots: IntArray,
    gradient: FloatArray,
) -> None:
    """Value (in adjoints[0]) and gradient (added by slot) of one column's polynomial."""
    for lane in range(LANES):
        products[0, lane] = 1.0
        adjoints[0, lane] = 0.0
    current = 0
    for node in range(start, stop):
        depth = depths[node]
        while current >= depth:
            _close(current, first, products, adjoints, slots, lane_values, gradient, variables)
            current -= 1
        slot = node_slots[node]
        values = lane_values[variables[first + slot]]
        coefficient = coefficients[node]
        if node + 1 == stop or depths[node + 1] <= depth:
            for lane in range(LANES):
                gradient[slot, lane] += coefficient * products[depth - 1, lane]
                adjoints[depth - 1, lane] += coefficient * values[lane]
        else:
            for lane in range(LANES):
                products[depth, lane] = products[depth - 1, lane] * values[lane]
                adjoints[depth, lane] = coefficient
            slots[depth] = slot
            current = depth
    while current >= 1:
        _close(current, first, products, adjoints, slots, lane_values, gradient, variables)
        current -= 1


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def energies_and_gradients(
    node_starts: IntArray,
    variable_starts: IntArray,
    depths: IntArray,
    node_slots: IntArray,
    coefficients: FloatArray,
    variables: IntArray,
    displacements: FloatArray,
    body_atoms: IntArray,
    energies: FloatArray,
    gradients: FloatArray,
) -> None:
    """Energy and its derivative with respect to every atom, for every column of a program.

    Parameters
    ----------
    node_starts, variable_starts : (n_columns + 1,) int
        Where each column's nodes and variables begin.
    depths, node_slots, coefficients : (n_nodes,)
        The forest; a slot is a variable's number within its column.
    variables : (n_slots,) int
        Body * 3 + axis of each slot.
    displacements : (n_configurations, n_atoms, 3) float
        Angstrom, in the supercell's order.
    body_atoms : (n_bodies, n_cells) int
        The atom that each body of a cluster anchored in each cell is.
    energies : (n_columns, n_configurations) float
        Output, eV per unit of the column's parameter.
    gradients : (n_columns, n_configurations, n_atoms, 3) float
        Output, eV/Angstrom per unit of the column's parameter.
    """
    n_configurations = displacements.shape[0]
    n_bodies, n_cells = body_atoms.shape
    n_columns = len(node_starts) - 1
    n_lanes = n_configurations * n_cells
    values = np.zeros((n_bodies * 3, LANES))
    largest = 0
    for column in range(n_columns):
        largest = max(largest, variable_starts[column + 1] - variable_starts[column])
    gradient = np.zeros((largest, LANES))
    products = np.zeros((_MAXIMUM_DEPTH, LANES))
    adjoints = np.zeros((_MAXIMUM_DEPTH, LANES))
    slots = np.zeros(_MAXIMUM_DEPTH, dtype=np.int64)
    energies[:] = 0.0
    gradients[:] = 0.0
    for begin in range(0, n_lanes, LANES):
        used = min(LANES, n_lanes - begin)
        for lane in range(used):
            configuration, cell = divmod(begin + lane, n_cells)
            for body in range(n_bodies):
                atom = body_atoms[body, cell]
                for axis in range(3):
                    values[body * 3 + axis, lane] = displacements[configuration, atom, axis]
        for column in range(n_columns):
            first = variable_starts[column]
            count = variable_starts[column + 1] - first
            gradient[:count] = 0.0
            _differentiate(
                node_starts[column], node_starts[column + 1], first,
                depths, node_slots, coefficients, variables, values,
                products, adjoints, slots, gradient,
            )  # fmt: skip
            for lane in range(used):
                energies[column, (begin + lane) // n_cells] += adjoints[0, lane]
            for slot in range(count):
                body, axis = divmod(variables[first + slot], 3)
                for lane in range(used):
                    configuration, cell = divmod(begin + lane, n_cells)
                    atom = body_atoms[body, cell]
                    gradients[column, configuration, atom, axis] += gradient[slot, lane]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def summed_gradients(
    node_starts: IntArray,
    variable_starts: IntArray,
    depths: IntArray,
    node_slots: IntArray,
    coefficients: FloatArray,
    variables: IntArray,
    displacements: FloatArray,
    body_atoms: IntArray,
    body_weights: FloatArray,
    sums: FloatArray,
) -> None:
    """Sum over bodies and cells of gradient times a weight per body.

    Parameters are those of `energies_and_gradients`, and

    body_weights : (n_bodies, n_weights) float
        Weight of the derivative with respect to each body.
    sums : (n_columns, n_configurations, 3, n_weights) float
        Output: sum of gradient[body, axis] * weight[body].
    """
    n_configurations = displacements.shape[0]
    n_bodies, n_cells = body_atoms.shape
    n_columns = len(node_starts) - 1
    values = np.zeros((n_bodies * 3, LANES))
    gradient = np.zeros((n_bodies * 3, LANES))
    products = np.zeros((_MAXIMUM_DEPTH, LANES))
    adjoints = np.zeros((_MAXIMUM_DEPTH, LANES))
    slots = np.zeros(_MAXIMUM_DEPTH, dtype=np.int64)
    sums[:] = 0.0
    for configuration in range(n_configurations):
        for begin in range(0, n_cells, LANES):
            used = min(LANES, n_cells - begin)
            values[:] = 0.0
            for lane in range(used):
                for body in range(n_bodies):
                    atom = body_atoms[body, begin + lane]
                    for axis in range(3):
                        values[body * 3 + axis, lane] = displacements[configuration, atom, axis]
            for column in range(n_columns):
                first = variable_starts[column]
                count = variable_starts[column + 1] - first
                gradient[:count] = 0.0
                _differentiate(
                    node_starts[column], node_starts[column + 1], first,
                    depths, node_slots, coefficients, variables, values,
                    products, adjoints, slots, gradient,
                )  # fmt: skip
                for slot in range(count):
                    body, axis = divmod(variables[first + slot], 3)
                    total = 0.0
                    for lane in range(used):
                        total += gradient[slot, lane]
                    for weight in range(body_weights.shape[1]):
                        sums[column, configuration, axis, weight] += (
                            total * body_weights[body, weight]
                        )


@njit(cache=True)
def grow_forest(terms: IntArray, starts: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Merge the common beginnings of sorted monomials into a forest, column by column.

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
