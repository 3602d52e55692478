"""The trained model on one supercell: energy, forces, virial, and the error of every force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, Supercell
from anharm.model.lattice_sum import LatticeSum
from anharm.model.program import Program

_CELL_TOLERANCE = 1e-3  # Angstrom; the expansion is about sites of one fixed cell


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


class ForceField:
    """A model applied to one supercell; cheap to give the next model version.

    Parameters
    ----------
    model : BayesianModel
    supercell : Supercell
        Of the model's crystal.
    """

    def __init__(self, model: BayesianModel, supercell: Supercell) -> None:
        self._sum = LatticeSum(model.expansion, supercell)
        terms = model.expansion.monomials.variables
        ones = csr_array(np.ones((len(terms), 1)))
        self._forest = Program.compile(model.expansion.monomials, ones)
        self.use(model)

    @property
    def supercell(self) -> Supercell:
        """The supercell that configurations must have."""
        return self._sum.supercell

    def use(self, model: BayesianModel) -> None:
        """Swap in another version of the model; the expansion must be the same.

        Raises
        ------
        ModelError
            If the model's expansion differs.
        """
        expansion = self._sum.expansion
        if not expansion.is_same(model.expansion):
            raise ModelError("the new model has another expansion than the one in use")
        unconstrained = expansion.constraint_basis @ model.posterior.mean
        self._polynomial = self._forest.with_coefficients(
            expansion.monomial_weights @ unconstrained
        )
        self._factor = np.ascontiguousarray(model.posterior.factor.T)
        self._single_factor = self._factor.astype(np.float32)
        self.model = model

    def check_cell(self, cell: FloatArray) -> None:
        """Refuse a cell other than the supercell of the reference crystal.

        Raises
        ------
        ModelError
            Naming the largest deviation.
        """
        deviation = np.abs(cell - self.supercell.lattice).max()
        if not deviation < _CELL_TOLERANCE:
            raise ModelError(
                f"the cell differs from the model's supercell by up to {deviation:.4f} Angstrom "
                f"(allowed: {_CELL_TOLERANCE}); the expansion holds at the cell of [crystal] "
                "primitive: use a constant-volume ensemble and the same lattice constant"
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
        found = self._polynomial.evaluate(displacements, self._sum.body_atoms, virial)
        virials = None
        if found.virials is not None:
            virials = (found.virials[0] + found.virials[0].transpose(0, 2, 1)) / 2
            virials += self.model.virial_per_cell * self.supercell.n_cells
        return Prediction(
            energies=found.energies[0] + self.model.energy_per_cell * self.supercell.n_cells,
            forces=found.forces[0],
            virials=virials,
            force_std=self.force_std(displacements, exact_errors) if errors else None,
        )

    def predictive_force_std(self, displacements: FloatArray) -> FloatArray:
        """Standard deviation of a reference force about the prediction, eV/Angstrom.

        The epistemic part and what the expansion leaves out; shape (n_conf, n_atoms, 3).
        """
        variance = self.force_std(displacements) ** 2
        noise = self.model.noise
        if noise is None:
            return np.sqrt(variance + 1 / self.model.posterior.noise_precision)
        amplitudes = np.stack([self._sum.local_amplitudes(one) for one in displacements])
        predictive: FloatArray = np.sqrt(variance + noise.variances(amplitudes)[..., None])
        return predictive

    def force_std(self, displacements: FloatArray, exact: bool = True) -> FloatArray:
        """Epistemic standard deviation of every force component, eV/Angstrom.

        sigma_i^2 = phi_i S phi_i^T as a sum of squares over the columns of the posterior factor.
        """
        rows = self._sum.unconstrained_forces(displacements)
        rows = rows.reshape(len(rows), -1)
        factor = self._factor if exact else self._single_factor
        rows = rows.astype(factor.dtype, copy=False)
        spread = factor @ self._sum.expansion.constrain(rows)
        variance = np.einsum("ri,ri->i", spread, spread)
        std: FloatArray = np.sqrt(variance.astype(float)).reshape(displacements.shape)
        return std
