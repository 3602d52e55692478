"""i-PI mixes the model with the reference: the recipes of inputs/mixing, and what faults do."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from anharm.server.record import Record

PATIENCE = 240.0
N_ATOMS = 8


@pytest.fixture
def mts(mixing_job):
    """Multiple time stepping, with the Tersoff potential as the reference."""
    job = mixing_job("multiple-time-stepping")
    take_few_steps(job, 20)
    job.set(
        reference__command=None,
        reference__input=None,
        reference__calculator={"name": "tersoff-silicon"},
    )
    return job


def take_few_steps(job, steps: int) -> None:
    """A short run that begins with few labels, and is not declared converged as the last one comes.

    A harvested label that comes after convergence is kept, and not learnt.
    """
    job.set_steps(steps, checkpoint=2)
    job.set(training__initial_configurations=4, training__convergence_refits=1000)


def harvested(job) -> list:
    """The labels that only the dynamics wanted."""
    if not (job.directory / "record.sqlite").exists():
        return []
    with job.record() as record:
        return [label for label in record.labels() if label.request.is_harvested]


def column(job, name: str) -> np.ndarray:
    """A property that i-PI wrote, in the order of the input."""
    names = "step", "time", "conserved", "temperature", "kinetic", "potential", "model", "reference"
    table: np.ndarray = np.loadtxt(job.directory / "silicon.out")
    return table[:, names.index(name)]


@pytest.mark.parametrize(
    ("kind", "steps", "n_calls"),
    [
        ("multiple-time-stepping", 6, 1 + 6),
        ("ring-polymer-contraction", 4, 2 * (1 + 4)),
        ("weighted-sum", 8, 1 + 8),
    ],
)
def test_a_recipe_runs_with_pw_x(mixing_job, require_program, kind, steps, n_calls):
    """Every answer of pw.x to i-PI is a label, none is computed twice, and energy is conserved."""
    require_program("pw.x")
    job = mixing_job(kind)
    take_few_steps(job, steps)
    ended = job.run(within=PATIENCE)
    assert ended.code == 0, ended.err
    labels = harvested(job)
    assert {label.answer.program for label in labels} == {"pw.x"}
    # Beads that begin at the same place share a label, where rounding does not tell them apart.
    n_beads = 2 if kind.startswith("ring") else 1
    assert n_calls - n_beads < len(labels) <= n_calls
    assert f"{len(labels)} labels from i-PI's own calls" in ended.out
    with job.record() as record:
        assert len(record.models()) == 1 and record.models()[0].labels == (1, 2, 3, 4)
    conserved, potential = column(job, "conserved"), column(job, "potential")
    assert np.ptp(potential) / N_ATOMS > 5e-3
    assert np.ptp(conserved) < 0.1 * np.ptp(potential)
    if n_beads == 1:
        dft = column(job, "reference")
        np.testing.assert_allclose(dft, [one.answer.energy for one in labels], rtol=0, atol=2e-6)


def test_the_broker_and_a_relay_may_be_killed(mts):
    """i-PI does not notice; no answer is lost, and none is computed twice."""
    mts.slow_labels(0.15)
    process = mts.start_run()
    mts.wait_for(lambda: len(harvested(mts)) >= 4)
    os.kill(mts.process_of("anharm broker"), signal.SIGKILL)
    mts.wait_for(lambda: len(harvested(mts)) >= 8)
    os.kill(mts.process_of("anharm relay"), signal.SIGKILL)
    ended = mts.end(process, "run", PATIENCE)
    assert ended.code == 0, ended.err
    assert "broker was ended by the signal SIGKILL; it is started again" in ended.out
    assert "relay-dft-1 was ended by the signal SIGKILL; it is started again" in ended.out
    assert len(harvested(mts)) == 21
    assert len(column(mts, "time")) == 21
    mts.expect_no_process()


def test_an_i_pi_that_is_tired_of_waiting_gets_its_answer_all_the_same(mts):
    """It drops the relay after its <timeout>; who comes back has the answer from the record."""
    mts.slow_labels(3.0)
    mts.set(training__initial_configurations=1)
    mts.set_steps(1)
    mts.edit(
        "input.xml", ("<latency> 1e-3 </latency>", "<latency>1e-3</latency><timeout>1</timeout>")
    )
    ended = mts.run(within=PATIENCE)
    assert ended.code == 0, ended.err
    assert len(harvested(mts)) == 2 and len(column(mts, "time")) == 2
    assert "imeout" in (mts.directory / "logs" / "i-pi.log").read_text()


def test_harvested_labels_teach_the_model_where_asked(mts):
    """They cost nothing, so they do not count towards the budget."""
    mts.set(training__harvest="learn", training__budget=4)
    ended = mts.run(within=PATIENCE)
    assert ended.code == 0, ended.err
    with mts.record() as record:
        models = record.models()
        labels = list(record.labels())
    assert len(models) == 1 + 21
    assert set(models[-1].labels) == {label.id for label in labels}


def test_kept_labels_are_learnt_when_the_run_is_resumed_to_learn(mts):
    assert mts.run(within=PATIENCE).code == 0
    mts.set(training__harvest="learn")
    mts.set_steps(22, checkpoint=2)
    assert mts.run("--resume", within=PATIENCE, name="again").code == 0
    with mts.record() as record:
        first, *_, last = record.models()
        assert len(first.labels) == 4
        assert len(last.labels) == record.label_count() >= 4 + 21 + 2


def test_labels_of_one_run_are_the_beginning_of_another(mts):
    """All that was harvested makes the frozen model of the next run, which computes no others."""
    assert mts.run(within=PATIENCE).code == 0
    words = "labels", str(mts.directory), "--xyz", str(mts.folder / "labels.xyz")
    assert mts.command(*words).code == 0
    mts.set(
        training__initial_labels="labels.xyz",
        training__initial_configurations=0,
        training__budget=1,
        run__directory="runs/again",
    )
    ended = mts.run(within=PATIENCE, name="again")
    assert ended.code == 0, ended.err
    assert "25 labels of an earlier run" in ended.out
    with Record.open(mts.folder / "runs" / "again", read_only=True) as record:
        (model,) = record.models()
        origins = [label.request.origin for label in record.labels()]
    assert len(model.labels) == 25
    assert origins == ["given"] * 25 + ["harvested"] * 20  # the first step is known already


def test_by_hand_in_any_order(mts):
    """The relay waits until there is a model, and i-PI until there are clients."""
    names = ("relay", "client", "broker", "reference")
    started = {name: mts.start(name, str(mts.run_file)) for name in names}
    mts.wait_for(lambda: mts.n_labels() >= 4)
    engine = mts.start("i-pi", "input.xml")
    assert mts.end(engine, "i-pi", PATIENCE).code == 0
    for name, process in started.items():
        assert mts.end(process, name, PATIENCE).code == 0, name
    assert len(harvested(mts)) == 21


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"engine__reference_forcefield": "vasp"}, "no <ffsocket name='vasp'>"),
        ({"engine__reference_forcefield": "anharm"}, "anharm is listed in engine.forcefield, too"),
        (
            {"engine__reference_forcefield": None},
            "harvest has no effect without engine.reference_forcefield",
        ),
        ({"training__audit_interval": 5}, 'audit_interval has no effect with rule = "none"'),
    ],
)
def test_a_mistake_is_named_before_anything_starts(mts, settings, expected):
    mts.set(**settings)
    ended = mts.run(within=PATIENCE)
    assert ended.code == 2
    assert expected in ended.message
