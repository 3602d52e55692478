"""The average error of each model version."""

import numpy as np
import pytest

from anharm.server.error_history import ErrorHistory
from anharm.server.record import ModelVersion, Record


@pytest.fixture
def record(tmp_path):
    with Record.open(tmp_path / "run", create=True) as record:
        yield record


def test_the_error_of_a_version_is_the_average_of_the_steps_it_drove():
    history = ErrorHistory()
    history.refitted(1, 2, 40.5)
    for step in range(10):
        history.observe(1, step, [0.1 * (step + 1)])
    history.refitted(2, 3, 41.0)
    history.observe(2, 10, [0.3])
    assert history.steps == 11
    (first,) = history.refits(minimum_steps=10)
    assert (first.labels, first.step, first.determined, first.targets) == (2, 0, 40.5, 0)
    assert first.error == pytest.approx(0.55)
    assert [refit.step for refit in history.refits(minimum_steps=1)] == [0, 10]


def test_the_history_of_a_resumed_run_is_that_of_the_record(record):
    errors = {1: [0.5, 0.4, 0.3], 2: [0.2, 0.1]}
    history = ErrorHistory()
    step = 0
    for version, values in errors.items():
        labels = tuple(range(version + 1))
        gammas = {"effective_parameters": {"2": 10.0, "3": 20.0 * version}}
        record.add_model(ModelVersion(version, "m.h5", "0", labels, gammas))
        history.refitted(version, len(labels), 10.0 + 20.0 * version)
        history.observe(version, step, values)
        for error in values:
            record.observe("a", step, [b"%8d" % step], np.array([[error, 0, 0, 0]]), version)
            step += 1
    again = ErrorHistory.from_record(record)
    for ours, theirs in zip(history.refits(1), again.refits(1), strict=True):
        assert (ours.labels, ours.step) == (theirs.labels, theirs.step)
        assert ours.determined == theirs.determined
        assert ours.error == pytest.approx(theirs.error)
    assert np.isclose(sum(again.sums.values()), 1.5)
