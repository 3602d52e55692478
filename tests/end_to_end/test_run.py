"""`anharm run` from beginning to end, with the real i-PI and real reference codes."""

import contextlib
import json
import re
import socket

import numpy as np
import pytest

from anharm.clients.calculators import make_calculator
from anharm.model import ForceField, Supercell, load_model
from anharm.model.sites import assign_sites
from anharm.server.engine_input import read_engine_input

EXTRA = "<trajectory filename='{0}' stride='{1}' extra_type='{0}'> extras </trajectory>"


def write_every_step(job):
    """Let i-PI write the error of every step, and the model that gave its forces."""
    every = EXTRA.format("force_std_max", 1) + EXTRA.format("model_version", 1)
    job.edit("input.xml", (EXTRA.format("force_std_max", 10), every))


def expect_record_of_what_ipi_was_answered(job, chunks):
    """The model that drove each step, and its error, are in the record."""
    for name, column in (("model_version", "model_version"), ("force_std_max", "maximum")):
        answered = np.loadtxt(job.directory / f"silicon.{name}_0", comments="#")
        recorded = np.concatenate([getattr(chunk, column) for chunk in chunks])
        np.testing.assert_allclose(recorded, answered, rtol=1e-6)


def test_a_run_learns_while_ipi_goes_on(job):
    job.set(training__audit_interval=100, training__window=100)
    write_every_step(job)
    ended = job.run()
    assert ended.code == 0, ended.err
    assert not ended.err

    # i-PI's own output is whole, with the errors beside it.
    assert job.output_steps() == list(range(0, 301, 10))
    errors = np.loadtxt(job.directory / "silicon.force_std_max_0", comments="#")
    assert errors.size == 301
    assert (errors > 0).all()

    # Models were swapped in on the way, and the log of i-PI knows one client and no trouble.
    summary = summary_of(ended.out)
    with job.record() as record:
        models, labels = record.models(), list(record.labels())
        chunks = list(record.observations())
        sample = record.configuration_steps("trajectory")
    versions = np.concatenate([chunk.model_version for chunk in chunks])
    assert len(models) >= 2
    # The first model, of one label, only displaces the second initial configuration.
    assert set(versions) == {model.version for model in models[1:]}
    assert [len(model.labels) for model in models[:2]] == [1, 2]
    assert (np.diff(versions) >= 0).all()
    expect_record_of_what_ipi_was_answered(job, chunks)

    # Configurations are kept for later models, but for those that wanted a label.
    wanted = {label.request.step for label in labels}
    assert set(range(0, 301, 10)) - set(sample) <= wanted
    assert sum(label.prediction is not None for label in labels) == len(labels) - 1
    for label in labels[1:]:
        difference = label.prediction.forces - label.answer.forces
        assert np.sqrt(np.mean(difference**2)) == pytest.approx(label.prediction.force_rmse)
        assert (label.prediction.predictive_force_std > label.prediction.force_std).all()
        assert label.request.client == label.answer.client

    # What has ended waits for nobody.
    assert not re.search(r"(?m)^stopped.*waiting", ended.out)

    # The summary says what the record holds.
    assert int(summary["steps"]) == len(versions) == 301
    assert int(summary["labels"]) == len(labels)
    assert int(summary["model versions"]) == len(models)
    maxima = np.concatenate([chunk.maximum for chunk in chunks])
    start, end = (float(x) for x in re.findall(r"\d+\.\d+", summary["average error"]))
    assert start == pytest.approx(maxima[:100].mean(), abs=6e-5)
    assert end == pytest.approx(maxima[-100:].mean(), abs=6e-5)
    predicted = [label.prediction.force_rmse for label in labels if label.prediction is not None]
    assert f"{predicted[0]:.4f} eV/A (first)" in summary["force RMSE of labels"]
    assert f"{predicted[-1]:.4f} eV/A (last)" in summary["force RMSE of labels"]
    assert summary["converged"].startswith("no")
    assert str(job.directory) in summary["record"]

    # Plain lines of progress where there is no terminal.
    assert "initial labels  step       0  labels    0" in ended.out
    assert "training " in ended.out
    assert "\x1b" not in ended.out

    _expect_true_labels(job, labels)
    _expect_good_model(job, labels, models[-1])
    _expect_convergence(job, len(models), sample)


def _expect_true_labels(job, labels):
    """The labels are what the reference says of the very configurations."""
    atoms = read_engine_input(job.folder / "input.xml").structure
    atoms.calc = make_calculator("tersoff-silicon")
    for label in (labels[0], labels[-1]):
        atoms.positions = label.request.positions
        np.testing.assert_allclose(label.answer.forces, atoms.get_forces(), atol=1e-8)
        assert label.answer.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    reasons = [label.request.reason for label in labels]
    assert reasons[0].startswith("initial")
    assert any("of trajectory trajectory" in reason for reason in reasons)


def _expect_convergence(job, n_models, sample):
    """The record's sample and i-PI's own trajectory, of ten steps each, tell the same."""
    own = job.directory / "silicon.pos_0.xyz"
    curves = []
    for words in ([], ["--configurations", str(own)]):
        ended = job.command("convergence", str(job.directory), "--json", *words)
        assert ended.code == 0, ended.err
        found = json.loads(ended.out)
        assert len(found["models"]) == n_models
        curves.append([next(iter(model["average_error"].values())) for model in found["models"]])
        (used,) = found["configurations"].values()
        assert used["used"] == (31 if words else len(sample))
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.15)


def _expect_good_model(job, labels, version):
    model = load_model(job.directory / version.path)
    supercell = [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]
    cells = Supercell(model.expansion.crystal, np.array(supercell))
    field = ForceField(model, cells)
    squares = []
    for label in labels:
        sites = assign_sites(cells, label.request.positions, None, None)
        result = field.predict(sites.displacements(label.request.positions)[None])
        squares.append((sites.to_user_order(result.forces[0]) - label.answer.forces) ** 2)
    assert np.sqrt(np.mean(squares)) < 0.02  # eV/A; the forces are of the order of 0.5


def test_a_run_ends_when_training_has_converged(job):
    job.set_steps(100_000)
    job.set(
        training__quiet_steps=60,
        training__window=50,
        training__factor=50.0,
        training__audit_interval=20,
        training__convergence_refits=2,
        run__stop_when_converged=True,
    )
    ended = job.run()
    assert ended.code == 0, ended.err
    summary = summary_of(ended.out)
    assert summary["converged"].startswith("at step")
    assert int(summary["steps"]) < 100_000
    with job.record() as record:
        assert record.metadata()["converged"] in ended.out


@pytest.mark.parametrize("after", ["watch", "freeze"])
def test_a_step_that_stands_out_after_convergence_resumes_training(job, after):
    settings = {
        "training__quiet_steps": 60,
        "training__window": 50,
        "training__audit_interval": 20,
        "training__convergence_refits": 2,
        "training__after_convergence": after,
    }
    job.set(training__factor=50.0, **settings)
    assert job.run().code == 0
    with job.record() as record:
        assert record.metadata()["converged"]
        n_labels = len(list(record.labels()))

    # From here on steps stand out that lie barely above the average.
    job.set(training__factor=1.1, **settings)
    job.set_steps(400)
    ended = job.run("--resume", name="resumed")
    assert ended.code == 0, ended.err
    with job.record() as record:
        known = record.metadata()
        new = [r.reason for r in record.requests() if r.state == "labelled"][n_labels:]
        told = [event.text for event in record.events() if "stands out" in event.text]
    if after == "freeze":
        assert known["converged"] and not new and not told
    else:
        assert new[0].startswith("trajectory-average") and "Training goes on" in told[0]


def test_after_convergence_production_goes_on_with_a_frozen_model(job):
    job.set(
        training__quiet_steps=60,
        training__window=50,
        training__factor=50.0,
        training__audit_interval=20,
        training__convergence_refits=2,
    )
    ended = job.run()
    assert ended.code == 0, ended.err
    assert job.output_steps()[-1] == 300
    with job.record() as record:
        known = record.metadata()
        last_model = record.models()[-1]
        decided = [request.step for request in record.requests() if request.step is not None]
        chunks = list(record.observations())
        sample = record.configuration_steps("trajectory")
    declared = int(known["converged_step"])
    assert 60 <= declared < 250
    assert known["phase"] == "stopped" and known["convergence"] == known["converged"]

    # Audits are due every 20 steps, but none is taken any more, and no model follows.
    assert decided and max(decided) < declared
    steps = np.concatenate([chunk.steps for chunk in chunks])
    versions = np.concatenate([chunk.model_version for chunk in chunks])
    assert set(versions[steps >= declared]) == {last_model.version}
    assert len(last_model.labels) == job.n_labels()
    assert max(sample) > declared  # configurations are still kept, for later models


def test_a_run_over_tcp(job):
    job.set_steps(100)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.socket()) for _ in range(3)]
        for server in servers:
            server.bind(("127.0.0.1", 0))
        ports = [server.getsockname()[1] for server in servers]
    xml = (job.folder / "input.xml").read_text()
    tcp = f"<address> 127.0.0.1 </address><port> {ports[0]} </port>"
    xml = re.sub("<address>.*</address>", tcp, xml.replace("mode='unix'", "mode='inet'"))
    (job.folder / "input.xml").write_text(xml)
    job.set(reference__address=f"tcp://127.0.0.1:{ports[1]}")
    job.set(run__broker=f"tcp://127.0.0.1:{ports[2]}")
    ended = job.run()
    assert ended.code == 0, ended.err
    assert job.output_steps() == list(range(0, 101, 10))


def test_asynchronous_labels_join_when_they_come(job):
    job.set_steps(800)
    job.set(run__mode="asynchronous", training__audit_interval=50)
    write_every_step(job)
    job.slow_labels(0.3)
    ended = job.run()
    assert ended.code == 0, ended.err
    assert job.output_steps() == list(range(0, 801, 10))
    with job.record() as record:
        labels, models = list(record.labels()), record.models()
        chunks = list(record.observations())
    versions = np.concatenate([chunk.model_version for chunk in chunks])
    expect_record_of_what_ipi_was_answered(job, chunks)
    taken = [label.request.step for label in labels if label.request.step is not None]
    assert len(taken) >= 2
    assert len(versions) == 801
    assert set(versions) <= {model.version for model in models}
    assert len(set(versions)) >= 2
    # i-PI did not wait: the step after the first label was still made by the model before it.
    assert versions[taken[0] + 1] == versions[taken[0]]


def test_quantum_espresso_labels_a_run(qe_job, require_program):
    require_program("pw.x")
    ended = qe_job.run()
    assert ended.code == 0, ended.err
    summary = summary_of(ended.out)
    assert int(summary["steps"]) == 41
    with qe_job.record() as record:
        labels = list(record.labels())
    assert len(labels) >= 3
    assert not (qe_job.folder / "out").exists()  # what pw.x writes stays in its own folder
    assert (qe_job.directory / "reference-1" / "pw.in").exists()
    for label in labels:
        assert label.answer.virial is not None
        assert -120 < label.answer.energy / 8 < -100  # eV per atom with this pseudopotential
        assert np.abs(label.answer.forces.sum(axis=0)).max() < 0.05


def summary_of(text):
    """The summary's lines by their names."""
    rows = (re.match(r"([a-zA-Z][\w' -]*?)  +(\S.*)", line) for line in text.splitlines())
    return {row[1]: row[2] for row in rows if row}
