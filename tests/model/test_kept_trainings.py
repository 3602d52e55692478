"""Labels of real trainings (results/), learnt again, against labels that were kept out of them."""

from pathlib import Path

import ase.io
import numpy as np
import pytest

from anharm.configuration import load_configuration
from anharm.model import StructurePredictor, fit_structures
from anharm.server.learner import build_expansion_of

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(
    ("name", "relative_error"),
    [("si/qe64-300K", 0.024), ("bas/qe64-300K", 0.013), ("bas/chgnet-300K", 0.08)],
)
def test_a_dozen_labels_foretell_new_forces_and_their_errors(name, relative_error):
    labels = ase.io.read(RESULTS / name / "labels.xyz.gz", ":", format="extxyz")
    frames = ase.io.read(RESULTS / name / "frames.xyz.gz", ":", format="extxyz")
    run = load_configuration(RESULTS / name / "run.toml")
    expansion = build_expansion_of(run, "fit", len(labels[0]), len(labels))
    predictor = StructurePredictor(fit_structures(expansion, labels))
    true = np.array([frame.get_forces() for frame in frames])
    answers = [predictor.predict(frame) for frame in frames]
    errors = np.array([answer["forces"] for answer in answers]) - true
    z = errors / np.array([answer["force_std_predictive"] for answer in answers])
    assert len(labels) <= 12
    assert np.sqrt(np.mean(errors**2)) < relative_error * np.sqrt(np.mean(true**2))
    assert 0.63 < np.mean(np.abs(z) < 1) < 0.75
    assert 0.92 < np.mean(np.abs(z) < 1.96) < 0.98
