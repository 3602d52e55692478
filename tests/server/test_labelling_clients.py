"""The labelling server with reference clients that calculate: ASE's."""

import signal
import subprocess
import sys
import textwrap
from threading import Barrier, Thread

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketClient

from anharm.server.labelling import (
    AttemptFailed,
    ClientJoined,
    ClientLeft,
    LabelReceived,
    LabelRequest,
)
from anharm.wire.addresses import parse_address
from anharm.wire.driver_protocol import Configuration, Evaluation

PATIENCE = 60.0


def configuration(seed: int, atoms=None) -> Configuration:
    atoms = atoms if atoms is not None else bulk("Cu", cubic=True) * (2, 1, 1)
    noise = np.random.default_rng(seed).normal(0, 0.05, (len(atoms), 3))
    return Configuration(np.array(atoms.cell), atoms.positions + noise)


def emt(request: LabelRequest) -> Evaluation:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.cell[:] = request.configuration.cell
    atoms.positions[:] = request.configuration.positions
    atoms.calc = EMT()
    virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
    return Evaluation(atoms.get_potential_energy(), atoms.get_forces(), virial)


def assert_is_emt_label(label: LabelReceived, request: LabelRequest) -> None:
    # ASE's client uses another edition of the fundamental constants: 1e-8 apart.
    expected = emt(request)
    assert label.evaluation.energy == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(label.evaluation.forces, expected.forces, atol=1e-6)
    np.testing.assert_allclose(label.evaluation.virial, expected.virial, atol=1e-5)


ASE_CLIENT = """
import sys
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketClient

class Slow(EMT):
    def calculate(self, *arguments, **options):
        print("calculating", flush=True)
        if sys.argv[2] == "hang":
            import time
            time.sleep(1000)
        super().calculate(*arguments, **options)

atoms = bulk("Cu", cubic=True) * (2, 1, 1)
atoms.calc = Slow()
SocketClient(unixsocket=sys.argv[1]).run(atoms, use_stress=True)
"""


@pytest.fixture
def start_ase_client(start, tmp_path, address):
    script = tmp_path / "ase_client.py"
    script.write_text(textwrap.dedent(ASE_CLIENT))

    def start_client(mode: str = "work") -> subprocess.Popen:
        name = address.path.removeprefix("/tmp/ipi_")
        return start(sys.executable, script, name, mode, stdout=subprocess.PIPE, text=True)

    return start_client


def test_an_ase_client_labels_everything_in_turn(dispatch, start_ase_client):
    dispatcher = dispatch()
    requests = [LabelRequest(number, configuration(number)) for number in range(5)]
    start_ase_client()
    for request in requests:
        dispatcher.server.submit(request)
    labels = dispatcher.wait_for(LabelReceived, 5)
    assert [label.request_id for label in labels] == [0, 1, 2, 3, 4]
    for label, request in zip(labels, requests, strict=True):
        assert_is_emt_label(label, request)
    assert dispatcher.server.number_of_clients == 1


def test_clients_are_sent_home_when_the_server_closes(dispatch, start_ase_client):
    dispatcher = dispatch()
    client = start_ase_client()
    dispatcher.wait_for(ClientJoined)
    dispatcher.server.close()
    assert client.wait(PATIENCE) == 0


def test_the_work_of_a_killed_client_goes_to_another_one(dispatch, start_ase_client):
    dispatcher = dispatch()
    request = LabelRequest(7, configuration(7))
    victim = start_ase_client("hang")
    dispatcher.wait_for(ClientJoined)
    dispatcher.server.submit(request)
    assert victim.stdout.readline() == "calculating\n"
    start_ase_client()
    dispatcher.wait_for(ClientJoined, 2)
    victim.send_signal(signal.SIGKILL)
    label = dispatcher.wait_for(LabelReceived)[0]
    assert_is_emt_label(label, request)
    failure = dispatcher.wait_for(AttemptFailed)[0]
    assert (failure.request_id, failure.attempt) == (7, 1)
    assert "in the middle of a calculation" in failure.reason
    assert failure.client != label.client


def test_work_waits_for_the_next_client_when_the_last_one_dies(dispatch, start_ase_client):
    dispatcher = dispatch()
    victim = start_ase_client("hang")
    dispatcher.server.submit(LabelRequest(1, configuration(1)))
    assert victim.stdout.readline() == "calculating\n"
    victim.send_signal(signal.SIGKILL)
    dispatcher.wait_for(ClientLeft)
    assert dispatcher.server.number_of_clients == 0
    start_ase_client()
    assert dispatcher.wait_for(LabelReceived)[0].request_id == 1


def test_many_clients_share_the_work_over_tcp(dispatch):
    dispatcher = dispatch(address=parse_address("tcp://127.0.0.1:0"))
    port = dispatcher.server.address.port

    def serve_copper() -> None:
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.calc = EMT()
        SocketClient(port=port).run(atoms, use_stress=True)

    clients = [Thread(target=serve_copper) for _ in range(4)]
    for client in clients:
        client.start()
    dispatcher.wait_for(ClientJoined, 4)
    for number in range(40):
        dispatcher.server.submit(LabelRequest(number, configuration(number)))
    labels = dispatcher.wait_for(LabelReceived, 40)
    assert sorted(label.request_id for label in labels) == list(range(40))
    assert_is_emt_label(labels[17], LabelRequest(0, configuration(labels[17].request_id)))
    assert dispatcher.server.number_of_clients == 4
    dispatcher.server.close()
    for client in clients:
        client.join(PATIENCE)
        assert not client.is_alive()


def test_two_clients_calculate_at_the_same_time(dispatch, address):
    """Each calculation ends only when another one has begun beside it."""
    meeting = Barrier(2)

    class Meeting(EMT):
        def calculate(self, *arguments, **options):
            meeting.wait(PATIENCE)
            super().calculate(*arguments, **options)

    def serve_copper() -> None:
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.calc = Meeting()
        SocketClient(unixsocket=address.path.removeprefix("/tmp/ipi_")).run(atoms, use_stress=True)

    dispatcher = dispatch()
    for number in range(20):
        dispatcher.server.submit(LabelRequest(number, configuration(number)))
    for _ in range(2):
        Thread(target=serve_copper, daemon=True).start()
    assert len(dispatcher.wait_for(LabelReceived, 20)) == 20
