"""SIGKILL for one process after the other: the run goes on, and its record is whole.

The reference notes every calculation in a file, by the positions it was given, so that a label
which is computed twice is seen.
"""

import os
import signal
import time
from collections import Counter

import numpy as np
import pytest

from anharm.configuration import load_configuration
from anharm.server.beads import BeadCounts
from anharm.server.calm import LONGEST_CALM
from anharm.server.convergence_record import expected_gains, has_converged
from anharm.server.decision import ObservedStep, decide
from anharm.server.record_schema import content_hash
from anharm.server.resumption import restore_states

PATIENCE = 150.0


def count_calculations(job):
    """Let the reference note what it computes; one line, written at once, is never torn."""
    path = job.folder / "calculations"
    job.use_calculator(
        "    def calculate(self, atoms=None, *a, **k):\n"
        "        import os\n"
        "        from hashlib import sha256\n"
        "        line = sha256(np.round(atoms.positions, 8).tobytes()).hexdigest() + '\\n'\n"
        f"        file = os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "        os.write(file, line.encode())\n"
        "        os.close(file)\n"
        "        super().calculate(atoms, *a, **k)\n"
    )
    return path


def expect_whole(job, calculations=None):
    """Labels unique, computed once each, and the trajectory average that of all observations."""
    settings = load_configuration(job.run_file).training
    with job.record() as record:
        hashes = [content_hash(r.request.positions, r.request.cell) for r in record.labels()]
        assert len(set(hashes)) == len(hashes)
        beads = BeadCounts.from_metadata(record.metadata())
        states, _ = restore_states(record, settings, beads)
        converged, gains = has_converged(record, settings), expected_gains(record)
        ((name, state),) = states.items()
        chunks = list(record.observations(name))
    steps = np.concatenate([chunk.steps for chunk in chunks])
    errors = np.concatenate([chunk.maximum for chunk in chunks]).astype(float)
    assert steps.tolist() == list(range(len(steps)))  # without gap, without repetition
    if state.steps == len(steps) - 1:  # killed before the label of the last step was asked for:
        version = int(chunks[-1].model_version[-1])
        gain = gains.get(version, 0.0)
        seen = ObservedStep(int(steps[-1]), float(errors[-1]), version, 0, converged, gain)
        assert decide(state, seen, settings)[1].label
        steps, errors = steps[:-1], errors[:-1]  # it comes again
    assert state.last_step == steps[-1] and state.steps == len(steps)
    if beads.of(name) == 1:
        np.testing.assert_array_equal(state.errors, errors[-settings.window :])
        assert state.mean_error == pytest.approx(errors[-settings.window :].mean(), rel=1e-12)
    if calculations is not None:
        counts = Counter(calculations.read_text().split())
        assert set(counts.values()) == {1}, counts
        assert len(counts) in (len(hashes), len(hashes) + 1)  # one may be on its way
    return len(steps)


def kill(job, part):
    """Kill a process that is there, and wait until it is gone."""
    victim = job.process_of(part)
    os.kill(victim, signal.SIGKILL)
    job.wait_for(lambda: victim not in job.living())


def revive(job, part):
    """Wait until the supervisor has started the process again."""
    job.wait_for(lambda: any(part in words for words in job.living().values()))


@pytest.mark.parametrize("victim", ["broker", "client", "reference"])
def test_what_is_killed_is_started_again(job, victim):
    steps = 4000
    job.set_steps(steps, checkpoint=1000)
    job.set(training__audit_interval=40, training__budget=1000)
    calculations = count_calculations(job) if victim == "broker" else None
    random = np.random.default_rng(len(victim))
    process = job.start_run()
    for _ in range(3):
        job.wait_for_step(max([0, *job.output_steps()]) + 50)
        time.sleep(random.uniform(0, 0.3))
        kill(job, f"anharm {victim}")
        revive(job, f"anharm {victim}")
    ended = job.end(process, "run", within=PATIENCE)
    job.expect_no_process()
    assert ended.code == 0, ended.err
    assert f"{victim}{'-1' * (victim == 'reference')} was ended by the signal SIGKILL" in ended.out
    assert "restart 3 of 3" in ended.out
    assert job.output_steps() == list(range(0, steps + 1, 10))  # i-PI did not notice
    n_unheard = 3 * LONGEST_CALM if victim == "client" else 0  # answered, and not reported yet
    assert steps + 1 - n_unheard <= expect_whole(job, calculations) <= steps + 1


def kill_the_broker(job, kills, steps):
    """The broker alone is killed and started by hand; the others wait for it and go on."""
    job.set_steps(steps, checkpoint=1000)
    job.set(training__audit_interval=60, training__budget=100_000)
    calculations = count_calculations(job)
    random = np.random.default_rng(0)
    run_file = str(job.run_file)
    others = {name: job.start(name, run_file) for name in ("client", "reference")}
    others["i-pi"] = job.start("i-pi", "input.xml")
    broker = job.start("broker", run_file)
    labels: set[str] = set()
    n_steps = 0
    for number in range(kills):
        seen = max([0, *job.output_steps()])
        job.wait_for_step(seen + 10)
        time.sleep(random.uniform(0, 0.5))
        broker.kill()
        broker.wait(10)
        with job.record() as record:
            hashes = {content_hash(x.request.positions, x.request.cell) for x in record.labels()}
        assert labels <= hashes  # none lost
        labels = hashes
        now = expect_whole(job, calculations)
        assert now >= n_steps  # no observation lost
        n_steps = now
        assert all(other.poll() is None for other in others.values())
        broker = job.start("broker", run_file, "--resume", name=f"broker-{number}")
    return broker, others, calculations


def end_well(job, broker, others, name):
    for other, process in others.items():
        assert job.end(process, other, within=PATIENCE).code == 0
    assert job.end(broker, name, within=PATIENCE).code == 0


def test_five_kills_of_the_broker_by_hand(job):
    steps = 3000
    broker, others, calculations = kill_the_broker(job, 5, steps)
    end_well(job, broker, others, "broker-4")
    assert expect_whole(job, calculations) == steps + 1
    assert job.output_steps() == list(range(0, steps + 1, 10))


def test_kills_of_the_broker_neither_lose_nor_repeat_beads_that_come_together(job):
    """All beads start from one place: the first batch is one configuration and its copies."""
    steps, beads = 600, 4
    job.edit(
        "input.xml",
        ("nbeads='1'", f"nbeads='{beads}'"),
        ("<latency>", f"<batch_size> {beads} </batch_size> <latency>"),
        ("mode='langevin'", "mode='pile_g'"),
    )
    broker, others, calculations = kill_the_broker(job, 3, steps)
    end_well(job, broker, others, "broker-2")
    assert expect_whole(job, calculations) == beads * steps + 1


def n_labels(job):
    with job.record() as record:
        return sum(1 for _ in record.labels())


@pytest.mark.long
def test_a_hundred_kills_of_the_broker(job):
    broker, others, calculations = kill_the_broker(job, 100, 1_000_000)
    before = n_labels(job)
    job.wait_for(lambda: n_labels(job) > before)  # the reference client has come back
    (job.folder / "EXIT").touch()
    end_well(job, broker, others, "broker-99")
    assert expect_whole(job, calculations) > 1000


def test_kills_of_the_lattice_client_by_hand(job):
    """i-PI must be the one that `anharm i-pi` starts."""
    steps = 3000
    job.set_steps(steps, checkpoint=1000)
    run_file = str(job.run_file)
    others = {name: job.start(name, run_file) for name in ("broker", "reference")}
    others["i-pi"] = job.start("i-pi", "input.xml", name="i-pi")
    random = np.random.default_rng(3)
    for number in range(4):
        client = job.start("client", run_file, name=f"client-{number}")
        if number == 3:
            break
        job.wait_for_step(max([0, *job.output_steps()]) + 30)
        time.sleep(random.uniform(0, 0.2))
        client.kill()
    end_well(job, client, others, "client-3")
    assert steps + 1 - 3 * LONGEST_CALM <= expect_whole(job) <= steps + 1
    assert job.output_steps() == list(range(0, steps + 1, 10))
