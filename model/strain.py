"""Energy, forces and virial in cells near the reference, as derivatives of one function.

The energy per supercell is a polynomial in the strain eta and in the displacements u from the
sites of the strained ideal crystal (`strain_table` says which), so that each cell has its own
polynomial in u, evaluated by the kernels of the reference cell; and what no displacement changes,
the `elastic_energy` of the stretch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from anharm.model.crystal import FloatArray, Supercell
from anharm.model.elastic_energy import ElasticEnergy, build_elastic_energy
from anharm.model.expansion import Expansion
from anharm.model.lattice_sum import DesignRows, LatticeSum, voigt
from anharm.model.program import MonomialTable, Program
from anharm.model.strain_columns import StrainedColumns
from anharm.model.strain_kernels import add_weighted, monomial_sums
from anharm.model.strain_products import StrainProducts
from anharm.model.strain_table import StrainTable, build_strain_table
from anharm.model.stretch import Stretch


@dataclass(frozen=True)
class StrainedValues:
    """Energy, forces and virial of a batch of configurations in one strained cell.

    Attributes
    ----------
    energies : (n_configurations,) float
        eV.
    forces : (n_configurations, n_atoms, 3) float
        eV/Angstrom, of mean zero.
    virials : (n_configurations, 3, 3) float or None
        -dE/dstrain, symmetric, eV.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray | None


class Strengths(NamedTuple):
    """What each product of strains weighs with the coefficients of one model."""

    moving: csr_array  # with displacements: (n_targets, n_products)
    elastic: FloatArray  # (n_products,)


class _Cell:
    """One model in one strained cell: all that does not depend on the displacements."""

    def __init__(
        self,
        products: StrainProducts,
        elastic: ElasticEnergy,
        forest: Program,
        strengths: Strengths,
        deformation: FloatArray,
    ) -> None:
        self._elastic, self._strengths = elastic, strengths
        self._deformation, self._stretch = deformation, Stretch.of(deformation)
        coefficients = strengths.moving @ products.values(deformation - np.eye(3))
        # Further strain moves the bodies by their distances in this cell.
        self.polynomial = replace(
            forest.with_coefficients(coefficients), positions=forest.positions @ deformation.T
        )
        self._elastic_values = elastic.products.values(self._stretch.strain)
        self.energy = float((strengths.elastic * self._elastic_values).sum())

    def is_of(self, strengths: Strengths, deformation: FloatArray) -> bool:
        return self._strengths is strengths and np.array_equal(self._deformation, deformation)

    @cached_property
    def virial(self) -> FloatArray:
        """(3, 3) of the elastic energy, per primitive cell."""
        strengths, strain = self._strengths.elastic, self._stretch.strain
        gradient = self._elastic.gradient(strengths, strain, self._elastic_values)
        return self._stretch.virial(gradient)


class StrainedSum:
    """An expansion applied to one supercell whose cell may be strained.

    Displacements are those from the sites of the strained ideal crystal; their mean is removed,
    for in polar crystals the sum rules do not make the energy of a strained cell independent of
    it. What only strained cells need is set up when the first of them comes.

    Parameters
    ----------
    lattice_sum : LatticeSum
        The expansion in the reference cell; design rows without a deformation are its own.
    """

    def __init__(self, lattice_sum: LatticeSum) -> None:
        self._sum = lattice_sum
        self._last: _Cell | None = None

    @cached_property
    def _table(self) -> StrainTable:
        return build_strain_table(self.expansion)

    @cached_property
    def _elastic(self) -> ElasticEnergy:
        return build_elastic_energy(self.expansion)

    @property
    def monomials(self) -> MonomialTable:
        """Those of the columns in a strained cell."""
        return self._table.monomials

    @cached_property
    def _columns(self) -> StrainedColumns:
        return StrainedColumns(self._table, self.expansion.monomial_weights)

    @cached_property
    def _forest(self) -> Program:
        n_monomials = len(self._table.monomials.orders)
        return Program.compile(self._table.monomials, csr_array(np.ones((n_monomials, 1))))

    @property
    def expansion(self) -> Expansion:
        """The expansion about the reference crystal."""
        return self._sum.expansion

    @property
    def supercell(self) -> Supercell:
        """The unstrained supercell."""
        return self._sum.supercell

    def strengths(self, term_coefficients: FloatArray) -> Strengths:
        """What each contribution to a strained cell weighs, of the coefficients of all terms."""
        moving = self._table.strengths(term_coefficients)
        return Strengths(moving, self._elastic.strengths(term_coefficients))

    def evaluate(
        self,
        strengths: Strengths,
        deformation: FloatArray,
        displacements: FloatArray,
        virial: bool,
        threads: int = 1,
    ) -> StrainedValues:
        """Energy, forces and virial.

        Parameters
        ----------
        strengths : Strengths
            Of `strengths`, once per model.
        deformation : (3, 3) float
            F = 1 + eta.
        displacements : (n_configurations, n_atoms, 3) float
            From the sites of the strained ideal crystal, Angstrom, in the supercell's order.
        virial : bool
            Whether to compute virials.
        threads : int
        """
        cell, n_cells = self._cell(strengths, deformation), self.supercell.n_cells
        u = displacements - displacements.mean(axis=1, keepdims=True)
        found = cell.polynomial.evaluate(u, self._sum.body_atoms, virial, threads)
        energies = found.energies[0] + n_cells * cell.energy
        forces = found.forces[0] - found.forces[0].mean(axis=1, keepdims=True)
        virials = None
        if found.virials is not None:
            virials = found.virials[0] + n_cells * cell.virial
        return StrainedValues(energies, forces, virials)

    def _cell(self, strengths: Strengths, deformation: FloatArray) -> _Cell:
        """That of the last call where nothing changed, as for the beads of a path integral."""
        last = self._last
        if last is None or not last.is_of(strengths, deformation):
            last = _Cell(
                self._table.products, self._elastic, self._forest, strengths, deformation.copy()
            )
            self._last = last
        return last

    def _sums(self, displacements: FloatArray) -> FloatArray:
        """(n_targets,) the sum over cells of every target in one configuration."""
        program = self._forest
        by_monomial = np.empty(len(program.terms))
        monomial_sums(program.forest, displacements, self._sum.body_atoms, by_monomial)
        sums = np.empty(self._table.n_targets)
        sums[program.terms] = by_monomial
        return sums

    def force_rows(self, deformation: FloatArray | None, displacements: FloatArray) -> FloatArray:
        """Force design rows (3 n_atoms, n_parameters) of one (n_atoms, 3) configuration."""
        forces = self.unconstrained_forces(deformation, displacements[None])
        return self.expansion.constrain(forces.reshape(len(forces), -1)).T

    def unconstrained_forces(
        self, deformation: FloatArray | None, displacements: FloatArray
    ) -> FloatArray:
        """Forces per symmetry-allowed parameter, before the sum rules.

        Returns
        -------
        (n_unconstrained, n_configurations, n_atoms, 3) float
        """
        if deformation is None:
            return self._sum.unconstrained_forces(displacements)
        u = displacements - displacements.mean(axis=1, keepdims=True)
        program = self.columns(deformation)
        forces = program.evaluate(u, self._sum.body_atoms, virial=False).forces
        forces -= forces.mean(axis=2, keepdims=True)
        return forces

    def design_rows(self, deformation: FloatArray | None, displacements: FloatArray) -> DesignRows:
        """Design rows of forces, energy and virial of one (n_atoms, 3) configuration."""
        if deformation is None:
            return self._sum.design_rows(displacements)
        table, expansion, n_cells = self._table, self.expansion, self.supercell.n_cells
        u = displacements - displacements.mean(axis=0)
        forces = self.force_rows(deformation, u)
        strain, stretch = deformation - np.eye(3), Stretch.of(deformation)
        products, values = table.products, table.products.values(strain)
        weighted = table.weights * self._sums(u)[table.targets]
        n_terms, weights = len(expansion.monomials.orders), expansion.monomial_weights.T
        by_term = n_cells * self._elastic.energies_by_term(stretch.strain)
        by_term += np.bincount(table.terms, weighted * values[table.numbers], n_terms)
        energy = expansion.constrain((weights @ by_term)[:, None])[:, 0]
        gradient = np.zeros((n_terms, 9))
        derivatives = products.derivatives(strain, values)
        add_weighted(weighted, table.terms, table.numbers, derivatives, gradient)
        of_elastic = self._elastic.gradients_by_term(stretch.strain)
        by_strain = n_cells * stretch.virial(of_elastic)
        by_strain -= gradient.reshape(-1, 3, 3) @ deformation.T
        virial = expansion.constrain(weights @ voigt(by_strain)).T
        by_atom = forces.reshape(len(u), 3, -1)
        virial += voigt(np.einsum("aip,aj->pij", by_atom, u)).T
        return DesignRows(forces=forces, energy=energy, virial=virial)

    def columns(self, deformation: FloatArray) -> Program:
        """One column per symmetry-allowed parameter, of the energy in one strained cell."""
        return self._columns.program(deformation - np.eye(3))
