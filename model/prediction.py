"""Predictions for structures in any order of the atoms, and the ASE calculator."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, Supercell
from anharm.model.deformation import identify_strained_supercell
from anharm.model.force_field import ForceField
from anharm.model.lattice_sum import voigt
from anharm.model.sites import assign_sites


class StructurePredictor:
    """Energy, forces, stress and force errors of `ase.Atoms`, whatever their supercell or order.

    Parameters
    ----------
    model : BayesianModel
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    maximum_strain : float, optional
        Cells strained further are an error; by default what the model was trained for.
    """

    def __init__(
        self,
        model: BayesianModel,
        maximum_displacement: float | None = None,
        maximum_strain: float | None = None,
    ) -> None:
        self.model = model
        self.maximum_strain = maximum_strain
        self.maximum_displacement = maximum_displacement
        self._force_fields: dict[bytes, ForceField] = {}

    def predict(self, atoms: Atoms) -> dict[str, Any]:
        """Results in the atoms' own order.

        Returns
        -------
        dict
            `energy` eV, `forces` (n_atoms, 3) eV/Angstrom, `stress` (6,) eV/Angstrom^3 (ASE's
            sign and order), `force_std` and `force_std_predictive` (n_atoms, 3) eV/Angstrom: the
            errors that more labels would reduce, and those with what the expansion leaves out;
            `energy_std` and `stress_std`, and, where labels gave energies or stresses,
            `energy_std_predictive` and `stress_std_predictive`.

        Raises
        ------
        ModelError
            If the structure is not a slightly displaced and strained supercell of the model's
            crystal.
        """
        cell = np.array(atoms.cell[:])
        force_field = self._force_field(cell, len(atoms))
        deformation = force_field.deformation(cell)
        assignment = assign_sites(
            force_field.supercell,
            atoms.positions,
            atoms.numbers,
            self.maximum_displacement,
            deformation,
        )
        displacements = assignment.displacements(atoms.positions, deformation)[None]
        if deformation is None:
            result = force_field.predict(displacements)
        else:
            result = force_field.predict_strained(deformation, displacements)
        predictive = force_field.predictive_force_std(displacements, deformation)
        assert result.virials is not None and result.force_std is not None
        found = {
            "energy": float(result.energies[0]),
            "forces": assignment.to_user_order(result.forces[0]),
            "stress": -voigt(result.virials[0]) / atoms.get_volume(),
            "force_std": assignment.to_user_order(result.force_std[0]),
            "force_std_predictive": assignment.to_user_order(predictive[0]),
        }
        errors = force_field.structure_errors(displacements[0], deformation)
        found["energy_std"] = errors.energy_std
        found["stress_std"] = voigt(errors.virial_std) / atoms.get_volume()
        if errors.predictive_energy_std is not None:
            found["energy_std_predictive"] = errors.predictive_energy_std
        if errors.predictive_virial_std is not None:
            found["stress_std_predictive"] = (
                voigt(errors.predictive_virial_std) / atoms.get_volume()
            )
        return found

    def _force_field(self, cell: FloatArray, n_atoms: int) -> ForceField:
        matrix = identify_strained_supercell(self.model.expansion.crystal, cell, n_atoms)
        key = matrix.tobytes()
        if key not in self._force_fields:
            supercell = Supercell(self.model.expansion.crystal, matrix)
            self._force_fields[key] = ForceField(
                self.model, supercell, maximum_strain=self.maximum_strain
            )
        return self._force_fields[key]


class LatticeCalculator(Calculator):
    """A model as an ASE calculator; `results["force_std"]` holds the errors of the forces.

    Parameters
    ----------
    model : BayesianModel
    maximum_strain : float, optional
        Cells strained further are an error; by default what the model was trained for.

    Examples
    --------
    >>> atoms.calc = LatticeCalculator(load_model("model.h5"))  # doctest: +SKIP
    >>> atoms.get_forces(), atoms.calc.results["force_std"]  # doctest: +SKIP
    """

    implemented_properties: list[str] = [  # noqa: RUF012
        "energy",
        "forces",
        "stress",
        "force_std",
        "force_std_predictive",
        "energy_std",
        "energy_std_predictive",
        "stress_std",
        "stress_std_predictive",
    ]

    def __init__(
        self, model: BayesianModel, maximum_strain: float | None = None, **keywords: Any
    ) -> None:
        super().__init__(**keywords)
        self._predictor = StructurePredictor(model, maximum_strain=maximum_strain)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate everything at once; called by ASE."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        if self.atoms is None:
            raise ModelError("the calculator was given no atoms")
        self.results = self._predictor.predict(self.atoms)
