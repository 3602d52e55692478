"""What the labelling server says to its clients, and how it bears those that misbehave."""

import sys
from pathlib import Path
from select import select
from threading import Event, Thread
from time import monotonic

import numpy as np
import pytest
from ase.build import bulk

from anharm.errors import ConfigurationError, RunFailed
from anharm.server.labelling import (
    AttemptFailed,
    ClientJoined,
    ClientLeft,
    LabelReceived,
    LabelRequest,
    RequestFailed,
)
from anharm.wire import driver_protocol as protocol
from anharm.wire.addresses import connect
from anharm.wire.channel import Channel, PeerClosed
from anharm.wire.driver_protocol import Configuration, Evaluation

PATIENCE = 60.0
NUMBER_OF_ATOMS = 8


def configuration(seed: int, atoms=None) -> Configuration:
    atoms = atoms if atoms is not None else bulk("Cu", cubic=True) * (2, 1, 1)
    noise = np.random.default_rng(seed).normal(0, 0.05, (len(atoms), 3))
    return Configuration(np.array(atoms.cell), atoms.positions + noise)


class Puppet:
    """A client that does exactly what the test says."""

    def __init__(self, address, patience: float = PATIENCE) -> None:
        self.channel = Channel(connect(address, patience))
        self.channel.deadline = monotonic() + PATIENCE

    def hear(self) -> bytes:
        return bytes(self.channel.read(12))

    def get_positions(self, first_status: bytes = protocol.READY) -> Configuration:
        assert self.hear() == protocol.STATUS
        self.channel.send(first_status)
        if first_status == protocol.NEEDINIT:
            assert self.hear() == protocol.INIT
            assert len(protocol.read_initialisation(self.channel)[1]) == 1
            assert self.hear() == protocol.STATUS
            self.channel.send(protocol.READY)
        assert self.hear() == protocol.POSDATA
        positions = protocol.read_configuration(self.channel)
        assert self.hear() == protocol.STATUS
        return positions

    def answer(self, evaluation: Evaluation) -> None:
        self.channel.send(protocol.HAVEDATA)
        assert self.hear() == protocol.GETFORCE
        self.channel.send(protocol.encode_evaluation(evaluation))


def evaluation(atoms: int = NUMBER_OF_ATOMS) -> Evaluation:
    return Evaluation(-1.0, np.full((atoms, 3), 0.25), np.eye(3), '{"steps": 9}')


def test_a_client_may_still_write_when_it_is_sent_home(dispatch, address, monkeypatch):
    """The driver of i-PI writes its empty extras as a message of their own."""
    monkeypatch.setattr("anharm.server.labelling_client.FAREWELL_SECONDS", PATIENCE)
    dispatcher = dispatch()
    client = Puppet(address)
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    client.get_positions()
    client.answer(evaluation())
    dispatcher.wait_for(LabelReceived, 1)
    closing = Thread(target=dispatcher.server.close)
    closing.start()
    assert client.hear() == protocol.EXIT
    client.channel.send(b"")
    client.channel.close()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_the_order_of_messages_is_the_one_every_code_accepts(dispatch, address):
    """No STATUS before there is work; INIT only on request; one STATUS before each POSDATA."""
    dispatcher = dispatch()
    puppet = Puppet(address)
    dispatcher.wait_for(ClientJoined)
    assert select([puppet.channel.socket], [], [], 0.2)[0] == []
    for number, status in enumerate([protocol.NEEDINIT, protocol.READY]):
        request = LabelRequest(number, configuration(number))
        dispatcher.server.submit(request)
        received = puppet.get_positions(status)
        np.testing.assert_allclose(received.positions, request.configuration.positions)
        np.testing.assert_allclose(received.cell, request.configuration.cell, atol=1e-12)
        puppet.answer(evaluation())
        label = dispatcher.wait_for(LabelReceived, number + 1)[-1]
        assert label.request_id == number
        assert label.evaluation.extras == '{"steps": 9}'
        np.testing.assert_allclose(label.evaluation.forces, 0.25)
    dispatcher.server.close()
    assert puppet.hear() == protocol.EXIT


def test_a_client_that_hangs_is_dropped_at_the_time_limit(dispatch, address):
    dispatcher = dispatch(time_limit=0.5, attempts=2)
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    for attempt in (1, 2):
        puppet = Puppet(address)
        puppet.get_positions()
        failure = dispatcher.wait_for(AttemptFailed, attempt)[-1]
        assert failure.attempt == attempt
        assert "time limit of 0.5 s" in failure.reason
    assert "all 2 attempts failed" in dispatcher.wait_for(RequestFailed)[0].reason
    dispatcher.server.submit(LabelRequest(2, configuration(2)))
    puppet = Puppet(address)
    puppet.get_positions()
    puppet.answer(evaluation())
    assert dispatcher.wait_for(LabelReceived)[0].request_id == 2


def test_a_silent_peer_holds_up_nobody(dispatch, address):
    dispatcher = dispatch(handshake_limit=2.0)
    silent = Puppet(address)
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    assert silent.hear() == protocol.STATUS
    puppet = Puppet(address)
    puppet.get_positions()
    puppet.answer(evaluation())
    assert "client 2" in dispatcher.wait_for(LabelReceived)[0].client
    left = dispatcher.wait_for(ClientLeft)[0]
    assert "client 1" in left.client and "did not say within 2 s" in left.reason
    assert not [event for event in dispatcher.log if isinstance(event, AttemptFailed)]


def test_a_peer_that_sends_one_byte_at_a_time_is_dropped_all_the_same(dispatch, address):
    dispatcher = dispatch(handshake_limit=1.0)
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    peer = Puppet(address)
    assert peer.hear() == protocol.STATUS
    start = monotonic()
    for byte in protocol.READY[:-1]:
        peer.channel.send(bytes([byte]))
        select([dispatcher.server], [], [], 0.05)
    assert "did not say within 1 s" in dispatcher.wait_for(ClientLeft)[0].reason
    assert monotonic() - start < PATIENCE


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\xff"])
def test_a_peer_that_speaks_unasked_is_dropped(dispatch, address, rubbish):
    dispatcher = dispatch()
    peer = connect(address, PATIENCE)
    peer.sendall(rubbish)
    assert "not an i-PI client" in dispatcher.wait_for(ClientLeft)[0].reason
    peer.close()


@pytest.mark.parametrize("rubbish", [b"HAVEDATA    ", b"rubbish12345", b"READY\0\0\0\0\0\0\0"])
def test_a_wrong_answer_to_the_handshake_costs_no_attempt(dispatch, address, rubbish):
    dispatcher = dispatch()
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    puppet = Puppet(address)
    assert puppet.hear() == protocol.STATUS
    puppet.channel.send(rubbish)
    assert "expected READY" in dispatcher.wait_for(ClientLeft)[0].reason
    assert not [event for event in dispatcher.log if isinstance(event, AttemptFailed)]


def test_a_label_for_another_number_of_atoms_is_refused(dispatch, address):
    dispatcher = dispatch(attempts=1)
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    puppet = Puppet(address)
    puppet.get_positions()
    puppet.answer(evaluation(atoms=64))
    assert "64 atoms where 8" in dispatcher.wait_for(RequestFailed)[0].reason


def test_a_request_for_another_number_of_atoms_is_refused(dispatch):
    two = Configuration(np.eye(3), np.zeros((2, 3)))
    with pytest.raises(ConfigurationError, match="2 atoms"):
        dispatch().server.submit(LabelRequest(1, two))


def test_an_idle_client_that_leaves_is_noticed_at_once(dispatch, address):
    dispatcher = dispatch()
    connection = connect(address, PATIENCE)
    dispatcher.wait_for(ClientJoined)
    connection.close()
    assert "while it was idle" in dispatcher.wait_for(ClientLeft)[0].reason
    assert dispatcher.server.number_of_clients == 0


def test_a_new_client_is_sent_its_own_geometry_first(dispatch, address):
    first = configuration(0)
    dispatcher = dispatch(first_configuration=first)
    puppet = Puppet(address)
    np.testing.assert_allclose(puppet.get_positions().positions, first.positions)
    puppet.answer(evaluation())
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    np.testing.assert_allclose(puppet.get_positions().positions, configuration(1).positions)
    puppet.answer(evaluation())
    assert dispatcher.wait_for(LabelReceived)[0].request_id == 1
    assert len([event for event in dispatcher.log if isinstance(event, LabelReceived)]) == 1


def test_the_answer_to_the_first_geometry_serves_a_request_for_it(dispatch, address):
    first = configuration(0)
    dispatcher = dispatch(first_configuration=first)
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    dispatcher.server.submit(LabelRequest(2, configuration(0)))
    puppet = Puppet(address)
    puppet.get_positions()
    puppet.answer(evaluation())
    assert dispatcher.wait_for(LabelReceived)[0].request_id == 2
    np.testing.assert_allclose(puppet.get_positions().positions, configuration(1).positions)


def test_atoms_are_moved_into_the_cell_for_codes_that_lose_them(dispatch, address):
    dispatcher = dispatch(wrap_positions=True)
    outside = configuration(0)
    shifts = np.random.default_rng(1).integers(-2, 3, (NUMBER_OF_ATOMS, 3))
    moved = Configuration(outside.cell, outside.positions + shifts @ outside.cell)
    dispatcher.server.submit(LabelRequest(1, moved))
    received = Puppet(address).get_positions()
    fractional = received.positions @ np.linalg.inv(outside.cell)
    assert (fractional > -1e-12).all() and (fractional < 1 + 1e-12).all()
    lattice = (received.positions - moved.positions) @ np.linalg.inv(outside.cell)
    np.testing.assert_allclose(lattice, np.round(lattice), atol=1e-10)


def test_the_driver_of_ipi_is_a_client(dispatch, address, start):
    """Its ideal gas: no energy, no forces."""
    dispatcher = dispatch()
    driver = Path(sys.executable).parent / "i-pi-driver-py"
    client = start(driver, "-u", "-a", address.path.removeprefix("/tmp/ipi_"), "-m", "gas")
    for number in (1, 2):
        dispatcher.server.submit(LabelRequest(number, configuration(number)))
    labels = dispatcher.wait_for(LabelReceived, 2)
    assert [label.evaluation.energy for label in labels] == [0.0, 0.0]
    dispatcher.server.close()
    assert client.wait(PATIENCE) == 0


def test_every_request_is_answered_once_however_many_clients_die(dispatch, address):
    dispatcher = dispatch(attempts=1000)
    stop = Event()

    def work_and_die(seed: int) -> None:
        """Answer with the energy that identifies the request, or die at any point of it."""
        generator = np.random.default_rng(seed)
        while not stop.is_set():
            try:
                puppet = Puppet(address, patience=5.0)
                while generator.random() > 0.1:
                    positions = puppet.get_positions(
                        protocol.NEEDINIT if generator.random() < 0.5 else protocol.READY
                    ).positions
                    if generator.random() < 0.1:
                        break
                    forces = np.zeros_like(positions)
                    puppet.answer(Evaluation(float(positions.sum()), forces, np.eye(3)))
                puppet.channel.close()
            except (RunFailed, AssertionError):
                assert stop.is_set()

    clients = [Thread(target=work_and_die, args=(seed,)) for seed in range(6)]
    for client in clients:
        client.start()
    requests = {number: configuration(number) for number in range(200)}
    for number, wanted in requests.items():
        dispatcher.server.submit(LabelRequest(number, wanted))
    labels = dispatcher.wait_for(LabelReceived, 200)
    stop.set()
    dispatcher.server.close()
    for client in clients:
        client.join(PATIENCE)
    assert sorted(label.request_id for label in labels) == list(requests)
    for label in labels:
        expected = requests[label.request_id].positions.sum()
        assert label.evaluation.energy == pytest.approx(expected, abs=1e-9)
    assert any(isinstance(event, AttemptFailed) for event in dispatcher.log)


def test_closing_does_not_wait_for_a_calculation(dispatch, address):
    dispatcher = dispatch()
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    puppet = Puppet(address)
    puppet.get_positions()
    start = monotonic()
    dispatcher.server.close()
    assert monotonic() - start < 5
    assert puppet.hear() == protocol.EXIT
    with pytest.raises(PeerClosed):
        puppet.hear()
    assert not Path(address.path).exists()


def test_no_more_clients_than_allowed(dispatch, address, monkeypatch):
    monkeypatch.setattr("anharm.server.labelling.LARGEST_NUMBER_OF_CLIENTS", 2)
    dispatcher = dispatch()
    peers = [connect(address, PATIENCE) for _ in range(3)]
    ready = select(peers, [], [], PATIENCE)[0]
    assert ready == [peers[2]] and peers[2].recv(1) == b""
    assert dispatcher.server.number_of_clients == 2
    for peer in peers:
        peer.close()
