"""A false i-PI and a false broker: the lattice client ends with one plain message, and in time."""

from __future__ import annotations

import io
import socket
import struct
import sys
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from time import monotonic

import h5py
import msgpack
import numpy as np
import pytest
import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))
from broker_script import MATRIX, Script, beads, model
from rubbish import VALUES, flipped, frames

from anharm.clients import broker_link
from anharm.clients.broker_link import BrokerLink
from anharm.clients.lattice import LatticeClient, run_lattice_client
from anharm.errors import AnharmError, RunFailed
from anharm.model.storage import _sealed, model_to_bytes
from anharm.wire import driver_protocol as protocol
from anharm.wire.addresses import parse_address
from anharm.wire.channel import ProtocolViolation
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Configuration
from anharm.wire.messages import (
    Introduce,
    Message,
    NewModel,
    Proceed,
    SendConfiguration,
    Status,
    Stop,
    decode,
    encode,
)

LIMIT = 10.0  # seconds, for all that may happen at most


class Proceeds(Script):
    """A broker that is content with everything."""

    def ask(self, message: Message) -> Message:
        return Proceed(0)


@pytest.fixture(scope="module")
def client() -> LatticeClient:
    return LatticeClient(Proceeds(), MATRIX, None)


@cache
def right_configuration() -> bytes:
    supercell, positions = beads(1)
    return protocol.encode_configuration(Configuration(supercell.lattice, positions[0]))


def initialisation(text: bytes) -> bytes:
    return protocol.INIT + struct.pack("=ii", 0, len(text)) + text


def false_engine(random: Random) -> bytes:
    """What a false i-PI says, at once; it closes its side then."""
    right = right_configuration()
    n_head = protocol.HEADER_LENGTH + 144
    number = struct.pack("=i", random.choice([-1, 0, 1, 63, 65, 10**6, 10**9, 2**31 - 1, -(2**31)]))
    wrong = random.choice([np.nan, np.inf, -np.inf, 1e308, -1e200, 1e30])
    place = protocol.HEADER_LENGTH + 8 * random.randrange(9)
    atom = n_head + 4 + 8 * random.randrange(192)
    batch = initialisation(b"batch_size:%d" % random.choice([2, 8, 4096])) + protocol.POSDATA
    said = random.choice(
        [
            random.randbytes(random.randrange(1, 400)),
            b"GET / HTTP/1.1\r\n\r\n",
            right[: random.randrange(1, len(right))],
            right[:n_head] + number + right[n_head + 4 :],
            right[:place] + struct.pack("=d", wrong) + right[place + 8 :],
            right[:atom] + struct.pack("=d", wrong) + right[atom + 8 :],
            right[: protocol.HEADER_LENGTH] + bytes(144) + right[n_head:],
            flipped(random, right),
            protocol.GETFORCE,
            protocol.POSDATA.lower(),
            initialisation(random.choice([b"batch_size:-3", b"batch_size:x", b"batch_size:99999"])),
            protocol.INIT + struct.pack("=ii", 0, random.choice([-1, 2**30, 2**31 - 1])),
            batch + number + random.randbytes(random.randrange(3000)),
            batch + struct.pack("=i", 64) + random.randbytes(random.randrange(3000)),
        ]
    )
    before = random.choice([b"", protocol.STATUS, right + protocol.GETFORCE])
    return before + said


def test_whatever_a_false_engine_says_ends_in_one_sentence(client: LatticeClient) -> None:
    """It ends, or the answer is finite (a flipped bit may be a configuration)."""
    random = Random(1)
    ended = 0
    started = monotonic()
    for _ in range(200):
        ours, theirs = socket.socketpair()
        theirs.settimeout(LIMIT)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(false_engine(random))
        theirs.shutdown(socket.SHUT_WR)
        with theirs, warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                serve(ours, client.evaluate, evaluate_batch=client.evaluate_batch)
            except AnharmError as error:
                ended += 1
                assert str(error) and "\n" not in str(error)
    assert ended > 130
    assert monotonic() - started < 6 * LIMIT


def test_a_huge_number_of_atoms_is_refused_before_room_is_made(client: LatticeClient) -> None:
    for said in (
        protocol.POSDATA + bytes(144) + struct.pack("=i", 10**9),
        initialisation(b"batch_size:4096") + protocol.POSDATA + struct.pack("=i", 10**6),
    ):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(said)  # and waits
            with pytest.raises(ProtocolViolation, match="number of atoms"):
                serve(ours, client.evaluate, evaluate_batch=client.evaluate_batch)


class FalseBroker:
    """Answers each message with the next of its answers, and with the last for ever."""

    def __init__(self, path: Path, answers: list[bytes]) -> None:
        self.endpoint = f"ipc://{path}"
        self.answers = answers
        self.n_heard = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(self.endpoint)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self._end.is_set():
            if not self._socket.poll(20):
                continue
            peer, frame = self._socket.recv_multipart()
            if type(decode(frame)).__name__ in ("Alive", "Goodbye"):
                continue
            with suppress(zmq.Again):
                answer = self.answers[min(self.n_heard, len(self.answers) - 1)]
                self._socket.send_multipart([peer, answer], zmq.NOBLOCK)
            self.n_heard += 1

    def __enter__(self) -> FalseBroker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close(linger=0)
        self._context.term()


def status() -> bytes:
    return encode(Status("training", "", 1, 1, 0, 1, 0.1, 0.1, False, "", ""))


def wrong_field(random: Random) -> bytes:
    content = {"kind": "NewModel", "version": 1, "content": b"x"}
    content[random.choice(list(content))] = random.choice(VALUES)
    return bytes(msgpack.packb(content))


def rubbish_answers(seed: int, count: int) -> list[bytes]:
    random = Random(seed)
    harmless = {"Waiting", "Introduce"}
    found = []
    for frame in (*frames(seed, count), *(wrong_field(random) for _ in range(count // 4))):
        with suppress(ValueError):
            if type(decode(frame)).__name__ in harmless:
                continue
        found.append(frame)
    return found


def test_whatever_a_false_broker_answers_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the first question; each time a client is made afresh."""
    monkeypatch.setattr(broker_link, "_ALIVE_SECONDS", 0.005)  # it is waited for at each end
    answers = rubbish_answers(3, 200)
    with FalseBroker(tmp_path / "broker", answers) as broker:
        for _ in answers:
            link = BrokerLink(broker.endpoint, "trajectory", LIMIT)
            with pytest.raises(AnharmError) as caught:
                LatticeClient(link, MATRIX, None)
            assert "\n" not in str(caught.value).strip()
            link.leave(str(caught.value)[:100])
    assert broker.n_heard >= len(answers)


def test_a_false_broker_that_always_asks_who_this_is_is_given_up(tmp_path: Path) -> None:
    with FalseBroker(tmp_path / "broker", [encode(Introduce("it forgets"))]) as broker:
        link = BrokerLink(broker.endpoint, "trajectory", 1.0)
        with pytest.raises(RunFailed, match="asks again and again who this is: it forgets"):
            link.join()
        link.leave()


def beyond_memory() -> bytes:
    """A model file of a few kB, of which one array would have 8 TB."""
    buffer = io.BytesIO(model_to_bytes(model(1)))
    with h5py.File(buffer, "r+") as file:
        del file["posterior/factor"]
        file.create_dataset(
            "posterior/factor", (1 << 20, 1 << 20), "f8", chunks=(64, 64), compression="gzip"
        )
    hdf5 = buffer.getvalue()[512:]
    return _sealed(hdf5) + hdf5


GOOD = model_to_bytes(model(1))


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([Proceed(0)], "the broker began with a Proceed, not with a model"),
        ([SendConfiguration(0)], "the broker began with a SendConfiguration"),
        ([NewModel(1, b"not a model")], "the broker's model is not an anharm model file"),
        ([NewModel(1, GOOD[:-7])], "the broker's model is damaged"),
        ([NewModel(1, beyond_memory())], "are allowed"),
        ([NewModel(1, GOOD), Stop("", "the disk is full")], "the disk is full"),
        ([NewModel(1, GOOD), Introduce("no")], "asks again and again who this is"),
        ([NewModel(1, GOOD), NewModel(2, b"")], "the broker's model is not an anharm model file"),
        ([NewModel(1, GOOD), SendConfiguration(0)], "sent an unexpected SendConfiguration"),
        ([NewModel(1, GOOD), None], "sent an unexpected Status"),
        ([NewModel(1, GOOD), "rubbish"], "the broker sent what is no message"),
    ],
)
def test_the_whole_client_with_a_false_broker(tmp_path: Path, answers: list, sentence: str) -> None:
    """i-PI has sent a configuration and waits; it sees the client leave."""
    path = tmp_path / "engine"
    frames = [
        status() if a is None else a.encode() if isinstance(a, str) else encode(a) for a in answers
    ]
    with socket.socket(socket.AF_UNIX) as engine, FalseBroker(tmp_path / "b", frames) as broker:
        engine.bind(str(path))
        engine.listen()
        caught: list[BaseException] = []

        def run() -> None:
            try:
                run_lattice_client(
                    parse_address(f"unix:{path}"), broker.endpoint, MATRIX,
                    connection_limit=2.0,
                )  # fmt: skip
            except AnharmError as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        if len(answers) > 1:
            engine.settimeout(LIMIT)
            peer, _ = engine.accept()
            peer.settimeout(LIMIT)
            peer.sendall(right_configuration() + protocol.GETFORCE)
            assert peer.recv(1) == b""
            peer.close()
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert sentence in str(caught[0])
    assert "\n" not in str(caught[0])
