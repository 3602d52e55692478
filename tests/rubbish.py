"""Rubbish that is nearly right: valid messages, mutated by a seeded generator."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgpack
import numpy as np

from anharm.wire import driver_protocol as protocol
from anharm.wire.driver_protocol import Evaluation
from anharm.wire.messages import (
    Alive,
    BadMessage,
    ConfigurationSent,
    Goodbye,
    Hello,
    NewModel,
    Observation,
    Proceed,
    StatusRequest,
    Stop,
    decode,
)

VALUES = [
    None, True, -1, 0, 2**31, 2**53, 2**63, 2**64 - 1, 0.0, -1e308, float("nan"), float("inf"), "",
    "x", "\n\x1b[2J", "é" * 300, "x" * 70_000, b"", b"\0" * 72, [], {}, [[[[]]]], {"a": {"b": {}}},
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(0),
]  # fmt: skip


def messages(random: Random) -> list:
    """One of each kind that a peer might send, in the names of known and unknown clients."""
    client = random.choice(["somebody", "rubbish", "trajectory-12345678"])
    number = random.choice([0, 1, random.getrandbits(20), 2**52])
    return [
        Hello(random.choice([0, 1, 1, 2]), client, "rubbish"),
        Observation(client, number, bytes(8), random.randrange(5), False, 0.1, 0.01, 0.02, -300.0),
        ConfigurationSent.of(client, number, np.eye(3), np.zeros((random.choice([1, 64]), 3))),
        Alive(client),
        Goodbye(client, ""),
        StatusRequest(""),
        Proceed(number),
        NewModel(number, b"not a model"),
        Stop("", "the broker says so"),
    ]


def frames(seed: int, count: int) -> Iterator[bytes]:
    """Frames, most of which are no message.

    What is left out is what an honest supervisor may say too: to end the run.
    """
    random = Random(seed)
    earlier: list[bytes] = [b""]
    made = 0
    while made < count:
        frame = _frame(random, earlier)
        try:
            message = decode(frame)
        except BadMessage:
            message = None
        if (isinstance(message, StatusRequest) and message.stop) or (
            isinstance(message, Goodbye) and message.failure
        ):
            continue
        earlier[:] = [*earlier[-20:], frame]
        made += 1
        yield frame


def _frame(random: Random, earlier: list[bytes]) -> bytes:
    message = random.choice(messages(random))
    content = {"kind": type(message).__name__, **message.__dict__}
    way = random.randrange(9)
    if way == 0:
        return random.randbytes(random.randrange(300))
    if way == 1:
        return random.choice(earlier)  # a replay
    if way == 2:
        content[random.choice(list(content))] = random.choice(VALUES)
    elif way == 3:
        content["kind"] = random.choice(["Launch", "", 3, "Hello", "Observation", "Status"])
    elif way == 4:
        del content[random.choice(list(content))]
    elif way == 5:
        content[random.choice(["more", "", "x" * 5000])] = random.choice(VALUES)
    elif way == 6:
        deep = random.choice(
            [b"\x81\xa1a", b"\x91", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
        )
        return deep * random.randrange(1, 3000)
    frame = bytes(msgpack.packb(content))
    if way == 7:
        return frame[: random.randrange(len(frame))]
    if way == 8:
        return flipped(random, frame)
    return frame


def flipped(random: Random, content: bytes) -> bytes:
    """Some of its bits changed."""
    changed = bytearray(content)
    for _ in range(random.randrange(1, 6)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def driver_answers(seed: int, count: int, n_atoms: int) -> Iterator[list[bytes]]:
    """What a rubbish reference client says, message by message.

    None says that it is ready when asked, so that none gets a configuration.
    """
    random = Random(seed)
    right = protocol.encode_evaluation(Evaluation(-1.0, np.zeros((n_atoms, 3)), np.eye(3), "{}"))
    for _ in range(count):
        yield random.choice(
            [
                [],
                [b""],
                [random.randbytes(random.randrange(1, 200))],
                [b"GET / HTTP/1.1\r\n\r\n"],
                [protocol.READY[: random.randrange(1, 12)]],
                [flipped(random, protocol.READY)],
                [protocol.HAVEDATA],
                [protocol.NEEDINIT, protocol.NEEDINIT],
                [protocol.NEEDINIT, random.randbytes(12)],
                [right[: random.randrange(1, len(right))]],
                [b"\xff" * 70_000],
            ]
        )


def wrong_evaluations(seed: int, n_atoms: int) -> Iterator[bytes]:
    """Answers to GETFORCE with wrong sizes; each is complete, so that the fault is seen at once."""
    random = Random(seed)
    right = protocol.encode_evaluation(Evaluation(-1.0, np.zeros((n_atoms, 3)), np.eye(3), "{}"))
    length_of_extras = len(right) - 6
    while True:
        wrong = bytearray(right)
        place = random.choice([20, length_of_extras])
        value = random.choice([-1, -(2**31), 2**31 - 1, 10**9, n_atoms + 1 if place == 20 else -2])
        wrong[place : place + 4] = value.to_bytes(4, "little", signed=True)
        yield bytes(wrong)


def resident_memory(pid: int) -> int:
    """Resident memory of a process, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise ProcessLookupError(pid)
