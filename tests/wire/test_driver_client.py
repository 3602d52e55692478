"""The client loop, driven by real i-PI and by the orders of messages that servers use."""

import json
import socket
from pathlib import Path
from threading import Thread
from time import perf_counter

import numpy as np
import pytest

from anharm.errors import RunFailed
from anharm.wire import driver_protocol as protocol
from anharm.wire.addresses import connect
from anharm.wire.channel import Channel, ProtocolViolation
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation, Evaluations

SPRING = 3.0  # eV/Angstrom^2
SITES = np.array([[0.0, 0, 0], [1.35, 1.35, 1.35], [0, 2.7, 2.7], [1.35, 4.05, 4.05]])
CELL = 5.4 * np.eye(3)

INPUT = """<simulation verbosity='low'>
  <output prefix='out'>
    <properties filename='md' stride='1' flush='1'>
      [ step, conserved{{electronvolt}}, potential{{electronvolt}} ] </properties>
    <trajectory filename='error' stride='1' extra_type='force_std_max'> extras </trajectory>
  </output>
  <total_steps> {steps} </total_steps>
  <prng><seed> 7 </seed></prng>
  <ffsocket name='ff' mode='unix' pbc='False'>
    <address> {name} </address> <latency> 1e-5 </latency>
    <parameters> {{ quantity : 1 }} </parameters>
    <consolidate_messages> {consolidate} </consolidate_messages>
    <batch_size> {batch} </batch_size>
  </ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz' units='angstrom'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='ff'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


def einstein_crystal(configuration: Configuration) -> Evaluation:
    """Every atom on a spring to its site; the extras say how far the last one is."""
    displacements = configuration.positions - SITES
    energy = 0.5 * SPRING * float(np.sum(displacements**2))
    extras = json.dumps({"force_std_max": float(np.abs(displacements).max())})
    return Evaluation(energy, -SPRING * displacements, np.zeros((3, 3)), extras)


def write_ipi_input(folder: Path, address, **settings) -> None:
    header = "# CELL(abcABC): 5.4 5.4 5.4 90 90 90 positions{angstrom} cell{angstrom}"
    lines = [f"Si {x} {y} {z}" for x, y, z in SITES]
    (folder / "init.xyz").write_text("\n".join([str(len(SITES)), header, *lines]) + "\n")
    settings = {"steps": 20, "beads": 1, "batch": 1, "consolidate": True, **settings}
    name = address.path.removeprefix("/tmp/ipi_")
    (folder / "input.xml").write_text(INPUT.format(name=name, **settings))


def conserved_energies(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "out.md")[:, 1]


@pytest.mark.parametrize("consolidate", [True, False])
def test_ipi_conserves_energy_on_our_forces(address, tmp_path, start_ipi, consolidate):
    write_ipi_input(tmp_path, address, consolidate=consolidate)
    ipi = start_ipi("input.xml")
    seen: list[Configuration] = []
    texts: list[str] = []

    def evaluate(configuration: Configuration) -> Evaluation:
        seen.append(configuration)
        return einstein_crystal(configuration)

    def initialise(identifier: int, text: str) -> None:
        texts.append(text)

    assert serve(connect(address, 60), evaluate, initialise=initialise) == "exit"
    assert ipi.wait(60) == 0
    np.testing.assert_allclose(seen[0].positions, SITES, atol=1e-12)
    np.testing.assert_allclose(seen[0].cell, CELL, atol=1e-12)
    energies = conserved_energies(tmp_path)
    assert len(seen) == len(energies) == 21
    assert np.ptp(energies) < 1e-4
    assert len(texts) == 1
    written = np.loadtxt(tmp_path / "out.error_0")
    largest = [np.abs(configuration.positions - SITES).max() for configuration in seen]
    np.testing.assert_allclose(written, largest, atol=1e-6)


@pytest.mark.parametrize("consolidate", [True, False])
def test_a_client_has_time_of_its_own_after_every_answer(address, tmp_path, start_ipi, consolidate):
    """i-PI asks for the status after each answer, and waits for nothing else."""
    write_ipi_input(tmp_path, address, consolidate=consolidate, steps=5)
    ipi = start_ipi("input.xml")
    events: list[str] = []

    def evaluate(configuration: Configuration) -> Evaluation:
        events.append("evaluates")
        return einstein_crystal(configuration)

    def idle() -> None:
        if events and events[-1] != "idle":
            events.append("idle")

    assert serve(connect(address, 60), evaluate, idle=idle) == "exit"
    assert ipi.wait(60) == 0
    assert events[:11] == ["evaluates", "idle"] * 5 + ["evaluates"]


def test_ipi_sends_beads_in_batches_and_the_padding_is_recognised(address, tmp_path, start_ipi):
    write_ipi_input(tmp_path, address, beads=6, batch=4, steps=10)
    ipi = start_ipi("input.xml")
    batches: list[Batch] = []

    def evaluate_batch(batch: Batch) -> Evaluations:
        batches.append(batch)
        return Evaluations.of([einstein_crystal(one) for one in batch.configurations])

    connection = connect(address, 60)
    assert serve(connection, einstein_crystal, evaluate_batch=evaluate_batch) == "exit"
    assert ipi.wait(60) == 0
    # Six beads are a full batch and a batch of two with two copies; at step 0 all are equal.
    assert [len(batch.configurations) for batch in batches] == [1, 1] + 10 * [4, 2]
    assert {batch.size for batch in batches} == {4}
    assert np.ptp(conserved_energies(tmp_path)) < 1e-3


def test_batches_agree_with_beads_one_by_one(address, tmp_path, start_ipi):
    energies = []
    for batch in (1, 4):
        write_ipi_input(tmp_path, address, beads=4, batch=batch, steps=5)
        ipi = start_ipi("input.xml")
        assert serve(connect(address, 60), einstein_crystal) == "exit"
        assert ipi.wait(60) == 0
        energies.append(conserved_energies(tmp_path))
    np.testing.assert_allclose(energies[0], energies[1], rtol=1e-12)


def test_ipi_goes_on_with_another_client_after_one_failed(address, tmp_path, start_ipi):
    """A client that breaks down takes its pending GETFORCE along, or i-PI would hang."""
    write_ipi_input(tmp_path, address, steps=5)
    ipi = start_ipi("input.xml")
    calls = 0

    def fail_at_the_third_call(configuration: Configuration) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RunFailed("the self-consistent field did not converge")
        return einstein_crystal(configuration)

    with pytest.raises(RunFailed, match="did not converge"):
        serve(connect(address, 60), fail_at_the_third_call)
    assert serve(connect(address, 60), einstein_crystal) == "exit"
    assert ipi.wait(60) == 0
    assert len(conserved_energies(tmp_path)) == 6


class Server:
    """One side of a socket pair, with the client loop at the other in a thread."""

    def __init__(self, evaluate=einstein_crystal) -> None:
        here, there = socket.socketpair()
        self.channel = Channel(here)
        self.outcome: object = None

        def run() -> None:
            try:
                self.outcome = serve(there, evaluate)
            except RunFailed as error:
                self.outcome = error

        self.thread = Thread(target=run)
        self.thread.start()

    def ask(self, message: bytes) -> bytes:
        self.channel.send(message)
        return bytes(self.channel.read(12))

    def finish(self) -> object:
        self.channel.close()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.outcome


POSITIONS = protocol.encode_configuration(Configuration(CELL, SITES + 0.1))


def test_a_server_that_asks_for_status_in_between():
    server = Server()
    assert server.ask(protocol.STATUS) == protocol.NEEDINIT
    server.channel.send(protocol.encode_initialisation(0))
    assert server.ask(protocol.STATUS) == protocol.READY
    server.channel.send(POSITIONS)
    assert server.ask(protocol.STATUS) == protocol.HAVEDATA
    assert server.ask(protocol.GETFORCE) == protocol.FORCEREADY
    answer = protocol.read_evaluation(server.channel, len(SITES))
    np.testing.assert_allclose(answer.forces, -SPRING * 0.1)
    assert server.ask(protocol.STATUS) == protocol.READY
    server.channel.send(protocol.EXIT)
    assert server.finish() == "exit"


def test_a_server_that_sends_positions_and_asks_for_forces_at_once():
    server = Server()
    for _ in range(3):
        assert server.ask(POSITIONS + protocol.GETFORCE) == protocol.FORCEREADY
        protocol.read_evaluation(server.channel, len(SITES))
    assert server.finish() == "closed"


@pytest.mark.parametrize("message", [protocol.GETFORCE, b"GET / HTTP/1.1\r\n", b"\0" * 12])
def test_a_server_that_speaks_something_else_is_left(message):
    server = Server()
    server.channel.send(message)
    assert server.channel.read_unless_closed(12) is None
    assert isinstance(server.finish(), ProtocolViolation)


def test_the_protocol_adds_little_to_an_evaluation():
    """Tens of microseconds where nobody else wants the processor; the bound is generous."""
    repetitions = 1000
    positions = np.random.default_rng(0).normal(size=(64, 3))
    answer = Evaluation(0.0, np.zeros((64, 3)), np.zeros((3, 3)), '{"force_std_max": 0.1}')
    server = Server(lambda configuration: answer)
    message = protocol.encode_configuration(Configuration(CELL, positions)) + protocol.GETFORCE
    start = perf_counter()
    for _ in range(repetitions):
        server.ask(message)
        protocol.read_evaluation(server.channel, 64)
    seconds = (perf_counter() - start) / repetitions
    assert server.finish() == "closed"
    assert seconds < 5e-3
