"""Load on the uncertainty broker: `python benchmarks/broker_load.py [--observations N]`.

A real broker with a real first model (silicon, Tersoff labels) serves 64 lattice clients, which
speak the real messages from one process but evaluate nothing. Measured are the round trip of one
client alone (what a decision adds to a step), the rate of all together, the broker's memory as
observations accumulate, and the size of the record.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
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

INPUTS = Path(__file__).parents[1] / "inputs" / "silicon"
SETTINGS = "[training]\ninitial_configurations = 2\naudit_interval = 0\nfactor = 1000.0\n"
N_ATOMS = 64
CLIENTS = 64
MOST_IN_A_ROW = 200_000  # observations between two lines of the table


class Client:
    """One lattice client without a model: it observes the same error again and again."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, number: int) -> None:
        self.name = f"load-{number}"
        self.socket = connect_to_broker(context, endpoint, None, largest_frame=LARGEST_FRAME)
        self.socket.send(encode(Hello(PROTOCOL_VERSION, self.name, self.name)))
        while isinstance(message := decode(self.socket.recv(), LARGEST_FRAME), Waiting):
            self.socket.send(encode(Alive(self.name)))
        assert isinstance(message, NewModel), message
        self.version = message.version
        self.sequence = -1

    def observe(self) -> None:
        """Send the observation of another step."""
        self.sequence += 1
        digest = self.sequence.to_bytes(8, "little")
        error = 0.01 + 0.001 * ((self.sequence * 7919) % 1000) / 1000
        self.socket.send(
            encode(
                Observation(
                    self.name, self.sequence, digest, self.version, error, error, error, -1e3
                )
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
        start = time.perf_counter()
        client.observe()
        while not client.is_answered():
            pass
        found.append(time.perf_counter() - start)
    return found


def drive(clients: list[Client], count: int, rate: float | None) -> float:
    """Let all clients observe, at most `rate` times per second in total; returns the rate."""
    poller = zmq.Poller()
    by_socket = {client.socket: client for client in clients}
    for client in clients:
        poller.register(client.socket, zmq.POLLIN)
    start = time.perf_counter()
    idle, sent, answered = list(clients), 0, 0
    while answered < count:
        allowed = count if rate is None else int(rate * (time.perf_counter() - start)) + 1
        while idle and sent < min(count, allowed):
            idle.pop(0).observe()
            sent += 1
        for socket, _ in poller.poll(1):
            if by_socket[socket].is_answered():
                answered += 1
                idle.append(by_socket[socket])
    return count / (time.perf_counter() - start)


def memory(process: int) -> float:
    """Resident memory of a process, MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_seconds(process: int) -> float:
    """Processor time of a process so far, s."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(broker: int, endpoint: str, directory: Path, observations: int) -> None:
    """Print the table."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    alone = Client(context, endpoint, 0)
    round_trips(alone, 500)
    trips = round_trips(alone, 5000)
    print(f"round trip of one client: median {median(trips) * 1e3:.3f} ms, ", end="")
    print(f"95 % below {np.quantile(trips, 0.95) * 1e3:.3f} ms", flush=True)
    clients = [alone, *(Client(context, endpoint, n) for n in range(1, CLIENTS))]
    before = processor_seconds(broker)
    rate = drive(clients, 10_000, rate=1000.0)
    share = (processor_seconds(broker) - before) / (10_000 / rate)
    print(
        f"{CLIENTS} clients held to 1000/s: {rate:.0f}/s, broker at {share:.0%} of a core",
        flush=True,
    )
    done, sizes = 15_500, []
    while done < observations:
        part = min(MOST_IN_A_ROW, observations - done)
        rate = drive(clients, part, rate=None)
        done += part
        sizes.append(memory(broker))
        print(f"{done:9d} observations: {sizes[-1]:6.1f} MB, {rate:.0f}/s unpaced", flush=True)
    for client in clients:
        client.socket.send(encode(Goodbye(client.name, "")))
        client.socket.close(linger=1000)
    context.term()
    files = {path.name: path.stat().st_size for path in directory.glob("record.sqlite*")}
    size = sum(files.values())
    print(f"record: {size / 1e6:.1f} MB, {size / done:.1f} bytes per observation")


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
            measure(broker.pid, run.broker_endpoint, run.directory, arguments.observations)
            broker.wait(60)
            reference.wait(60)
        finally:
            for process in (broker, reference):
                if process.poll() is None:
                    process.kill()
                    process.wait()


if __name__ == "__main__":
    main()
