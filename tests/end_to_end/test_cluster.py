"""Reference clients in blocks of Parsl's, on this host, with everything else real."""

import os
import signal
import time

import psutil

CALCULATION = (
    "    def calculate(self, *a, **k):\n"
    "        with open('begun', 'a') as file:\n"
    "            print(a[0].positions.tobytes().hex(), file=file)\n"
    "        time.sleep({seconds})\n"
    "        super().calculate(*a, **k)\n"
    "        with open('finished', 'a') as file:\n"
    "            print(a[0].positions.tobytes().hex(), file=file)\n"
)


def on_cluster(job, **settings):
    job.set(reference__cluster={"provider": "local", **settings})


def calculations(job, kind):
    """One line for every calculation that began, or that came to its end."""
    files = job.directory.glob(f"reference-*/{kind}")
    return [line for file in files for line in file.read_text().splitlines()]


def launcher_log(job):
    log = job.directory / "logs" / "cluster.log"
    return log.read_text() if log.exists() else ""


def listening(job):
    """The addresses at which the job's processes listen for TCP connections."""
    found = set()
    for pid in job.living():
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.Error:
            continue
        found |= {
            c.laddr.ip.removeprefix("::ffff:")
            for c in connections
            if c.status == psutil.CONN_LISTEN
        }
    return found


def test_clients_come_when_labels_are_wanted_and_go_when_not(job):
    """Two clients in two blocks; after the initial labels they are idle, and give them back."""
    job.set_steps(400)
    job.set(reference__clients=2, training__audit_interval=1000)
    # All initial labels are wanted at once, so that there is work for both.
    job.set(training__initial_sampling="gaussian", training__initial_displacement=0.03)
    on_cluster(job, idle_limit=0.0)
    process = job.start_run()
    job.wait_for(lambda: job.n_labels() >= 1)
    assert listening(job) == {"127.0.0.1"}
    ended = job.end(process, "run")
    job.expect_no_process(within=30)
    assert ended.code == 0, ended.err
    with job.record() as record:
        assert record.label_count() >= 2
    log = launcher_log(job)
    assert {name for name in ("reference-1", "reference-2") if f"{name} submitted" in log} == {
        "reference-1",
        "reference-2",
    }
    assert "no label was wanted for" in log
    assert (job.directory / "logs" / "reference-2.log").exists()
    assert len(list((job.directory / "parsl" / "000" / "submit_scripts").glob("*.sh"))) >= 2


def test_no_label_is_lost_when_a_client_is_killed_and_when_the_walltime_of_its_block_ends(job):
    job.set_steps(20)
    job.set(training__initial_configurations=10, reference__attempts=5)
    job.use_calculator(CALCULATION.format(seconds=1.5))
    on_cluster(job, walltime="00:00:15")
    process = job.start_run()
    job.wait_for(lambda: job.n_labels() >= 1 and len(calculations(job, "begun")) >= 2)
    os.kill(job.process_of("anharm reference"), signal.SIGKILL)
    ended = job.end(process, "run", within=180)
    job.expect_no_process(within=30)
    assert ended.code == 0, ended.err
    log = launcher_log(job)
    assert "reference-1 was ended by the signal SIGKILL" in log
    assert "reference-1 was lost with its block" in log
    with job.record() as record:
        assert record.label_count() >= 10
        assert not list(record.rejected_labels())
        n_labels = record.label_count()
    begun, finished = calculations(job, "begun"), calculations(job, "finished")
    # One was killed; the block may have ended one, too, or a client that had not begun yet.
    assert len(begun) >= len(finished) + 1
    assert len(finished) == len(set(finished)) == n_labels


def test_ending_the_run_gives_back_the_blocks(job):
    job.use_calculator(CALCULATION.format(seconds=100))
    on_cluster(job, walltime="01:00:00")
    process = job.start_run()
    job.wait_for(lambda: len(calculations(job, "begun")) == 1)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    ended = job.end(process, "run")
    job.expect_no_process(within=30)
    assert ended.code == 1
    assert "interrupted" in ended.message
    assert time.monotonic() - begin < 60


def test_clients_that_die_at_once_end_the_run_with_their_own_words(job):
    command = "bash -c 'echo no pseudopotential for Si; exit 3'"
    job.set(reference__calculator=None, reference__command=command)
    on_cluster(job)
    ended = job.run()
    assert ended.code == 1
    assert "reference-1 ended with exit code 3" in ended.message
    assert "no pseudopotential for Si" in ended.message
    assert "4 times within 10 minutes" in ended.message


def test_blocks_that_die_at_once_end_the_run_with_their_own_words(job):
    on_cluster(job, worker_init="echo no such module: espresso >&2; exit 1")
    ended = job.run()
    assert ended.code == 1
    assert "3 blocks in a row ended before Parsl's workers came up" in ended.message
    assert "no such module: espresso" in ended.message
    assert "--resume" in ended.message


def test_without_parsl_nothing_starts(job, monkeypatch):
    (job.folder / "parsl.py").write_text("raise ImportError('No module named parsl')\n")
    monkeypatch.setenv("PYTHONPATH", str(job.folder))
    on_cluster(job)
    ended = job.run()
    assert ended.code == 2
    assert 'pip install "anharm[cluster]"' in ended.message
    assert not (job.directory / "record.sqlite").exists()


def test_the_launcher_alone_wants_a_broker(job):
    on_cluster(job)
    job.set(run__connection_limit=1.0)
    ended = job.command("cluster", str(job.run_file))
    assert ended.code == 1
    assert "no broker answers" in ended.message
    job.set(reference__cluster=None)
    ended = job.command("cluster", str(job.run_file))
    assert ended.code == 2
    assert "there is no [reference.cluster]" in ended.message
