"""Molecular dynamics of the reference itself: the test set, and the gold standard's labels.

Every trajectory starts anew, with a model, a configuration and velocities of its own seed, so that
the test set tells no more of one gold standard's labels than of any other's.

Two time steps (r-RESPA, Tuckerman et al., J. Chem. Phys. 97, 1990 (1992)): a model of four labels
moves the atoms, and every `outer` steps the atoms get the momentum that the difference between the
reference and the model gives. What is sampled is the reference's own dynamics for any such model; a
good one only lets the outer step be longer. outer = 1 is plain velocity Verlet with the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from economy.materials import Material

from anharm.model import ForceField, Trainer
from anharm.model.thermal_displacements import guess_phonons, let_move, thermal_phonons

FRICTION = 0.01  # 1/fs
EQUILIBRATION = 1000.0  # fs
N_LABELS = 4  # of the model between the outer steps
TEST_SEEDS = (2001, 2002, 2003, 2004)  # trajectories of the test set


def gold_frames(material: Material, seed: int, folder: Path) -> list[Atoms]:
    """The configurations that one gold standard learns from."""
    return reference_dynamics(material, seed, material.reference_frames, folder)


def test_frames(material: Material, folder: Path) -> list[Atoms]:
    """Configurations of trajectories that no gold standard learns from."""
    n_each = material.reference_frames // len(TEST_SEEDS)
    return [f for s in TEST_SEEDS for f in reference_dynamics(material, s, n_each, folder)]


def reference_dynamics(material: Material, seed: int, n_frames: int, folder: Path) -> list[Atoms]:
    """Configurations of a trajectory of the reference with energy, forces and stress.

    Read from `folder` where they exist, otherwise computed (Langevin) and written there.
    """
    path = folder / f"reference-{seed}.xyz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        for frame in _compute(material, seed, n_frames):
            ase.io.write(part, frame, format="extxyz", append=True)
        part.rename(path)
    read: list[Atoms] = ase.io.read(path, ":", format="extxyz")
    return read


def labelled(ideal: Atoms, displacements: np.ndarray, calculator: object) -> Atoms:
    """A displaced crystal with the reference's energy, forces and stress."""
    atoms = ideal.copy()
    atoms.positions += displacements
    atoms.calc = calculator
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=float(atoms.get_potential_energy()),
        forces=np.array(atoms.get_forces(), dtype=float),
        stress=np.array(atoms.get_stress(), dtype=float),
    )
    return atoms


def _compute(material: Material, seed: int, n_frames: int) -> Iterator[Atoms]:
    random = np.random.default_rng(seed)
    calculator, ideal = material.reference(), material.ideal()
    force_field, moved = _first_model(material, calculator, ideal, random)
    masses = ideal.get_masses()[:, None] / units.fs**2
    velocities = random.standard_normal(moved.shape)
    velocities *= np.sqrt(units.kB * material.temperature / masses)
    outer_step = material.outer * material.timestep
    frame = labelled(ideal, moved, calculator)
    n_first = round(EQUILIBRATION / outer_step)
    for number in range(1 - n_first, n_frames * material.reference_stride + 1):
        kick = outer_step / 2 / masses
        velocities += kick * (frame.get_forces() - _forces(force_field, moved))
        for _ in range(material.outer):
            moved, velocities = langevin_step(
                force_field, material, masses, moved, velocities, random
            )
        frame = labelled(ideal, moved, calculator)
        velocities += kick * (frame.get_forces() - _forces(force_field, moved))
        if number > 0 and number % material.reference_stride == 0:
            frame.info["time_fs"] = number * outer_step
            yield frame


def langevin_step(
    force_field: ForceField,
    material: Material,
    masses: np.ndarray,
    moved: np.ndarray,
    velocities: np.ndarray,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of Langevin dynamics (BAOAB) in the model; the centre of mass rests."""
    step, damping = material.timestep, np.exp(-FRICTION * material.timestep)
    velocities = velocities + step / 2 * _forces(force_field, moved) / masses
    moved = moved + step / 2 * velocities
    noise = np.sqrt((1 - damping**2) * units.kB * material.temperature / masses)
    velocities = damping * velocities + noise * random.standard_normal(moved.shape)
    velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    moved = moved + step / 2 * velocities
    return moved, velocities + step / 2 * _forces(force_field, moved) / masses


def _forces(force_field: ForceField, moved: np.ndarray) -> np.ndarray:
    centred = moved - moved.mean(axis=0)
    found: np.ndarray = force_field.predict(centred[None], errors=False, virial=False).forces[0]
    return found


def _first_model(
    material: Material, calculator: object, ideal: Atoms, random: np.random.Generator
) -> tuple[ForceField, np.ndarray]:
    """A model of a few thermal configurations, and one more to start from."""
    supercell = material.crystal_supercell()
    trainer = Trainer(material.expansion())
    moved = guess_phonons(supercell).draw(material.temperature, 1, random)[0]
    for _ in range(N_LABELS):
        atoms = labelled(ideal, moved, calculator)
        trainer.add(
            atoms.cell[:], atoms.positions, atoms.get_forces(), atoms.get_potential_energy()
        )
        force_field = ForceField(trainer.fit(), supercell)
        phonons = thermal_phonons(force_field.model, supercell)
        drawn = phonons.draw(material.temperature, 1, random)[0]
        moved = let_move(force_field, phonons, drawn, material.temperature, random, 1.0)
    return force_field, moved
