"""Rubbish at the labelling port and in the decoder of messages: nothing breaks, memory is flat."""

import os
import socket
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from select import select
from threading import Thread
from time import monotonic, sleep

import numpy as np
import pytest

from anharm.server.labelling import (
    AttemptFailed,
    LabellingServer,
    LabelReceived,
    LabelRequest,
)
from anharm.wire import driver_protocol as protocol
from anharm.wire.addresses import connect
from anharm.wire.channel import Channel
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Configuration, Evaluation
from anharm.wire.messages import BadMessage, decode

sys.path.insert(0, str(Path(__file__).parents[1]))
from rubbish import driver_answers, frames, resident_memory, wrong_evaluations

N_ATOMS = 8
PATIENCE = 60.0


@pytest.mark.parametrize("count", [80_000, pytest.param(500_000, marks=pytest.mark.long)])
def test_the_decoder_refuses_or_understands_every_frame(count):
    refused = 0
    before = resident_memory(os.getpid())
    for frame in frames(7, count):
        try:
            decode(frame)
        except BadMessage as error:
            refused += 1
            assert len(str(error)) < 1000
    assert refused > count // 3
    assert resident_memory(os.getpid()) - before < 50e6


@pytest.fixture
def server(address):
    server = LabellingServer(
        address, number_of_atoms=N_ATOMS, time_limit=PATIENCE, attempts=1000, handshake_limit=2.0
    )
    server.start()
    yield server
    server.close()


def say(address, words: list[bytes]) -> None:
    """Say one word after the other, wait for what the server does about each, and leave."""
    with connect(address, PATIENCE) as peer:
        peer.settimeout(PATIENCE)
        for word in words:
            try:
                peer.sendall(word)
                if word:
                    peer.recv(4096)
            except OSError:
                return  # thrown out already


def honest_client(address) -> Thread:
    """A reference whose energy identifies the configuration."""

    def evaluate(configuration: Configuration) -> Evaluation:
        positions = configuration.positions
        return Evaluation(float(positions.sum()), np.zeros_like(positions), np.eye(3))

    thread = Thread(target=lambda: serve(connect(address, PATIENCE), evaluate), daemon=True)
    thread.start()
    return thread


def request(number: int) -> LabelRequest:
    positions = np.random.default_rng(number).normal(size=(N_ATOMS, 3))
    return LabelRequest(number, Configuration(10 * np.eye(3), positions))


def collect(server, kind: type, count: int = 1) -> list:
    found: list = []
    deadline = monotonic() + PATIENCE
    while len(found) < count:
        assert select([server], [], [], max(0.0, deadline - monotonic()))[0], f"no {kind.__name__}"
        found += [event for event in server.events() if isinstance(event, kind)]
    return found


def expect_label(server, number: int) -> None:
    server.submit(request(number))
    (label,) = collect(server, LabelReceived)
    expected = request(number).configuration.positions.sum()
    assert label.evaluation.energy == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_an_honest_client_goes_on_among_rubbish(server, address, count):
    honest_client(address)
    expect_label(server, 0)
    say(address, [b"warm up"])
    before = resident_memory(os.getpid())
    for number, words in enumerate(driver_answers(3, count, N_ATOMS)):
        say(address, words)
        if number % 200 == 199:
            expect_label(server, number)
    assert resident_memory(os.getpid()) - before < 50e6


def test_a_client_with_wrong_sizes_is_thrown_out_and_its_work_done_by_another(server, address):
    server.submit(request(1))
    for answer in islice(wrong_evaluations(5, N_ATOMS), 50):
        channel = Channel(connect(address, PATIENCE))
        channel.deadline = monotonic() + PATIENCE
        for expected, word in (
            (protocol.STATUS, protocol.READY),
            (protocol.POSDATA, b""),
        ):
            assert bytes(channel.read(12)) == expected
            channel.send(word)
        protocol.read_configuration(channel)
        assert bytes(channel.read(12)) == protocol.STATUS
        channel.send(protocol.HAVEDATA)
        assert bytes(channel.read(12)) == protocol.GETFORCE
        channel.send(answer)
        (failed,) = collect(server, AttemptFailed)
        assert "the answer has" in failed.reason or "length of the extras" in failed.reason
        channel.close()
    honest_client(address)
    (label,) = collect(server, LabelReceived)
    assert label.request_id == 1


def test_mute_and_slow_peers_lose_their_place(server, address):
    """Hundreds of them, of which only so many are let in, and none stays."""
    honest_client(address)
    expect_label(server, 0)
    peers = []
    for number in range(400):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(address.path)
        with suppress(OSError):  # turned away already
            peer.sendall(protocol.READY[: number % 5])
        peers.append(peer)
    assert server.number_of_clients <= 256
    expect_label(server, 1)
    deadline = monotonic() + PATIENCE
    while server.number_of_clients > 1:
        assert monotonic() < deadline, f"{server.number_of_clients} keep their places"
        sleep(0.05)
    expect_label(server, 2)
    for peer in peers:
        peer.close()
