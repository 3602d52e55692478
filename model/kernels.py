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
    broadcast,
    load,
    multiply,
    multiply_add,
    store,
    subtract_chunk,
)

_MAXIMUM_DEPTH = 8
_CACHE_LINE = 64  # bytes


class Workspace(NamedTuple):
    """What one block of lanes needs, each row one vector of lanes."""

    block: Block
    values: FloatArray  # (n_bodies * 3, lanes)
    gradient: FloatArray  # (n_bodies * 3, lanes)
    virial: FloatArray  # (9, lanes)
    products: FloatArray  # (depth, lanes)
    adjoints: FloatArray  # (depth, lanes)
    path: IntArray  # (depth,)


class Runs(NamedTuple):
    """The lanes of one block: runs of configurations of one cell after another.

    Unsigned numbers, for which compiled code need not look for negative ones.
    """

    cells: IntArray  # (lanes,)
    configurations: IntArray  # (lanes,)
    lanes: IntArray  # (lanes,)
    lengths: IntArray  # (lanes,)
    sources: IntArray  # (n_bodies, lanes), where each body's displacement begins
    targets: IntArray  # (n_bodies, lanes), where the force on it begins


_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


@_compiled
def _workspace(n_variables: int, like: FloatArray, block: Block) -> Workspace:
    """Rows that begin where cache lines do, else each access would touch two of them."""
    width = len(block) * CHUNK_BYTES // like.itemsize
    memory = np.zeros((2 * n_variables + 10 + 2 * _MAXIMUM_DEPTH) * width, like.dtype)
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
        np.zeros(_MAXIMUM_DEPTH, dtype=np.int64),
    )


@_compiled
def _open_leaves(
    forest: Forest, node: int, coefficients: FloatArray, depth: int, work: Workspace
) -> None:
    """All leaves of a node: their part of the gradient, and the node's own derivative."""
    block, values, gradient = work.block, work.values, work.gradient
    product = load(work.products, depth, block)
    total = broadcast(coefficients[node], block)
    n_nodes = len(forest.depths)
    for leaf in range(forest.leaf_starts[node], forest.leaf_starts[node + 1]):
        variable = forest.leaf_variables[leaf]
        coefficient = broadcast(coefficients[n_nodes + leaf], block)
        total = multiply_add(coefficient, load(values, variable, block), total)
        slope = multiply_add(coefficient, product, load(gradient, variable, block))
        store(gradient, variable, slope)
    store(work.adjoints, depth, total)


@_compiled
def _leaf_moments(
    forest: Forest, node: int, coefficients: FloatArray, positions: FloatArray, work: Workspace
) -> None:
    """Derivative by the anchor, times the way to it, where the second lowest body is a leaf."""
    block = work.block
    anchor, axis = divmod(forest.node_variables[node], 3)
    n_nodes = len(forest.depths)
    for other in range(3):
        moment = load(work.virial, axis * 3 + other, block)
        for leaf in range(forest.leaf_starts[node], forest.leaf_starts[node + 1]):
            variable = forest.leaf_variables[leaf]
            offset = positions[variable // 3, other] - positions[anchor, other]
            weight = broadcast(coefficients[n_nodes + leaf] * offset, block)
            moment = multiply_add(weight, load(work.values, variable, block), moment)
        store(work.virial, axis * 3 + other, moment)


@_compiled
def _node_moment(variable: int, positions: FloatArray, work: Workspace) -> None:
    """The same, where the second lowest body is an inner node."""
    block = work.block
    anchor, axis = divmod(work.path[1], 3)
    weight = multiply(load(work.adjoints, 2, block), load(work.values, variable, block))
    for other in range(3):
        offset = broadcast(positions[variable // 3, other] - positions[anchor, other], block)
        moment = load(work.virial, axis * 3 + other, block)
        store(work.virial, axis * 3 + other, multiply_add(offset, weight, moment))


@_compiled
def _differentiate(
    forest: Forest,
    column: int,
    coefficients: FloatArray,
    positions: FloatArray,
    work: Workspace,
    wants_virial: bool,
) -> None:
    """Value (in adjoints[0]) and gradient (added) of one column's polynomial."""
    values, gradient, products, adjoints = work.values, work.gradient, work.products, work.adjoints
    path, block = work.path, work.block
    current = 0
    stop = forest.node_starts[column + 1]
    for node in range(forest.node_starts[column], stop + 1):
        depth = forest.depths[node] if node < stop else 1
        while current >= max(depth, 1):
            variable = path[current]
            adjoint = load(adjoints, current, block)
            product, slope = load(products, current - 1, block), load(gradient, variable, block)
            store(gradient, variable, multiply_add(adjoint, product, slope))
            value, above = load(values, variable, block), load(adjoints, current - 1, block)
            store(adjoints, current - 1, multiply_add(adjoint, value, above))
            if wants_virial and current == 2:
                _node_moment(variable, positions, work)
            current -= 1
        if node == stop:
            break
        if depth > 0:
            variable = forest.node_variables[node]
            path[depth] = variable
            value, product = load(values, variable, block), load(products, depth - 1, block)
            store(products, depth, multiply(product, value))
        _open_leaves(forest, node, coefficients, depth, work)
        if wants_virial and depth == 1:
            _leaf_moments(forest, node, coefficients, positions, work)
        current = depth


@_compiled
def _first_moments(forest: Forest, column: int, positions: FloatArray, work: Workspace) -> None:
    """Gradient times the way from the anchor, with the sign of a virial."""
    anchor, block = forest.anchors[column], work.block
    for index in range(forest.variable_starts[column], forest.variable_starts[column + 1]):
        variable = forest.variables[index]
        body, axis = divmod(variable, 3)
        gradient = load(work.gradient, variable, block)
        for other in range(3):
            offset = broadcast(positions[anchor, other] - positions[body, other], block)
            moment = multiply_add(offset, gradient, load(work.virial, axis * 3 + other, block))
            store(work.virial, axis * 3 + other, moment)


@_compiled
def _divide_into_runs(begin: int, stop: int, n_configurations: int, runs: Runs) -> int:
    """Runs of the lanes from begin to stop, numbered by cell and then configuration."""
    count, lane = 0, begin
    while lane < stop:
        cell, configuration = divmod(lane, n_configurations)
        length = min(n_configurations - configuration, stop - lane)
        runs.cells[count], runs.configurations[count] = cell, configuration
        runs.lanes[count], runs.lengths[count] = lane - begin, length
        lane += length
        count += 1
    return count


@_compiled
def _locate(
    body_atoms: IntArray, n_configurations: int, runs: Runs, n_runs: int, places: IntArray
) -> None:
    """Where the first component of each run begins in arrays (n_atoms, 3, n_configurations)."""
    for body in range(body_atoms.shape[0]):
        atoms, found = body_atoms[body], places[body]
        for run in range(n_runs):
            atom = np.uint64(atoms[runs.cells[run]])
            found[run] = atom * np.uint64(3 * n_configurations) + runs.configurations[run]


@_compiled
def _gather(displacements: FloatArray, runs: Runs, n_runs: int, values: FloatArray) -> None:
    """Displacements of every body in one block of lanes."""
    flat = displacements.reshape(-1)
    n_configurations = displacements.shape[2]
    for body in range(len(runs.sources)):
        for axis in range(3):
            row, places = values[body * 3 + axis], runs.sources[body]
            shift = np.uint64(axis * n_configurations)
            if n_configurations == 1:
                for run in range(n_runs):
                    row[run] = flat[places[run] + shift]
                continue
            for run in range(n_runs):
                begin, lane, length = places[run] + shift, runs.lanes[run], runs.lengths[run]
                row[lane : lane + length] = flat[begin : begin + length]


@_compiled
def _scatter(
    variables: IntArray, runs: Runs, n_runs: int, gradient: FloatArray, forces: FloatArray
) -> None:
    """Subtract the gradient by variable from the forces (n_atoms, 3, n_configurations)."""
    flat = forces.reshape(-1)
    n_configurations = forces.shape[2]
    chunk = np.uint64(CHUNK_BYTES // forces.itemsize)
    for variable in variables:
        body, axis = divmod(variable, 3)
        row, places = gradient[variable], runs.targets[body]
        shift = np.uint64(axis * n_configurations)
        if n_configurations == 1:
            for run in range(n_runs):
                flat[places[run] + shift] -= row[run]
            continue
        for run in range(n_runs):
            begin, lane, length = places[run] + shift, runs.lanes[run], runs.lengths[run]
            whole = length - length % chunk
            for index in range(np.uint64(0), whole, chunk):
                subtract_chunk(flat, begin + index, row, lane + index)
            for index in range(whole, length):
                flat[begin + index] -= row[lane + index]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _add_up(lanes: FloatArray, runs: Runs, n_runs: int, totals: FloatArray) -> None:
    """Add a row of lanes to the totals of their configurations."""
    if len(totals) == 1:
        total = lanes.dtype.type(0)
        for lane in range(n_runs):
            total += lanes[lane]
        totals[0] += total
        return
    for run in range(n_runs):
        first, lane, length = runs.configurations[run], runs.lanes[run], runs.lengths[run]
        kept, part = totals[first : first + length], lanes[lane : lane + length]
        for index in range(len(part)):
            kept[index] += part[index]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def evaluate(
    forest: Forest,
    coefficients: FloatArray,
    positions: FloatArray,
    columns: IntArray,
    rows: IntArray,
    displacements: FloatArray,
    body_atoms: IntArray,
    target_atoms: IntArray,
    first_cell: int,
    last_cell: int,
    energies: FloatArray,
    forces: FloatArray,
    virials: FloatArray,
    block: Block,
) -> None:
    """Add energy, forces and virial of some columns of a forest to the results.

    All numbers have one precision, float64 or float32.

    Parameters
    ----------
    forest : Forest
    coefficients : (forest.size,) float
    positions : (n_bodies, 3) float
        Ideal positions of the bodies, Angstrom.
    columns, rows : (n_columns,) int
        The columns to evaluate, and the row of the results that each is added to.
    displacements : (n_atoms, 3, n_configurations) float
        Angstrom, in the supercell's order.
    body_atoms, target_atoms : (n_bodies, n_cells) int
        For clusters anchored in each cell, the atom that each body is, and the one that the
        force on it is added to.
    first_cell, last_cell : int
        The cells to sum over: from the first up to, not including, the last.
    energies : (n_rows, n_configurations) float
        Result, eV per unit of the output's parameter. Of length 0 if not wanted.
    forces : (n_rows, n_targets, 3, n_configurations) float
        Result, eV/Angstrom per unit.
    virials : (n_rows, 9, n_configurations) float
        Result, eV per unit: the part due to the reference positions. Of length 0 if not wanted.
    block : Block
        How many lanes are evaluated at a time.
    """
    n_configurations = displacements.shape[2]
    n_bodies = body_atoms.shape[0]
    width = len(block) * CHUNK_BYTES // displacements.itemsize
    last_lane = last_cell * n_configurations
    wants_energy, wants_virial = len(energies) > 0, len(virials) > 0
    work = _workspace(n_bodies * 3, displacements, block)
    runs = Runs(
        np.zeros(width, np.uint64),
        np.zeros(width, np.uint64),
        np.zeros(width, np.uint64),
        np.zeros(width, np.uint64),
        np.zeros((n_bodies, width), np.uint64),
        np.zeros((n_bodies, width), np.uint64),
    )
    zero = broadcast(coefficients.dtype.type(0), block)
    for begin in range(first_cell * n_configurations, last_lane, width):
        n_runs = _divide_into_runs(begin, min(begin + width, last_lane), n_configurations, runs)
        work.values[:, min(width, last_lane - begin) :] = 0
        _locate(body_atoms, n_configurations, runs, n_runs, runs.sources)
        _locate(target_atoms, n_configurations, runs, n_runs, runs.targets)
        _gather(displacements, runs, n_runs, work.values)
        for index in range(len(columns)):
            column, row = columns[index], rows[index]
            used = forest.variables[
                forest.variable_starts[column] : forest.variable_starts[column + 1]
            ]
            for variable in used:
                store(work.gradient, variable, zero)
            _differentiate(forest, column, coefficients, positions, work, wants_virial)
            _scatter(used, runs, n_runs, work.gradient, forces[row])
            if wants_energy:
                _add_up(work.adjoints[0], runs, n_runs, energies[row])
            if wants_virial:
                _first_moments(forest, column, positions, work)
                for component in range(9):
                    _add_up(work.virial[component], runs, n_runs, virials[row, component])
                work.virial[:] = 0
