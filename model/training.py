"""Training: from labelled structures to a model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase import Atoms

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray, Supercell, identify_supercell
from anharm.model.expansion import Expansion
from anharm.model.lattice_sum import LatticeSum
from anharm.model.regression import SufficientStatistics, maximise_evidence
from anharm.model.sites import assign_sites


class Trainer:
    """Collects labels as sufficient statistics and refits on demand.

    Parameters
    ----------
    expansion : Expansion
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    """

    def __init__(self, expansion: Expansion, maximum_displacement: float | None = None) -> None:
        self.expansion = expansion
        self.maximum_displacement = maximum_displacement
        self.n_labels = 0
        self._statistics = SufficientStatistics.empty(expansion.n_parameters)
        self._sums: dict[bytes, LatticeSum] = {}
        self._energy_rows: list[tuple[FloatArray, float, int]] = []

    def add(
        self,
        cell: FloatArray,
        positions: FloatArray,
        forces: FloatArray,
        energy: float | None = None,
        numbers: IntArray | None = None,
    ) -> None:
        """Add one label.

        Parameters
        ----------
        cell : (3, 3) float
            Cell vectors as rows, Angstrom; a supercell of the crystal.
        positions, forces : (n_atoms, 3) float
            Angstrom, eV/Angstrom, in any order of the atoms.
        energy : float, optional
            eV; fixes the energy of the ideal crystal.
        numbers : (n_atoms,) int, optional
            Atomic numbers in the same order.

        Raises
        ------
        ModelError
            If cell, atoms or numbers do not belong to the crystal.
        """
        if forces.shape != positions.shape:
            raise ModelError(
                f"a label has forces of shape {forces.shape} for positions {positions.shape}"
            )
        matrix = identify_supercell(self.expansion.crystal, cell, tolerance=1e-3)
        lattice_sum = self._lattice_sum(matrix)
        assignment = assign_sites(
            lattice_sum.supercell, positions, numbers, self.maximum_displacement
        )
        rows = lattice_sum.design_rows(assignment.displacements(positions))
        targets = np.empty_like(forces)
        targets[assignment.sites] = forces
        self._statistics = self._statistics.add(rows.forces, targets.ravel())
        if energy is not None:
            self._energy_rows.append((rows.energy, energy, lattice_sum.supercell.n_cells))
        self.n_labels += 1

    def fit(self, version: int = 0, provenance: dict[str, str] | None = None) -> BayesianModel:
        """The model that all labels so far imply.

        Raises
        ------
        ModelError
            If there are no labels.
        """
        posterior = maximise_evidence(self._statistics, self.expansion.parameter_orders)
        offsets = [(e - row @ posterior.mean) / n for row, e, n in self._energy_rows]
        return BayesianModel(
            expansion=self.expansion,
            posterior=posterior,
            energy_per_cell=float(np.mean(offsets)) if offsets else 0.0,
            n_labels=self.n_labels,
            version=version,
            provenance=provenance or {},
        )

    def _lattice_sum(self, matrix: IntArray) -> LatticeSum:
        key = matrix.tobytes()
        if key not in self._sums:
            self._sums[key] = LatticeSum(self.expansion, Supercell(self.expansion.crystal, matrix))
        return self._sums[key]


def fit_structures(
    expansion: Expansion,
    structures: Iterable[Atoms],
    maximum_displacement: float | None = None,
    provenance: dict[str, str] | None = None,
) -> BayesianModel:
    """Fit to labelled `ase.Atoms`, each a supercell of the crystal with its atoms in any order.

    Raises
    ------
    ModelError
        Naming the structure that cannot be used.
    """
    trainer = Trainer(expansion, maximum_displacement)
    for index, atoms in enumerate(structures):
        results = atoms.calc.results if atoms.calc is not None else {}
        if "forces" not in results:
            raise ModelError(
                f"structure {index} has no forces; labels need an array `forces` in eV/Angstrom"
            )
        try:
            trainer.add(
                np.array(atoms.cell[:]),
                atoms.positions,
                np.array(results["forces"]),
                results.get("energy"),
                atoms.numbers,
            )
        except ModelError as error:
            raise ModelError(f"structure {index}: {error}") from error
    return trainer.fit(provenance=provenance)
