"""A broker that other hosts can reach: with keys it works, without them it is refused."""

import socket

import zmq

from anharm.wire.broker_connection import connect_to_broker
from anharm.wire.messages import StatusRequest, encode


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_run_with_keys(job):
    """A stranger asks the broker to stop the run, which nobody hears."""
    keys = job.folder / "keys"
    assert job.command("keys", str(keys)).code == 0
    port = free_port()
    job.set_steps(300)
    job.set(
        run__broker=f"tcp://0.0.0.0:{port}",
        run__keys="keys",
        reference__address=f"tcp://0.0.0.0:{free_port()}",
        reference__allow_remote=True,
    )
    process = job.start_run()
    job.wait_for_step(20)
    with zmq.Context() as context:
        stranger = connect_to_broker(context, f"tcp://127.0.0.1:{port}", None, largest_frame=1000)
        stranger.send(encode(StatusRequest("I say so")))
        ended = job.end(process, "run")
        assert not stranger.poll(0)
        stranger.close()
    assert ended.code == 0, ended.err
    assert "has no authentication" in ended.err
    assert job.output_steps()[-1] == 300
    job.expect_no_process()


def test_a_client_with_other_keys_is_told_what_may_be_wrong(job):
    for folder in ("keys", "others"):
        job.command("keys", str(job.folder / folder))
    job.set(run__broker=f"tcp://0.0.0.0:{free_port()}", run__keys="keys")
    text = job.run_file.read_text()
    job.set(run__keys="others", run__connection_limit=3.0)
    (job.folder / "other.toml").write_text(job.run_file.read_text())
    job.run_file.write_text(text)
    broker = job.start("broker", "run.toml")
    client = job.end(job.start("client", "other.toml"), "client", within=60)
    assert client.code == 1
    assert "has been silent for 3 s" in client.message
    assert "does it know the client of" in client.message
    broker.terminate()
    assert job.end(broker, "broker").code == 1


def test_without_keys_the_run_is_refused(job):
    job.set(run__broker=f"tcp://0.0.0.0:{free_port()}")
    ended = job.run()
    assert ended.code == 2
    assert "anharm keys" in ended.message
