"""Two codes that label for one model count energies from zeros of their own."""

import logging

import numpy as np
import pytest

from anharm.configuration import load_configuration
from anharm.server.energy_zero import EnergyZero, count_programs
from anharm.server.learner import Learner, build_system
from anharm.server.record import Answer, Record

SPRING = 5.0  # eV/Angstrom^2
RUN = """
[crystal]
primitive = "primitive.xyz"
supercell = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
[expansion]
cutoffs = { 2 = 2.6 }
"""
PRIMITIVE = """2
Lattice="0 2.7 2.7 2.7 0 2.7 2.7 2.7 0" Properties=species:S:1:pos:R:3 pbc="T T T"
Si 0 0 0
Si 1.35 1.35 1.35
"""


@pytest.fixture
def learner(tmp_path):
    """A learner of eight silicon atoms, and its record."""
    (tmp_path / "primitive.xyz").write_text(PRIMITIVE)
    (tmp_path / "run.toml").write_text(RUN)
    configuration = load_configuration(tmp_path / "run.toml")
    directory = tmp_path / "run"
    directory.mkdir()
    with Record.open(directory, create=True) as record:
        yield Learner(build_system(configuration), record, directory, None)


def add_label(learner, record, seed, program, zero, pressure=0.0):
    """Label bonds that are springs along themselves, seen from a zero (eV) of the code's own."""
    supercell = learner.system.supercell
    noise = np.random.default_rng(seed).normal(0, 0.02, (supercell.n_atoms, 3))
    positions = supercell.positions + noise
    energy, forces = _springs(supercell.to_atoms(), noise)
    request = record.request_for(positions, supercell.to_atoms().cell[:], "initial")
    virial = pressure * np.eye(3)
    answer = Answer(energy + zero, forces, virial, client="client 1", program=program)
    label = record.add_label(request.id, answer)
    learner.learn(label)
    return label


def _springs(atoms, displacements):
    from ase.neighborlist import neighbor_list

    first, second, bonds = neighbor_list("ijD", atoms, 2.5)
    unit = bonds / np.linalg.norm(bonds, axis=1)[:, None]
    stretch = np.sum((displacements[second] - displacements[first]) * unit, axis=1)
    forces = np.zeros_like(displacements)
    np.add.at(forces, first, SPRING * stretch[:, None] * unit)
    return float(np.sum(SPRING * stretch**2) / 4), forces


def test_energies_and_pressures_are_those_of_the_first_code(learner, caplog):
    record = learner._record
    for seed in range(3):
        add_label(learner, record, seed, "pw.x", zero=-860.0, pressure=1.0)
    alone = learner.refit()
    with caplog.at_level(logging.WARNING):
        for seed in range(3, 6):
            add_label(learner, record, seed, "abinit", zero=-964.0, pressure=5.0)
    assert "abinit" in caplog.text and "pw.x" in caplog.text
    assert len([event for event in record.events() if event.level == "warning"]) == 1
    both = learner.refit()
    assert both.n_labels == 6
    assert both.energy_per_cell == pytest.approx(-215.0, abs=1e-6)
    assert both.energy_per_cell == pytest.approx(alone.energy_per_cell, abs=1e-6)
    np.testing.assert_allclose(both.virial_per_cell, alone.virial_per_cell, atol=1e-6)
    np.testing.assert_allclose(both.posterior.mean, alone.posterior.mean, rtol=1e-5)


def test_codes_of_unknown_name_are_told_apart_by_their_energies(learner):
    record = learner._record
    first = add_label(learner, record, 0, "", zero=-860.0)
    zero = EnergyZero.of(first)
    assert zero.is_of(add_label(learner, record, 1, "", zero=-860.5))
    assert not zero.is_of(add_label(learner, record, 2, "", zero=-964.0))
    assert zero.is_of(add_label(learner, record, 3, "pw.x", zero=-860.0))


def test_copies_of_one_code_share_their_zero(learner, caplog):
    record = learner._record
    labels = [add_label(learner, record, seed, "pw.x", zero=-860.0) for seed in range(4)]
    zero = EnergyZero.of(labels[0])
    assert all(zero.is_of(label) for label in labels)
    assert caplog.text == "" and count_programs(labels) == {"pw.x": 4}


def test_the_shares_of_several_codes_are_counted(learner):
    record = learner._record
    for seed, program in enumerate(["pw.x", "abinit", "", "abinit"]):
        add_label(learner, record, seed, program, zero=-860.0)
    assert count_programs(record.labels()) == {"pw.x": 1, "abinit": 2, "unknown": 1}
