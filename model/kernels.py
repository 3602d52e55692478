"""Compiled evaluation of polynomials in the displacements, all cells of the supercell at once.

A program is a forest of monomials in depth-first order: a node at depth d multiplies the product
of its ancestors by one displacement component. Walking down forms products, walking back up
accumulates derivatives (reverse differentiation), so each node costs three multiply-adds per cell
whatever its order. Cells (times configurations) are the lanes of vector instructions.

The virial of the reference positions comes from the same walk. A homogeneous strain moves a body
at R by strain @ R; the sum rules leave the origin of R free for each factor of a monomial, as long
as it depends only on the other factors. It is taken at the lowest of these: the anchor (the lowest
body, in the home cell) for every factor but the anchor itself, and the second lowest for that one,
which is the node at depth 2. A monomial of first order has no other factor and adds nothing: the
constant it would add, forces times sites, depends on which periodic images of the sites are taken,
so it belongs to the virial of the ideal crystal, which labels give (`virial_per_cell`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray

LANES = 32
_MAXIMUM_DEPTH = 8


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _add_second_moment(
    slot: int,
    axis: int,
    adjoints: FloatArray,
    values: FloatArray,
    offsets: FloatArray,
    virial: FloatArray,
) -> None:
    """Derivative with respect to the anchor, times the way from the second lowest body to it."""
    for other in range(3):
        offset = offsets[slot, other]
        for lane in range(LANES):
            virial[axis, other, lane] += offset * adjoints[lane] * values[lane]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _differentiate(
    start: int,
    stop: int,
    depths: IntArray,
    node_slots: IntArray,
    coefficients: FloatArray,
    variables: IntArray,
    offsets: FloatArray,
    lane_values: FloatArray,
    products: FloatArray,
    adjoints: FloatArray,
    slots: IntArray,
    gradient: FloatArray,
    virial: FloatArray,
    wants_virial: bool,
) -> None:
    """Value (in adjoints[0]) and gradient (added by slot) of one column's polynomial."""
    for lane in range(LANES):
        products[0, lane] = 1.0
        adjoints[0, lane] = 0.0
    current = 0
    for node in range(start, stop + 1):
        depth = depths[node] if node < stop else 1
        while current >= depth:
            slot = slots[current]
            values = lane_values[variables[slot]]
            for lane in range(LANES):
                gradient[slot, lane] += adjoints[current, lane] * products[current - 1, lane]
                adjoints[current - 1, lane] += adjoints[current, lane] * values[lane]
            if wants_virial and current == 2:
                axis = variables[slots[1]] % 3
                _add_second_moment(slot, axis, adjoints[2], values, offsets, virial)
            current -= 1
        if node == stop:
            break
        slot = node_slots[node]
        values = lane_values[variables[slot]]
        coefficient = coefficients[node]
        if node + 1 == stop or depths[node + 1] <= depth:
            for lane in range(LANES):
                gradient[slot, lane] += coefficient * products[depth - 1, lane]
                adjoints[depth - 1, lane] += coefficient * values[lane]
            if wants_virial and depth == 2:
                axis = variables[slots[1]] % 3
                adjoints[2, :] = coefficient
                _add_second_moment(slot, axis, adjoints[2], values, offsets, virial)
        else:
            for lane in range(LANES):
                products[depth, lane] = products[depth - 1, lane] * values[lane]
                adjoints[depth, lane] = coefficient
            slots[depth] = slot
            current = depth


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _first_moments(
    variables: IntArray, offsets: FloatArray, gradient: FloatArray, virial: FloatArray
) -> None:
    """Gradient times the way from the anchor, with the sign of a virial."""
    for slot in range(len(variables)):
        axis = variables[slot] % 3
        for other in range(3):
            offset = offsets[slot, other]
            for lane in range(LANES):
                virial[axis, other, lane] -= offset * gradient[slot, lane]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _gather(
    displacements: FloatArray,
    body_atoms: IntArray,
    configurations: IntArray,
    cells: IntArray,
    used: int,
    values: FloatArray,
) -> None:
    """Displacements of every body for the cells of one block of lanes; zero beyond them."""
    values[:, used:] = 0.0
    for body in range(body_atoms.shape[0]):
        for lane in range(used):
            atom = body_atoms[body, cells[lane]]
            for axis in range(3):
                values[body * 3 + axis, lane] = displacements[configurations[lane], atom, axis]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _scatter(
    variables: IntArray,
    body_atoms: IntArray,
    configurations: IntArray,
    cells: IntArray,
    used: int,
    gradient: FloatArray,
    forces: FloatArray,
) -> None:
    """Subtract the gradient by slot from the forces on the atoms (n_conf, n_atoms, 3)."""
    for slot in range(len(variables)):
        body, axis = divmod(variables[slot], 3)
        atoms = body_atoms[body]
        for lane in range(used):
            forces[configurations[lane], atoms[cells[lane]], axis] -= gradient[slot, lane]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def evaluate(
    node_starts: IntArray,
    variable_starts: IntArray,
    outputs: IntArray,
    depths: IntArray,
    node_slots: IntArray,
    coefficients: FloatArray,
    variables: IntArray,
    offsets: FloatArray,
    displacements: FloatArray,
    body_atoms: IntArray,
    energies: FloatArray,
    forces: FloatArray,
    virials: FloatArray,
) -> None:
    """Energy, forces and virial of every output of a program.

    Parameters
    ----------
    node_starts, variable_starts : (n_columns + 1,) int
        Where each column's nodes and variables begin.
    outputs : (n_columns,) int
        The output that each column is added to.
    depths, node_slots, coefficients : (n_nodes,)
        The forest; a slot is a variable's number within its column.
    variables : (n_slots,) int
        Body * 3 + axis of each slot.
    offsets : (n_slots, 3) float
        Ideal position of each slot's body relative to the column's anchor, Angstrom.
    displacements : (n_configurations, n_atoms, 3) float
        Angstrom, in the supercell's order.
    body_atoms : (n_bodies, n_cells) int
        The atom that each body of a cluster anchored in each cell is.
    energies : (n_outputs, n_configurations) float
        Result, eV per unit of the output's parameter.
    forces : (n_outputs, n_configurations, n_atoms, 3) float
        Result, eV/Angstrom per unit.
    virials : (n_outputs, n_configurations, 3, 3) float
        Result, eV per unit: the part due to the reference positions. Of length 0 if not wanted.
    """
    n_configurations = displacements.shape[0]
    n_bodies, n_cells = body_atoms.shape
    n_columns = len(node_starts) - 1
    n_lanes = n_configurations * n_cells
    wants_virial = len(virials) > 0
    largest = 0
    for column in range(n_columns):
        largest = max(largest, variable_starts[column + 1] - variable_starts[column])
    values = np.zeros((n_bodies * 3, LANES))
    gradient = np.zeros((largest, LANES))
    virial = np.zeros((3, 3, LANES))
    products = np.zeros((_MAXIMUM_DEPTH, LANES))
    adjoints = np.zeros((_MAXIMUM_DEPTH, LANES))
    slots = np.zeros(_MAXIMUM_DEPTH, dtype=np.int64)
    configurations = np.zeros(LANES, dtype=np.int64)
    cells = np.zeros(LANES, dtype=np.int64)
    energies[:] = 0.0
    forces[:] = 0.0
    virials[:] = 0.0
    for begin in range(0, n_lanes, LANES):
        used = min(LANES, n_lanes - begin)
        for lane in range(used):
            configurations[lane], cells[lane] = divmod(begin + lane, n_cells)
        _gather(displacements, body_atoms, configurations, cells, used, values)
        for column in range(n_columns):
            first, last = variable_starts[column], variable_starts[column + 1]
            output = outputs[column]
            gradient[: last - first] = 0.0
            _differentiate(
                node_starts[column], node_starts[column + 1],
                depths, node_slots, coefficients, variables[first:last], offsets[first:last],
                values, products, adjoints, slots, gradient, virial, wants_virial,
            )  # fmt: skip
            for lane in range(used):
                energies[output, configurations[lane]] += adjoints[0, lane]
            _scatter(
                variables[first:last], body_atoms, configurations, cells, used,
                gradient, forces[output],
            )  # fmt: skip
            if wants_virial:
                _first_moments(variables[first:last], offsets[first:last], gradient, virial)
                for lane in range(used):
                    virials[output, configurations[lane]] += virial[:, :, lane]
                virial[:] = 0.0


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
