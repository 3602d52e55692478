"""Wrong units, signs and atoms are found, and honest labels pass."""

import numpy as np
import pytest
from ase.build import bulk

from anharm.clients.calculators import make_calculator
from anharm.server.label_plausibility import check_against_prediction, check_restoring
from anharm.wire.driver_protocol import Configuration, Evaluation

IDEAL = bulk("Si", a=5.432, cubic=True) * (2, 2, 2)


def displaced(seed, size):
    atoms = IDEAL.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, size, (len(atoms), 3))
    atoms.calc = make_calculator("tersoff-silicon")
    return atoms


def restoring(atoms, forces):
    asked = Configuration(np.array(atoms.cell), atoms.positions)
    ideal = Configuration(np.array(IDEAL.cell), IDEAL.positions)
    return check_restoring(asked, Evaluation(0.0, forces, np.zeros((3, 3))), ideal)


@pytest.mark.parametrize("size", [0.005, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_an_honest_first_label_passes(seed, size):
    atoms = displaced(seed, size)
    assert restoring(atoms, atoms.get_forces()) == []
    # As does a soft crystal's, a hundred times softer.
    assert restoring(atoms, 0.01 * atoms.get_forces()) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_first_label_is_found(seed):
    atoms = displaced(seed, 0.03)
    forces = atoms.get_forces()
    assert "a wrong sign" in restoring(atoms, -forces)[0]
    shuffled = forces[np.random.default_rng(seed).permutation(len(forces))]
    assert "atoms in another order" in restoring(atoms, shuffled)[0]
    assert "another unit" in restoring(atoms, 51.42 * forces)[0]
    assert "another unit" in restoring(atoms, 25.71 * forces)[0]


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, "sign is wrong"),
        (51.42, "Hartree/bohr"),
        (1 / 51.42, "Hartree/bohr"),
        (25.71, "Rydberg/bohr"),
        (1 / 25.71, "Rydberg/bohr"),
        (2.0, "Hartree and Rydberg"),
        (0.5, "Hartree and Rydberg"),
        (1.89, "bohr and Angstrom"),
        (10.0, "another unit"),
    ],
)
def test_another_unit_is_named(factor, words):
    random = np.random.default_rng(0)
    forces = random.normal(0, 1, (64, 3))
    predicted = forces + random.normal(0, 0.1, forces.shape)
    (reason,) = check_against_prediction(factor * forces, predicted, np.full(forces.shape, 0.1))
    assert words in reason


@pytest.mark.parametrize("error", [0.01, 0.3, 1.0, 3.0])
def test_a_model_that_is_wrong_and_knows_it_refuses_nothing(error):
    random = np.random.default_rng(1)
    forces = random.normal(0, 1, (64, 3))
    predicted = forces + random.normal(0, error, forces.shape)
    assert check_against_prediction(forces, predicted, np.full(forces.shape, error)) == []


def test_atoms_in_another_order_are_found_by_a_model_that_is_sure():
    random = np.random.default_rng(2)
    forces = random.normal(0, 1, (64, 3))
    shuffled = forces[random.permutation(64)]
    std = np.full(forces.shape, 0.1)
    (reason,) = check_against_prediction(shuffled, forces, std)
    assert "another order" in reason
    assert check_against_prediction(shuffled, forces, 5 * std) == []


def test_forces_that_vanish_are_judged_elsewhere():
    zero = np.zeros((8, 3))
    assert check_against_prediction(zero, zero, zero) == []
    assert restoring(IDEAL, np.zeros((64, 3))) == []
