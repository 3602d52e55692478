"""The expansion of the energy in displacements: clusters, symmetry, sum rules, parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import block_array, block_diag, coo_array, csr_array, vstack
from scipy.sparse.csgraph import connected_components

from anharm.errors import ModelError
from anharm.model.clusters import (
    ClusterOrbit,
    encode,
    find_orbits,
    neighbours,
    within,
)
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell
from anharm.model.cutoffs import (
    Cutoffs,
    check_cutoffs_fit,
    normalise_cutoffs,
    whole_supercell,
)
from anharm.model.program import MonomialTable
from anharm.model.rotational_sum_rules import (
    check_rotational_sum_rules,
    impose_rotational_sum_rules,
)
from anharm.model.sum_rules import null_space, sum_rule_matrix
from anharm.model.supercell_range import sharing_rules, shortest_pairs
from anharm.model.symmetric_tensors import energy_coefficients, exponents, symmetric_powers
from anharm.model.symmetry import SpaceGroup, find_space_group
from anharm.model.symmetry_basis import SymmetryBasis, build_symmetry_basis

_DENSE_BLOCK = 128  # parameters; smaller blocks of the sum rules are multiplied together


@dataclass(frozen=True)
class Expansion:
    """The energy of a crystal as a polynomial in displacements, linear in its parameters.

    Parameters theta of all orders are listed one order after the other. The coefficient of
    monomial t in the energy per cell is (`monomial_weights` @ `constraint_basis` @ theta)[t].
    The basis is orthonormal, order by order, in the norm of the force-constant tensors of one
    representative per orbit, each in units of the size that is expected of it: equal priors for all
    parameters of an order expect force constants that fall with the distance between atoms.

    Parameters
    ----------
    crystal : Crystal
        Idealised reference crystal.
    space_group : str
        International symbol.
    cutoffs : dict
        Order -> {number of bodies: cutoff in Angstrom}; {1: 0.0} for first order.
    parameters_per_order, unconstrained_per_order : dict
        Number of parameters with and without the sum rules.
    bodies : (n_bodies, 4) int
        Atoms (cell, cell, cell, site) that occur in clusters anchored in the home cell.
    monomials : MonomialTable
        All monomials of one primitive cell.
    monomial_weights : (n_terms, n_unconstrained) sparse float
        Monomial coefficients of each symmetry-allowed parameter.
    constraint_basis : (n_unconstrained, n_parameters) sparse float
        Solutions of the sum rules.
    second_order_cell : (3, 3) int or None
        Supercell whose pairs the second order holds, all of them; None if a cutoff chooses them.
    """

    crystal: Crystal
    space_group: str
    cutoffs: dict[int, dict[int, float]]
    parameters_per_order: dict[int, int]
    unconstrained_per_order: dict[int, int]
    bodies: IntArray
    monomials: MonomialTable
    monomial_weights: csr_array
    constraint_basis: csr_array
    second_order_cell: IntArray | None = None

    @property
    def n_parameters(self) -> int:
        """Number of irreducible parameters."""
        return int(self.constraint_basis.shape[1])

    @property
    def orders(self) -> tuple[int, ...]:
        """Orders of the expansion, ascending."""
        return tuple(sorted(self.cutoffs))

    @property
    def largest_cutoff(self) -> float:
        """The largest cutoff of any order and number of bodies, Angstrom."""
        return max(max(by_bodies.values()) for by_bodies in self.cutoffs.values())

    @cached_property
    def parameter_orders(self) -> IntArray:
        """(n_parameters,) the order that each parameter belongs to."""
        counts = [self.parameters_per_order[order] for order in self.orders]
        return np.repeat(np.array(self.orders, dtype=np.int64), counts)

    def is_same(self, other: Expansion) -> bool:
        """Whether parameters of one mean the same in the other, number by number."""
        pairs = (
            (self.crystal.numbers, other.crystal.numbers),
            (self.crystal.lattice, other.crystal.lattice),
            (self.crystal.fractional_positions, other.crystal.fractional_positions),
            (self.monomials.variables, other.monomials.variables),
            (self.bodies, other.bodies),
            *_sparse_pairs(self.monomial_weights, other.monomial_weights),
            *_sparse_pairs(self.constraint_basis, other.constraint_basis),
        )
        return self is other or all(np.array_equal(mine, yours) for mine, yours in pairs)

    @cached_property
    def constraint_blocks(self) -> list[tuple[IntArray, IntArray, FloatArray]]:
        """Dense blocks of the constraint basis, small ones together.

        Each is its rows (symmetry-allowed parameters), columns (irreducible ones) and values.
        """
        basis = self.constraint_basis
        n_blocks, block_of = connected_components(
            block_array([[None, basis], [basis.T, None]]), directed=False
        )
        row_blocks, column_blocks = np.split(block_of, [basis.shape[0]])
        sizes = np.bincount(row_blocks, minlength=n_blocks)
        group_of, filled, group = np.empty(n_blocks, dtype=np.int64), 0, 0
        for block in np.argsort(sizes, kind="stable"):
            if filled + sizes[block] > _DENSE_BLOCK and filled:
                group, filled = group + 1, 0
            group_of[block] = group
            filled += sizes[block]
        blocks = []
        for number in range(group + 1):
            rows = np.flatnonzero(group_of[row_blocks] == number)
            columns = np.flatnonzero(group_of[column_blocks] == number)
            blocks.append((rows, columns, basis[rows][:, columns].toarray()))
        return blocks

    def constrain(self, columns: FloatArray) -> FloatArray:
        """Bring values per symmetry-allowed parameter to the irreducible parameters.

        Parameters
        ----------
        columns : (n_unconstrained, n) float

        Returns
        -------
        (n_parameters, n) float
            constraint_basis.T @ columns, in the precision of `columns`.
        """
        result = np.empty((self.n_parameters, columns.shape[1]), dtype=columns.dtype)
        for rows, targets, values in self.constraint_blocks:
            result[targets] = values.T.astype(columns.dtype, copy=False) @ columns[rows]
        return result

    def body_atoms(self, supercell: Supercell) -> IntArray:
        """(n_bodies, n_cells) supercell atom that each body is, for clusters of every cell."""
        cells = supercell.cells[None] + self.bodies[:, None, :3]
        return self.bodies[:, 3:] * supercell.n_cells + supercell.cell_index(cells)

    def check_supercell(self, supercell: Supercell) -> None:
        """Refuse a supercell in which a cluster would meet its own periodic image.

        Raises
        ------
        ModelError
            Naming the largest cutoff that fits.
        """
        check_cutoffs_fit(supercell, self.cutoffs, self.second_order_supercell)

    @property
    def surroundings(self) -> float:
        """How far what surrounds an atom reaches, Angstrom: as all clusters, in all directions."""
        whole = self.second_order_supercell
        return self.largest_cutoff if whole is None else min(self.largest_cutoff, whole.half_width)

    @property
    def second_order_supercell(self) -> Supercell | None:
        """The supercell whose pairs the second order holds, if it is that which chooses them."""
        cell = self.second_order_cell
        return None if cell is None else Supercell(self.crystal, cell)


def _sparse_pairs(mine: csr_array, yours: csr_array) -> list[tuple[IntArray, IntArray]]:
    """The arrays of two sparse matrices, side by side."""
    return [(getattr(mine, k), getattr(yours, k)) for k in ("data", "indices", "indptr")]


def build_expansion(
    crystal: Crystal,
    cutoffs: Cutoffs,
    symmetry_tolerance: float = 1e-3,
    *,
    first_order: bool = False,
    rotational_sum_rules: bool = False,
    supercell: ArrayLike | None = None,
) -> Expansion:
    """Enumerate clusters, impose symmetry and sum rules, and number the parameters.

    Parameters
    ----------
    crystal : Crystal
        Reference crystal; a primitive cell is fastest, any cell gives the same expansion.
    cutoffs : mapping
        Order -> cutoff in Angstrom, or -> {number of bodies: cutoff}. A cluster belongs when its
        largest pair distance is strictly below the cutoff. Order 2 may have "supercell" instead:
        all pairs of the atoms of a supercell, each along its shortest way.
    symmetry_tolerance : float
        Distance within which symmetry is recognised, Angstrom.
    first_order : bool
        Add the forces that symmetry allows on the sites, for a reference crystal whose internal
        coordinates are not those of lowest energy.
    rotational_sum_rules : bool
        Impose the Born-Huang and Huang conditions on order 2. They hold for a reference crystal
        without forces on the sites and without anisotropic stress.
    supercell : array_like of int, optional
        Three multiples or a 3x3 matrix: the supercell that "supercell" means.

    Raises
    ------
    ModelError
        For cutoffs or crystals that cannot be used.
    """
    ideal, group = find_space_group(crystal, symmetry_tolerance)
    whole = whole_supercell(ideal, cutoffs, supercell)
    by_order = normalise_cutoffs(cutoffs, whole)
    if rotational_sum_rules:
        check_rotational_sum_rules(by_order, first_order)
    if first_order:
        by_order = {1: {1: 0.0}, **by_order}
    orbits = _orbits_by_bodies(ideal, group, by_order)
    powers = symmetric_powers(group.cartesian_rotations, max(by_order))
    bases, solutions = [], []
    for order, by_bodies in by_order.items():
        chosen = _chosen(orbits, order, by_bodies, whole)
        basis = build_symmetry_basis(order, chosen, group, ideal.n_sites, powers)
        around = neighbours(ideal, max(by_bodies.values()))
        free = _solutions(basis, chosen, around, ideal, whole)
        if order == 2 and rotational_sum_rules:
            free = impose_rotational_sum_rules(free, basis, ideal)
        bases.append(basis)
        solutions.append(free)
    if not any(solution.shape[1] for solution in solutions):
        raise ModelError(
            f"expansion.cutoffs {by_order} Angstrom leave no parameter: no two atoms of the "
            "crystal are so close, and moving it as a whole costs nothing; enlarge the cutoffs"
        )
    bodies, table, weights = _monomials(ideal, bases)
    return Expansion(
        crystal=ideal,
        space_group=group.symbol,
        cutoffs=by_order,
        parameters_per_order={
            order: int(free.shape[1]) for order, free in zip(by_order, solutions, strict=True)
        },
        unconstrained_per_order={b.order: b.n_parameters for b in bases},
        bodies=bodies,
        monomials=table,
        monomial_weights=weights,
        constraint_basis=csr_array(block_diag(solutions, format="csr")),
        second_order_cell=None if whole is None else whole.matrix,
    )


def _orbits_by_bodies(
    crystal: Crystal, group: SpaceGroup, by_order: dict[int, dict[int, float]]
) -> dict[int, list[ClusterOrbit]]:
    """Orbits of each number of distinct atoms, within the largest cutoff any order needs."""
    orbits = {1: find_orbits(crystal, group, 1, 1.0)}
    for n_bodies in range(2, max(by_order) + 1):
        cutoff = max(c[n_bodies] for order, c in by_order.items() if order >= n_bodies)
        orbits[n_bodies] = find_orbits(crystal, group, n_bodies, cutoff) if cutoff else []
    return orbits


def _chosen(
    orbits: dict[int, list[ClusterOrbit]],
    order: int,
    by_bodies: dict[int, float],
    whole: Supercell | None,
) -> list[ClusterOrbit]:
    """The orbits of one order: those within its cutoff for their number of bodies.

    Of order 2 the pairs of a whole supercell, if there is one.
    """
    if order == 2 and whole is not None:
        return orbits[1] + shortest_pairs(orbits[2], whole)
    return [
        orbit
        for n_bodies in range(1, order + 1)
        for orbit in orbits.get(n_bodies, [])
        if n_bodies == 1 or within(np.array(orbit.diameter), by_bodies[n_bodies])
    ]


def _solutions(
    basis: SymmetryBasis,
    orbits: list[ClusterOrbit],
    around: list[IntArray],
    crystal: Crystal,
    whole: Supercell | None,
) -> csr_array:
    """The combinations of symmetry-allowed parameters of one order that obey all its rules."""
    rules = sum_rule_matrix(basis, orbits, around, crystal.n_sites)
    if basis.order == 2 and whole is not None:
        rules = csr_array(vstack([rules, sharing_rules(basis, whole)]))
    return null_space(rules, basis.expected_sizes)


def _monomials(
    crystal: Crystal, bases: list[SymmetryBasis]
) -> tuple[IntArray, MonomialTable, csr_array]:
    """Number the bodies and list every monomial with its weights."""
    bodies = _distinct_bodies(crystal, bases)
    codes = encode(bodies, crystal.n_sites)
    width = max(basis.order for basis in bases)
    variables = [np.empty((0, width), dtype=np.int64)]
    orders, rows, columns, values = [], [], [], []
    n_terms = n_columns = 0
    for basis in bases:
        for cluster in basis.clusters.values():
            numbers = np.searchsorted(codes, encode(cluster.bodies, crystal.n_sites))
            used = np.flatnonzero(np.diff(cluster.tensors.indptr))
            factors = _factors(exponents(cluster.multiplicities)[used], numbers, width)
            scale = energy_coefficients(cluster.multiplicities)[used]
            part = coo_array(cluster.tensors[used])
            variables.append(factors)
            orders.append(np.full(len(used), basis.order))
            rows.append(part.row + n_terms)
            columns.append(part.col + cluster.columns.start + n_columns)
            values.append(part.data * scale[part.row])
            n_terms += len(used)
        n_columns += basis.n_parameters
    positions = bodies[:, :3] + crystal.fractional_positions[bodies[:, 3]]
    table = MonomialTable(
        np.concatenate(variables), np.concatenate(orders), positions @ crystal.lattice
    )
    weights = csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(n_terms, n_columns),
    )
    return bodies, table, weights


def _distinct_bodies(crystal: Crystal, bases: list[SymmetryBasis]) -> IntArray:
    """(n_bodies, 4) atoms of all clusters, in the order of atoms."""
    stacked = np.concatenate([c.bodies for basis in bases for c in basis.clusters.values()])
    _, first = np.unique(encode(stacked, crystal.n_sites), return_index=True)
    found: IntArray = stacked[first]
    return found


def _factors(alpha: IntArray, body_numbers: IntArray, width: int) -> IntArray:
    """Variables of each monomial, ascending, padded with -1, from (n, k, 3) exponents."""
    n_terms = len(alpha)
    flat = alpha.reshape(n_terms, -1)
    names = (body_numbers[:, None] * 3 + np.arange(3)).ravel()
    repeated = np.repeat(np.broadcast_to(names, flat.shape).ravel(), flat.ravel())
    order = int(flat[0].sum()) if n_terms else width
    factors = np.full((n_terms, width), -1, dtype=np.int64)
    factors[:, :order] = np.sort(repeated.reshape(n_terms, order), axis=1)
    return factors
