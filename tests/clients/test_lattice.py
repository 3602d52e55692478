"""Beads that come in one message are evaluated together and observed one by one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from broker_script import MATRIX, Script, beads, model, numbers_of, values_of

from anharm.clients.lattice import LatticeClient
from anharm.errors import AnharmError
from anharm.extras import ExtrasChoice
from anharm.model import ForceField
from anharm.wire.digests import digests_of
from anharm.wire.driver_protocol import Batch, Configuration
from anharm.wire.messages import (
    DIGEST_BYTES,
    ConfigurationSent,
    Observation,
    Observations,
    unpack_vectors,
)

WITHOUT_ERRORS = ExtrasChoice(("model_version",))


@pytest.mark.parametrize("strain", [0.0, 0.01])
@pytest.mark.parametrize("one_cell", [True, False])
def test_a_batch_gives_what_its_configurations_give_alone(strain: float, one_cell: bool) -> None:
    supercell, positions = beads(5)
    cells = np.repeat(supercell.lattice[None] * (1 + strain), 5, axis=0)
    positions = positions * (1 + strain)
    if not one_cell:
        cells[3] *= 1.001
        positions[3] *= 1.001
    together, alone = LatticeClient(Script(), MATRIX, None), LatticeClient(Script(), MATRIX, None)
    batch = together.evaluate_batch(Batch(cells, positions, 8))
    assert len(batch) == 5
    for index, found in enumerate(batch):
        expected = alone.evaluate(Configuration(cells[index], positions[index]))
        assert found.energy == pytest.approx(expected.energy, rel=1e-12)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-11)
        np.testing.assert_allclose(found.virial, expected.virial, atol=1e-10)


def test_every_bead_is_observed_once_and_padding_never() -> None:
    supercell, positions = beads(3)
    script = Script()
    client = LatticeClient(script, MATRIX, None)
    cells = np.repeat(supercell.lattice[None], 3, axis=0)
    client.evaluate_batch(Batch(cells, positions, 8))
    client.evaluate_batch(Batch(cells, positions, 3))
    assert script.seen() == [("Observations", 0, 2), ("Observations", 3, 5)]
    assert [n for m in script.heard for n in numbers_of(m)] == list(range(6))


def test_a_model_learnt_in_the_middle_of_a_batch_answers_for_all_of_it() -> None:
    supercell, positions = beads(4)
    script = Script(2)
    client = LatticeClient(script, MATRIX, None)
    cells = np.repeat(supercell.lattice[None], 4, axis=0)
    found = client.evaluate_batch(Batch(cells, positions, 4))
    assert script.seen() == [
        ("Observations", 0, 3),
        ("ConfigurationSent", 2, 2),
        ("Observations", 2, 3),
    ]
    sent = script.heard[1]
    assert isinstance(sent, ConfigurationSent)
    displacements = positions - supercell.positions
    displacements -= displacements.mean(axis=1, keepdims=True)
    expected = ForceField(model(2), supercell).predict(displacements)
    for index, evaluation in enumerate(found):
        assert evaluation.energy == pytest.approx(expected.energies[index], rel=1e-10)
        assert '"model_version": 2' in evaluation.extras


def test_a_long_batch_is_observed_in_parts_and_answered_by_one_model() -> None:
    """Two labels, in the second and in the third part; the first is evaluated again at the end."""
    supercell, positions = beads(20)
    script = Script(9, 17)
    client = LatticeClient(script, MATRIX, None)
    cells = np.repeat(supercell.lattice[None], 20, axis=0)
    found = client.evaluate_batch(Batch(cells, positions, 20))
    assert script.seen() == [
        ("Observations", 0, 7),
        ("Observations", 8, 15),
        ("ConfigurationSent", 9, 9),
        ("Observations", 9, 15),
        ("Observations", 16, 19),
        ("ConfigurationSent", 17, 17),
        ("Observations", 17, 19),
    ]
    displacements = positions - supercell.positions
    displacements -= displacements.mean(axis=1, keepdims=True)
    expected = ForceField(model(3), supercell).predict(displacements)
    assert len(found) == 20
    for index, evaluation in enumerate(found):
        np.testing.assert_allclose(evaluation.forces, expected.forces[index], atol=1e-10)
        assert '"model_version": 3' in evaluation.extras
    client.evaluate_batch(Batch(cells[:1], positions[:1], 1))
    assert script.seen()[-1] == ("Observation", 20, 20)


@pytest.mark.parametrize("extras", [WITHOUT_ERRORS, ExtrasChoice()])
def test_after_a_calm_step_i_pi_is_answered_before_the_broker_hears_of_the_step(
    extras: ExtrasChoice,
) -> None:
    supercell, positions = beads(3)
    script = Script(calm_steps=1)
    client = LatticeClient(script, MATRIX, None, extras=extras)
    cells = np.repeat(supercell.lattice[None], 3, axis=0)
    client.evaluate_batch(Batch(cells, positions, 3))
    assert script.seen() == [("Observations", 0, 2)]
    moved = positions + 0.01 * np.sin(positions)
    found = client.evaluate_batch(Batch(cells, moved, 3))
    assert script.seen() == [("Observations", 0, 2)]
    client.report()
    client.report()
    assert script.seen() == [("Observations", 0, 2), ("Observations", 3, 5)]
    displacements = moved - supercell.positions
    displacements -= displacements.mean(axis=1, keepdims=True)
    expected = ForceField(model(1), supercell).predict(displacements)
    observed = values_of(script.heard[-1])
    for index, evaluation in enumerate(found):
        np.testing.assert_allclose(evaluation.forces, expected.forces[index], atol=1e-10)
        largest = expected.force_std[index].max()
        assert observed[index, 0] == pytest.approx(largest, rel=1e-4)
        sent = json.loads(evaluation.extras).get("force_std_max")
        assert sent == (pytest.approx(largest, rel=1e-4) if extras.has_errors else None)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, calm steps are observed together."""
    monkeypatch.setattr("anharm.clients.lattice.LONGEST_SILENCE", 1e9)


def calm_client(script: Script) -> tuple[LatticeClient, Configuration]:
    supercell, positions = beads(1)
    client = LatticeClient(script, MATRIX, None, extras=WITHOUT_ERRORS)
    return client, Configuration(supercell.lattice, positions[0])


@pytest.mark.usefixtures("patient")
def test_calm_steps_are_observed_together_and_what_is_left_at_the_end() -> None:
    script = Script(calm_steps=3)
    client, configuration = calm_client(script)
    for _ in range(9):
        client.evaluate(configuration)
    client.report()
    expected = [("Observation", 0, 0), ("Observations", 1, 3), ("Observations", 4, 6)]
    assert script.seen() == expected
    client.observe()
    client.observe()
    assert script.seen() == [*expected, ("Observations", 7, 8)]


@pytest.mark.usefixtures("patient")
def test_all_calm_steps_and_the_beads_of_a_calm_one_are_one_message() -> None:
    script = Script(calm_steps=32)
    client, configuration = calm_client(script)
    for _ in range(33):
        client.evaluate(configuration)
    client.report()
    assert script.seen() == [("Observation", 0, 0), ("Observations", 1, 32)]
    supercell, positions = beads(20)
    script = Script(calm_steps=1)
    client = LatticeClient(script, MATRIX, None, extras=WITHOUT_ERRORS)
    for _ in range(2):
        client.evaluate_batch(Batch(np.repeat(supercell.lattice[None], 20, axis=0), positions, 20))
    client.report()
    assert script.seen()[-1] == ("Observations", 20, 39)


@pytest.mark.usefixtures("patient")
def test_configurations_that_the_broker_wants_to_keep_are_sent_one_after_the_other() -> None:
    script = Script(calm_steps=4)
    script.sampled = [2, 3, 5]
    client, configuration = calm_client(script)
    moved = [configuration.positions + 0.001 * step for step in range(8)]
    for positions in moved:
        client.evaluate(Configuration(configuration.cell, positions))
    client.observe()
    seen = [
        ("Observation", 0, 0),
        ("Observations", 1, 4),
        ("ConfigurationSent", 2, 2),
        ("ConfigurationSent", 3, 3),
        ("Observations", 5, 7),
        ("ConfigurationSent", 5, 5),
    ]
    assert script.seen() == seen
    for sent in script.heard:
        if isinstance(sent, ConfigurationSent):
            found = unpack_vectors(sent.positions, len(moved[0]))
            np.testing.assert_array_equal(found, moved[sent.sequence])


@pytest.mark.usefixtures("patient")
def test_a_calm_step_of_a_large_error_is_observed_at_once() -> None:
    script = Script(calm_steps=8)
    script.calm_error = 0.0
    client, configuration = calm_client(script)
    for _ in range(4):
        client.evaluate(configuration)
    client.report()
    assert script.seen() == [("Observation", step, step) for step in range(4)]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("bound, heard", [(1.2, 3), (1.5, 5)])
def test_a_step_that_stands_out_is_noticed_at_once_near_the_bound_and_after_four_far_from_it(
    bound: float, heard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anharm.clients.lattice.LONGEST_WORK", 1e9)  # however slow this machine is
    script = Script(calm_steps=8)
    client, configuration = calm_client(script)
    supercell, _ = beads(1)
    u = configuration.positions - supercell.positions
    u -= u.mean(axis=0)
    script.calm_error = bound * ForceField(model(1), supercell).force_std(u[None]).max()
    for step, stretch in enumerate([1.0, 1.0, 1.0, 1.3, 1.7, 1.7][: heard + 1]):
        assert len(script.heard) == min(step, 1)
        positions = supercell.positions + stretch * u
        client.evaluate(Configuration(configuration.cell, positions))
        client.report()
    assert script.seen() == [("Observation", 0, 0), ("Observations", 1, heard)]


def test_no_step_is_kept_from_the_broker_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anharm.clients.lattice.LONGEST_SILENCE", -1.0)
    script = Script(calm_steps=8)
    client, configuration = calm_client(script)
    for step in range(4):
        client.evaluate(configuration)
        client.report()
        assert script.seen()[-1] == ("Observation", step, step)


@pytest.mark.usefixtures("patient")
def test_calm_steps_in_cells_that_differ_are_observed_together() -> None:
    script = Script(calm_steps=8)
    client, configuration = calm_client(script)
    cells = [configuration.cell * (1 + 1e-4 * step) for step in range(4)]
    for step, cell in enumerate(cells):
        client.evaluate(Configuration(cell, configuration.positions * (1 + 1e-4 * step)))
    client.observe()
    assert script.seen() == [("Observation", 0, 0), ("Observations", 1, 3)]
    positions = configuration.positions[None]
    assert script.heard[-1].configurations == b"".join(
        digests_of(cell, positions * (1 + 1e-4 * step)) for step, cell in enumerate(cells) if step
    )


@pytest.mark.usefixtures("patient")
def test_what_was_answered_before_an_atom_was_lost_is_observed() -> None:
    script = Script(calm_steps=8)
    client, configuration = calm_client(script)
    client.evaluate(configuration)
    client.evaluate(configuration)
    lost = configuration.positions.copy()
    lost[3] += 3.0
    with pytest.raises(AnharmError):
        client.evaluate(Configuration(configuration.cell, lost))
    assert script.seen() == [("Observation", 0, 0), ("Observation", 1, 1)]


@pytest.mark.usefixtures("patient")
def test_a_label_wanted_among_calm_steps_leaves_what_was_answered_as_it_was() -> None:
    """i-PI was answered by the old model: the broker goes on to hear what that one said."""
    script = Script(2, calm_steps=4)
    client, configuration = calm_client(script)
    moved = [configuration.positions + 0.001 * step for step in range(6)]
    for positions in moved[:5]:
        client.evaluate(Configuration(configuration.cell, positions))
    client.report()
    assert script.seen() == [
        ("Observation", 0, 0),
        ("Observations", 1, 4),
        ("ConfigurationSent", 2, 2),
        ("Observations", 2, 4),
    ]
    first, report, sent, rest = script.heard
    assert isinstance(first, Observation) and not first.is_answered
    assert isinstance(report, Observations) and isinstance(rest, Observations)
    assert rest.configurations == report.configurations[DIGEST_BYTES:]
    np.testing.assert_array_equal(values_of(rest), values_of(report)[1:])
    assert rest.model_version == 1 and rest.is_answered
    assert isinstance(sent, ConfigurationSent)
    np.testing.assert_array_equal(unpack_vectors(sent.positions, len(moved[2])), moved[2])
    answer = client.evaluate(Configuration(configuration.cell, moved[5]))
    assert answer.extras == '{"model_version": 2}'


def test_a_jump_is_decided_on_before_it_is_answered() -> None:
    """Exchanged replicas and line searches jump; the error may have jumped, too."""
    supercell, positions = beads(3)
    script = Script(calm_steps=1)
    client = LatticeClient(script, MATRIX, None, extras=WITHOUT_ERRORS)
    for index, one in enumerate(positions):
        client.evaluate(Configuration(supercell.lattice, one))
        assert len(script.heard) == index + 1


def test_a_cell_that_jumps_is_decided_on_before_it_is_answered() -> None:
    supercell, positions = beads(1)
    script = Script(calm_steps=1)
    client = LatticeClient(script, MATRIX, None, extras=WITHOUT_ERRORS)
    for index, scale in enumerate((1.0, 1.02, 0.99)):
        client.evaluate(Configuration(scale * supercell.lattice, scale * positions[0]))
        assert len(script.heard) == index + 1
    client.evaluate(Configuration(0.991 * supercell.lattice, 0.991 * positions[0]))
    assert len(script.heard) == 3  # a barostat's step is answered first


def test_a_step_that_stands_out_after_all_is_labelled_and_the_next_has_the_new_model() -> None:
    supercell, positions = beads(1)
    script = Script(1, calm_steps=1)
    client = LatticeClient(script, MATRIX, None, extras=WITHOUT_ERRORS)
    configuration = Configuration(supercell.lattice, positions[0])
    versions = [client.evaluate(configuration).extras for _ in range(3)]
    assert versions == [f'{{"model_version": {n}}}' for n in (1, 1, 2)]
    kinds = ["Observation", "Observation", "ConfigurationSent", "Observation"]
    assert [kind for kind, _, _ in script.seen()] == kinds
    assert [sequence for _, sequence, _ in script.seen()] == [0, 1, 1, 1]
