"""Programs: polynomials in the displacements, arranged in forests for the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from scipy.sparse import coo_array, csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest, plant
from anharm.model.kernels import Polynomials, evaluate
from anharm.model.lanes import NARROW, width_of
from anharm.model.threads import ranges, run_threads


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
        -dE/dstrain, symmetric, eV.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray | None


@dataclass(frozen=True)
class Program:
    """Polynomials ready for the kernels.

    The coefficients can be replaced (`with_coefficients`) without arranging them again.

    Attributes
    ----------
    n_outputs : int
    forest : Forest
    positions : (n_bodies, 3) float
        Ideal positions of the bodies, Angstrom.
    terms, outputs : (n_monomials,) int
        For every monomial of the forest, that of the table, and its output.
    coefficients : (n_monomials,) float
    """

    n_outputs: int
    forest: Forest
    positions: FloatArray
    terms: IntArray
    outputs: IntArray
    coefficients: FloatArray

    @classmethod
    def compile(cls, table: MonomialTable, weights: csr_array) -> Program:
        """Compile the columns of a (n_terms, n_outputs) matrix of monomial coefficients."""
        forest, terms, order = plant(table.variables, table.anchors, weights)
        entries = coo_array(weights)
        return cls(
            n_outputs=int(weights.shape[1]),
            forest=forest,
            positions=table.body_positions,
            terms=terms,
            outputs=entries.col[order].astype(np.int64),
            coefficients=entries.data[order],
        )

    def with_coefficients(self, term_coefficients: FloatArray) -> Program:
        """The same forest with other coefficients (n_terms,), for a program of one output."""
        return replace(self, coefficients=term_coefficients[self.terms])

    def evaluate(
        self,
        displacements: FloatArray,
        body_atoms: IntArray,
        virial: bool = True,
        threads: int = 1,
    ) -> Evaluated:
        """Evaluate (n_conf, n_atoms, 3) displacements, Angstrom, in the supercell's order.

        Threads divide the cells of the supercell among them, and add up their results.
        """
        by_atom = configurations_last(displacements)
        n_configurations, n_cells = len(displacements), body_atoms.shape[1]
        polynomials = Polynomials(
            self.forest, self._weights, self._slopes, self.positions, body_atoms
        )
        if threads == 1:
            found = evaluate(polynomials, by_atom, 0, n_cells, self.n_outputs, virial, NARROW)
        else:
            grain = -(-width_of(NARROW, by_atom.itemsize) // n_configurations)
            tasks = [
                partial(evaluate, polynomials, by_atom, *cells, self.n_outputs, virial, NARROW)
                for cells in ranges(n_cells, threads, grain)
            ]
            found, *others = run_threads(tasks, threads)
            for other in others:
                for total, part in zip(found, other, strict=True):
                    total += part
        energies, forces, moments = found
        virials = None
        if virial:
            virials = moments.swapaxes(1, 2).reshape(self.n_outputs, n_configurations, 3, 3)
        return Evaluated(energies, configurations_first(forces), virials)

    @cached_property
    def _weights(self) -> FloatArray:
        """(n_entries, 3) the entries of all matrices of the forest."""
        return self.coefficients[self.forest.entry_monomials] * self.forest.entry_factors

    @cached_property
    def _slopes(self) -> FloatArray:
        """(n_used, 3) coefficients of first order of the bodies of every column."""
        return np.append(self.coefficients, 0.0)[self.forest.linear]


def configurations_last(displacements: FloatArray) -> FloatArray:
    """(n_conf, n_atoms, 3) as contiguous (n_atoms, 3, n_conf), the layout of the kernels."""
    if len(displacements) == 1:
        return np.ascontiguousarray(displacements).reshape(*displacements.shape[1:], 1)
    return np.ascontiguousarray(np.moveaxis(displacements, 0, -1))


def configurations_first(forces: FloatArray) -> FloatArray:
    """(n, n_atoms, 3, n_conf) as contiguous (n, n_conf, n_atoms, 3)."""
    if forces.shape[-1] == 1:
        return forces.reshape(len(forces), 1, *forces.shape[1:3])
    return np.ascontiguousarray(np.moveaxis(forces, -1, 1))
