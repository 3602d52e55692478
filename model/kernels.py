"""Compiled evaluation of polynomials in the displacements, all cells of the supercell at once.

Walking down a tree of monomials (`forest`) forms products, walking back up accumulates derivatives
(reverse differentiation), so each node costs three multiply-adds per cell whatever its order, and
a leaf two. Cells (times configurations) are the lanes of vector instructions; the configurations
of one cell are neighbouring lanes, and neighbours in memory too.

The virial of the reference positions comes from the same walk. A homogeneous strain moves a body
at R by strain @ R; the sum rules leave the origin of R free for each factor of a monomial, as long
as it depends only on the other factors. It is taken at the lowest of these: the anchor (the lowest
body, in the home cell) for every factor but the anchor itself, and the second lowest for that one,
which is the node at depth 2. A monomial of first order has no other factor and adds nothing: the
constant it would add, forces times sites, depends on which periodic images of the sites are taken,
so it belongs to the virial of the ideal crystal, which labels give (`virial_per_cell`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest
from anharm.model.lanes import (
    CHUNK_BYTES,
    Block,
    Lanes,
    broadcast,
    item,
    load,
    multiply,
    multiply_add,
    set_item,
    store,
)
from anharm.model.transport import add_up, gather, scatter

_MAXIMUM_DEPTH = 8
_CACHE_LINE = 64  # bytes


class Polynomials(NamedTuple):
    """What is evaluated, on the cells of a supercell.

    Attributes
    ----------
    forest : Forest
    coefficients : (forest.size,) float
    offsets : (3 n_bodies, 3) float
        Ideal position of the body of every variable, Angstrom.
    body_atoms : (n_bodies, n_cells) int
        For clusters anchored in each cell, the atom that each body is.
    """

    forest: Forest
    coefficients: FloatArray
    offsets: FloatArray
    body_atoms: IntArray


class Workspace(NamedTuple):
    """What one block of lanes needs, each row one vector of lanes."""

    block: Block
    values: FloatArray  # (n_bodies * 3, lanes)
    gradient: FloatArray  # (n_bodies * 3, lanes)
    virial: FloatArray  # (9, lanes)
    products: FloatArray  # (depth, lanes)
    adjoints: FloatArray  # (depth, lanes)
    path: IntArray  # (depth,)


_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


@_compiled
def _workspace(n_variables: int, like: FloatArray, block: Block) -> Workspace:
    """Rows that begin where cache lines do, else each access would touch two of them."""
    width = len(block) * CHUNK_BYTES // like.itemsize
    memory = np.empty((2 * n_variables + 10 + 2 * _MAXIMUM_DEPTH) * width, like.dtype)
    begin = (-memory.ctypes.data % _CACHE_LINE) // like.itemsize
    last = begin + (len(memory) // width - 1) * width
    rows = memory[begin:last].reshape((-1, width))
    products = rows[2 * n_variables + 9 : 2 * n_variables + 9 + _MAXIMUM_DEPTH]
    products[0] = 1
    return Workspace(
        block,
        rows[:n_variables],
        rows[n_variables : 2 * n_variables],
        rows[2 * n_variables : 2 * n_variables + 9],
        products,
        rows[2 * n_variables + 9 + _MAXIMUM_DEPTH :],
        np.empty(_MAXIMUM_DEPTH, dtype=np.int64),
    )


@_compiled
def _open_leaves(todo: Polynomials, node: int, product: Lanes, work: Workspace) -> Lanes:
    """All leaves of a node: their part of the gradient; the node's own derivative."""
    block, values, gradient = work.block, work.values, work.gradient
    forest, coefficients = todo.forest, todo.coefficients
    total = broadcast(item(coefficients, node), block)
    n_nodes = len(forest.depths)
    for leaf in range(item(forest.leaf_starts, node), item(forest.leaf_starts, node + 1)):
        variable = item(forest.leaf_variables, leaf)
        coefficient = broadcast(item(coefficients, n_nodes + leaf), block)
        total = multiply_add(coefficient, load(values, variable, block), total)
        slope = multiply_add(coefficient, product, load(gradient, variable, block))
        store(gradient, variable, slope)
    return total


@_compiled
def _leaf_moments(todo: Polynomials, node: int, anchor: int, work: Workspace) -> None:
    """Derivative by the anchor, times the way to it, where the second lowest body is a leaf."""
    forest, block = todo.forest, work.block
    n_nodes = len(forest.depths)
    for other in range(3):
        row = anchor % 3 * 3 + other
        home = item(todo.offsets, anchor * 3 + other)
        moment = load(work.virial, row, block)
        for leaf in range(item(forest.leaf_starts, node), item(forest.leaf_starts, node + 1)):
            variable = item(forest.leaf_variables, leaf)
            offset = item(todo.offsets, variable * 3 + other) - home
            weight = broadcast(item(todo.coefficients, n_nodes + leaf) * offset, block)
            moment = multiply_add(weight, load(work.values, variable, block), moment)
        store(work.virial, row, moment)


@_compiled
def _node_moment(
    offsets: FloatArray, anchor: int, variable: int, weight: Lanes, work: Workspace
) -> None:
    """The same, where the second lowest body is an inner node."""
    block = work.block
    for other in range(3):
        row = anchor % 3 * 3 + other
        offset = item(offsets, variable * 3 + other) - item(offsets, anchor * 3 + other)
        moment = load(work.virial, row, block)
        store(work.virial, row, multiply_add(broadcast(offset, block), weight, moment))


@_compiled
def _close(
    todo: Polynomials,
    depth: int,
    variable: int,
    adjoint: Lanes,
    work: Workspace,
    wants_virial: bool,
) -> None:
    """Give a node's derivative to its variable and to the node above it."""
    block = work.block
    product, slope = load(work.products, depth - 1, block), load(work.gradient, variable, block)
    store(work.gradient, variable, multiply_add(adjoint, product, slope))
    value, above = load(work.values, variable, block), load(work.adjoints, depth - 1, block)
    store(work.adjoints, depth - 1, multiply_add(adjoint, value, above))
    if wants_virial and depth == 2:
        weight = multiply(adjoint, value)
        _node_moment(todo.offsets, item(work.path, 1), variable, weight, work)


@_compiled
def _differentiate(todo: Polynomials, column: int, work: Workspace, wants_virial: bool) -> None:
    """Value (in adjoints[0]) and gradient (added) of one column's polynomial.

    A node without inner nodes below it is closed before it leaves the registers.
    """
    forest, block = todo.forest, work.block
    products, adjoints, path = work.products, work.adjoints, work.path
    root, stop = item(forest.node_starts, column), item(forest.node_starts, column + 1)
    one = broadcast(todo.coefficients.dtype.type(1), block)
    store(adjoints, 0, _open_leaves(todo, root, one, work))
    current = 0
    for node in range(root + 1, stop):
        depth, variable = item(forest.depths, node), item(forest.node_variables, node)
        while current >= depth:
            adjoint = load(adjoints, current, block)
            _close(todo, current, item(path, current), adjoint, work, wants_virial)
            current -= 1
        set_item(path, depth, variable)
        value, product = load(work.values, variable, block), load(products, depth - 1, block)
        product = multiply(product, value)
        total = _open_leaves(todo, node, product, work)
        if wants_virial and depth == 1:
            _leaf_moments(todo, node, variable, work)
        if node + 1 < stop and item(forest.depths, node + 1) > depth:
            store(products, depth, product)
            store(adjoints, depth, total)
            current = depth
        else:
            _close(todo, depth, variable, total, work, wants_virial)
    while current > 0:
        adjoint = load(adjoints, current, block)
        _close(todo, current, item(path, current), adjoint, work, wants_virial)
        current -= 1


@_compiled
def _first_moments(todo: Polynomials, column: int, work: Workspace) -> None:
    """Gradient times the way from the anchor, with the sign of a virial."""
    forest, offsets, block = todo.forest, todo.offsets, work.block
    home = item(forest.anchors, column) * 9
    begin, end = item(forest.variable_starts, column), item(forest.variable_starts, column + 1)
    for index in range(begin, end):
        variable = item(forest.variables, index)
        gradient = load(work.gradient, variable, block)
        for other in range(3):
            row = variable % 3 * 3 + other
            offset = item(offsets, home + other) - item(offsets, variable * 3 + other)
            moment = multiply_add(broadcast(offset, block), gradient, load(work.virial, row, block))
            store(work.virial, row, moment)


@_compiled
def _complete_virials(displacements: FloatArray, forces: FloatArray, virials: FloatArray) -> None:
    """Add what the displacements contribute, and take the symmetric part."""
    n_atoms, _, n_configurations = displacements.shape
    for output in range(len(virials)):
        for configuration in range(n_configurations):
            for axis in range(3):
                x = y = z = 0.0  # three sums at a time, else each addition waits for the last
                for atom in range(n_atoms):
                    force = forces[output, atom, axis, configuration]
                    x += force * displacements[atom, 0, configuration]
                    y += force * displacements[atom, 1, configuration]
                    z += force * displacements[atom, 2, configuration]
                virials[output, axis * 3, configuration] += x
                virials[output, axis * 3 + 1, configuration] += y
                virials[output, axis * 3 + 2, configuration] += z
        for axis in range(3):
            for other in range(axis):
                for configuration in range(n_configurations):
                    one = virials[output, axis * 3 + other, configuration]
                    mean = (one + virials[output, other * 3 + axis, configuration]) / 2
                    virials[output, axis * 3 + other, configuration] = mean
                    virials[output, other * 3 + axis, configuration] = mean


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def evaluate(
    todo: Polynomials,
    displacements: FloatArray,
    first_cell: int,
    last_cell: int,
    n_outputs: int,
    wants_virial: bool,
    block: Block,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energies, forces and virials of some cells' polynomials.

    Parameters
    ----------
    todo : Polynomials
    displacements : (n_atoms, 3, n_configurations) float
        Angstrom, in the supercell's order.
    first_cell, last_cell : int
        The cells to sum over: from the first up to, not including, the last.
    n_outputs : int
    wants_virial : bool
    block : Block
        How many lanes are evaluated at a time.

    Returns
    -------
    energies : (n_outputs, n_configurations) float
        eV per unit of the output's parameter.
    forces : (n_outputs, n_atoms, 3, n_configurations) float
        eV/Angstrom per unit.
    virials : (n_outputs, 9, n_configurations) float
        Symmetric, eV per unit. Of length 0 if not wanted.
    """
    n_atoms, _, n_configurations = displacements.shape
    energies = np.zeros((n_outputs, n_configurations))
    forces = np.zeros((n_outputs, n_atoms, 3, n_configurations))
    virials = np.zeros((n_outputs if wants_virial else 0, 9, n_configurations))
    width = len(block) * CHUNK_BYTES // displacements.itemsize
    last_lane = last_cell * n_configurations
    work = _workspace(todo.body_atoms.shape[0] * 3, displacements, block)
    zero = broadcast(todo.coefficients.dtype.type(0), block)
    for first in range(first_cell * n_configurations, last_lane, width):
        count = min(width, last_lane - first)
        work.values[:, count:] = 0
        gather(displacements, todo.body_atoms, first, count, work.values)
        for column in range(len(todo.forest.outputs)):
            output = item(todo.forest.outputs, column)
            begin, end = (
                item(todo.forest.variable_starts, column),
                item(todo.forest.variable_starts, column + 1),
            )
            for index in range(begin, end):
                store(work.gradient, item(todo.forest.variables, index), zero)
            if wants_virial:
                for row in range(9):
                    store(work.virial, row, zero)
            _differentiate(todo, column, work, wants_virial)
            scatter(
                todo.forest.variables,
                begin,
                end,
                todo.body_atoms,
                first,
                count,
                work.gradient,
                forces,
                output,
            )
            add_up(work.adjoints, 0, first, count, energies, output)
            if wants_virial:
                _first_moments(todo, column, work)
                for row in range(9):
                    add_up(work.virial, row, first, count, virials, output * 9 + row)
    if wants_virial:
        _complete_virials(displacements, forces, virials)
    return energies, forces, virials
