"""Load on the uncertainty broker: `python benchmarks/broker_load.py [--observations N]`.

A real broker with a real first model (silicon, Tersoff labels) serves 64 lattice clients, which
speak the real messages from one process but evaluate nothing. Measured are the round trip of one
client alone (what a decision adds to a step), the rate and the round trips of all together, the
broker's memory as observations accumulate, and the size of the record.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import zmq

from anharm.configuration import load_configuration
from anharm.wire.broker_connection import connect_to_broker
from anharm.wire.messages import (
    LARGEST_FRAME,
    PROTOCOL_VERSION,
    Alive,
    ConfigurationSent,
    Goodbye,
    Hello,
    NewModel,
    Observation,
    Proceed,
    SendConfiguration,
    Waiting,
    decode,
    encode,
)

INPUTS = Path(__file__).parents[1] / "inputs" / "si"
SETTINGS = "[training]\ninitial_configurations = 2\naudit_interval = 0\nfactor = 1000.0\n"
N_ATOMS = 64
CLIENTS = 64
MOST_IN_A_ROW = 100_000  # observations between two lines of the table
PACED = 20_000  # observations at 1000 per second
PATIENCE = 60.0  # seconds without any answer


class Client:
    """One lattice client without a model: its errors and energies are random numbers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, number: int) -> None:
        self.name = f"load-{number}"
        self.socket = connect_to_broker(context, endpoint, None, largest_frame=LARGEST_FRAME)
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        self.socket.send(encode(Hello(PROTOCOL_VERSION, self.name, self.name)))
        while isinstance(message := decode(self.socket.recv(), LARGEST_FRAME), Waiting):
            self.socket.send(encode(Alive(self.name)))
        assert isinstance(message, NewModel), message
        self.version = message.version
        self.sequence = -1
        self.asked = 0.0
        self.random = Random(number)

    def observe(self) -> None:
        """Send the observation of another step."""
        self.sequence += 1
        digest = self.sequence.to_bytes(8, "little")
        normal = self.random.gauss
        mean, energy = normal(0.01, 0.001), normal(-1e3, 1.0)
        errors = (mean * normal(2.5, 0.2), mean, mean * normal(1.2, 0.02))
        self.asked = time.perf_counter()
        self.socket.send(
            encode(
                Observation(self.name, self.sequence, digest, self.version, False, *errors, energy)
            )
        )

    def is_answered(self) -> bool:
        """Take one message; True if it ends the step."""
        message = decode(self.socket.recv(), LARGEST_FRAME)
        if isinstance(message, SendConfiguration):
            positions = np.zeros((N_ATOMS, 3))
            self.socket.send(
                encode(ConfigurationSent.of(self.name, self.sequence, np.eye(3), positions))
            )
            return False
        assert isinstance(message, Proceed), message
        return True


def round_trips(client: Client, count: int) -> list[float]:
    """Seconds from an observation to its answer, one after the other."""
    found = []
    for _ in range(count):
        client.observe()
        while not client.is_answered():
            pass
        found.append(time.perf_counter() - client.asked)
    return found


def drive(clients: list[Client], count: int, rate: float | None) -> list[float]:
    """Let all clients observe, at most `rate` times per second in total; seconds to each answer.

    Raises
    ------
    RuntimeError
        If answers stay out.
    """
    poller = zmq.Poller()
    by_socket = {client.socket: client for client in clients}
    for client in clients:
        poller.register(client.socket, zmq.POLLIN)
    start = heard = time.perf_counter()
    idle, sent = deque(clients), 0
    found: list[float] = []
    while len(found) < count:
        now = time.perf_counter()
        allowed = count if rate is None else int(rate * (now - start)) + 1
        while idle and sent < min(count, allowed):
            idle.popleft().observe()
            sent += 1
        for socket, _ in poller.poll(1):
            heard = now
            client = by_socket[socket]
            if client.is_answered():
                found.append(time.perf_counter() - client.asked)
                idle.append(client)
        if sent > len(found) and now - heard > PATIENCE:
            raise RuntimeError(f"{sent - len(found)} clients have had no answer for {PATIENCE} s")
    return found


def memory(process: int) -> float:
    """Resident memory of a process, MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_seconds(process: int) -> float:
    """Processor time of a process so far, s."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe(trips: list[float]) -> str:
    """Median and tail of round trips."""
    tail = np.quantile(trips, 0.95)
    return f"median {median(trips) * 1e3:.3f} ms, 95 % below {tail * 1e3:.3f} ms"


def measure(broker: int, endpoint: str, observations: int) -> int:
    """Print the table; returns how many observations the broker has taken."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    alone = Client(context, endpoint, 0)
    round_trips(alone, 500)
    print(f"round trip of one client: {describe(round_trips(alone, 5000))}", flush=True)
    clients = [alone, *(Client(context, endpoint, n) for n in range(1, CLIENTS))]
    before, start = processor_seconds(broker), time.perf_counter()
    trips = drive(clients, PACED, rate=1000.0)
    seconds = time.perf_counter() - start
    share = (processor_seconds(broker) - before) / seconds
    print(f"{CLIENTS} clients held to 1000/s: {PACED / seconds:.0f}/s, {describe(trips)},", end="")
    print(f" broker at {share:.0%} of a core, {memory(broker):.1f} MB", flush=True)
    done = 5500 + PACED
    while done < observations:
        part = min(MOST_IN_A_ROW, observations - done)
        start = time.perf_counter()
        drive(clients, part, rate=None)
        done += part
        rate = part / (time.perf_counter() - start)
        print(f"{done:9d} observations: {memory(broker):6.1f} MB, {rate:.0f}/s unpaced", flush=True)
    for client in clients:
        client.socket.send(encode(Goodbye(client.name, "")))
        client.socket.close(linger=1000)
    context.term()
    return done


def print_record(directory: Path, done: int) -> None:
    """Say how large the record of a run that has ended is, and what it holds."""
    size = sum(path.stat().st_size for path in directory.glob("record.sqlite*"))
    with closing(sqlite3.connect(directory / "record.sqlite")) as record:
        (observed,) = record.execute("SELECT sum(length(content)) FROM observations").fetchone()
        sampled, kept = record.execute(
            "SELECT sum(length(positions) + length(cell)), count(*) FROM configurations"
        ).fetchone()
        (free,) = record.execute(
            "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"
        ).fetchone()
    print(f"record: {size / 1e6:.1f} MB; observations {observed / done:.1f} bytes each, ", end="")
    print(f"{kept} sampled configurations {sampled / 1e6:.1f} MB, free pages {free / 1e6:.1f} MB")


def main() -> None:
    """Start broker and reference, measure, and clean up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in [*INPUTS.glob("*.xyz"), INPUTS / "input.xml"]:
            shutil.copy(source, folder)
        text = (INPUTS / "run.toml").read_text()
        before, _, rest = text.partition("[training]")
        _, bracket, after = rest.partition("\n[")
        run_file = folder / "run.toml"
        run_file.write_text(f"{before}{SETTINGS}{bracket}{after}")
        configuration = load_configuration(run_file)
        words = [sys.executable, "-m", "anharm"]
        log = (folder / "log").open("wb")
        broker, reference = (
            subprocess.Popen([*words, kind, str(run_file)], cwd=folder, stdout=log, stderr=log)
            for kind in ("broker", "reference")
        )
        try:
            run = configuration.run
            done = measure(broker.pid, run.broker_endpoint, arguments.observations)
            broker.wait(60)
            print_record(run.directory, done)
            reference.wait(60)
        finally:
            for process in (broker, reference):
                if process.poll() is None:
                    process.kill()
                    process.wait()


if __name__ == "__main__":
    main()
