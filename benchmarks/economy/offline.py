"""Learning from configurations that need no run: the gold standard and static displacements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from economy.materials import Material
from economy.reference_dynamics import labelled, langevin_step

from anharm.model import BayesianModel, ForceField, Trainer
from anharm.model.sites import default_maximum_displacement
from anharm.model.training import virial_of_stress

COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 100)
LARGEST_STATIC = 12  # labels; it has reached its plateau long before

Curve = list[tuple[int, float]]  # labels, force RMSE (eV/Angstrom)


@dataclass(frozen=True)
class TestSet:
    """Configurations of the reference's dynamics, and its forces on them.

    Attributes
    ----------
    displacements, forces : (n, n_atoms, 3) float
        Angstrom, eV/Angstrom.
    """

    displacements: np.ndarray
    forces: np.ndarray

    @classmethod
    def of(cls, material: Material, frames: Sequence[Atoms]) -> TestSet:
        """Of frames in the supercell's order of atoms."""
        moved = np.array([f.positions for f in frames]) - material.ideal().positions
        moved -= moved.mean(axis=1, keepdims=True)
        return cls(moved, np.array([f.get_forces() for f in frames]))

    @property
    def temperature(self) -> float:
        """That of the configurations, K: -<u F> is kT per degree of freedom (equipartition)."""
        n, n_atoms = self.forces.shape[:2]
        energy = -float(np.sum(self.displacements * self.forces)) / n
        return energy / (3 * n_atoms - 3) / units.kB

    def rmse(self, force_field: ForceField) -> float:
        """Force error of a model, eV/Angstrom."""
        found = force_field.predict(self.displacements, errors=False, virial=False).forces
        return float(np.sqrt(np.mean((found - self.forces) ** 2)))

    def coverage(self, force_field: ForceField) -> tuple[float, float]:
        """Fractions of force components within 1 and 1.96 predictive standard deviations."""
        found = force_field.predict(self.displacements, errors=False, virial=False).forces
        scores = np.abs(found - self.forces) / force_field.predictive_force_std(self.displacements)
        return float(np.mean(scores < 1)), float(np.mean(scores < 1.96))


class Evaluator:
    """Force errors of models of one material."""

    def __init__(self, material: Material, test: TestSet) -> None:
        self.test = test
        self._supercell = material.crystal_supercell()
        self._force_field: ForceField | None = None

    def rmse(self, model: BayesianModel) -> float:
        """Force error of a model, eV/Angstrom."""
        return self.test.rmse(self._of(model))

    def coverage(self, model: BayesianModel) -> tuple[float, float]:
        """Fractions of force components within 1 and 1.96 predictive standard deviations."""
        return self.test.coverage(self._of(model))

    def _of(self, model: BayesianModel) -> ForceField:
        if self._force_field is None:
            self._force_field = ForceField(model, self._supercell)
        self._force_field.use(model)
        return self._force_field


def gold_standard(
    material: Material, pool: Sequence[Atoms], evaluator: Evaluator, seed: int
) -> Curve:
    """Learning from configurations of the reference's own dynamics, in a random order."""
    order = np.random.default_rng(seed).permutation(len(pool))
    return _learn(material, (pool[i] for i in order), evaluator)


def steps_of_gold_standard(material: Material, pool: Sequence[Atoms], seed: int) -> int:
    """Steps that the model of all the gold standard's labels makes before it loses an atom.

    In its own dynamics, at most as many as a run has; the first configuration depends on the seed.
    """
    trainer = Trainer(material.expansion())
    for atoms in pool:
        _add(trainer, atoms)
    supercell = material.crystal_supercell()
    force_field = ForceField(trainer.fit(), supercell)
    random = np.random.default_rng(seed)
    moved = pool[random.integers(len(pool))].positions - material.ideal().positions
    moved -= moved.mean(axis=0)
    masses = material.ideal().get_masses()[:, None] / units.fs**2
    velocities = random.standard_normal(moved.shape)
    velocities *= np.sqrt(units.kB * material.temperature / masses)
    largest = default_maximum_displacement(supercell)
    for step in range(material.steps):
        moved, velocities = langevin_step(force_field, material, masses, moved, velocities, random)
        if not np.linalg.norm(moved - moved.mean(axis=0), axis=1).max() < largest:
            return step
    return material.steps


def static(material: Material, evaluator: Evaluator, seed: int) -> Curve:
    """Learning from uncorrelated displacements, of the size that the reference's dynamics has."""
    random = np.random.default_rng(seed)
    size = float(evaluator.test.displacements.std())
    ideal, calculator = material.ideal(), material.reference()
    frames = (
        labelled(ideal, random.normal(0, size, ideal.positions.shape), calculator)
        for _ in range(LARGEST_STATIC)
    )
    return _learn(material, frames, evaluator)


def _learn(material: Material, frames: Iterable[Atoms], evaluator: Evaluator) -> Curve:
    trainer = Trainer(material.expansion())
    curve = []
    for number, atoms in enumerate(frames, start=1):
        _add(trainer, atoms)
        if number in COUNTS:
            curve.append((number, evaluator.rmse(trainer.fit())))
    return curve


def _add(trainer: Trainer, atoms: Atoms) -> None:
    trainer.add(
        np.array(atoms.cell[:]),
        atoms.positions,
        np.array(atoms.get_forces()),
        float(atoms.get_potential_energy()),
        atoms.numbers,
        virial_of_stress(atoms.get_stress(), atoms.get_volume()),
    )
