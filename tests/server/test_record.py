"""The record: no label is lost, none is asked for twice, and one broker owns it."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.errors import ConfigurationError, RunFailed
from anharm.server.decision import ObservedStep, TrajectoryState, decide
from anharm.server.record import Answer, ModelVersion, Observations, Prediction, Record
from anharm.server.record_schema import content_hash

CELL = np.diag([5.4, 5.4, 5.4])


def positions(seed: int, atoms: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(atoms, 3))


def answer(seed: int = 0, energy: float = -1.5) -> Answer:
    virial = np.arange(9.0).reshape(3, 3)
    return Answer(energy, positions(100 + seed), virial + virial.T, '{"a": 1}', "pw.x", 2.5)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.open(tmp_path / "run", create=True)


def test_a_label_is_read_back_bit_by_bit(record: Record) -> None:
    request = record.request_for(positions(1), CELL, "initial")
    prediction = Prediction(-1.4, 0.03, 2)
    record.add_label(request.id, answer(), prediction=prediction)
    (label,) = record.labels()
    assert (label.request.positions == positions(1)).all() and (label.request.cell == CELL).all()
    assert (label.answer.forces == answer().forces).all()
    assert label.answer.virial is not None and (label.answer.virial == answer().virial).all()
    assert label.answer.energy == -1.5 and label.answer.extras == '{"a": 1}'
    assert label.prediction == prediction and label.request.state == "labelled"


def test_what_was_predicted_of_a_label_is_kept_component_by_component(record: Record) -> None:
    request = record.request_for(positions(1), CELL, "initial")
    arrays = [positions(seed) for seed in (2, 3, 4)]
    label = record.add_label(request.id, answer(), prediction=Prediction(-1.4, 0.03, 2, *arrays))
    kept = label.prediction
    assert kept is not None
    for array, stored in zip(
        arrays, (kept.forces, kept.force_std, kept.predictive_force_std), strict=True
    ):
        assert stored is not None and (stored == array).all()


def test_a_request_says_who_computes_it_and_since_when(record: Record) -> None:
    request = record.request_for(positions(1), CELL, "initial")
    assert request.client == "" and request.created > 0
    record.set_request_client(request.id, "client 1 (process 7)")
    changed = record.request(request.id)
    assert changed.client == "client 1 (process 7)"
    assert changed.created == request.created and changed.updated >= request.updated


def test_the_same_configuration_is_one_request(record: Record) -> None:
    first = record.request_for(positions(1), CELL, "initial")
    record.add_label(first.id, answer())
    second = record.request_for(positions(1) * 1.0, CELL, "audit")
    assert second.id == first.id and second.state == "labelled"
    moved = positions(1)
    moved[0, 0] = np.nextafter(moved[0, 0], 1.0)
    assert record.request_for(moved, CELL, "audit").id != first.id


@given(seed=st.integers(0, 1000))
def test_the_content_hash_tells_numbers_apart_but_not_the_signs_of_zero(seed: int) -> None:
    here = np.round(positions(seed), 0)
    assert content_hash(here, CELL) == content_hash(np.where(here == 0, -0.0, here), CELL)
    assert content_hash(here, CELL) != content_hash(here, CELL + 1e-12)
    assert content_hash(here, CELL) != content_hash(here + 1.0, CELL)


def test_a_second_answer_changes_nothing(record: Record) -> None:
    request = record.request_for(positions(1), CELL, "initial")
    first = record.add_label(request.id, answer(energy=-1.0))
    second = record.add_label(request.id, answer(energy=-2.0))
    assert second.id == first.id and record.label_count() == 1
    assert [label.answer.energy for label in record.labels()] == [-1.0]


def test_a_rejected_answer_is_kept_but_is_no_label(record: Record) -> None:
    request = record.request_for(positions(1), CELL, "initial")
    record.start_attempt(request.id)
    record.add_label(request.id, answer(), accepted=False, reasons=["net force 3 eV/A"])
    assert list(record.labels()) == []
    assert next(record.rejected_labels()).reasons == ("net force 3 eV/A",)
    assert record.start_attempt(request.id) == 2
    record.add_label(request.id, answer())
    assert record.label_count() == 1


def test_pending_requests_are_those_without_a_final_answer(record: Record) -> None:
    ids = [record.request_for(positions(n), CELL, "initial").id for n in range(5)]
    record.start_attempt(ids[1])
    record.add_label(ids[2], answer())
    record.set_request_state(ids[3], "quarantined")
    record.set_request_state(ids[4], "failed")
    record.set_request_state(ids[2], "queued")
    assert [request.id for request in record.pending_requests()] == ids[:2]
    assert record.request_counts()["labelled"] == 1


def test_a_decision_is_stored_with_its_request(record: Record) -> None:
    _, decision = decide(
        TrajectoryState("a"), ObservedStep(3, 0.5, 1), TrainingSection(maximum=0.1)
    )
    request = record.request_for(positions(1), CELL, decision.rule, decision)
    assert (request.trajectory, request.step, request.reason) == ("a", 3, "maximum")
    assert record.decisions() == [decision] and request.decision_id is not None


def test_forces_of_other_atoms_are_refused(record: Record) -> None:
    request = record.request_for(positions(1), CELL, "initial")
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        record.add_label(request.id, Answer(0.0, np.zeros((4, 3))))


def test_models_events_metadata_and_states_are_kept(tmp_path: Path) -> None:
    model = ModelVersion(1, "models/1.h5", "ab", (1, 2, 3), {"beta": 2.5})
    with Record.open(tmp_path, create=True, metadata={"configuration": "text"}) as record:
        record.add_model(model)
        record.log("started")
        record.set_trajectory_state("a", TrajectoryState("a").as_dict())
    with Record.open(tmp_path) as record:
        stored = record.models()[0]
        assert (stored.labels, stored.hyperparameters) == ((1, 2, 3), {"beta": 2.5})
        assert [event.text for event in record.events()] == ["started"]
        assert record.metadata()["configuration"] == "text"
        assert "version.ipi" in record.metadata()
        assert TrajectoryState.from_dict(record.trajectory_states()["a"]).trajectory == "a"


def test_observations_come_back_in_order(record: Record) -> None:
    for first in (100, 0):
        column = first + np.arange(100.0)
        record.add_observations(
            Observations("a", first, column, column / 2, column / 3, -column, np.full(100, 7)),
            state={"last_step": first},
        )
    chunks = list(record.observations("a"))
    assert np.concatenate([chunk.steps for chunk in chunks]).tolist() == list(range(200))
    np.testing.assert_allclose(chunks[1].rms, chunks[1].maximum / 3, rtol=1e-6)
    assert (chunks[0].energy == -np.arange(100.0)).all() and set(chunks[0].model_version) == {7}
    assert list(record.observations("b")) == []


def test_labels_are_exported_with_forces_and_stress(record: Record, tmp_path: Path) -> None:
    silicon = bulk("Si", cubic=True)
    virial = np.diag([1.0, 2.0, 3.0])
    for n, given_virial in enumerate([virial, None]):
        silicon.positions[0] += 0.01 * (n + 1)
        request = record.request_for(silicon.positions, silicon.cell.array, "initial")
        record.add_label(request.id, Answer(-3.0, positions(n), given_virial))
    assert record.export_extended_xyz(tmp_path / "labels.xyz", ["Si"] * 8) == 2
    first, second = ase.io.read(tmp_path / "labels.xyz", ":")
    np.testing.assert_allclose(first.get_forces(), positions(0), atol=1e-8)
    expected = -np.array([1, 2, 3, 0, 0, 0]) / silicon.get_volume()
    np.testing.assert_allclose(first.get_stress(), expected, atol=1e-8)
    assert first.get_potential_energy() == -3.0 and "stress" not in second.calc.results
    assert second.get_potential_energy() == -3.0 and "program" not in second.info


def test_two_brokers_cannot_share_a_directory(tmp_path: Path) -> None:
    with Record.open(tmp_path, create=True):
        with pytest.raises(RunFailed, match=f"another broker, process {os.getpid()}"):
            Record.open(tmp_path)
        with Record.open(tmp_path, read_only=True) as reader:
            assert reader.label_count() == 0
            with pytest.raises(RunFailed, match="readonly"):
                reader.log("no")
    Record.open(tmp_path).close()


def test_a_new_run_never_overwrites_a_record(tmp_path: Path) -> None:
    Record.open(tmp_path, create=True).close()
    with pytest.raises(ConfigurationError, match="--resume"):
        Record.open(tmp_path, create=True)


def test_an_absent_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no record"):
        Record.open(tmp_path)


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    Record.open(tmp_path, create=True).close()
    connection = sqlite3.connect(tmp_path / "record.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="schema version 99"):
        Record.open(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "record.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(RunFailed, match="damaged"):
        Record.open(tmp_path)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match=r"file/run/record\.sqlite cannot be used"):
        Record.open(tmp_path / "file" / "run", create=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFailed, match=r"Choose a run\.directory"):
        Record.open(tmp_path, create=True)


def test_a_full_disk_loses_nothing_and_says_what_to_do(record: Record) -> None:
    record.request_for(positions(1), CELL, "initial")
    with record._database.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RunFailed, match=r"full.*--resume"):
        for n in range(2, 100):
            record.request_for(positions(n, atoms=500), CELL, "initial")
    assert record.requests()[0].positions.shape == (8, 3)


WRITER = """
import sys
import numpy as np
from pathlib import Path
from anharm.server.record import Answer, Record

directory = Path(sys.argv[1])
record = Record.open(directory, create=not (directory / "record.sqlite").exists())
number = 0
while True:
    number += 1
    request = record.request_for(np.full((64, 3), float(number)), np.eye(3), "initial")
    if request.state == "labelled":
        continue
    record.start_attempt(request.id)
    print("computing", request.id, flush=True)
    record.add_label(request.id, Answer(float(number), np.full((64, 3), number / 7)))
    print("committed", request.id, flush=True)
"""


def test_a_kill_at_any_moment_loses_no_label_and_repeats_none(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    committed: list[int] = []
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        wanted = int(random.integers(1, 60))
        lines = [writer.stdout.readline() for _ in range(wanted)]
        writer.kill()
        lines += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        for line in lines:
            if not line.endswith("\n"):
                continue  # the kill cut it short, so nothing was acknowledged
            what, number = line.split()
            if what == "committed":
                committed.append(int(number))
            else:
                assert int(number) not in committed, "a label that was there is computed again"
    with Record.open(tmp_path / "run") as record:
        labels = {label.request.id: label for label in record.labels()}
        assert len(labels) == record.label_count()
    assert committed and len(set(committed)) == len(committed)
    assert set(committed) <= set(labels)
    for label in labels.values():
        assert (label.answer.forces == label.answer.energy / 7).all()
        assert (label.request.positions == label.answer.energy).all()
