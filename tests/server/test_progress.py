"""Observations on their way to the record, and the error of each model version."""

import numpy as np
import pytest

from anharm.server.progress import ErrorHistory, ObservationLog
from anharm.server.record import ModelVersion, Record
from anharm.wire.messages import Observation


def observation(error, version=1):
    return Observation("client", 0, version, error, error / 2, error / 1.5, -10.0 * error)


@pytest.fixture
def record(tmp_path):
    with Record.open(tmp_path / "run", create=True) as record:
        yield record


def stored(record):
    return [(c.trajectory, list(c.steps), list(c.maximum)) for c in record.observations()]


def test_consecutive_steps_share_a_chunk_and_a_gap_begins_another(record):
    log = ObservationLog("a")
    for step, error in ((0, 0.1), (1, 0.2), (5, 0.3), (6, 0.4)):
        log.add(record, step, observation(error))
    assert stored(record) == [("a", [0, 1], [0.1, 0.2])]
    log.write(record)
    assert stored(record) == [("a", [0, 1], [0.1, 0.2]), ("a", [5, 6], [0.3, 0.4])]


def test_a_step_evaluated_again_by_a_newer_model_counts_once(record):
    log = ObservationLog("a")
    log.add(record, 0, observation(0.1))
    log.add(record, 1, observation(0.9, version=1))
    log.add(record, 1, observation(0.2, version=2))
    log.write(record)
    (chunk,) = record.observations()
    assert list(chunk.maximum) == [0.1, 0.2]
    assert list(chunk.model_version) == [1, 2]
    assert list(chunk.mean) == [0.05, 0.1]
    assert list(chunk.energy) == [-1.0, -2.0]


def test_what_is_written_is_forgotten_and_goes_with_the_state(record):
    log = ObservationLog("a")
    log.add(record, 3, observation(0.1))
    log.write(record, {"last_step": 3})
    log.write(record, {"last_step": 99})  # nothing is held, so nothing is written
    assert record.trajectory_states() == {"a": {"last_step": 3}}
    assert stored(record) == [("a", [3], [0.1])]


def test_the_error_of_a_version_is_the_average_of_the_steps_it_drove():
    history = ErrorHistory()
    history.refitted(1, 2)
    for step in range(10):
        history.observe(1, step, 0.1 * (step + 1))
    history.refitted(2, 3)
    history.observe(2, 10, 0.3)
    assert history.steps == 11
    (first,) = history.refits(minimum_steps=10)
    assert (first.labels, first.step) == (2, 0)
    assert first.error == pytest.approx(0.55)
    assert [refit.step for refit in history.refits(minimum_steps=1)] == [0, 10]


def test_the_history_of_a_resumed_run_is_that_of_the_record(record):
    errors = {1: [0.5, 0.4, 0.3], 2: [0.2, 0.1]}
    history, log = ErrorHistory(), ObservationLog("a")
    step = 0
    for version, values in errors.items():
        labels = tuple(range(version + 1))
        record.add_model(ModelVersion(version, "m.h5", "0", labels, {}))
        history.refitted(version, len(labels))
        for error in values:
            history.observe(version, step, error)
            log.add(record, step, observation(error, version))
            step += 1
    log.write(record)
    again = ErrorHistory.from_record(record)
    for ours, theirs in zip(history.refits(1), again.refits(1), strict=True):
        assert (ours.labels, ours.step) == (theirs.labels, theirs.step)
        assert ours.error == pytest.approx(theirs.error)
    assert np.isclose(sum(again.sums.values()), 1.5)
