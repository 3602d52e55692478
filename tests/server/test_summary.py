"""The summary of a run says what the record holds."""

import numpy as np
import pytest

from anharm.errors import AnharmError
from anharm.server.record import Answer, ModelVersion, Observations, Prediction, Record
from anharm.server.summary import format_summary, summarise

CELL = 5.4 * np.eye(3)


def observe(record, trajectory, first_step, errors):
    errors = np.asarray(errors, float)
    record.add_observations(
        Observations(
            trajectory=trajectory,
            first_step=first_step,
            maximum=errors,
            mean=errors / 3,
            rms=errors / 2,
            energy=np.zeros_like(errors),
            model_version=np.ones(len(errors), dtype=int),
        )
    )


def label(record, seed, rmse=None, accepted=True):
    positions = np.random.default_rng(seed).normal(size=(2, 3))
    request = record.request_for(positions, CELL, "initial")
    prediction = None if rmse is None else Prediction(-1.0, rmse, 1)
    answer = Answer(-1.0, np.zeros((2, 3)))
    record.add_label(request.id, answer, accepted=accepted, prediction=prediction)


@pytest.fixture
def run(tmp_path):
    with Record.open(tmp_path, create=True) as record:
        yield tmp_path, record


def test_a_run_that_learnt(run):
    directory, record = run
    label(record, 0)
    label(record, 1, rmse=0.25)
    label(record, 2, rmse=0.03125)
    label(record, 3, accepted=False)
    lacking = {"lack_of_data": ["order 4 lacks data"]}
    record.add_model(ModelVersion(1, "models/model-0001.h5", "0", (1,), lacking))
    observe(record, "trajectory", 0, [0.4, 0.2, 0.1])
    observe(record, "trajectory", 3, [0.1, 0.02, 0.04])
    summary = summarise(directory, window=2)
    assert (summary.steps, summary.labels, summary.models, summary.quarantined) == (6, 3, 1, 1)
    assert summary.error_start == pytest.approx(0.3)
    assert summary.error_end == pytest.approx(0.03)
    assert summary.label_rmse == (0.25, 0.03125)
    text = format_summary(summary, directory, "trajectory-average")
    assert "0.3000 eV/A at the start, 0.0300 eV/A at the end" in text
    assert "0.2500 eV/A (first) to 0.0312 eV/A (last)" in text
    assert "quarantined answers      1" in text
    assert "warning                  order 4 lacks data" in text
    assert summary.pending == 1 and "labels pending           1" in text  # the quarantined one
    assert "converged                no" in text
    assert f"{directory}/record.sqlite" in text


def test_the_windows_at_start_and_end_do_not_overlap(run):
    directory, record = run
    observe(record, "trajectory", 0, [0.4, 0.4, 0.2, 0.2])
    summary = summarise(directory, window=1000)
    assert summary.error_start == pytest.approx(0.4)
    assert summary.error_end == pytest.approx(0.2)


def test_a_step_made_twice_is_one_step(run):
    directory, record = run
    observe(record, "trajectory", 0, [0.4, 0.4, 0.2])
    observe(record, "trajectory", 2, [0.2, 0.2])
    assert summarise(directory, window=2).steps == 4


def test_convergence_is_told_with_its_reason(run):
    directory, record = run
    record.set_metadata({"converged": "No label was wanted.", "converged_step": "120"})
    text = format_summary(summarise(directory, 10), directory, "fixed")
    assert "converged                at step 120" in text
    assert "No label was wanted." in text


def test_a_run_that_shall_not_label_is_not_called_unconverged(run):
    directory, _ = run
    text = format_summary(summarise(directory, 10), directory, "none")
    assert 'converged                not asked for: training.rule = "none"' in text
    assert "--resume" not in text


def test_a_run_that_has_not_begun(run):
    directory, _ = run
    summary = summarise(directory, 10)
    assert (summary.steps, summary.labels, summary.error_start) == (0, 0, None)
    assert "average error" not in format_summary(summary, directory, "trajectory-average")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(AnharmError, match=str(tmp_path)):
        summarise(tmp_path / "nothing", 10)
