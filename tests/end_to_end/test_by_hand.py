"""The four processes of a run, started by hand in any order."""

import signal

import pytest


def start_all(job, order):
    commands = {
        "broker": ("broker", "run.toml"),
        "client": ("client", "run.toml"),
        "reference": ("reference", "run.toml"),
        "i-pi": ("i-pi", "input.xml"),
    }
    return {name: job.start(*commands[name]) for name in order}


@pytest.mark.parametrize(
    "order",
    [
        ("broker", "client", "reference", "i-pi"),
        ("i-pi", "reference", "client", "broker"),
        ("client", "i-pi", "broker", "reference"),
    ],
    ids="-".join,
)
def test_the_processes_find_each_other(job, order):
    job.set_steps(100)
    processes = start_all(job, order)
    for name, process in processes.items():
        ended = job.end(process, name)
        assert ended.code == 0, (name, ended.err)
    with job.record() as record:
        assert record.metadata()["ended"] == "i-PI ended the dynamics"
        assert not record.metadata()["failure"]
        assert record.label_count() >= 2
        assert sum(len(chunk.maximum) for chunk in record.observations()) == 101


def test_a_lattice_client_without_ipi_gives_up(job):
    job.set(run__connection_limit=8.0)
    processes = start_all(job, ("broker", "reference", "client"))
    client = job.end(processes["client"], "client", within=30)
    assert client.code == 1
    assert "no server at unix:anharm-silicon" in client.err
    assert "after 8 s" in client.err
    assert "i-PI" in client.err
    broker = job.end(processes["broker"], "broker", within=10)
    assert broker.code == 1
    assert "the lattice client stopped: no server at" in broker.err
    assert job.end(processes["reference"], "reference", within=10).code == 0


def test_a_broker_without_lattice_client_gives_up(job):
    job.set(run__connection_limit=2.0)
    processes = start_all(job, ("broker", "reference"))
    broker = job.end(processes["broker"], "broker", within=30)
    assert broker.code == 1
    assert "no lattice client has been there for 2 s (run.connection_limit)" in broker.err
    assert "start `anharm client" in broker.err
    assert job.n_labels() == 2
    assert job.end(processes["reference"], "reference", within=10).code == 0


def test_a_lattice_client_without_broker_gives_up(job):
    job.set(run__connection_limit=2.0)
    client = job.command("client", "run.toml", within=30)
    assert client.code == 1
    assert "has been silent for 2 s; is `anharm broker` running" in client.message


def test_a_reference_without_broker_gives_up(job):
    job.set(reference__connection_limit=2.0)
    reference = job.command("reference", "run.toml", within=30)
    assert reference.code == 1
    assert "no server at unix:anharm-" in reference.message
    assert "after 2 s" in reference.message


def test_ctrl_c_for_the_broker_ends_all_but_ipi(job):
    job.set_steps(100_000)
    processes = start_all(job, ("broker", "client", "reference", "i-pi"))
    job.wait_for_step(10)
    processes["broker"].send_signal(signal.SIGINT)
    broker = job.end(processes["broker"], "broker", within=20)
    assert broker.code == 1
    assert "the broker was stopped by SIGINT; all labels are kept" in broker.err
    client = job.end(processes["client"], "client", within=20)
    assert client.code == 1
    assert "the broker was stopped by SIGINT" in client.err
    assert job.end(processes["reference"], "reference", within=20).code == 0
    processes["i-pi"].send_signal(signal.SIGTERM)  # it waits for a client, as is its nature
    processes["i-pi"].wait(30)
    assert (job.folder / "RESTART").exists()


def test_ctrl_c_for_the_lattice_client_is_told_to_the_broker(job):
    job.set_steps(100_000)
    processes = start_all(job, ("broker", "client", "reference", "i-pi"))
    job.wait_for_step(10)
    processes["client"].send_signal(signal.SIGINT)
    assert job.end(processes["client"], "client", within=20).code == 1
    broker = job.end(processes["broker"], "broker", within=20)
    assert broker.code == 1
    assert "the lattice client stopped: it was interrupted" in broker.err


def test_ipi_that_is_killed_is_no_good_end(job):
    job.set_steps(100_000)
    processes = start_all(job, ("broker", "client", "reference", "i-pi"))
    job.wait_for_step(10)
    processes["i-pi"].kill()
    client = job.end(processes["client"], "client", within=20)
    assert client.code == 1
    assert "broke off without a goodbye" in client.err
    broker = job.end(processes["broker"], "broker", within=20)
    assert broker.code == 1
    assert "the lattice client stopped: i-PI at unix:" in broker.err


def test_a_silent_broker_is_given_up(job):
    job.set_steps(100_000)
    job.set(run__connection_limit=3.0, reference__connection_limit=3.0)
    processes = start_all(job, ("i-pi", "reference", "broker", "client"))
    job.wait_for_step(10)
    processes["broker"].kill()
    client = job.end(processes["client"], "client", within=30)
    assert client.code == 1
    assert "has been silent for 3 s" in client.err
    reference = job.end(processes["reference"], "reference", within=30)
    assert reference.code == 1
    assert "after 3 s" in reference.err
