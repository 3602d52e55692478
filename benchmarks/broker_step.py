"""Processor time of the broker per message of calm steps, without sockets: `python broker_step.py`.

Its messages are decoded, decided on, written to the journal, and answered as in a run that is past
its first steps; `broker_load.py` measures a whole broker.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

from anharm.configuration import TrainingSection
from anharm.server.beads import BeadCounts
from anharm.server.broker import Broker
from anharm.server.record import Record
from anharm.wire.messages import (
    DIGEST_BYTES,
    PROTOCOL_VERSION,
    ConfigurationSent,
    Hello,
    Message,
    Observations,
    Proceed,
    decode,
    encode,
)

N_ATOMS = 64
TOGETHER = 32  # evaluations in a message
MESSAGES = 1500  # before those that count
REPEATS = 500
RARE = 10**9  # steps between audits
ADDRESS = b"client"


def calm_broker(record: Record, beads: int, training: TrainingSection) -> Broker:
    """A broker in training whose model never changes."""
    run = SimpleNamespace(mode="synchronous", stop_when_converged=False)
    configuration: Any = SimpleNamespace(training=training, run=run, reference=None)
    learner: Any = SimpleNamespace(version=1, content=b"", model=True, n_labels=4, n_paid=4)
    ideal = SimpleNamespace(positions=np.zeros((N_ATOMS, 3)))
    initial: Any = SimpleNamespace(ideal=ideal)
    labelling: Any = SimpleNamespace(number_of_clients=1)
    counts = BeadCounts({"a": beads})
    broker = Broker(configuration, record, learner, labelling, initial, counts)
    broker.phase = "training"
    answer(broker, Hello(PROTOCOL_VERSION, "client", "a"))
    return broker


def answer(broker: Broker, message: Message) -> tuple[Message, float]:
    """The broker's answer, and the seconds that it took."""
    frame, start = encode(message), time.thread_time()
    ((_, reply),) = broker.handle(ADDRESS, decode(frame), 0.0)
    encode(reply)
    return reply, time.thread_time() - start


def observe(broker: Broker, number: int, random: np.random.Generator) -> float:
    """Seconds for a message, without those for samples that it leads to, and for the disk."""
    values = random.normal(1.0, 0.02, (TOGETHER, 4)) * (0.025, 0.01, 0.012, -1e3)
    digests = random.bytes(TOGETHER * DIGEST_BYTES)
    first = number * TOGETHER
    reply, seconds = answer(broker, Observations.of("client", first, 1, True, digests, values))
    while not isinstance(reply, Proceed):
        sample = ConfigurationSent.of("client", reply.sequence, np.eye(3), np.zeros((N_ATOMS, 3)))
        reply, _ = answer(broker, sample)
    if reply.sequence != first + TOGETHER - 1:
        raise RuntimeError("not all of a calm message may proceed")
    if number % 100 == 0:
        broker.write()
    return seconds


def main() -> None:
    """Print the table."""
    training = TrainingSection(audit_interval=RARE)
    print(f"| {TOGETHER} evaluations in a message | milliseconds |\n|---|---|", flush=True)
    for name, beads in ((f"a step of {TOGETHER} beads", TOGETHER), (f"{TOGETHER} steps", 1)):
        with TemporaryDirectory() as folder, Record.open(Path(folder), create=True) as record:
            broker, random = calm_broker(record, beads, training), np.random.default_rng(0)
            times = [observe(broker, n, random) for n in range(MESSAGES + REPEATS)]
        print(f"| {name} | {1e3 * median(times[MESSAGES:]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
