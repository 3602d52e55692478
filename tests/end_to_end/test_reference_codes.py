"""The recipes for reference codes, from `anharm run` to a model."""

from __future__ import annotations

import re

import numpy as np
import pytest

from anharm.model.storage import load_model
from anharm.server.reference_output import NOT_CONVERGED

PATIENCE = 240.0


@pytest.fixture
def take(new_job, require_program):
    """Take a recipe of inputs/si, with few steps of dynamics."""

    def make(run_file: str, engine_input: str, *programs: str, steps: int = 30):
        for program in programs:
            require_program(program)
        job = new_job(run_file)
        job.set_steps(steps, name=engine_input)
        return job

    return make


def test_lammps_trains_a_model(take):
    job = take("lammps/run.toml", "lammps/input.xml", "lmp", steps=300)
    assert job.run(within=PATIENCE).code == 0
    with job.record() as record:
        labels = list(record.labels())
        assert not list(record.rejected_labels())
    assert {label.answer.program for label in labels} == {"lmp"}
    last = labels[-1]
    assert last.prediction is not None
    assert last.prediction.force_rmse < 0.05 * np.sqrt(np.mean(last.answer.forces**2))


def test_pw_x_and_abinit_label_for_one_model(take):
    """Their energies are 13 eV per atom apart, and nothing of that is in the model."""
    job = take("run-qe-abinit.toml", "qe8/input.xml", "pw.x", "abinit")
    ended = job.run(within=PATIENCE)
    assert ended.code == 0
    assert re.search(r"several codes +\d+ by (pw\.x|abinit), \d+ by (pw\.x|abinit)", ended.out)
    with job.record() as record:
        labels = list(record.labels())
        warnings = [event.text for event in record.events() if event.level == "warning"]
        model = load_model(job.directory / record.models()[-1].path)
    assert any("two codes" in text for text in warnings)
    energies = {name: [] for name in ("pw.x", "abinit")}
    for label in labels:
        energies[label.answer.program].append(label.answer.energy / 8)
    assert min(map(len, energies.values())) >= 1
    assert abs(np.mean(energies["pw.x"]) - np.mean(energies["abinit"])) > 10
    # Two atoms per cell; what the first code says of the ideal crystal, less the thermal energy.
    first = np.mean(energies[labels[0].answer.program])
    assert model.energy_per_cell / 2 == pytest.approx(first, abs=0.2)


@pytest.mark.parametrize(
    ("code", "run_file", "program", "file", "before", "after"),
    [
        ("ABINIT", "abinit8/run.toml", "abinit", "abinit8/run.abi", "nstep 50", "nstep 3"),
        ("CP2K", "cp2k8/run.toml", "cp2k.psmp", "cp2k8/cp2k.inp", "MAX_SCF 50", "MAX_SCF 3"),
    ],
)
def test_a_code_that_never_converges_ends_the_run(
    take, code, run_file, program, file, before, after
):
    """After a bounded number of tries, in the code's own words; no such force is learnt."""
    job = take(run_file, run_file.replace("run.toml", "input.xml"), program)
    job.edit(file, (before, after))
    job.set(reference__attempts=2, training__initial_configurations=1)
    ended = job.run(within=PATIENCE)
    assert ended.code == 1
    assert re.search(NOT_CONVERGED[code], ended.message)
    assert "attempt 2 of 2" in ended.message and "reference-1.log" in ended.message
    with job.record() as record:
        assert record.label_count() == 0
        rejected = list(record.rejected_labels())
    assert len(rejected) == 2
    assert all(re.search(NOT_CONVERGED[code], " ".join(label.reasons)) for label in rejected)


def test_chgnet_trains_a_model(take):
    """Any ASE calculator does; this one is installed with the extra `reference`."""
    pytest.importorskip("chgnet", reason="CHGNet is not installed (the extra `reference`)")
    job = take("run-chgnet.toml", "input.xml", steps=100)
    assert job.run(within=PATIENCE).code == 0
    with job.record() as record:
        labels = list(record.labels())
    assert len(labels) >= 3
    rms = np.sqrt(np.mean([np.mean(label.answer.forces**2) for label in labels]))
    assert 0.1 < rms < 5.0
    assert all(label.answer.virial is not None for label in labels)
