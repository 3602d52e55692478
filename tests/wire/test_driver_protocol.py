"""The codec of the i-PI protocol: what one side writes, the other side reads."""

import socket
import struct
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipi.utils.units import unit_to_user

from anharm.errors import RunFailed
from anharm.wire import driver_protocol as protocol
from anharm.wire.channel import Channel, PeerClosed, ProtocolViolation, TimeLimitExceeded
from anharm.wire.driver_protocol import Configuration, Evaluation, Evaluations

SILICON_CELL = np.array([[0.0, 2.7, 2.8], [2.7, 0.1, 2.7], [2.6, 2.7, 0.0]])


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    yield Channel(left), Channel(right)
    left.close()
    right.close()


def exchange(message: bytes, read, chunk: int = 1 << 20):
    """Send a message in chunks and return what `read` makes of it, header skipped."""
    left, right = socket.socketpair()

    def send() -> None:
        for start in range(0, len(message), chunk):
            left.sendall(message[start : start + chunk])
        left.close()

    sender = Thread(target=send)
    sender.start()
    channel = Channel(right)
    try:
        channel.read(protocol.HEADER_LENGTH)
        return read(channel)
    finally:
        right.close()
        sender.join()


numbers = st.floats(-1e3, 1e3)


def arrays(*shape: int):
    size = int(np.prod(shape))
    return st.lists(numbers, min_size=size, max_size=size).map(
        lambda values: np.array(values).reshape(shape)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20).flatmap(lambda n: arrays(n, 3)), arrays(3, 3), st.integers(1, 5000))
def test_a_configuration_survives_the_wire_however_it_is_cut(positions, cell, chunk):
    message = protocol.encode_configuration(Configuration(cell, positions))
    received = exchange(message, protocol.read_configuration, max(chunk, 7))
    np.testing.assert_allclose(received.cell, cell, rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(received.positions, positions, rtol=1e-14, atol=1e-300)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 20).flatmap(lambda n: arrays(n, 3)),
    arrays(3, 3),
    numbers,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
)
def test_an_evaluation_survives_the_wire(forces, virial, energy, extras):
    virial = virial + virial.T
    message = protocol.encode_evaluation(Evaluation(energy, forces, virial, extras))
    received = exchange(message, lambda channel: protocol.read_evaluation(channel, len(forces)))
    assert received.energy == pytest.approx(energy, rel=1e-14)
    np.testing.assert_allclose(received.forces, forces, rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(received.virial, virial, rtol=1e-14, atol=1e-300)
    assert received.extras == extras


@settings(max_examples=30, deadline=None)
@given(
    arrays(6, 3), numbers, st.lists(st.sampled_from(["", "{}", '{"é": 1}']), min_size=3), st.data()
)
def test_a_batch_is_its_evaluations_with_the_last_one_repeated(forces, energy, extras, data):
    """In the order of their kinds: all energies, all forces, all virials, all extras."""
    single = [
        Evaluation(energy + n, n * forces, n * np.eye(3), text) for n, text in enumerate(extras)
    ]
    size = data.draw(st.integers(len(single), len(single) + 4))
    message = protocol.encode_evaluations(Evaluations.of(single), size)
    filled = [protocol.encode_evaluation(e) for e in [*single, *single[-1:] * (size - len(single))]]
    parts = [(12, 20), (24, 24 + 144), (168, 168 + 72), (240, None)]
    energies, *others = (b"".join(one[a:b] for one in filled) for a, b in parts)
    assert message == b"".join([filled[0][:12], energies, filled[0][20:24], *others])
    joined = Evaluations.joined([Evaluations.of(single[:1]), Evaluations.of(single[1:])])
    assert protocol.encode_evaluations(joined, size) == message


def test_units_are_those_of_ipi():
    assert unit_to_user("length", "angstrom", 1.0) == pytest.approx(protocol.BOHR, rel=1e-15)
    assert unit_to_user("energy", "electronvolt", 1.0) == pytest.approx(protocol.HARTREE, rel=1e-15)


def test_the_cell_is_sent_with_lattice_vectors_as_columns_in_bohr():
    message = protocol.encode_configuration(Configuration(SILICON_CELL, np.ones((2, 3))))
    columns = np.frombuffer(message, offset=12, count=9).reshape(3, 3)
    inverse = np.frombuffer(message, offset=84, count=9).reshape(3, 3)
    np.testing.assert_allclose(columns[:, 1] * protocol.BOHR, SILICON_CELL[1])
    np.testing.assert_allclose(columns @ inverse, np.eye(3), atol=1e-14)


def batch_message(cells, positions) -> bytes:
    blocks = [np.stack([cell.T, np.linalg.inv(cell.T)]) for cell in cells / protocol.BOHR]
    return (
        protocol.POSDATA
        + np.int32(len(positions[0])).tobytes()
        + np.array(blocks).tobytes()
        + (positions / protocol.BOHR).tobytes()
    )


def test_a_batch_arrives_without_its_padding():
    generator = np.random.default_rng(1)
    cells = np.repeat(SILICON_CELL[None], 5, axis=0)
    positions = generator.normal(size=(5, 4, 3))
    positions[3:] = positions[2]
    batch = exchange(batch_message(cells, positions), lambda c: protocol.read_batch(c, 5))
    assert batch.size == 5
    np.testing.assert_allclose(batch.positions, positions[:3])
    np.testing.assert_allclose(batch.configurations[2].cell, SILICON_CELL)


@pytest.mark.parametrize("n_atoms", [64, 600])
def test_batches_that_outgrow_the_buffer_keep_their_cells(n_atoms):
    """Reading the positions moves the buffer in which the cells arrived."""
    generator = np.random.default_rng(2)
    cells = np.repeat(SILICON_CELL[None], 64, axis=0)
    batches = generator.normal(size=(3, 64, n_atoms, 3))
    message = b"".join(batch_message(cells, positions) for positions in batches)

    def read(channel):
        # `exchange` skips the first header.
        found = [protocol.read_batch(channel, 64)]
        for _ in batches[1:]:
            assert bytes(channel.read(12)) == protocol.POSDATA
            found.append(protocol.read_batch(channel, 64))
        return found

    for batch, positions in zip(exchange(message, read), batches, strict=True):
        np.testing.assert_allclose(batch.cells, cells)
        np.testing.assert_allclose(batch.positions, positions)


def test_a_batch_of_equal_structures_keeps_one():
    positions = np.ones((4, 2, 3))
    cells = np.repeat(SILICON_CELL[None], 4, axis=0)
    batch = exchange(batch_message(cells, positions), lambda c: protocol.read_batch(c, 4))
    assert len(batch.configurations) == 1 and batch.size == 4


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 1), (" ", 1), (" batch_size:8", 8), ("template:a.xyz, batch_size:32", 32), ("x:y", 1)],
)
def test_the_initialisation_text_announces_batches(text, size):
    assert protocol.batch_size(text) == size


@pytest.mark.parametrize("text", ["batch_size:0", "batch_size:-3", "batch_size:1e9", "batch_size:"])
def test_absurd_batches_are_refused(text):
    with pytest.raises(ProtocolViolation, match="batch_size"):
        protocol.batch_size(text)


@pytest.mark.parametrize("number_of_atoms", [-1, 0, 10**6 + 1, 2**31 - 1])
def test_absurd_numbers_of_atoms_are_refused_before_anything_is_read(number_of_atoms):
    message = protocol.POSDATA + bytes(144) + struct.pack("=i", number_of_atoms)
    with pytest.raises(ProtocolViolation, match="number of atoms"):
        exchange(message, protocol.read_configuration)


@pytest.mark.parametrize("length", [-1, (1 << 20) + 1])
def test_absurd_initialisation_strings_are_refused(length):
    message = protocol.INIT + struct.pack("=ii", 0, length)
    with pytest.raises(ProtocolViolation, match="initialisation"):
        exchange(message, protocol.read_initialisation)


@pytest.mark.parametrize("length", [-1, (64 << 20) + 1])
def test_absurd_extras_are_refused(length):
    complete = protocol.encode_evaluation(Evaluation(0.0, np.zeros((2, 3)), np.zeros((3, 3))))
    message = complete[:-4] + struct.pack("=i", length)
    with pytest.raises(ProtocolViolation, match="extras"):
        exchange(message, lambda channel: protocol.read_evaluation(channel, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_refused(value):
    positions = np.zeros((3, 3))
    positions[1, 2] = value
    message = protocol.encode_configuration(Configuration(SILICON_CELL, positions))
    with pytest.raises(ProtocolViolation, match="finite"):
        exchange(message, protocol.read_configuration)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_forces_that_are_not_finite_are_never_sent(value):
    forces = np.zeros((3, 3))
    forces[0, 0] = value
    with pytest.raises(RunFailed, match="finite"):
        protocol.encode_evaluation(Evaluation(0.0, forces, np.zeros((3, 3))))


@pytest.mark.parametrize("triangle", [np.triu, np.tril])
def test_a_virial_of_which_one_triangle_was_sent_is_completed(triangle):
    full = np.array([[1.0, 0.2, 0.3], [0.2, 2.0, 0.4], [0.3, 0.4, 3.0]])
    message = protocol.encode_evaluation(Evaluation(0.0, np.zeros((2, 3)), triangle(full)))
    received = exchange(message, lambda channel: protocol.read_evaluation(channel, 2))
    np.testing.assert_allclose(received.virial, full)


def test_an_answer_for_another_number_of_atoms_is_refused():
    message = protocol.encode_evaluation(Evaluation(0.0, np.zeros((8, 3)), np.zeros((3, 3))))
    with pytest.raises(ProtocolViolation, match="8 atoms where 64"):
        exchange(message, lambda channel: protocol.read_evaluation(channel, 64))


def test_a_peer_that_leaves_in_the_middle_of_a_message_is_noticed():
    message = protocol.encode_configuration(Configuration(SILICON_CELL, np.zeros((3, 3))))
    with pytest.raises(PeerClosed, match="of 72 bytes"):
        exchange(message[:-1], protocol.read_configuration)


def test_a_peer_that_leaves_between_messages_has_said_goodbye(ends):
    left, right = ends
    left.send(protocol.STATUS)
    left.close()
    assert right.read_unless_closed(12) == protocol.STATUS
    assert right.read_unless_closed(12) is None


def test_a_silent_peer_runs_into_the_deadline(ends):
    channel = ends[0]
    channel.deadline = 0.0
    with pytest.raises(TimeLimitExceeded):
        channel.read(12)


def test_views_of_one_read_survive_a_growing_buffer(ends):
    left, right = ends
    sender = Thread(target=left.send, args=(b"a" * 12 + b"b" * 500_000,))
    sender.start()
    first = right.read(12)
    second = right.read(500_000)
    sender.join()
    assert bytes(first) == b"a" * 12 and bytes(second) == b"b" * 500_000
