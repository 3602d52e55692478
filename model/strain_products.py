"""Products of components of strained vectors, each of them multiplied once.

Contributions to the energy of a strained cell are products of such components. Far more
contributions than products differ, so that a cell is prepared by computing the products, and by
sparse matrices from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import grow, parents_of
from anharm.model.strain_kernels import derivatives_of_products, gradient_of_sum, products_of


@dataclass(frozen=True)
class StrainProducts:
    """Distinct products of components (vector * 3 + axis) of strained vectors.

    Attributes
    ----------
    vectors : (n_vectors, 3) float
        Unstrained, Angstrom.
    parents, slots : (n_products - 1,) int
        Each product but the first, which is one, is one before it times a component.
    """

    vectors: FloatArray
    parents: IntArray
    slots: IntArray

    @classmethod
    def of(cls, vectors: FloatArray, factors: IntArray) -> tuple[StrainProducts, IntArray]:
        """The products of some factors, and the number of each contribution's product.

        Parameters
        ----------
        vectors : (n_vectors, 3) float
        factors : (n_contributions, n) int
            vector * 3 + axis of each factor, padded with -1.
        """
        behind = np.iinfo(factors.dtype).max
        ascending = np.sort(np.where(factors < 0, behind, factors), axis=1)
        ascending[ascending == behind] = -1
        order = np.lexsort(ascending.T[::-1])
        sequence = np.ascontiguousarray(ascending[order], dtype=np.int64)
        depths, slots, ends, starts = grow(sequence, np.array([0, len(order)]))
        numbers = np.empty(len(order), dtype=np.int64)
        numbers[order] = ends + 1
        parents = parents_of(depths, starts)
        found: list[IntArray] = [x.astype(np.int32) for x in (parents, slots, numbers)]
        return cls(vectors, *found[:2]), found[2]

    @property
    def size(self) -> int:
        """Number of products, with the first one."""
        return len(self.slots) + 1

    def values(self, strain: FloatArray) -> FloatArray:
        """(n_products,) in a cell of a (3, 3) strain."""
        found = np.empty(self.size)
        products_of(self.parents, self.slots, self._components(strain), found)
        return found

    def gradient(self, strain: FloatArray, values: FloatArray, weights: FloatArray) -> FloatArray:
        """(3, 3) derivative by the strain of the sum of weights (n_products,) times values."""
        components = self._components(strain)
        by_slot = np.zeros(len(components))
        gradient_of_sum(self.parents, self.slots, components, values, weights.copy(), by_slot)
        found: FloatArray = by_slot.reshape(-1, 3).T @ self.vectors
        return found

    def derivatives(self, strain: FloatArray, values: FloatArray) -> FloatArray:
        """(n_products, 9) derivatives by the strain."""
        found = np.empty((self.size, 9))
        derivatives_of_products(
            self.parents, self.slots, self._components(strain), self.vectors, values, found
        )
        return found

    def _components(self, strain: FloatArray) -> FloatArray:
        return np.ascontiguousarray(self.vectors @ strain.T).ravel()
