"""How the monomials of an expansion become polynomials in strain and displacement.

In a cell deformed by F = 1 + eta, an atom of reference position R moves by eta R + u, with u
counted from the site of the strained ideal crystal. Each monomial c prod_k u_k of the expansion is
multiplied out over the subsets S of factors that take their strain part:

    c prod_{k in S} [eta (R_k - R_o)]_{i_k} prod_{l not in S} u_{l, i_l}

The translational sum rules leave the origin R_o free as long as it depends only on the bodies of
the factors that are not in S; it is the lowest of these. At fixed strain this is a polynomial in u
again, of the same and lower orders.

Where S holds all factors, the energy of uniform strain, no origin exists, and the product itself
means nothing. At second order, long waves tell the elastic constants (Born and Huang): with
[ab,cd] = -sum c R_c R_d over the pairs of monomials c u_a u_b at distance R, the energy is

    ([ac,bd] - [ab,cd] / 2) e_ab e_cd = sum c (-(e R)_a (e R)_b + e_ab (R e R) / 2)

of the symmetric part e of eta, and what the crystal's own stress adds (`ideal_crystal`). At higher
orders, reference positions are counted from their mean over the factors, and the product is
divided by the permanent of 1 - 1/n, which is exact for terms that come from pairs of atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from anharm.errors import ModelError
from anharm.model.clusters import encode
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.expansion import Expansion
from anharm.model.program import MonomialTable


@dataclass(frozen=True)
class StrainTable:
    """Contributions of the terms of an expansion to monomials in strained cells.

    A contribution is weight * (coefficient of its term) * (product of its strain factors), and is
    added to the coefficient of its target. The last target is the constant, not a monomial.

    Parameters
    ----------
    monomials : MonomialTable
        The targets, of order one and higher.
    vectors : (n_vectors, 3) float
        Vectors between reference positions, Angstrom.
    targets, terms : (n_contributions,) int
    weights : (n_contributions,) float
    factors : (n_contributions, n) int
        vector * 3 + axis of each strain factor, padded behind with -1.
    """

    monomials: MonomialTable
    vectors: FloatArray
    targets: IntArray
    terms: IntArray
    weights: FloatArray
    factors: IntArray

    @property
    def n_targets(self) -> int:
        """Number of targets, the constant included."""
        return len(self.monomials.orders) + 1

    def strains(self, strain: FloatArray) -> FloatArray:
        """The components of all strained vectors (3 n_vectors,), Angstrom."""
        return np.ascontiguousarray(self.vectors @ strain.T).ravel()


@dataclass(frozen=True)
class _Contributions:
    """Contributions of one subset of factors, before targets and vectors are numbered."""

    remaining: IntArray  # variables of the target, padded with -1
    terms: IntArray
    weights: FloatArray
    vectors: FloatArray  # the distinct ones
    factors: IntArray  # into these, padded with -1


def build_strain_table(expansion: Expansion) -> StrainTable:
    """Multiply out every monomial of an expansion.

    Raises
    ------
    ModelError
        If the expansion lacks a body of one of its own clusters, as only a damaged file can.
    """
    table = expansion.monomials
    parts: list[_Contributions] = []
    for order in np.unique(table.orders):
        terms = np.flatnonzero(table.orders == order)
        for choice in product((False, True), repeat=int(order)):
            if not all(choice):
                parts.append(_partly_strained(expansion, terms, np.array(choice)))
            elif order == 2:
                parts.append(_elastic(expansion, terms))
            elif order > 2:  # a force on a site does no work in a strain about that site
                parts.append(_uniform_strain(expansion, terms, int(order)))
    starts = np.cumsum([0] + [len(part.vectors) for part in parts])
    factors = [
        np.where(part.factors >= 0, part.factors + 3 * start, -1)
        for part, start in zip(parts, starts[:-1], strict=True)
    ]
    vectors, renumbered = _distinct_vectors(np.concatenate([part.vectors for part in parts]))
    slots = np.append((renumbered[:, None] * 3 + np.arange(3)).ravel(), -1)
    remaining, targets = np.unique(
        np.concatenate([part.remaining for part in parts]), axis=0, return_inverse=True
    )
    targets = targets.ravel() - 1  # the constant comes first, and goes to the end
    targets[targets < 0] = len(remaining) - 1
    return StrainTable(
        MonomialTable(remaining[1:], (remaining[1:] >= 0).sum(axis=1), table.body_positions),
        vectors,
        targets.astype(np.int32),
        np.concatenate([part.terms for part in parts]).astype(np.int32),
        np.concatenate([part.weights for part in parts]),
        np.ascontiguousarray(slots[np.concatenate(factors)], dtype=np.int32),
    )


def _partly_strained(expansion: Expansion, terms: IntArray, chosen: IntArray) -> _Contributions:
    """Contributions with the chosen factors strained, and at least one that is not."""
    variables = expansion.monomials.variables[terms, : len(chosen)]
    # Equal factors are interchangeable: take the last ones of each run, and count the ways.
    equal = variables[:, 1:] == variables[:, :-1]
    valid = ~np.any(equal & (chosen[:-1] & ~chosen[1:]), axis=1)
    free, strained = variables[:, ~chosen], variables[:, chosen]
    origins = free[:, 0] // 3
    valid &= np.all(strained // 3 != origins[:, None], axis=1)  # others take no strain
    ways = _repetitions(variables) / (_repetitions(strained) * _repetitions(free))
    free, strained, origins = free[valid], strained[valid], origins[valid]
    bodies, axes = np.divmod(strained, 3)
    positions = expansion.monomials.body_positions
    pairs = origins[:, None] * len(positions) + bodies
    distinct, numbers = np.unique(pairs, return_inverse=True)
    start, end = np.divmod(distinct, len(positions))
    width = expansion.monomials.variables.shape[1]
    return _Contributions(
        _padded(_moved_home(expansion, free), width),
        terms[valid],
        ways[valid],
        positions[end] - positions[start],
        _padded(numbers.reshape(pairs.shape) * 3 + axes, width),
    )


def _elastic(expansion: Expansion, terms: IntArray) -> _Contributions:
    """Contributions of second order with both factors strained.

    With the unit vectors x, the components of e and of e R are sums of strained vectors:
    e_ab = ((eta x_b)_a + (eta x_a)_b) / 2, R e R = sum_c R_c (eta R)_c.
    """
    variables = expansion.monomials.variables
    bodies, axes = np.divmod(variables[terms, :2], 3)
    pairs = bodies[:, 0] != bodies[:, 1]
    bodies, (a, b) = bodies[pairs], axes[pairs].T
    n = len(bodies)
    positions = expansion.monomials.body_positions
    distances = positions[bodies[:, 1]] - positions[bodies[:, 0]]
    bond, unit = 3 * np.arange(n), 3 * (n + np.arange(3))  # where strained vectors begin
    half, one = np.full(n, 0.5), np.ones(n)

    def strained_bond(axis: IntArray) -> list[tuple[FloatArray, IntArray]]:
        turned = [(distances[:, c] / 2, unit[axis] + c) for c in range(3)]
        return [(half, bond + axis), *turned]

    strain = [(half, unit[b] + a), (half, unit[a] + b)]
    along = [(distances[:, c] / 2, bond + c) for c in range(3)]
    products = [(-one, x, y) for x in strained_bond(a) for y in strained_bond(b)]
    products += [(one, x, y) for x in strain for y in along]
    weights = np.concatenate([sign * x[0] * y[0] for sign, x, y in products])
    factors = np.concatenate([np.column_stack([x[1], y[1]]) for _, x, y in products])
    owners = np.tile(terms[pairs], len(products))
    matter = weights != 0
    width = variables.shape[1]
    return _Contributions(
        np.full((int(matter.sum()), width), -1),
        owners[matter],
        weights[matter],
        np.concatenate([distances, np.eye(3)]),
        _padded(factors[matter], width),
    )


def _uniform_strain(expansion: Expansion, terms: IntArray, order: int) -> _Contributions:
    """Contributions with every factor strained: the elastic energy."""
    variables = expansion.monomials.variables
    bodies, axes = np.divmod(variables[terms, :order], 3)
    extended = np.any(bodies != bodies[:, :1], axis=1)
    clusters, numbers = np.unique(bodies[extended], axis=0, return_inverse=True)
    positions = expansion.monomials.body_positions[clusters]
    vectors = positions - positions.mean(axis=1, keepdims=True)
    factors = (numbers.reshape(-1, 1) * order + np.arange(order)) * 3 + axes[extended]
    n = int(extended.sum())
    return _Contributions(
        np.full((n, variables.shape[1]), -1),
        terms[extended],
        np.full(n, uniform_strain_scale(order)),
        vectors.reshape(-1, 3),
        _padded(factors, variables.shape[1]),
    )


def uniform_strain_scale(order: int) -> float:
    """One over the permanent of the (order, order) matrix 1 - 1/order: 2, 9/4, ..."""
    matrix = np.eye(order) - 1 / order
    return float(1 / sum(matrix[range(order), p].prod() for p in permutations(range(order))))


def _moved_home(expansion: Expansion, variables: IntArray) -> IntArray:
    """Monomials moved by a lattice vector that brings their lowest body into the home cell."""
    numbers, axes = np.divmod(variables, 3)
    bodies = expansion.bodies[numbers]
    bodies[..., :3] -= bodies[:, :1, :3].copy()
    n_sites = expansion.crystal.n_sites
    known, wanted = encode(expansion.bodies, n_sites), encode(bodies, n_sites)
    # Parts of a cluster, atoms repeated, are clusters of the same order: their bodies are known.
    found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    if not np.array_equal(known[found], wanted):
        raise ModelError("the expansion lacks atoms of its own clusters: its file is damaged")
    moved: IntArray = found * 3 + axes
    return moved


def _repetitions(variables: IntArray) -> FloatArray:
    """Product of the factorials of how often each variable occurs in sorted rows."""
    result = np.ones(len(variables))
    run = np.ones(len(variables))
    for level in range(1, variables.shape[1]):
        run = np.where(variables[:, level] == variables[:, level - 1], run + 1, 1.0)
        result *= run
    return result


def _padded(values: IntArray, width: int) -> IntArray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=-1)


def _distinct_vectors(vectors: FloatArray) -> tuple[FloatArray, IntArray]:
    """Vectors that differ by more than rounding, and the number of each among them."""
    _, first, inverse = np.unique(
        np.round(vectors, 7) + 0.0, axis=0, return_index=True, return_inverse=True
    )
    return vectors[first], inverse.ravel()
