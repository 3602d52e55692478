"""Programs: polynomials in the displacements, compiled into forests for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csc_array, csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.kernels import energies_and_gradients, grow_forest, summed_gradients


@dataclass(frozen=True)
class MonomialTable:
    """Every monomial of an expansion, all orders together.

    Parameters
    ----------
    variables : (n_terms, n_max) int
        Body * 3 + axis of each factor, ascending, padded behind with -1.
    orders : (n_terms,) int
        Number of factors.
    body_positions : (n_bodies, 3) float
        Ideal positions of the bodies relative to the origin of their home cell, Angstrom.
    """

    variables: IntArray
    orders: IntArray
    body_positions: FloatArray

    @cached_property
    def position_sums(self) -> FloatArray:
        """(n_terms, 3) sum of the ideal positions of the factors of each monomial, Angstrom."""
        bodies = np.where(self.variables >= 0, self.variables // 3, -1)
        padded = np.vstack([self.body_positions, np.zeros((1, 3))])
        total: FloatArray = padded[bodies].sum(axis=1)
        return total


@dataclass(frozen=True)
class Program:
    """One polynomial per column, ready for the kernels.

    A column's coefficients can be replaced (`with_coefficients`) without compiling again.
    """

    node_starts: IntArray
    variable_starts: IntArray
    depths: IntArray
    node_slots: IntArray
    variables: IntArray
    entry_nodes: IntArray
    entry_terms: IntArray
    coefficients: FloatArray
    table: MonomialTable

    @classmethod
    def compile(cls, table: MonomialTable, weights: csr_array) -> Program:
        """Compile the columns of a (n_terms, n_columns) matrix of monomial coefficients."""
        by_column = csc_array(weights)
        columns = np.repeat(np.arange(by_column.shape[1]), np.diff(by_column.indptr))
        terms = table.variables[by_column.indices]
        keys = tuple(terms[:, level] for level in range(terms.shape[1] - 1, -1, -1))
        order = np.lexsort((*keys, columns))
        sorted_terms = np.ascontiguousarray(terms[order])
        depths, node_variables, term_nodes, node_starts = grow_forest(
            sorted_terms, by_column.indptr.astype(np.int64)
        )
        slots, variables, variable_starts = _number_locally(node_variables, node_starts)
        program = cls(
            node_starts, variable_starts, depths, slots, variables,
            term_nodes, by_column.indices[order].astype(np.int64),
            np.zeros(len(depths)), table,
        )  # fmt: skip
        program.coefficients[term_nodes] = by_column.data[order]
        return program

    @property
    def n_columns(self) -> int:
        """Number of polynomials."""
        return len(self.node_starts) - 1

    def with_coefficients(self, term_coefficients: FloatArray) -> Program:
        """The same forest with other coefficients (n_terms,), for a program of one column."""
        coefficients = np.zeros(len(self.depths))
        coefficients[self.entry_nodes] = term_coefficients[self.entry_terms]
        return Program(
            self.node_starts, self.variable_starts, self.depths, self.node_slots, self.variables,
            self.entry_nodes, self.entry_terms, coefficients, self.table,
        )  # fmt: skip

    def differentiate(
        self, displacements: FloatArray, body_atoms: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Energies (n_columns, n_conf) and gradients (n_columns, n_conf, n_atoms, 3)."""
        n_configurations, n_atoms, _ = displacements.shape
        energies = np.empty((self.n_columns, n_configurations))
        gradients = np.empty((self.n_columns, n_configurations, n_atoms, 3))
        energies_and_gradients(
            self.node_starts, self.variable_starts, self.depths, self.node_slots,
            self.coefficients, self.variables, displacements, body_atoms, energies, gradients,
        )  # fmt: skip
        return energies, gradients

    def reference_virials(self, displacements: FloatArray, body_atoms: IntArray) -> FloatArray:
        """Part of the virial due to the reference positions, (n_columns, n_conf, 3, 3) eV.

        A homogeneous strain moves the body at R by strain @ R. The sum rules leave the origin of
        R free, cluster by cluster, as long as it depends only on the other n-1 factors of a
        monomial; taking their centroid makes R - origin = n / (n-1) (R - cluster centroid).
        """
        by_position, *by_centroid = self._virial_coefficients
        virials = self._summed(by_position, displacements, body_atoms, self.table.body_positions)
        ones = np.ones((len(body_atoms), 1))
        for axis, coefficients in enumerate(by_centroid):
            moments = self._summed(coefficients, displacements, body_atoms, ones)
            virials[..., axis] -= moments[..., 0]
        return -virials

    @cached_property
    def _virial_coefficients(self) -> list[FloatArray]:
        """Node coefficients times n / (n-1), alone and times each centroid component."""
        entry_orders = self.table.orders[self.entry_terms]
        stretched = np.zeros(len(self.depths))
        stretched[self.entry_nodes] = entry_orders / np.maximum(entry_orders - 1, 1)
        stretched *= self.coefficients
        centroids = np.zeros((len(self.depths), 3))
        centroids[self.entry_nodes] = (
            self.table.position_sums[self.entry_terms] / entry_orders[:, None]
        )
        return [stretched, *(stretched * centroids[:, axis] for axis in range(3))]

    def _summed(
        self,
        coefficients: FloatArray,
        displacements: FloatArray,
        body_atoms: IntArray,
        body_weights: FloatArray,
    ) -> FloatArray:
        sums = np.empty((self.n_columns, len(displacements), 3, body_weights.shape[1]))
        summed_gradients(
            self.node_starts, self.variable_starts, self.depths, self.node_slots,
            coefficients, self.variables, displacements, body_atoms,
            np.ascontiguousarray(body_weights), sums,
        )  # fmt: skip
        return sums


def _number_locally(
    node_variables: IntArray, node_starts: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Number the variables of each column from zero."""
    slots = np.empty_like(node_variables)
    variables, starts = [], [0]
    for column in range(len(node_starts) - 1):
        part = slice(node_starts[column], node_starts[column + 1])
        unique, inverse = np.unique(node_variables[part], return_inverse=True)
        slots[part] = inverse
        variables.append(unique)
        starts.append(starts[-1] + len(unique))
    joined = np.concatenate(variables) if variables else np.empty(0, dtype=np.int64)
    return slots, joined.astype(np.int64), np.array(starts, dtype=np.int64)
