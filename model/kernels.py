"""Compiled evaluation of polynomials in the displacements, all cells of the supercell at once.

Monomials that differ in their last two factors only make a quadratic form, whose derivatives are
a symmetric matrix times the displacements: one multiply-add per entry and cell, and nothing is
written but the result. Three rows of the matrix, those of one body, are multiplied with the same
displacements at a time. Walking down the tree of all other factors (`forest`) forms their
products, walking back up accumulates derivatives (reverse differentiation). Cells (times
configurations) are the lanes of vector instructions; the configurations of one cell are
neighbouring lanes, and neighbours in memory too.

The virial of the reference positions comes from the same walk. A homogeneous strain moves a body
at R by strain @ R; the sum rules leave the origin of R free for each factor of a monomial, as long
as it depends only on the other factors. It is taken at the lowest of these: the anchor (the lowest
body, in the home cell) for every factor but the anchor itself, and the second lowest for that one,
which is the node at depth 2, or one of the pair where the order is two or three. A monomial of
first order has no other factor and adds nothing: the constant it would add, forces times sites,
depends on which periodic images of the sites are taken, so it belongs to the virial of the ideal
crystal, which labels give (`virial_per_cell`).
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

Triple = tuple[Lanes, Lanes, Lanes]  # one for each axis

_MAXIMUM_DEPTH = 8
_CACHE_LINE = 64  # bytes


class Polynomials(NamedTuple):
    """What is evaluated, on the cells of a supercell.

    Attributes
    ----------
    forest : Forest
    weights : (n_entries, 3) float
        The entries of all matrices of the forest.
    slopes : (n_used, 3) float
        Coefficients of first order of the bodies of every column.
    positions : (n_bodies, 3) float
        Ideal positions, Angstrom.
    body_atoms : (n_bodies, n_cells) int
        For clusters anchored in each cell, the atom that each body is.
    """

    forest: Forest
    weights: FloatArray
    slopes: FloatArray
    positions: FloatArray
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
def _times_row(todo: Polynomials, begin: int, end: int, start: Triple, work: Workspace) -> Triple:
    """Some entries of three rows of a matrix times the displacements, added to what there is."""
    block, entry_variables, weights = work.block, todo.forest.entry_variables, todo.weights
    x, y, z = start
    for entry in range(begin, end):
        value = load(work.values, item(entry_variables, entry), block)
        x = multiply_add(broadcast(item(weights, entry * 3), block), value, x)
        y = multiply_add(broadcast(item(weights, entry * 3 + 1), block), value, y)
        z = multiply_add(broadcast(item(weights, entry * 3 + 2), block), value, z)
    return x, y, z


@_compiled
def _add_to_gradient(variable: int, factor: Lanes, slope: Lanes, work: Workspace) -> None:
    total = multiply_add(factor, slope, load(work.gradient, variable, work.block))
    store(work.gradient, variable, total)


@_compiled
def _moments(work: Workspace, other: int) -> Triple:
    """A column of the virial."""
    virial, block = work.virial, work.block
    return (
        load(virial, other, block),
        load(virial, 3 + other, block),
        load(virial, 6 + other, block),
    )


@_compiled
def _set_moments(work: Workspace, other: int, x: Lanes, y: Lanes, z: Lanes) -> None:
    store(work.virial, other, x)
    store(work.virial, 3 + other, y)
    store(work.virial, 6 + other, z)


@_compiled
def _add_moments(todo: Polynomials, anchor: int, body: int, weight: Lanes, work: Workspace) -> None:
    """Weight times the way to the anchor from the second lowest body, for the anchor's axis."""
    block = work.block
    for other in range(3):
        row = anchor % 3 * 3 + other
        offset = item(todo.positions, body * 3 + other)
        offset -= item(todo.positions, anchor // 3 * 3 + other)
        moment = load(work.virial, row, block)
        store(work.virial, row, multiply_add(broadcast(offset, block), weight, moment))


@_compiled
def _second_order_moments(todo: Polynomials, node: int, home: int, work: Workspace) -> None:
    """Derivative by the anchor times the way to it, of monomials of second order."""
    forest, positions, weights, block = todo.forest, todo.positions, todo.weights, work.block
    for row in range(item(forest.row_starts, node), item(forest.row_starts, node + 1)):
        if item(forest.row_bodies, row) != home:
            continue
        for other in range(3):
            x, y, z = _moments(work, other)
            for entry in range(item(forest.entry_starts, row), item(forest.entry_starts, row + 1)):
                variable = item(forest.entry_variables, entry)
                way = item(positions, variable // 3 * 3 + other) - item(positions, home * 3 + other)
                value = load(work.values, variable, block)
                x = multiply_add(broadcast(way * item(weights, entry * 3), block), value, x)
                y = multiply_add(broadcast(way * item(weights, entry * 3 + 1), block), value, y)
                z = multiply_add(broadcast(way * item(weights, entry * 3 + 2), block), value, z)
            _set_moments(work, other, x, y, z)


@_compiled
def _third_order_moments(todo: Polynomials, row: int, anchor: int, work: Workspace) -> Triple:
    """The same for those of third order that have one body in their pair, and its three rows.

    Returned are the rows times the displacements. A pair belongs to its lower body, so that half
    of the entries in columns of the own body, and none of those of lower ones, count.
    """
    forest, block = todo.forest, work.block
    begin, end = item(forest.entry_starts, row), item(forest.entry_starts, row + 1)
    middle, upper = item(forest.own_starts, row * 2), item(forest.own_starts, row * 2 + 1)
    zero = broadcast(todo.weights.dtype.type(0), block)
    minus_half = broadcast(todo.weights.dtype.type(-0.5), block)
    lower = _times_row(todo, begin, middle, (zero, zero, zero), work)
    with_own = _times_row(todo, middle, upper, lower, work)
    whole = _times_row(todo, upper, end, with_own, work)
    body, weight = item(forest.row_bodies, row), zero
    for axis in range(3):
        value = load(work.values, body * 3 + axis, block)
        share = multiply(minus_half, value)
        weight = multiply_add(share, lower[axis], multiply_add(share, with_own[axis], weight))
        weight = multiply_add(value, whole[axis], weight)
    _add_moments(todo, anchor, body, weight, work)
    return whole


@_compiled
def _open(todo: Polynomials, node: int, product: Lanes, anchor: int, work: Workspace) -> Lanes:
    """Quadratic form of a node: its part of the gradient; the node's own derivative.

    Where the node is the anchor (else -1) and a virial is wanted, its moments are added, too.
    """
    forest, values, block = todo.forest, work.values, work.block
    zero = broadcast(todo.weights.dtype.type(0), block)
    half = broadcast(todo.weights.dtype.type(0.5), block)
    twice = zero
    for row in range(item(forest.row_starts, node), item(forest.row_starts, node + 1)):
        first = item(forest.row_bodies, row) * 3
        if anchor >= 0:
            slopes = _third_order_moments(todo, row, anchor, work)
        else:
            begin, end = item(forest.entry_starts, row), item(forest.entry_starts, row + 1)
            slopes = _times_row(todo, begin, end, (zero, zero, zero), work)
        for axis in range(3):
            _add_to_gradient(first + axis, product, slopes[axis], work)
            twice = multiply_add(load(values, first + axis, block), slopes[axis], twice)
    return multiply(half, twice)


@_compiled
def _close(todo: Polynomials, depth: int, work: Workspace, wants_virial: bool) -> None:
    """Give a node's derivative to its variable and to the node above it."""
    block, variable = work.block, item(work.path, depth)
    adjoint = load(work.adjoints, depth, block)
    _add_to_gradient(variable, load(work.products, depth - 1, block), adjoint, work)
    value, above = load(work.values, variable, block), load(work.adjoints, depth - 1, block)
    store(work.adjoints, depth - 1, multiply_add(adjoint, value, above))
    if wants_virial and depth == 2:
        weight = multiply(adjoint, value)
        _add_moments(todo, item(work.path, 1), variable // 3, weight, work)


@_compiled
def _linear(todo: Polynomials, column: int, work: Workspace) -> Lanes:
    """Value of the monomials of first order; the gradient begins with theirs."""
    forest, block = todo.forest, work.block
    total = broadcast(todo.slopes.dtype.type(0), block)
    for index in range(item(forest.body_starts, column), item(forest.body_starts, column + 1)):
        first = item(forest.bodies, index) * 3
        for axis in range(3):
            slope = broadcast(item(todo.slopes, index * 3 + axis), block)
            store(work.gradient, first + axis, slope)
            total = multiply_add(slope, load(work.values, first + axis, block), total)
    return total


@_compiled
def _differentiate(todo: Polynomials, column: int, work: Workspace, wants_virial: bool) -> None:
    """Value (in adjoints[0]) and gradient of one column's polynomial."""
    forest, block = todo.forest, work.block
    products, adjoints, path = work.products, work.adjoints, work.path
    root, stop = item(forest.node_starts, column), item(forest.node_starts, column + 1)
    one = broadcast(todo.weights.dtype.type(1), block)
    linear = _linear(todo, column, work)  # first, for it clears the gradient
    store(adjoints, 0, multiply_add(one, _open(todo, root, one, -1, work), linear))
    if wants_virial:
        _second_order_moments(todo, root, item(forest.anchors, column), work)
    current = 0
    for node in range(root + 1, stop):
        depth, variable = item(forest.depths, node), item(forest.node_variables, node)
        while current >= depth:
            _close(todo, current, work, wants_virial)
            current -= 1
        current = depth
        set_item(path, depth, variable)
        value, product = load(work.values, variable, block), load(products, depth - 1, block)
        product = multiply(product, value)
        store(products, depth, product)
        anchor = variable if wants_virial and depth == 1 else -1
        store(adjoints, depth, _open(todo, node, product, anchor, work))
    while current > 0:
        _close(todo, current, work, wants_virial)
        current -= 1


@_compiled
def _first_moments(todo: Polynomials, column: int, work: Workspace) -> None:
    """Gradient times the way from the anchor, with the sign of a virial."""
    forest, positions, gradient, block = todo.forest, todo.positions, work.gradient, work.block
    home = item(forest.anchors, column)
    begin, end = item(forest.body_starts, column), item(forest.body_starts, column + 1)
    for other in range(3):
        x, y, z = _moments(work, other)
        for index in range(begin, end):
            body = item(forest.bodies, index)
            way = item(positions, home * 3 + other) - item(positions, body * 3 + other)
            offset = broadcast(way, block)
            x = multiply_add(offset, load(gradient, body * 3, block), x)
            y = multiply_add(offset, load(gradient, body * 3 + 1, block), y)
            z = multiply_add(offset, load(gradient, body * 3 + 2, block), z)
        _set_moments(work, other, x, y, z)


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
    zero = broadcast(todo.weights.dtype.type(0), block)
    for first in range(first_cell * n_configurations, last_lane, width):
        count = min(width, last_lane - first)
        work.values[:, count:] = 0
        gather(displacements, todo.body_atoms, first, count, work.values)
        for column in range(len(todo.forest.outputs)):
            output = item(todo.forest.outputs, column)
            begin, end = (
                item(todo.forest.body_starts, column),
                item(todo.forest.body_starts, column + 1),
            )
            if wants_virial:
                for row in range(9):
                    store(work.virial, row, zero)
            _differentiate(todo, column, work, wants_virial)
            scatter(
                todo.forest.bodies,
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
