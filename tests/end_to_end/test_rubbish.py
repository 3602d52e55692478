"""Rubbish at the broker's socket, tens of thousands of frames: the run goes on and ends well."""

import socket
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest
import zmq

from anharm.configuration import load_configuration
from anharm.wire.messages import BadMessage, Goodbye, Hello, StatusRequest, decode, encode

sys.path.insert(0, str(Path(__file__).parents[1]))
from rubbish import frames, resident_memory

GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
LARGE_FRAME = b"\x02" + (300_000).to_bytes(8, "big")


def send_rubbish(endpoint: str, seed: int, count: int) -> None:
    """Through one connection; the answer to a last question says that all was read."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.sndhwm = 100
        peer.connect(endpoint)
        joined = set()
        for frame in frames(seed, count):
            peer.send(frame)
            with suppress(BadMessage):
                if isinstance(message := decode(frame), Hello):
                    joined.add(message.client)
            while peer.poll(0):
                peer.recv()
        for name in joined:  # or the broker would wait for it when i-PI has ended
            peer.send(encode(Goodbye(name, "")))
        peer.send(encode(StatusRequest("")))
        deadline = monotonic() + 120
        while "Status(" not in repr(decode(peer.recv(), 1 << 30)):
            assert peer.poll(int(1000 * (deadline - monotonic()))), "no answer"


def slow_peers(endpoint: str, count: int) -> list[socket.socket]:
    """Mute ones, ones in the middle of a handshake, and ones in the middle of a large frame."""
    found = []
    for number in range(count):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(endpoint.removeprefix("ipc://"))
        said = [b"", GREETING[: number % 64], GREETING + READY + LARGE_FRAME + bytes(number)]
        peer.sendall(said[number % 3])
        found.append(peer)
    return found


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_the_run_goes_on_and_ends_well(job, count):
    job.set_steps(100_000)
    process = job.start_run()
    job.wait_for_step(20)
    endpoint = load_configuration(job.run_file).run.broker_endpoint
    broker = job.process_of(" broker ")
    send_rubbish(endpoint, 0, 2_000)  # whatever is made once is made now
    before = resident_memory(broker)
    peers = slow_peers(endpoint, 300)
    step = max(job.output_steps())
    for seed in range(1, 11):
        send_rubbish(endpoint, seed, count // 10)
    assert resident_memory(broker) - before < 50e6
    job.wait_for_step(step + 50)
    (job.directory / "EXIT").touch()  # i-PI's own way to end early
    ended = job.end(process, "run")
    assert "of 100000 steps: a file named EXIT" in ended.err
    job.expect_no_process()
    for peer in peers:
        peer.close()
    log = job.directory / "logs" / "broker.log"
    assert log.stat().st_size < 500_000
    assert "was dropped" in log.read_text()
    with job.record() as record:
        assert not record.metadata()["failure"]
