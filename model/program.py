"""Programs: polynomials in the displacements, compiled into forests for the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array, csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.kernels import evaluate, grow_forest


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

    @property
    def anchors(self) -> IntArray:
        """(n_terms,) the lowest body of each monomial, which is in the home cell."""
        return self.variables[:, 0] // 3


@dataclass(frozen=True)
class Evaluated:
    """Result of a program for n_conf configurations, one entry per output.

    Attributes
    ----------
    energies : (n_outputs, n_conf) float
    forces : (n_outputs, n_conf, n_atoms, 3) float
    virials : (n_outputs, n_conf, 3, 3) float or None
        -dE/dstrain, eV.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray | None


@dataclass(frozen=True)
class Program:
    """Polynomials ready for the kernels: one column per output and anchor.

    The coefficients can be replaced (`with_coefficients`) without compiling again.
    """

    n_outputs: int
    node_starts: IntArray
    variable_starts: IntArray
    outputs: IntArray
    depths: IntArray
    node_slots: IntArray
    variables: IntArray
    offsets: FloatArray
    entry_nodes: IntArray
    entry_terms: IntArray
    coefficients: FloatArray

    @classmethod
    def compile(cls, table: MonomialTable, weights: csr_array) -> Program:
        """Compile the columns of a (n_terms, n_outputs) matrix of monomial coefficients."""
        entries = coo_array(weights)
        terms, anchors = table.variables[entries.row], table.anchors[entries.row]
        levels = tuple(terms[:, level] for level in range(terms.shape[1] - 1, -1, -1))
        order = np.lexsort((*levels, anchors, entries.col))
        pairs = np.column_stack([entries.col, anchors])[order]
        begins = np.flatnonzero(np.any(np.diff(pairs, axis=0, prepend=-1) != 0, axis=1))
        starts = np.append(begins, len(order)).astype(np.int64)
        sorted_terms = np.ascontiguousarray(terms[order])
        depths, node_variables, term_nodes, node_starts = grow_forest(sorted_terms, starts)
        slots, variables, variable_starts = _number_locally(node_variables, node_starts)
        anchor_of_slot = np.repeat(pairs[begins, 1], np.diff(variable_starts))
        coefficients = np.zeros(len(depths))
        coefficients[term_nodes] = entries.data[order]
        return cls(
            n_outputs=weights.shape[1],
            node_starts=node_starts,
            variable_starts=variable_starts,
            outputs=pairs[begins, 0].astype(np.int64),
            depths=depths,
            node_slots=slots,
            variables=variables,
            offsets=table.body_positions[variables // 3] - table.body_positions[anchor_of_slot],
            entry_nodes=term_nodes,
            entry_terms=entries.row[order].astype(np.int64),
            coefficients=coefficients,
        )

    def with_coefficients(self, term_coefficients: FloatArray) -> Program:
        """The same forest with other coefficients (n_terms,), for a program of one output."""
        coefficients = np.zeros(len(self.depths))
        coefficients[self.entry_nodes] = term_coefficients[self.entry_terms]
        return replace(self, coefficients=coefficients)

    def evaluate(
        self, displacements: FloatArray, body_atoms: IntArray, virial: bool = True
    ) -> Evaluated:
        """Evaluate (n_conf, n_atoms, 3) displacements, Angstrom, in the supercell's order."""
        n_configurations, n_atoms, _ = displacements.shape
        energies = np.empty((self.n_outputs, n_configurations))
        forces = np.empty((self.n_outputs, n_configurations, n_atoms, 3))
        virials = np.empty((self.n_outputs if virial else 0, n_configurations, 3, 3))
        evaluate(
            self.node_starts, self.variable_starts, self.outputs, self.depths, self.node_slots,
            self.coefficients, self.variables, self.offsets, displacements, body_atoms,
            energies, forces, virials,
        )  # fmt: skip
        if not virial:
            return Evaluated(energies, forces, None)
        virials += np.einsum("pcai,caj->pcij", forces, displacements, optimize=True)
        return Evaluated(energies, forces, virials)


def _number_locally(
    node_variables: IntArray, node_starts: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Number the variables of each column from zero."""
    columns = np.repeat(np.arange(len(node_starts) - 1), np.diff(node_starts))
    width = int(node_variables.max(initial=0)) + 1
    unique, inverse = np.unique(columns * width + node_variables, return_inverse=True)
    starts = np.searchsorted(unique, np.arange(len(node_starts)) * width)
    slots = inverse.ravel() - starts[columns]
    return slots.astype(np.int64), (unique % width).astype(np.int64), starts.astype(np.int64)
