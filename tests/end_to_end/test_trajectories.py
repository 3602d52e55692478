"""Several lattice clients, and several i-PI runs, with one broker and one model."""

import re

import numpy as np
import pytest


def set_beads(job, beads, name="input.xml"):
    path = job.folder / name
    path.write_text(path.read_text().replace("nbeads='1'", f"nbeads='{beads}'"))


def test_two_lattice_clients_share_the_beads_of_one_trajectory(job):
    job.set_steps(30)
    set_beads(job, 4)
    job.set(training__audit_interval=20, training__maximum=1e-3)
    names = {
        "broker": ("broker", "run.toml"),
        "client-1": ("client", "run.toml"),
        "client-2": ("client", "run.toml"),
        "reference": ("reference", "run.toml"),
        "i-pi": ("i-pi", "input.xml"),
    }
    processes = {name: job.start(*words, name=name) for name, words in names.items()}
    for name, process in processes.items():
        ended = job.end(process, name)
        assert ended.code == 0, (name, ended.err)

    # Every configuration is one step of the one trajectory, whichever client evaluated it. All
    # beads begin at one place, and what a client that joins observes first may be taken for what
    # the other one observed last.
    with job.record() as record:
        chunks = list(record.observations())
        decisions = [d for d in record.decisions() if d.verdict == "label"]
        states = record.trajectory_states()
        labels = list(record.labels())
    steps = np.concatenate([chunk.steps for chunk in chunks])
    assert len(steps) in (4 * 31 - 1, 4 * 31)
    assert sorted(steps) == list(range(len(steps)))
    assert set(states) == {"trajectory"}
    assert states["trajectory"]["steps"] == len(steps)
    versions = np.concatenate([c.model_version for c in chunks])[np.argsort(steps)]
    assert len(decisions) >= 3
    assert len({d.step for d in decisions}) == len(decisions)
    # In a synchronous run the step that took a label was answered by the model that knew it.
    learnt = {label.request.step: label.prediction.model_version for label in labels[2:]}
    for step, version in learnt.items():
        assert versions[step] > version
    # Both took part.
    log = (job.folder / "broker.err").read_text()
    shares = [int(n) for n in re.findall(r"left after (\d+) evaluations: i-PI ended", log)]
    assert len(shares) == 2 and min(shares) > 0 and sum(shares) == 4 * 31


def test_labels_on_their_way_when_ipi_ends_are_learnt_before_the_run_ends(job):
    job.use_calculator(
        "    def calculate(self, atoms, *a, **k):\n"
        "        scaled = np.linalg.solve(atoms.cell.T, atoms.positions.T)\n"
        "        if scaled.min() < -1e-9 or scaled.max() >= 1 + 1e-9:\n"
        "            raise ValueError('an atom is outside the box')\n"
        "        time.sleep(2.0)\n        super().calculate(atoms, *a, **k)\n"
    )
    job.set_steps(20)
    job.set(
        run__mode="asynchronous",
        reference__wrap_positions=True,
        training__maximum=1e-7,
        training__minimum_interval=10,
        training__audit_interval=0,
    )
    ended = job.run()
    assert ended.code == 0, ended.err
    with job.record() as record:
        assert record.metadata()["ended"] == "i-PI ended the dynamics"
        assert not record.pending_requests()
        labels, models = list(record.labels()), record.models()
        assert any("are still to come" in event.text for event in record.events())
    # 21 steps of milliseconds ended long before the labels of steps 1 and 11, of 2 s each.
    assert [label.request.step for label in labels] == [None, None, 1, 11]
    assert len(models[-1].labels) == 4
    assert "labels pending" not in ended.out


def test_labels_that_never_came_are_counted_in_the_summary(job):
    job.use_calculator(
        "    def calculate(self, *a, **k):\n"
        "        self.count = getattr(self, 'count', 0) + 1\n"
        "        time.sleep(1000.0 if self.count > 2 else 0.0)\n"
        "        super().calculate(*a, **k)\n"
    )
    job.set_steps(20)
    job.set(
        run__mode="asynchronous",
        reference__time_limit=1.0,
        reference__attempts=1,
        training__maximum=1e-7,
        training__audit_interval=0,
    )
    ended = job.run()
    assert ended.code == 1
    assert "could not be computed" in ended.message and "1 s" in ended.message
    assert "labels pending           2, the first thing on --resume" in ended.out


def second_input(job, name, temperature):
    """Another i-PI input, with a socket, a seed and a temperature of its own."""
    text = (job.folder / "input.xml").read_text()
    address = f"anharm-silicon-{job.mark[:10]}"
    assert address in text
    text = text.replace(address, f"{address}-{name}").replace("31415", "27182")
    (job.folder / f"{name}.xml").write_text(text.replace(" 300 ", f" {temperature} "))


def test_two_ipi_runs_feed_one_model_and_keep_their_averages(job):
    second_input(job, "cold", 50)
    job.set_steps(60)
    job.set_steps(90, name="cold.xml")
    job.set(
        engine__input=["input.xml", "cold.xml"],
        training__audit_interval=15,
        training__minimum_interval=5,
    )
    ended = job.run()
    assert ended.code == 0, ended.err
    with job.record() as record:
        states, models = record.trajectory_states(), record.models()
        labels = list(record.labels())
        decisions = [d for d in record.decisions() if d.verdict == "label"]
        chunks = list(record.observations())
    assert {name: state["steps"] for name, state in states.items()} == {"input": 61, "cold": 91}
    for name, state in states.items():
        steps = np.concatenate([c.steps for c in chunks if c.trajectory == name])
        assert sorted(steps) == list(range(state["steps"]))
    # Both took labels, which are in the one model.
    assert {label.request.trajectory for label in labels} == {None, "input", "cold"}
    assert len(models[-1].labels) == len(labels)
    # The averages that the thresholds were made of are each trajectory's own.
    mean = {n: np.concatenate([c.maximum for c in chunks if c.trajectory == n]) for n in states}
    assert mean["cold"].mean() < 0.8 * mean["input"].mean()
    for decision in decisions:
        before = mean[decision.trajectory][: decision.step]
        assert decision.count == len(before)
        assert decision.mean == pytest.approx(before.mean(), rel=1e-5)

    # Each has its folder; only the one that was made longer goes on.
    assert (job.directory / "cold" / "silicon.out").exists()
    assert job.run("--resume").code == 2
    job.set_steps(80)
    resumed = job.run("--resume", name="resumed")
    assert resumed.code == 0, resumed.err
    with job.record() as record:
        states = record.trajectory_states()
    assert {name: state["steps"] for name, state in states.items()} == {"input": 81 + 1, "cold": 91}


def test_two_lattice_clients_are_started_for_one_socket(job):
    set_beads(job, 4)
    job.set_steps(20)
    job.set(engine__clients=2)
    ended = job.run()
    assert ended.code == 0, ended.err
    assert (job.directory / "logs" / "client-2.log").exists()
    with job.record() as record:
        assert record.trajectory_states()["trajectory"]["steps"] in (4 * 21 - 1, 4 * 21)
