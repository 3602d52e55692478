"""`anharm convergence`: errors of model versions on configurations, without the reference."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from anharm.model import StructurePredictor, load_model


@pytest.fixture
def convergence(command):
    return partial(command, "convergence")


@pytest.fixture
def run_with_models(made_run):
    made_run.learn()
    made_run.walk(100)
    made_run.learn(step=100)
    made_run.walk(200, first_step=100)
    made_run.walk(50, trajectory="second")
    made_run.learn(step=300)
    return made_run


def test_every_version_is_judged_on_the_same_configurations(
    convergence, run_with_models, tmp_path: Path
):
    done = convergence(run_with_models.directory, "--json", "--output", tmp_path / "c.svg")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["configurations"] == {
        "second": {"used": 5, "available": 5},
        "trajectory": {"used": 30, "available": 30},
    }
    assert [model["labels"] for model in found["models"]] == [1, 2, 3]

    # The averages are those of the public predictor, configuration by configuration.
    kept = [c for c in run_with_models.record.configurations() if c.trajectory == "second"]
    for model, version in zip(found["models"], run_with_models.record.models(), strict=True):
        learnt = load_model(run_with_models.directory / version.path)
        shares = learnt.posterior.effective_parameters.values()
        assert model["determined_parameters"] == pytest.approx(sum(shares))
        predictor = StructurePredictor(learnt)
        errors = []
        for configuration in kept:
            atoms = run_with_models.atoms.copy()
            atoms.positions = configuration.positions
            errors.append(predictor.predict(atoms)["force_std"].max())
        assert model["average_error"]["second"] == pytest.approx(np.mean(errors), rel=1e-4)
        assert model["largest_error"]["second"] == pytest.approx(np.max(errors), rel=1e-4)

    # More labels, smaller errors; and what only the record knows.
    for name in ("trajectory", "second"):
        errors = [model["average_error"][name] for model in found["models"]]
        assert errors == sorted(errors, reverse=True)
        assert "Over the last 2 refits (2 to 3 labels)" in found["plateau"][name]["reason"]
    assert 0.1 < found["models"][0]["average_error_while_driving"] < 0.2
    assert found["models"][2]["average_error_while_driving"] is None
    labels = list(run_with_models.record.labels())
    assert found["models"][0]["label_force_rmse"] == labels[1].prediction.force_rmse
    assert found["models"][2]["label_force_rmse"] is None
    assert found["declared"] == "" and found["declared_step"] is None
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")


def test_other_configurations_may_be_given_in_any_order_of_their_atoms(
    convergence, run_with_models, tmp_path
):
    structures = [run_with_models.displaced() for _ in range(12)]
    write(tmp_path / "a.xyz", structures, format="extxyz")
    shuffled = [atoms[run_with_models.random.permutation(8)] for atoms in structures]
    write(tmp_path / "b.xyz", shuffled, format="extxyz")
    files = [word for name in "ab" for word in ("--configurations", tmp_path / f"{name}.xyz")]
    done = convergence(run_with_models.directory, *files, "--frames", 5, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["configurations"]["a.xyz"] == {"used": 5, "available": 12}
    for model in found["models"]:
        errors = model["average_error"]
        assert errors["a.xyz"] == pytest.approx(errors["b.xyz"], rel=1e-5)


def test_the_table_says_what_it_is_made_of(convergence, run_with_models):
    run_with_models.record.set_metadata({"converged": "Quiet.", "converged_step": "250"})
    done = convergence(run_with_models.directory)
    text = " ".join(done.out.split())
    assert done.code == 0, done.err
    assert "second: 5 of 5 configurations" in text
    assert "Declared converged during the run, at step 250: Quiet." in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--output", "c.jpg"], 2, "end its name in .pdf"),
        (["--configurations", "absent.xyz"], 2, "absent.xyz does not exist"),
        (["--configurations", "README.md"], 2, "README.md"),
        (["--frames", "0"], 2, "--frames"),
    ],
)
def test_mistakes_are_named(convergence, run_with_models, words, code, said):
    done = convergence(run_with_models.directory, *words)
    assert done.code == code
    assert said in done.err and "Traceback" not in done.err


def test_a_structure_of_another_crystal_is_named(convergence, run_with_models, tmp_path: Path):
    atoms = run_with_models.displaced()
    atoms.positions[3] += 1.5
    write(tmp_path / "far.xyz", [run_with_models.displaced(), atoms], format="extxyz")
    done = convergence(run_with_models.directory, "--configurations", tmp_path / "far.xyz")
    assert done.code == 2
    assert "far.xyz, configuration 1: " in done.err


def test_a_run_that_has_learnt_nothing_yet_says_so(convergence, made_run):
    done = convergence(made_run.directory)
    assert done.code == 1
    assert "has no model yet" in done.err
    made_run.learn()
    done = convergence(made_run.directory)
    assert done.code == 1
    assert "no configuration of a trajectory" in done.err


def test_a_folder_without_a_record_is_named(convergence, tmp_path: Path):
    done = convergence(tmp_path)
    assert done.code == 2
    assert "holds no record of a run" in done.err
