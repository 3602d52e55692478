"""The energy of uniform strain, as the terms of an expansion imply it.

A rotation costs nothing: the energy depends on the stretch e of F = R (1 + e) alone. Where every
factor of a monomial takes its strain part there is no origin to count positions from, and their
product itself means nothing; but long waves tell the elastic constants, because rotations cost
nothing (Born and Huang, Dynamical Theory of Crystal Lattices, 1954). With the distance R of the
pairs of monomials c u_a u_b, and

    q(x, y) = sum c (-[(x R)_a (y R)_b + (y R)_a (x R)_b] / 2 + x_ab (R y R) / 2),

the energy of second order is q(e, e). The third order is that of long waves in the crystal strained
by s e, whose second-order terms are known to first order in s:

    [sum_{c u_a u_b u_i} (e R)_i q(e, e) + tr(e) q(e, e) - q(e e, e)] / 3,

with the first sum over the ways to choose the strained factor i (R its distance from the pair's
first atom), and the second-order terms in the others. Both orders are exact for any forces; what
the stress of the reference crystal adds is in `ideal_crystal`. At higher orders, reference
positions are counted from their mean over the factors, and the product is divided by the permanent
of 1 - 1/n, which is exact for terms that come from pairs of atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.sparse import csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.expansion import Expansion
from anharm.model.strain_products import StrainProducts
from anharm.model.strain_table import distinct_vectors, padded

_Products = list[tuple[FloatArray, list[IntArray]]]  # weights, and a slot for each factor


@dataclass(frozen=True)
class _Contributions:
    """Some contributions: weight * (coefficient of its term) * (product of its factors).

    Parameters
    ----------
    vectors : (n_vectors, 3) float
        Distances, Angstrom, and unit vectors.
    terms : (n_contributions,) int
    weights : (n_contributions,) float
    factors : (n_contributions, n) int
        vector * 3 + axis of each factor, padded behind with -1.
    """

    vectors: FloatArray
    terms: IntArray
    weights: FloatArray
    factors: IntArray


@dataclass(frozen=True)
class ElasticEnergy:
    """The energy per cell as a sum of products of components of stretched vectors.

    Parameters
    ----------
    products : StrainProducts
    weights : (n_products, n_terms) sparse
        From the coefficients of all terms to those of the products.
    """

    products: StrainProducts
    weights: csr_array

    def strengths(self, term_coefficients: FloatArray) -> FloatArray:
        """(n_products,) coefficients of the products, of those of all terms."""
        found: FloatArray = self.weights @ term_coefficients
        return found

    def gradient(
        self, strengths: FloatArray, stretch: FloatArray, values: FloatArray
    ) -> FloatArray:
        """(3, 3) derivative of the energy by the stretch, eV; the values are of the products."""
        found = self.products.gradient(stretch, values, strengths)
        return (found + found.T) / 2

    def energies_by_term(self, stretch: FloatArray) -> FloatArray:
        """(n_terms,) energies per unit coefficient."""
        energies: FloatArray = self.weights.T @ self.products.values(stretch)
        return energies

    def gradients_by_term(self, stretch: FloatArray) -> FloatArray:
        """(n_terms, 3, 3) derivatives per unit coefficient."""
        derivatives = self.products.derivatives(stretch, self.products.values(stretch))
        gradients = (self.weights.T @ derivatives).reshape(-1, 3, 3)
        return (gradients + gradients.transpose(0, 2, 1)) / 2


@dataclass(frozen=True)
class _Pairs:
    """Pairs of factors of different bodies: their axes, and the slots of what q is made of."""

    vectors: FloatArray
    a: IntArray
    b: IntArray

    def stretched(self, axis: IntArray | int) -> IntArray:
        """Slots of (e R)_axis; the vectors R come first, and the three unit vectors last."""
        return 3 * np.arange(len(self.a)) + axis

    def stretch(self, axis: IntArray | int, other: IntArray | int) -> IntArray:
        """Slots of e_ij."""
        return 3 * (len(self.a) + np.zeros_like(self.a) + axis) + other

    def once(self) -> _Products:
        """q(e, e)."""
        along = self.vectors.T / 2
        return [
            (-np.ones(len(self.a)), [self.stretched(self.a), self.stretched(self.b)]),
            *((along[c], [self.stretch(self.a, self.b), self.stretched(c)]) for c in range(3)),
        ]

    def of_square(self) -> _Products:
        """q(e e, e)."""
        half, along = np.full(len(self.a), 0.5), self.vectors.T / 2
        products: _Products = []
        for j in range(3):
            to_a, to_b = self.stretch(self.a, j), self.stretch(self.b, j)
            products += [
                (-half, [to_a, self.stretched(j), self.stretched(self.b)]),
                (-half, [to_b, self.stretched(j), self.stretched(self.a)]),
                *((along[c], [to_a, to_b, self.stretched(c)]) for c in range(3)),
            ]
        return products

    def trace(self) -> _Products:
        """tr(e)."""
        return [(np.ones(len(self.a)), [self.stretch(j, j)]) for j in range(3)]


def build_elastic_energy(expansion: Expansion) -> ElasticEnergy:
    """What every term of an expansion contributes."""
    orders = expansion.monomials.orders
    parts = [_second_order(expansion)]
    for order in np.unique(orders[orders > 2]):
        if order == 3:
            parts += [_nonlinear_second_order(expansion)]
            parts += [_third_order(expansion, chosen) for chosen in range(3)]
        else:
            parts.append(_mean_origin(expansion, int(order)))
    width = max(part.factors.shape[1] for part in parts)
    starts = np.cumsum([0] + [len(part.vectors) for part in parts])
    vectors, renumbered = distinct_vectors(np.concatenate([part.vectors for part in parts]))
    slots = np.append((renumbered[:, None] * 3 + np.arange(3)).ravel(), -1)
    factors = [
        padded(np.where(part.factors >= 0, part.factors + 3 * start, -1), width)
        for part, start in zip(parts, starts[:-1], strict=True)
    ]
    products, numbers = StrainProducts.of(vectors, slots[np.concatenate(factors)])
    weights = np.concatenate([part.weights for part in parts])
    places = numbers, np.concatenate([part.terms for part in parts])
    return ElasticEnergy(products, csr_array((weights, places), (products.size, len(orders))))


def _second_order(expansion: Expansion) -> _Contributions:
    terms, pairs = _pairs_of(expansion)
    return _collected(terms, pairs.once(), _with_units(pairs.vectors))


def _nonlinear_second_order(expansion: Expansion) -> _Contributions:
    """What the second-order terms contribute at third order."""
    terms, pairs = _pairs_of(expansion)
    products = _multiplied(pairs.trace(), pairs.once(), 1 / 3)
    products += [(-weights / 3, slots) for weights, slots in pairs.of_square()]
    return _collected(terms, products, _with_units(pairs.vectors))


def _third_order(expansion: Expansion, chosen: int) -> _Contributions:
    """What the third-order terms contribute with this one of the factors strained first."""
    terms = np.flatnonzero(expansion.monomials.orders == 3)
    bodies, axes = np.divmod(expansion.monomials.variables[terms, :3], 3)
    first, second = (k for k in range(3) if k != chosen)
    matter = (bodies[:, first] != bodies[:, second]) & (bodies[:, first] != bodies[:, chosen])
    terms, bodies, axes = terms[matter], bodies[matter], axes[matter]
    positions = expansion.monomials.body_positions[bodies]
    pairs = _Pairs(positions[:, second] - positions[:, first], axes[:, first], axes[:, second])
    vectors = _with_units(pairs.vectors)
    strained = 3 * (len(vectors) + np.arange(len(terms))) + axes[:, chosen]
    products = _multiplied([(np.ones(len(terms)), [strained])], pairs.once(), 1 / 3)
    distances = positions[:, chosen] - positions[:, first]
    return _collected(terms, products, np.concatenate([vectors, distances]))


def _mean_origin(expansion: Expansion, order: int) -> _Contributions:
    """Terms of fourth and higher order, positions counted from their mean."""
    terms = np.flatnonzero(expansion.monomials.orders == order)
    bodies, axes = np.divmod(expansion.monomials.variables[terms, :order], 3)
    extended = np.any(bodies != bodies[:, :1], axis=1)
    clusters, numbers = np.unique(bodies[extended], axis=0, return_inverse=True)
    positions = expansion.monomials.body_positions[clusters]
    vectors = positions - positions.mean(axis=1, keepdims=True)
    factors = (numbers.reshape(-1, 1) * order + np.arange(order)) * 3 + axes[extended]
    weights = np.full(len(factors), uniform_strain_scale(order))
    return _Contributions(vectors.reshape(-1, 3), terms[extended], weights, factors)


def uniform_strain_scale(order: int) -> float:
    """One over the permanent of the (order, order) matrix 1 - 1/order: 2, 9/4, ..."""
    matrix = np.eye(order) - 1 / order
    return float(1 / sum(matrix[range(order), p].prod() for p in permutations(range(order))))


def _pairs_of(expansion: Expansion) -> tuple[IntArray, _Pairs]:
    """The second-order terms of different bodies."""
    terms = np.flatnonzero(expansion.monomials.orders == 2)
    bodies, axes = np.divmod(expansion.monomials.variables[terms, :2], 3)
    matter = bodies[:, 0] != bodies[:, 1]
    positions = expansion.monomials.body_positions[bodies[matter]]
    vectors = positions[:, 1] - positions[:, 0]
    return terms[matter], _Pairs(vectors, axes[matter, 0], axes[matter, 1])


def _with_units(vectors: FloatArray) -> FloatArray:
    return np.concatenate([vectors, np.eye(3)])


def _multiplied(left: _Products, right: _Products, factor: float) -> _Products:
    return [(factor * x[0] * y[0], x[1] + y[1]) for x in left for y in right]


def _collected(terms: IntArray, products: _Products, vectors: FloatArray) -> _Contributions:
    weights = np.concatenate([one for one, _ in products])
    factors = np.concatenate([np.column_stack(slots) for _, slots in products])
    owners, matter = np.tile(terms, len(products)), weights != 0
    return _Contributions(vectors, owners[matter], weights[matter], factors[matter])
