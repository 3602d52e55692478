"""The trained model on one supercell: energy, forces, virial, and the error of every force."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.committee import Committee
from anharm.model.crystal import FloatArray, Supercell
from anharm.model.deformation import checked_deformation, is_reference_cell
from anharm.model.force_errors import ForceErrors, PosteriorFactor
from anharm.model.force_rows import ForceRows
from anharm.model.ideal_crystal import ideal_energy, ideal_virial
from anharm.model.independent_parameters import IndependentParameters
from anharm.model.lattice_sum import LatticeSum
from anharm.model.program import Program
from anharm.model.site_kernels import error_statistics
from anharm.model.strain import StrainedSum, Strengths
from anharm.model.strained_errors import StrainedErrors
from anharm.model.structure_errors import StructureErrors, structure_errors
from anharm.model.truncation import TruncationShapes


@dataclass(frozen=True)
class Prediction:
    """Energy, forces, virial and errors of a batch of configurations, supercell order.

    Attributes
    ----------
    energies : (n_configurations,) float
        eV.
    forces : (n_configurations, n_atoms, 3) float
        eV/Angstrom.
    virials : (n_configurations, 3, 3) float or None
        -dE/dstrain, eV.
    force_std : (n_configurations, n_atoms, 3) float or None
        Epistemic standard deviation of each force component, eV/Angstrom: what more labels
        would reduce.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray | None
    force_std: FloatArray | None

    def __getitem__(self, chosen: slice) -> Prediction:
        """Of some of the configurations."""
        return Prediction(
            self.energies[chosen],
            self.forces[chosen],
            None if self.virials is None else self.virials[chosen],
            None if self.force_std is None else self.force_std[chosen],
        )

    @cached_property
    def error_statistics(self) -> FloatArray:
        """(n_configurations, 3) largest, mean and root mean square of `force_std`, eV/Angstrom."""
        assert self.force_std is not None
        return error_statistics(self.force_std.reshape(len(self.force_std), -1))


class ForceField:
    """A model applied to one supercell; cheap to give the next model version.

    Parameters
    ----------
    model : BayesianModel
    supercell : Supercell
        Of the model's crystal.
    threads : int
        How many threads share one call; matrix products follow the limits of the BLAS library.
    maximum_strain : float, optional
        Cells strained further are refused; by default what the model was trained for.
    """

    def __init__(
        self,
        model: BayesianModel,
        supercell: Supercell,
        threads: int = 1,
        maximum_strain: float | None = None,
    ) -> None:
        self.threads = threads
        self.maximum_strain = maximum_strain
        self._sum = LatticeSum(model.expansion, supercell)
        terms = model.expansion.monomials.variables
        ones = csr_array(np.ones((len(terms), 1)))
        self._forest = Program.compile(model.expansion.monomials, ones)
        self._strained = StrainedSum(self._sum)
        self._strengths: Strengths | None = None
        self._deformation: tuple[bytes, FloatArray | None] | None = None  # of the last cell
        self.use(model)

    @property
    def supercell(self) -> Supercell:
        """The supercell that configurations must have."""
        return self._sum.supercell

    def use(self, model: BayesianModel) -> None:
        """Swap in another version of the model; crystal and expansion must be the same.

        Raises
        ------
        ModelError
            If the model's crystal or expansion differs.
        """
        expansion = self._sum.expansion
        if not expansion.is_same(model.expansion):
            raise ModelError("the new model has another crystal or expansion than the one in use")
        unconstrained = expansion.constraint_basis @ model.posterior.mean
        self._coefficients = expansion.monomial_weights @ unconstrained
        self._polynomial = self._forest.with_coefficients(self._coefficients)
        self._strengths = None
        self._posterior_factor: PosteriorFactor | None = None
        self.model = model

    def deformation(self, cell: FloatArray) -> FloatArray | None:
        """F = 1 + strain of a cell, or None for the supercell of the reference crystal.

        Raises
        ------
        ModelError
            If the strain is larger than the model was trained for, or than `maximum_strain`.
        """
        key = cell.tobytes()
        if self._deformation is None or self._deformation[0] != key:
            is_reference = is_reference_cell(self.supercell, cell)
            self._deformation = key, None if is_reference else self._checked_deformation(cell)
        return self._deformation[1]

    def _checked_deformation(self, cell: FloatArray) -> FloatArray:
        if self.maximum_strain is not None:
            return checked_deformation(self.supercell, cell, self.maximum_strain)
        model = self.model
        return checked_deformation(
            self.supercell, cell, model.strain_limit, trained=model.largest_strain
        )

    def predict(
        self,
        displacements: FloatArray,
        errors: bool = True,
        virial: bool = True,
        exact_errors: bool = True,
    ) -> Prediction:
        """Evaluate displacements.

        Parameters
        ----------
        displacements : (n_configurations, n_atoms, 3) float
            Angstrom, in the supercell's order.
        errors, virial : bool
            Whether to compute force errors and virials.
        exact_errors : bool
            In double precision; otherwise in single, good to 1e-5 of the largest error.
        """
        found = self._polynomial.evaluate(displacements, self._sum.body_atoms, virial, self.threads)
        virials = None
        if found.virials is not None:
            virials = found.virials[0] + self.model.virial_per_cell * self.supercell.n_cells
        return Prediction(
            energies=found.energies[0] + self.model.energy_per_cell * self.supercell.n_cells,
            forces=found.forces[0],
            virials=virials,
            force_std=self.force_std(displacements, exact_errors) if errors else None,
        )

    def predict_strained(
        self,
        deformation: FloatArray,
        displacements: FloatArray,
        errors: bool = True,
        virial: bool = True,
        exact_errors: bool = True,
    ) -> Prediction:
        """Evaluate displacements in a cell other than the reference.

        Parameters
        ----------
        deformation : (3, 3) float
            F = 1 + strain, from `deformation`.
        displacements : (n_configurations, n_atoms, 3) float
            From the sites of the strained ideal crystal, Angstrom, in the supercell's order.
        errors, virial : bool
            Whether to compute force errors and virials.
        exact_errors : bool
            In double precision; otherwise in single, good to 1e-5 of the largest error.
        """
        if self._strengths is None:
            self._strengths = self._strained.strengths(self._coefficients)
        found = self._strained.evaluate(
            self._strengths, deformation, displacements, virial, self.threads
        )
        model, n_cells = self.model, self.supercell.n_cells
        offset = model.energy_per_cell + ideal_energy(model.virial_per_cell, deformation)
        virials, std = found.virials, None
        if virials is not None:
            virials = virials + n_cells * ideal_virial(model.virial_per_cell, deformation)
        if errors:
            std = self.force_std(displacements, exact_errors, deformation)
        return Prediction(found.energies + offset * n_cells, found.forces, virials, std)

    def predictive_force_std(
        self, displacements: FloatArray, deformation: FloatArray | None = None
    ) -> FloatArray:
        """Standard deviation of a reference force about the prediction, eV/Angstrom.

        The epistemic part and what the expansion leaves out; shape (n_conf, n_atoms, 3).
        """
        variance = self.force_std(displacements, deformation=deformation) ** 2
        noise = self.model.noise.get("forces")
        if noise is None:
            return np.sqrt(variance + 1 / self.model.posterior.noise_precision)
        extra = [noise.variances(self._shapes.of_forces(one)) for one in displacements]
        predictive: FloatArray = np.sqrt(variance + np.reshape(extra, variance.shape))
        return predictive

    def structure_errors(
        self, displacements: FloatArray, deformation: FloatArray | None = None
    ) -> StructureErrors:
        """Errors of energy and virial of one (n_atoms, 3) configuration."""
        return structure_errors(
            self.model, self._strained, self._shapes, displacements, deformation
        )

    def committee(self, n_members: int, seed: int = 0) -> Committee:
        """Members drawn from the posterior of the model in use."""
        return Committee(self.model, self._sum, self._forest, self._strained, n_members, seed)

    @cached_property
    def _shapes(self) -> TruncationShapes:
        expansion = self._sum.expansion
        return TruncationShapes(self.supercell, expansion.surroundings, max(expansion.orders))

    def force_std(
        self,
        displacements: FloatArray,
        exact: bool = True,
        deformation: FloatArray | None = None,
    ) -> FloatArray:
        """Epistemic standard deviation of every force component, eV/Angstrom.

        sigma_i^2 = phi_i S phi_i^T as a sum of squares over the columns of the posterior factor.
        With a deformation, phi are the design rows of the strained cell.
        """
        if deformation is None:
            return self._errors.standard_deviations(
                displacements, self._factor, exact, self.threads
            )
        return self._strained_errors.standard_deviations(
            deformation, displacements, self._factor, exact, self.threads
        )

    @property
    def _factor(self) -> PosteriorFactor:
        if self._posterior_factor is None:
            factor = self.model.posterior.factor
            self._posterior_factor = PosteriorFactor(factor, self._independent)
        return self._posterior_factor

    @cached_property
    def _independent(self) -> IndependentParameters:
        return IndependentParameters.of(self._sum.expansion)

    @cached_property
    def _force_rows(self) -> ForceRows:
        program, expansion = self._sum.columns, self._sum.expansion
        n_sites, order = expansion.crystal.n_sites, self._independent.order
        return ForceRows.compile(program, expansion.monomials, expansion.bodies, n_sites, order)

    @cached_property
    def _errors(self) -> ForceErrors:
        return ForceErrors(self.supercell, self._force_rows, self._independent)

    @cached_property
    def _strained_errors(self) -> StrainedErrors:
        classes = self._errors.classes
        return StrainedErrors(self.supercell, self._force_rows, self._independent, classes)
