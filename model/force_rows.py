"""Design rows of forces as polynomials of the atoms around, one per force component.

A monomial of the energy gives one term to the force on each body in it: the product of its other
factors. Seen from the cell of that body, all such terms of a force component form a polynomial in
the displacements around, the same for every cell of the supercell. The polynomials that share
monomials are evaluated together, each monomial once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import grow, parents_of
from anharm.model.program import MonomialTable, Program

# Compiled code need not look for negative ones, and reads half as much.
Numbers = NDArray[np.uint32]


class RowTables(NamedTuple):
    """Groups of polynomials that share no monomial with one another.

    Attributes
    ----------
    node_starts, output_starts : (n_groups + 1,) int
        Where the monomials and the polynomials of each group begin.
    parents, variables : (n_nodes,) int
        Each monomial is one before it in its group, counted from 1 (0 is the number one), times
        a variable (body * 3 + axis).
    outputs : (n_used,) int
        The row of the result that each polynomial is.
    term_starts : (n_used + 1,) int
        Where the terms of each polynomial begin.
    term_nodes : (n_terms,) int
        The monomial of each term, counted as above.
    empty : (n_empty,) int
        Rows of the result that no polynomial is.
    """

    node_starts: Numbers
    output_starts: Numbers
    parents: Numbers
    variables: Numbers
    outputs: Numbers
    term_starts: Numbers
    term_nodes: Numbers
    empty: Numbers


@dataclass(frozen=True)
class ForceRows:
    """Polynomials ready for `row_kernels`.

    Attributes
    ----------
    n_outputs : int
        (parameter, site, axis), the last running fastest.
    bodies : (n_bodies, 4) int
        Cell, relative to the home cell, and site of each body.
    tables : RowTables
    coefficients : (n_terms,) float
    constants : (n_used,) float
        What is added to each polynomial: from monomials of first order.
    """

    n_outputs: int
    bodies: IntArray
    tables: RowTables
    coefficients: FloatArray
    constants: FloatArray

    @classmethod
    def compile(
        cls,
        program: Program,
        table: MonomialTable,
        bodies: IntArray,
        n_sites: int,
        order: IntArray,
    ) -> ForceRows:
        """Differentiate the outputs of a program.

        Parameters
        ----------
        program : Program
            Compiled from the table.
        table : MonomialTable
        bodies : (n_bodies, 4) int
            Cell and site of each of its bodies.
        n_sites : int
            Of the primitive cell.
        order : (n_outputs of the program,) int
            The outputs of the program in the order in which their rows are wanted.
        """
        numbers = np.argsort(order)
        entries, variables, others, multiplicities = _derivatives(table.variables[program.terms])
        homes, others, used = _seen_from(others, variables // 3, bodies)
        outputs = (numbers[program.outputs[entries]] * n_sites + homes) * 3 + variables % 3
        is_constant = others[:, 0] < 0 if others.shape[1] else np.ones(len(entries), dtype=bool)
        real, constant = np.flatnonzero(~is_constant), np.flatnonzero(is_constant)
        n_outputs = program.n_outputs * n_sites * 3
        tables, sequence = _arrange(
            others[real], homes[real], outputs[real], outputs[constant], n_outputs
        )
        targets = np.empty(len(entries), dtype=np.int64)
        targets[real[sequence]] = np.arange(len(real))
        rank = np.full(n_outputs, -1)
        rank[tables.outputs] = np.arange(len(tables.outputs))
        targets[constant] = len(real) + rank[outputs[constant]]
        slopes = -multiplicities * program.coefficients[entries]
        size = len(real) + len(tables.outputs)
        found = np.bincount(targets, slopes, size).astype(float, copy=False)
        return cls(n_outputs, used, tables, found[: len(real)], found[len(real) :])

    def by_site(self, n_sites: int) -> tuple[ForceRows, IntArray]:
        """The same polynomials, with bodies of their own for the forces on each site.

        Returns
        -------
        rows : ForceRows
        homes : (n_bodies,) int
            The site that each body is for.
        """
        tables = self.tables
        # Monomials on different sites are never shared; the last group has none.
        sites = tables.outputs[tables.output_starts[:-2]].astype(int) // 3 % n_sites
        homes = np.repeat(sites, np.diff(tables.node_starts.astype(int))[:-1])
        bodies, axes = np.divmod(tables.variables.astype(int), 3)
        keys, numbers = np.unique(homes * len(self.bodies) + bodies, return_inverse=True)
        variables = (numbers.ravel() * 3 + axes).astype(np.uint32)
        homes, places = np.divmod(keys, len(self.bodies))
        tables = tables._replace(variables=variables)
        return replace(self, bodies=self.bodies[places], tables=tables), homes

    def is_used(self) -> NDArray[np.bool_]:
        """(n_outputs,) whether anything is ever written to each row."""
        found = np.ones(self.n_outputs, dtype=bool)
        found[self.tables.empty] = False
        return found

    @cached_property
    def largest_group(self) -> int:
        """Most monomials of one group."""
        return int(np.diff(self.tables.node_starts.astype(int)).max())

    def moved(self, places: IntArray, n_outputs: int) -> ForceRows:
        """The same polynomials with other rows of the result, (n_outputs of now,) int."""
        outputs = places[self.tables.outputs].astype(np.uint32)
        empty = np.setdiff1d(np.arange(n_outputs, dtype=np.uint32), outputs)
        return replace(
            self, n_outputs=n_outputs, tables=self.tables._replace(outputs=outputs, empty=empty)
        )

    def in_precision(self, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Coefficients and constants in double or single precision."""
        return self._single if dtype == np.float32 else (self.coefficients, self.constants)

    @cached_property
    def _single(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.coefficients.astype(np.float32), self.constants.astype(np.float32)


def _derivatives(factors: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Every first derivative of monomials whose variables ascend, padded behind with -1.

    Returns
    -------
    monomials, variables : (n,) int
        Which monomial is differentiated by which variable.
    others : (n, n_max - 1) int
        The factors that are left, padded behind with -1.
    multiplicities : (n,) int
        How often the variable occurs.
    """
    width = factors.shape[1]
    found = []
    for position in range(width):
        variables = factors[:, position]
        is_first = variables >= 0
        if position:
            is_first &= factors[:, position - 1] != variables
        monomials = np.flatnonzero(is_first)
        others = np.delete(factors[monomials], position, axis=1)
        count = (factors[monomials] == variables[monomials, None]).sum(axis=1)
        found.append((monomials, variables[monomials], others, count))
    monomials, variables, others, counts = (np.concatenate(x) for x in zip(*found, strict=True))
    return monomials, variables, others, counts


def _seen_from(
    factors: IntArray, homes: IntArray, bodies: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Number bodies by where they are relative to the cell of another one.

    Parameters
    ----------
    factors : (n, width) int
        Variables, padded behind with -1.
    homes : (n,) int
        The body from whose cell each row is seen.
    bodies : (n_bodies, 4) int

    Returns
    -------
    sites : (n,) int
        Of the homes.
    factors : (n, width) int
        Variables of the new bodies, ascending, padded behind with -1.
    bodies : (n_new, 4) int
    """
    n_bodies = len(bodies)
    relative = np.tile(bodies, (n_bodies, 1, 1))  # home, body
    relative[..., :3] -= bodies[:, None, :3]
    is_used = np.zeros((n_bodies, n_bodies), dtype=bool)
    rows, places = np.nonzero(factors >= 0)
    seen, axes = np.divmod(factors[rows, places], 3)
    is_used[homes[rows], seen] = True
    new_bodies, numbers = np.unique(relative[is_used], axis=0, return_inverse=True)
    number = np.full((n_bodies, n_bodies), -1)
    number[is_used] = numbers.ravel()
    behind = np.iinfo(np.int64).max
    found = np.full(factors.shape, behind)
    found[rows, places] = number[homes[rows], seen] * 3 + axes
    found.sort(axis=1)
    found[found == behind] = -1
    return bodies[homes, 3], found, new_bodies


def _arrange(
    factors: IntArray, sites: IntArray, outputs: IntArray, constant: IntArray, n_outputs: int
) -> tuple[RowTables, IntArray]:
    """Divide the outputs into groups that share monomials.

    Parameters
    ----------
    factors : (n_terms, width) int
        Variables of each term, ascending, padded behind with -1.
    sites, outputs : (n_terms,) int
        The site on which the force is, and the output.
    constant : (n_constants,) int
        Outputs that have a constant.
    n_outputs : int

    Returns
    -------
    tables : RowTables
    sequence : (n_terms,) int
        The terms in the order of the tables.
    """
    levels = tuple(factors[:, level] for level in range(factors.shape[1] - 1, -1, -1))
    order = np.lexsort((*levels, sites))
    named = np.column_stack([sites, factors])[order]
    is_first = np.any(np.diff(named, axis=0, prepend=-2) != 0, axis=1)
    monomial_of = np.empty(len(factors), dtype=np.int64)
    monomial_of[order] = np.cumsum(is_first) - 1
    first = order[is_first]  # a term of each monomial
    n_groups, group_of = _groups(monomial_of, outputs, len(first), n_outputs)

    groups = group_of[outputs[first]]
    by_group = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_group], np.arange(n_groups + 1))
    depths, variables, ends, node_starts = grow(
        np.ascontiguousarray(factors[first[by_group]]), starts
    )
    nodes = np.empty(len(first), dtype=np.int64)
    nodes[by_group] = ends - node_starts[groups[by_group]] + 1
    sequence = np.lexsort((nodes[monomial_of], outputs, group_of[outputs]))
    is_used = np.zeros(n_outputs, dtype=bool)
    is_used[outputs], is_used[constant] = True, True
    used = np.flatnonzero(is_used)
    used = used[np.argsort(group_of[used], kind="stable")]
    counts = np.bincount(outputs, minlength=n_outputs)[used]
    arrays = (
        np.append(node_starts, node_starts[-1]),  # the last group has constants only
        np.searchsorted(group_of[used], np.arange(n_groups + 2)),
        parents_of(depths, node_starts),
        variables,
        used,
        np.append(0, np.cumsum(counts)),
        nodes[monomial_of[sequence]],
        np.flatnonzero(~is_used),
    )
    return RowTables(*(array.astype(np.uint32) for array in arrays)), sequence


def _groups(
    monomials: IntArray, outputs: IntArray, n_monomials: int, n_outputs: int
) -> tuple[int, IntArray]:
    """How many groups there are, and that of each output; those without terms come last."""
    size = n_monomials + n_outputs
    links = coo_array((np.ones(len(outputs)), (outputs, n_outputs + monomials)), (size, size))
    _, component = connected_components(links, directed=False)
    has_terms = np.zeros(n_outputs, dtype=bool)
    has_terms[outputs] = True
    found, numbers = np.unique(component[:n_outputs][has_terms], return_inverse=True)
    groups = np.full(n_outputs, len(found))
    groups[has_terms] = numbers.ravel()
    return len(found), groups
