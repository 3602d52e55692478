"""Ctrl-C and kills: the run ends at once and clearly, and `--resume` finishes the job."""

import os
import re
import signal

import pytest

from anharm.server.record_schema import content_hash

STEPS = 1500  # two seconds of dynamics, so that a signal meets it in the middle
BOUND = 30.0  # seconds from the signal to the end of the run and of every process


def label_hashes(job):
    with job.record() as record:
        requests = {label.id: label.request for label in record.labels()}
    return {number: content_hash(r.positions, r.cell) for number, r in requests.items()}


def expect_finished(job, before):
    """The resumed run made all steps, and computed no label again."""
    first = job.output_steps()
    with job.record() as record:
        tries = {label.request.id: label.request.attempts for label in record.labels()}
    ended = job.run("--resume", name="resumed")
    assert ended.code == 0, ended.err
    after = label_hashes(job)
    assert before.items() <= after.items()  # none lost
    assert len(set(after.values())) == len(after)  # none twice
    with job.record() as record:
        for label in record.labels():
            # No calculation was started for a label that was there.
            assert label.request.attempts == tries.get(label.request.id, label.request.attempts)
        assert record.metadata()["failure"] == ""
    steps = job.output_steps()
    assert steps[: len(first)] == first  # i-PI appended to its output
    assert set(steps) == set(range(0, STEPS + 1, 10))
    return steps[len(first) :]


@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_ctrl_c_in_the_dynamics(job, group):
    job.set_steps(STEPS)
    process = job.start_run()
    job.wait_for_step(40)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    ended = job.end(process, "run", within=BOUND)
    job.expect_no_process()
    assert ended.code == 1
    assert "interrupted; all labels are kept" in ended.message
    assert f"`anharm run {job.run_file} --resume` continues" in ended.message
    assert "labels  " in ended.out
    before = label_hashes(job)
    assert len(before) >= 2
    last = job.output_steps()[-1]
    continued = expect_finished(job, before)
    assert continued[0] == last + 10  # from RESTART: nothing is made twice, nothing left out


def test_ctrl_c_while_the_initial_labels_are_computed(job):
    job.set_steps(STEPS)
    job.set(training__initial_configurations=4, training__factor=50.0, training__maximum=5.0)
    job.set(training__audit_interval=None)
    job.slow_labels(0.6)
    process = job.start_run()
    job.wait_for(lambda: job.n_labels() >= 2)
    os.killpg(process.pid, signal.SIGINT)
    ended = job.end(process, "run", within=BOUND)
    job.expect_no_process()
    assert ended.code == 1
    assert "--resume` continues" in ended.message
    before = label_hashes(job)
    assert 2 <= len(before) < 4
    expect_finished(job, before)


def test_sigterm_while_the_processes_start(job):
    job.set_steps(STEPS)
    process = job.start_run()
    job.wait_for(lambda: (job.directory / "logs" / "broker.log").exists())
    os.kill(process.pid, signal.SIGTERM)
    ended = job.end(process, "run", within=BOUND)
    job.expect_no_process()
    assert ended.code == 1
    assert "interrupted" in ended.message
    flags = ["--resume"] if "--resume" in ended.message else []  # as the message says
    ended = job.run(*flags, name="again")
    assert ended.code == 0, ended.err


def test_a_model_file_that_was_lost_is_fitted_again(job):
    job.set_steps(100)
    assert job.run().code == 0
    with job.record() as record:
        last = record.models()[-1]
    (job.directory / last.path).write_bytes(b"cut off")
    job.set_steps(STEPS)
    before = label_hashes(job)
    expect_finished(job, before)
    with job.record() as record:
        assert record.models()[-1].version > last.version


def test_ipi_is_killed(job):
    job.set_steps(STEPS)
    process = job.start_run()
    job.wait_for_step(60)
    os.kill(job.process_of("i-pi input.xml"), signal.SIGKILL)
    ended = job.end(process, "run", within=BOUND)
    job.expect_no_process()
    assert ended.code == 1
    assert "i-pi was ended by the signal SIGKILL" in ended.message
    assert "--resume" in ended.message
    continued = expect_finished(job, label_hashes(job))
    assert continued[0] > 0  # from a checkpoint, not from the beginning


def test_the_supervisor_is_killed(job):
    job.set_steps(STEPS)
    process = job.start_run()
    job.wait_for_step(60)
    process.kill()
    process.wait(10)
    job.expect_no_process(within=BOUND)
    continued = expect_finished(job, label_hashes(job))
    assert continued[0] > 0


def test_a_checkpoint_that_was_cut_off_is_not_used(job):
    job.set_steps(STEPS)
    process = job.start_run()
    job.wait_for_step(60)
    os.kill(process.pid, signal.SIGINT)
    job.end(process, "run", within=BOUND)
    last = job.output_steps()[-1]
    checkpoint = job.directory / "silicon.checkpoint"
    content = checkpoint.read_text().replace("<step>", "<step>9")  # the furthest, were it whole
    checkpoint.write_text(content[: len(content) // 2])
    assert expect_finished(job, label_hashes(job))[0] == last + 10


def test_a_file_named_exit_ends_the_run_until_it_is_resumed(job):
    job.set_steps(100_000)
    process = job.start_run()
    job.wait_for_step(40)
    stop = job.directory / "EXIT"
    stop.touch()
    ended = job.end(process, "run", within=BOUND)
    job.expect_no_process()
    assert ended.code == 1
    assert re.search(r"i-pi ended after \d+ of 100000 steps: a file named EXIT was", ended.message)
    last = job.output_steps()[-1]
    job.set_steps(last + 50)
    resumed = job.run("--resume", name="resumed")
    assert resumed.code == 0, resumed.err
    assert f"removed {stop}" in resumed.err
    assert job.output_steps()[-1] == last + 50


def test_the_time_limit_of_the_input_ends_the_run_also_while_it_waits_for_a_label(job):
    job.set_steps(100_000)
    job.edit("input.xml", ("<total_steps>", "<total_time> 4 </total_time><total_steps>"))
    job.set(training__audit_interval=20, training__initial_configurations=1)
    job.slow_labels(6.0)
    ended = job.end(job.start_run(), "run")
    job.expect_no_process()
    assert ended.code == 1
    assert "steps: the <total_time> in" in ended.message
    assert f"`anharm run {job.run_file} --resume` continues" in ended.message
    assert job.n_labels() == 2  # the one that was on its way was waited for, and kept
