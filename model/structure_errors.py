"""Errors of the energy and the virial of a configuration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, Supercell
from anharm.model.ideal_crystal import ideal_energy, ideal_virial
from anharm.model.lattice_sum import voigt, voigt_matrix
from anharm.model.strain import StrainedSum
from anharm.model.truncation import TruncationShapes


@dataclass(frozen=True)
class StructureErrors:
    """Standard deviations of one configuration's energy and virial.

    Attributes
    ----------
    energy_std : float
        Epistemic, eV: what more labels would reduce. Of the energy relative to the ideal crystal's
        where no label gave an energy.
    virial_std : (3, 3) float
        Epistemic, eV; relative to the ideal crystal's where no label gave a virial.
    predictive_energy_std : float or None
        With what the expansion leaves out; None where no label gave an energy.
    predictive_virial_std : (3, 3) float or None
        The same of the virial.
    """

    energy_std: float
    virial_std: FloatArray
    predictive_energy_std: float | None
    predictive_virial_std: FloatArray | None


def structure_errors(
    model: BayesianModel,
    strained_sum: StrainedSum,
    shapes: TruncationShapes,
    displacements: FloatArray,
    deformation: FloatArray | None,
) -> StructureErrors:
    """Errors of one (n_atoms, 3) configuration; sigma^2 = phi S phi^T with the design rows phi."""
    rows = strained_sum.design_rows(deformation, displacements)
    constants = ideal_crystal_factor(model, strained_sum.supercell, deformation)
    factor = constants + _padded(np.vstack([rows.energy, rows.virial]) @ model.posterior.factor,
                                 constants.shape[1])  # fmt: skip
    epistemic = np.sqrt(np.einsum("ij,ij->i", factor, factor))
    n_atoms = len(displacements)
    whole = shapes.of_structure(displacements)[None]
    predictive: list[FloatArray | None] = []
    for kind, std in (("energies", epistemic[0]), ("virials", epistemic[1:])):
        extra = _noise_variance(model, kind, whole)
        predictive.append(None if extra is None else np.sqrt(std**2 + n_atoms * extra))
    return StructureErrors(
        energy_std=float(epistemic[0]),
        virial_std=voigt_matrix(epistemic[1:]),
        predictive_energy_std=None if predictive[0] is None else float(predictive[0]),
        predictive_virial_std=None if predictive[1] is None else voigt_matrix(predictive[1]),
    )


def _noise_variance(model: BayesianModel, kind: str, shapes: FloatArray) -> float | None:
    """Variance per atom of what the expansion leaves out; None if no label gave this kind."""
    if kind in model.noise:
        return float(model.noise[kind].variances(shapes)[0])
    if kind in model.posterior.noise_precisions:
        return 1 / model.posterior.noise_precisions[kind]
    return None


def _padded(factor: FloatArray, width: int) -> FloatArray:
    """Columns of the parameters' factor among those of constants and parameters."""
    return np.pad(factor, ((0, 0), (width - factor.shape[1], 0)))


def ideal_crystal_factor(
    model: BayesianModel, supercell: Supercell, deformation: FloatArray | None
) -> FloatArray:
    """(7, k + M) factor of the ideal crystal's energy and virial in the deformed supercell."""
    n_parameters = model.expansion.n_parameters
    if model.constants_factor.shape[1] < n_parameters:
        return np.zeros((7, n_parameters))
    energy, virial = model.constants_factor[0], model.constants_factor[1:]
    if deformation is not None:
        tensors = np.moveaxis(voigt_matrix(virial), -1, 0)
        energy = energy + ideal_energy(tensors, deformation)
        virial = voigt(ideal_virial(tensors, deformation)).T
    return supercell.n_cells * np.vstack([energy, virial])
