"""What i-PI is sent beside energy, forces and virial: JSON objects with the same keys for all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ipi.utils.units import unit_to_user

from anharm.clients.evaluator import Evaluator
from anharm.errors import ConfigurationError
from anharm.extras import EXTRAS, ExtrasChoice
from anharm.model import BayesianModel, Crystal, ForceField, Supercell, build_expansion
from anharm.model.regression import Posterior

HARTREE = unit_to_user("energy", "electronvolt", 1.0)
BOHR = unit_to_user("length", "angstrom", 1.0)
SHUFFLED = np.random.default_rng(4).permutation(64)


@pytest.fixture(scope="module")
def force_field() -> ForceField:
    crystal = Crystal.from_atoms(bulk("Si", "diamond", a=5.43))
    expansion = build_expansion(crystal, {2: 3.0, 3: 3.0})
    random, n = np.random.default_rng(0), expansion.n_parameters
    factor = np.triu(random.standard_normal((n, n))) / 30
    posterior = Posterior(random.standard_normal(n), factor, {}, {"forces": 1.0}, {}, 0.0, 1, 1)
    matrix = 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    return ForceField(BayesianModel(expansion, posterior), Supercell(crystal, matrix))


def displaced(force_field: ForceField, count: int) -> np.ndarray:
    ideal = force_field.supercell.positions
    return (ideal + np.random.default_rng(3).normal(0, 0.05, (count, 64, 3)))[:, SHUFFLED]


def evaluate(force_field: ForceField, choice: ExtrasChoice, count: int = 3, strain: float = 0.0):
    evaluator = Evaluator(force_field, 17, choice)
    cell = force_field.supercell.lattice * (1 + strain)
    placed = evaluator.place(cell, displaced(force_field, count) * (1 + strain))
    result = evaluator.predict(placed, choice.has_errors)
    return evaluator.evaluations(placed, result), result


@pytest.mark.parametrize("strain", [0.0, 0.01])
def test_all_beads_send_the_keys_that_were_asked_for(force_field, strain) -> None:
    evaluations, _ = evaluate(force_field, ExtrasChoice.of(EXTRAS), 3, strain)
    assert [set(json.loads(one.extras)) for one in evaluations] == [set(EXTRAS)] * 3
    assert all(one.extras.isascii() for one in evaluations)


def test_errors_are_those_of_the_model_in_the_users_order(force_field) -> None:
    names = ["force_std", "force_std_max", "force_std_mean", "model_version"]
    evaluations, result = evaluate(force_field, ExtrasChoice.of(names))
    for index, evaluation in enumerate(evaluations):
        extras = json.loads(evaluation.extras)
        std = np.array(extras["force_std"])
        np.testing.assert_array_equal(std, result.force_std[index][SHUFFLED])
        assert extras["force_std_max"] == std.max()
        assert extras["force_std_mean"] == pytest.approx(std.mean())
        assert extras["model_version"] == 17


def test_the_mean_of_the_committee_is_what_i_pi_gets_as_energy_and_forces(force_field) -> None:
    names = ["committee_pot", "committee_force", "committee_virial"]
    evaluations, result = evaluate(force_field, ExtrasChoice.of(names, 6))
    for evaluation in evaluations:
        extras = json.loads(evaluation.extras)
        energies, forces = np.array(extras["committee_pot"]), np.array(extras["committee_force"])
        assert forces.shape == (6, 192)
        assert np.ptp(energies) > 0 and np.ptp(forces, axis=0).min() > 0
        close = {"rtol": 1e-7, "atol": 1e-9}
        np.testing.assert_allclose(energies.mean() * HARTREE, evaluation.energy, **close)
        mean = forces.mean(axis=0).reshape(64, 3) * (HARTREE / BOHR)
        np.testing.assert_allclose(mean, evaluation.forces, **close)
        virials = np.array(extras["committee_virial"]).reshape(6, 3, 3) * HARTREE
        np.testing.assert_allclose(virials.mean(axis=0), evaluation.virial, **close)
    assert result.force_std is None


def test_nothing_is_sent_where_nothing_is_asked_for(force_field) -> None:
    evaluations, result = evaluate(force_field, ExtrasChoice.of([]))
    assert [one.extras for one in evaluations] == [""] * 3
    assert result.force_std is None


@pytest.mark.parametrize(
    ("names", "members", "message"),
    [
        (["force_error"], None, "no extras named 'force_error'; known: force_std_max"),
        (["force_std", "force_std"], None, "listed twice"),
        (["force_std"], 8, "nothing of it is sent: add committee_pot"),
        (["committee_pot"], 7, "an even number from 2 to 1000"),
        (["committee_pot"], -2, "an even number from 2 to 1000"),
        (["committee_pot"], 1002, "an even number from 2 to 1000"),
    ],
)
def test_a_choice_that_cannot_be_sent_is_refused(names, members, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ExtrasChoice.of(names, members)
