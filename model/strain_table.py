"""How the monomials of an expansion become polynomials in strain and displacement.

In a cell deformed by F = 1 + eta, an atom of reference position R moves by eta R + u, with u
counted from the site of the strained ideal crystal. Each monomial c prod_k u_k of the expansion is
multiplied out over the subsets S of factors that take their strain part:

    c prod_{k in S} [eta (R_k - R_o)]_{i_k} prod_{l not in S} u_{l, i_l}

The translational sum rules leave the origin R_o free as long as it depends only on the bodies of
the factors that are not in S; it is the lowest of these. At fixed strain this is a polynomial in u
again, of the same and lower orders. Where S holds all factors there is no origin: `elastic_energy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from scipy.sparse import csr_array

from anharm.errors import ModelError
from anharm.model.clusters import encode
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.expansion import Expansion
from anharm.model.program import MonomialTable
from anharm.model.strain_products import StrainProducts


@dataclass(frozen=True)
class StrainTable:
    """Contributions of the terms of an expansion to monomials in strained cells.

    A contribution is weight * (coefficient of its term) * (product of components of strained
    vectors), and is added to the coefficient of its target. They are sorted by target.

    Parameters
    ----------
    monomials : MonomialTable
        The targets, of order one and higher.
    products : StrainProducts
    targets, terms, numbers : (n_contributions,) int
        The target, the term and the product of each contribution.
    weights : (n_contributions,) float
    """

    monomials: MonomialTable
    products: StrainProducts
    targets: IntArray
    terms: IntArray
    numbers: IntArray
    weights: FloatArray

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.monomials.orders)

    @cached_property
    def _starts(self) -> IntArray:
        """(n_targets + 1,) where the contributions to each target begin."""
        return np.searchsorted(self.targets, np.arange(self.n_targets + 1)).astype(np.int32)

    def strengths(self, term_coefficients: FloatArray) -> csr_array:
        """(n_targets, n_products) from the products to the coefficients, of those of all terms."""
        values = self.weights * term_coefficients[self.terms]
        return csr_array(
            (values, self.numbers, self._starts), shape=(self.n_targets, self.products.size)
        )


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
    starts = np.cumsum([0] + [len(part.vectors) for part in parts])
    factors = [
        np.where(part.factors >= 0, part.factors + 3 * start, -1)
        for part, start in zip(parts, starts[:-1], strict=True)
    ]
    vectors, renumbered = distinct_vectors(np.concatenate([part.vectors for part in parts]))
    slots = np.append((renumbered[:, None] * 3 + np.arange(3)).ravel(), -1)
    remaining, targets = np.unique(
        np.concatenate([part.remaining for part in parts]), axis=0, return_inverse=True
    )
    order = np.argsort(targets.ravel(), kind="stable")
    products, numbers = StrainProducts.of(vectors, slots[np.concatenate(factors)][order])
    return StrainTable(
        MonomialTable(remaining, (remaining >= 0).sum(axis=1), table.body_positions),
        products,
        targets.ravel()[order].astype(np.int32),
        np.concatenate([part.terms for part in parts])[order].astype(np.int32),
        numbers,
        np.concatenate([part.weights for part in parts])[order],
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
        padded(_moved_home(expansion, free), width),
        terms[valid],
        ways[valid],
        positions[end] - positions[start],
        padded(numbers.reshape(pairs.shape) * 3 + axes, width),
    )


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


def padded(values: IntArray, width: int) -> IntArray:
    """Rows filled up with -1."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=-1)


def distinct_vectors(vectors: FloatArray) -> tuple[FloatArray, IntArray]:
    """Vectors that differ by more than rounding, and the number of each among them."""
    _, first, inverse = np.unique(
        np.round(vectors, 7) + 0.0, axis=0, return_index=True, return_inverse=True
    )
    return vectors[first], inverse.ravel()
