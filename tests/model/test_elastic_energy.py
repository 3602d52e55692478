"""The energy of uniform strain, and what the stress of the reference crystal does to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anharm.clients.calculators import make_calculator
from anharm.model import ForceField, Supercell, Trainer, build_expansion
from anharm.model.ideal_crystal import ideal_energy, ideal_virial
from anharm.model.lattice_sum import voigt

ONE = np.eye(3)
MATRIX = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])


@pytest.mark.parametrize("name", ["aluminium", "iron", "polonium"])
def test_uniform_strain_of_a_bravais_crystal_gives_no_force(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    still = np.zeros((1, force_field.supercell.n_atoms, 3))
    deformation = laboratory.random_deformation(1, 0.03)
    found = force_field.predict_strained(deformation, still, errors=False)
    assert np.abs(found.forces).max() < 1e-9
    assert np.abs(found.virials).max() > 0.1


@pytest.mark.parametrize("name", ["silicon", "triclinic", "tin selenide"])
def test_a_rotation_of_the_strained_crystal_costs_nothing(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    still = np.zeros((1, force_field.supercell.n_atoms, 3))
    deformation = laboratory.random_deformation(2, 0.02)
    rotation = Rotation.from_rotvec([0.01, -0.02, 0.015]).as_matrix()
    first, turned = (
        force_field.predict_strained(one, still, errors=False)
        for one in (deformation, rotation @ deformation)
    )
    assert first.virials is not None and turned.virials is not None
    assert turned.energies[0] == pytest.approx(first.energies[0], rel=1e-12)
    expected = rotation @ first.virials[0] @ rotation.T
    np.testing.assert_allclose(turned.virials[0], expected, atol=1e-10 * np.abs(expected).max())


@pytest.fixture(scope="module")
def stresses(laboratory) -> tuple[Callable, Callable]:
    """Stress of strained ideal silicon, eV/Angstrom^3: a model's, and that of its potential.

    The model has learnt nothing but forces in the unstrained cell.
    """
    supercell = Supercell(laboratory.crystal("silicon"), MATRIX)
    expansion = build_expansion(supercell.crystal, {2: 4.0, 3: 4.0})
    trainer, reference = Trainer(expansion, targets=["forces"]), make_calculator("tersoff-silicon")
    for seed in range(8):
        atoms = supercell.to_atoms()
        atoms.positions += (-1) ** seed * laboratory.random_displacements(
            supercell, 2e-3, seed // 2
        )
        trainer.add(supercell.lattice, atoms.positions, reference.get_forces(atoms))
    # Forces do not tell the stress of the unstrained crystal.
    resting = -reference.get_stress(supercell.to_atoms())[0] * np.linalg.det(supercell.lattice)
    model = replace(trainer.fit(), virial_per_cell=resting / supercell.n_cells * ONE)
    force_field = ForceField(model, supercell, maximum_strain=0.05)
    still = np.zeros((1, supercell.n_atoms, 3))

    def of_model(deformation: np.ndarray) -> np.ndarray:
        found = force_field.predict_strained(deformation, still, errors=False)
        assert found.virials is not None
        volume = np.linalg.det(supercell.lattice @ deformation)
        return -np.asarray(voigt(found.virials[0])) / volume

    def of_potential(deformation: np.ndarray) -> np.ndarray:
        atoms = supercell.to_atoms()
        atoms.set_cell(supercell.lattice @ deformation.T, scale_atoms=True)
        return np.asarray(reference.get_stress(atoms))

    return of_model, of_potential


DIRECTIONS = {
    "stretch": np.diag([1.0, 0, 0]),
    "shear": np.array([[0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]),
    "volume": ONE,
    "sheared column": np.array([[0, 1.0, 0], [0, 0, 0], [0, 0, 0]]),
    "anything": np.array([[0.3, -0.8, 0.5], [0.2, -0.6, 0.9], [-0.7, 0.1, 0.4]]),
}


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_elastic_constants_of_second_and_third_order_are_those_of_a_potential_with_angles(
    stresses, direction: np.ndarray
) -> None:
    """Tersoff's silicon has C12 = 75 and C44 = 119 GPa, equal were its forces between pairs."""
    step = 2e-3 * direction

    def differences(stress: Callable) -> tuple[np.ndarray, np.ndarray]:
        plus, minus = stress(ONE + step), stress(ONE - step)
        return plus - minus, plus + minus - 2 * stress(ONE)

    for found, wanted in zip(*map(differences, stresses), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_a_crystal_under_pressure_does_the_work_of_its_change_of_volume(laboratory) -> None:
    deformation = laboratory.random_deformation(3, 0.03)
    ratio = np.linalg.det(deformation)
    assert ideal_energy(3.0 * ONE, deformation) == pytest.approx(-3.0 * (ratio - 1), rel=1e-12)
    found = ideal_virial(3.0 * ONE, deformation)
    np.testing.assert_allclose(found, 3.0 * ratio * ONE, atol=1e-12)
