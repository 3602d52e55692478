"""Compiled errors of forces: design rows of a block of lanes, and their way through the posterior.

Each force component of each parameter is a polynomial of its own in the displacements around it
(`force_rows`), so that the cells of the supercell are lanes from the displacements to the result:
nothing is added up across lanes, as the reverse differentiation of `kernels` must do. Lanes are
numbered by cell and then configuration.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.force_rows import RowTables
from anharm.model.lanes import Block, broadcast, load, multiply, multiply_add, store
from anharm.model.product_kernels import Combinations, Packed, combine, sums_of_squares
from anharm.model.transport import gather


class RowProgram(NamedTuple):
    """From displacements to design rows, all numbers in one precision.

    Attributes
    ----------
    tables : RowTables
    coefficients, constants : (n_terms,) and (n_used,) float
    combinations : Combinations
        From rows of symmetry-allowed parameters to those that the factors are for, class by class
        of force components.
    first_rows : (n_classes + 1,) int
        Where the combinations for each class begin.
    components : (n_components,) int
        Force components (site * 3 + axis) in the order of their classes.
    first_components : (n_classes + 1,) int
        Where those of each class begin.
    body_atoms : (n_bodies, n_cells) int
        The atom that each body is, seen from each cell.
    shifts : (3 n_bodies,) float
        Added to the displacements of the bodies, Angstrom; of length 0 in the reference cell.
    means : (n_parameters, 3) float
        Subtracted from the design rows of the only class; of length 0 if not wanted.
    """

    tables: RowTables
    coefficients: FloatArray
    constants: FloatArray
    combinations: Combinations
    first_rows: IntArray
    components: IntArray
    first_components: IntArray
    body_atoms: IntArray
    shifts: FloatArray
    means: FloatArray


class Workspace(NamedTuple):
    """Memory of one thread for one block of lanes; each array begins where a cache line does.

    Attributes
    ----------
    values : (3 n_bodies, width of a block) float
    monomials : (largest group + 1, width) float
    free : (rows of symmetry-allowed parameters, width) float
    rows : (n_chunks * n_parameters of the largest class, width of a product block) float
    squares : (n_chunks of all components, width of a product block) float
    """

    values: FloatArray
    monomials: FloatArray
    free: FloatArray
    rows: FloatArray
    squares: FloatArray


_compiled = njit(
    cache=True, nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True
)


@_compiled
def _polynomials(program: RowProgram, block: Block, work: Workspace) -> None:
    """Rows of the symmetry-allowed parameters, group by group."""
    tables, coefficients, monomials = program.tables, program.coefficients, work.monomials
    for group in range(len(tables.node_starts) - 1):
        first = tables.node_starts[group]
        for node in range(first, tables.node_starts[group + 1]):
            above = load(monomials, tables.parents[node], block)
            product = multiply(above, load(work.values, tables.variables[node], block))
            store(monomials, node - first + 1, product)
        for number in range(tables.output_starts[group], tables.output_starts[group + 1]):
            total = broadcast(program.constants[number], block)
            for term in range(tables.term_starts[number], tables.term_starts[number + 1]):
                monomial = load(monomials, tables.term_nodes[term], block)
                total = multiply_add(broadcast(coefficients[term], block), monomial, total)
            store(work.free, tables.outputs[number], total)


@_compiled
def _prepare(program: RowProgram, work: Workspace) -> None:
    """What stays the same from block to block."""
    work.values[:] = 0
    work.monomials[0] = 1
    for row in program.tables.empty:
        work.free[row] = 0


@_compiled
def _shift(shifts: FloatArray, count: int, values: FloatArray) -> None:
    """Add what the strain displaces each body by, for some lanes."""
    for row in range(len(shifts)):
        shift = shifts[row]
        for lane in range(count):
            values[row, lane] += shift


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def rows_at_sites(program: RowProgram, block: Block, work: Workspace) -> None:
    """Rows of the symmetry-allowed parameters, in the first lane, without displacements."""
    _prepare(program, work)
    _shift(program.shifts, 1, work.values)
    _polynomials(program, block, work)


@_compiled
def _free_rows(
    program: RowProgram,
    displacements: FloatArray,
    first: int,
    last: int,
    block: Block,
    work: Workspace,
) -> None:
    """Rows of the symmetry-allowed parameters of one block of lanes."""
    gather(displacements, program.body_atoms, first, last - first, work.values)
    _shift(program.shifts, last - first, work.values)
    _polynomials(program, block, work)


@_compiled
def _design_rows(program: RowProgram, number: int, product_block: Block, work: Workspace) -> int:
    """Design rows of one class, as chunks of columns; returns how many chunks."""
    first, last = program.first_components[number], program.first_components[number + 1]
    product_width = work.rows.shape[1]
    per_component = work.free.shape[1] // product_width
    n_chunks = (last - first) * per_component
    columns = work.free.reshape((-1, product_width))
    first_row, last_row = program.first_rows[number], program.first_rows[number + 1]
    combine(
        program.combinations, first_row, last_row, columns, per_component, n_chunks,
        product_block, work.rows,
    )  # fmt: skip
    return n_chunks


@_compiled
def _subtract_means(
    means: FloatArray, n_chunks: int, product_block: Block, work: Workspace
) -> None:
    """Of the rows of all components, which must be of one class."""
    per_component = work.free.shape[1] // work.rows.shape[1]
    minus_one = broadcast(means.dtype.type(-1), product_block)
    for chunk in range(n_chunks):
        axis = chunk // per_component % 3
        for parameter in range(len(means)):
            place = chunk * len(means) + parameter
            mean = broadcast(means[parameter, axis], product_block)
            row = load(work.rows, place, product_block)
            store(work.rows, place, multiply_add(minus_one, mean, row))


@_compiled
def _deliver(
    components: IntArray, squares: FloatArray, first: int, last: int, result: FloatArray
) -> None:
    """Write some lanes of all components (n_components, width) to where they belong."""
    n_configurations = result.shape[3]
    for number in range(len(components)):
        site, axis = divmod(components[number], 3)
        found, part = squares[number], result[site, :, axis]
        cell, configuration = divmod(first, n_configurations)
        for lane in range(last - first):
            part[cell, configuration] = found[lane]
            configuration += 1
            if configuration == n_configurations:
                cell, configuration = cell + 1, 0


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def variances(
    program: RowProgram,
    factors: Packed,
    displacements: FloatArray,
    first_lane: int,
    last_lane: int,
    block: Block,
    product_block: Block,
    work: Workspace,
    result: FloatArray,
) -> None:
    """Sum of squares of factor times design row, for every component of some lanes.

    Parameters
    ----------
    program : RowProgram
    factors : Packed
        Transpose of the posterior's factor for each class of components.
    displacements : (n_atoms, 3, n_configurations) float
        Angstrom, in the supercell's order.
    first_lane, last_lane : int
    block, product_block : Block
        How many lanes are evaluated, and how many columns multiplied, at a time; not more.
    work : Workspace
    result : (n_sites, n_cells, 3, n_configurations) float
        (eV/Angstrom)^2.
    """
    width = work.values.shape[1]
    _prepare(program, work)
    for first in range(first_lane, last_lane, width):
        last = min(first + width, last_lane)
        _free_rows(program, displacements, first, last, block, work)
        first_chunk = 0
        for number in range(len(program.first_rows) - 1):
            n_chunks = _design_rows(program, number, product_block, work)
            if len(program.means):
                _subtract_means(program.means, n_chunks, product_block, work)
            n_parameters = program.first_rows[number + 1] - program.first_rows[number]
            sums_of_squares(
                factors, number, work.rows, n_parameters, n_chunks, product_block,
                work.squares, first_chunk,
            )  # fmt: skip
            first_chunk += n_chunks
        _deliver(program.components, work.squares.reshape((-1, width)), first, last, result)
