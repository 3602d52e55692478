"""The messages of the i-PI socket protocol, as seen from both sides.

Twelve-byte headers, native 32-bit integers and 64-bit floats, Hartree atomic units: this is
the only module that knows them. Everything that is returned is in Angstrom and eV, and
nothing is returned that was not bounded and found finite.

The protocol is described in the manual of i-PI (https://docs.ipi-code.org); the batched form
is that of i-PI 3.3: one number of atoms, all cells, all positions, and likewise the answers.
"""

import struct
from collections.abc import Sequence
from math import isfinite, prod
from typing import Any

import numpy as np

from anharm.errors import RunFailed
from anharm.wire.channel import Channel, PeerClosed, ProtocolViolation, TimeLimitExceeded
from anharm.wire.configurations import Batch, Configuration, Evaluation, Evaluations

__all__ = [
    "Batch",
    "Channel",
    "Configuration",
    "Evaluation",
    "Evaluations",
    "PeerClosed",
    "ProtocolViolation",
    "TimeLimitExceeded",
]

# The values of ipi.utils.units, so that an Angstrom of the user's i-PI input is an Angstrom here.
BOHR = 1 / 1.8897261  # Angstrom
HARTREE = 1 / 0.036749326  # eV

HEADER_LENGTH = 12
STATUS = b"STATUS      "
NEEDINIT = b"NEEDINIT    "
READY = b"READY       "
HAVEDATA = b"HAVEDATA    "
INIT = b"INIT        "
POSDATA = b"POSDATA     "
GETFORCE = b"GETFORCE    "
FORCEREADY = b"FORCEREADY  "
EXIT = b"EXIT        "

LARGEST_NUMBER_OF_ATOMS = 10**6
LARGEST_BATCH = 4096
LARGEST_NUMBER_OF_ATOMS_IN_BATCH = 10**7
LARGEST_LENGTH = 1e12  # Angstrom; squares and products of such lengths do not overflow
LARGEST_EXTRAS = 64 << 20
LARGEST_INITIALISATION = 1 << 20

_INTEGER = struct.Struct("=i")
_INTEGERS = struct.Struct("=ii")
_ENERGY_AND_ATOMS = struct.Struct("=di")
_CELL_BYTES = 144  # the cell and its inverse


def encode_initialisation(identifier: int, text: str = " ") -> bytes:
    """Return an INIT message. Some codes accept only a text of one byte."""
    content = text.encode()
    return INIT + _INTEGERS.pack(identifier, len(content)) + content


def read_initialisation(channel: Channel) -> tuple[int, str]:
    """Read what follows the header INIT: an identifier (of no use) and a text."""
    identifier, length = _INTEGERS.unpack(channel.read(_INTEGERS.size))
    _check_range("length of the initialisation string", length, 0, LARGEST_INITIALISATION)
    return identifier, bytes(channel.read(length)).decode(errors="replace")


def batch_size(initialisation: str) -> int:
    """Return the number of structures per message that an INIT text announces.

    Raises
    ------
    ProtocolViolation
        If it is not an integer from 1 to `LARGEST_BATCH`.
    """
    for token in initialisation.split(","):
        key, separator, value = token.partition(":")
        if separator and key.strip() == "batch_size":
            if not value.strip().isdecimal():
                raise ProtocolViolation(f"batch_size {value.strip()[:20]!r} is not an integer")
            _check_range("batch_size", int(value), 1, LARGEST_BATCH)
            return int(value)
    return 1


def encode_configuration(configuration: Configuration) -> bytes:
    """Return a POSDATA message of one structure."""
    columns = np.ascontiguousarray(configuration.cell.T / BOHR, dtype=np.float64)
    # The clients ignore the inverse; a cell without one (a molecule's) still goes through.
    inverse = np.linalg.pinv(columns)
    positions = np.ascontiguousarray(configuration.positions / BOHR, dtype=np.float64)
    return b"".join(
        (
            POSDATA,
            columns.tobytes(),
            inverse.tobytes(),
            _INTEGER.pack(len(positions)),
            positions.tobytes(),
        )
    )


def read_configuration(channel: Channel) -> Configuration:
    """Read what follows the header POSDATA; the inverse of the cell is ignored.

    Raises
    ------
    ProtocolViolation
        If the number of atoms is out of bounds or a number is not finite or absurdly large.
    """
    head = channel.read(_CELL_BYTES + _INTEGER.size)
    # A copy: the view of the channel ends with its next read.
    columns = np.frombuffer(head, count=9).reshape(3, 3).copy()
    number_of_atoms = _INTEGER.unpack_from(head, _CELL_BYTES)[0]
    _check_range("number of atoms", number_of_atoms, 1, LARGEST_NUMBER_OF_ATOMS)
    return configuration_of(columns, _floats(channel, (number_of_atoms, 3)))


def configuration_of(columns: np.ndarray, positions: np.ndarray) -> Configuration:
    """Return the configuration that i-PI's own numbers stand for.

    Parameters
    ----------
    columns : ndarray, shape (3, 3)
        Lattice vectors as columns (Bohr).
    positions : ndarray, shape (N, 3)
        Cartesian positions (Bohr).

    Raises
    ------
    ProtocolViolation
        If a number is not finite or absurdly large.
    """
    cell = np.multiply(columns.T, BOHR, order="C")
    positions = positions * BOHR
    _check_finite("cell", cell)
    _check_finite("positions", positions)
    return Configuration(cell, positions)


def read_batch(channel: Channel, size: int) -> Batch:
    """Read what follows the header POSDATA in the batched form.

    Raises
    ------
    ProtocolViolation
        As `read_configuration` does.
    """
    number_of_atoms = _INTEGER.unpack(channel.read(_INTEGER.size))[0]
    _check_range("number of atoms", number_of_atoms, 1, LARGEST_NUMBER_OF_ATOMS)
    _check_range(
        "number of atoms in a batch",
        size * number_of_atoms,
        1,
        LARGEST_NUMBER_OF_ATOMS_IN_BATCH,
    )
    # A copy: the next read may reuse the buffer that the cells are in.
    columns = _floats(channel, (size, 2, 3, 3))[:, 0].copy()
    return batch_of(columns, _floats(channel, (size, number_of_atoms, 3)))


def batch_of(columns: np.ndarray, positions: np.ndarray) -> Batch:
    """Return the batch that i-PI's own numbers stand for.

    Parameters
    ----------
    columns : ndarray, shape (size, 3, 3)
        Lattice vectors as columns (Bohr).
    positions : ndarray, shape (size, N, 3)
        Cartesian positions (Bohr).

    Raises
    ------
    ProtocolViolation
        As `configuration_of` does.
    """
    size = len(positions)
    cells = np.ascontiguousarray(columns.transpose(0, 2, 1)) * BOHR
    positions = positions * BOHR
    _check_finite("cell", cells)
    _check_finite("positions", positions)
    count = size
    while count > 1 and _same(cells, count) and _same(positions, count):
        count -= 1
    return Batch(cells[:count], positions[:count], size)


def encode_evaluation(evaluation: Evaluation) -> bytes:
    """Return a FORCEREADY message of one structure.

    Raises
    ------
    RunFailed
        If a number is not finite: a force that is not a number would end the dynamics.
    """
    energy, forces, virial = in_atomic_units(evaluation)
    extras = evaluation.extras.encode()
    return b"".join(
        (
            FORCEREADY,
            _ENERGY_AND_ATOMS.pack(energy, len(forces)),
            forces.tobytes(),
            virial.tobytes(),
            _INTEGER.pack(len(extras)),
            extras,
        )
    )


def in_atomic_units(evaluation: Evaluation) -> tuple[float, np.ndarray, np.ndarray]:
    """Return energy, forces (N, 3) and virial (3, 3) in i-PI's own units, in new arrays.

    Raises
    ------
    RunFailed
        If a number is not finite.
    """
    forces = np.ascontiguousarray(evaluation.forces, dtype=np.float64)
    virial = np.ascontiguousarray(evaluation.virial, dtype=np.float64)
    _check_answer(evaluation.energy, forces, virial)
    return evaluation.energy / HARTREE, forces * (BOHR / HARTREE), virial / HARTREE


def encode_evaluations(evaluations: Evaluations, size: int) -> bytes:
    """Return a FORCEREADY message in the batched form.

    The last evaluation is repeated until there are `size` of them.

    Raises
    ------
    RunFailed
        As `encode_evaluation` does.
    """
    energies, forces, virials = _together(evaluations)
    copies = size - len(evaluations)
    message: list[Any] = [FORCEREADY, energies, *[energies[-1:]] * copies]
    message += (_INTEGER.pack(forces.shape[1]), forces, *[forces[-1:]] * copies)
    message += (virials, *[virials[-1:]] * copies)
    texts = {text: text.encode() for text in set(evaluations.extras)}
    extras = {text: _INTEGER.pack(len(content)) + content for text, content in texts.items()}
    message += [extras[text] for text in evaluations.extras]
    message += [extras[evaluations.extras[-1]]] * copies
    return b"".join(message)


def all_in_atomic_units(
    evaluations: Evaluations, size: int
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return what `in_atomic_units` does of each, the last one repeated until there are `size`.

    Raises
    ------
    RunFailed
        If a number is not finite.
    """
    energies, forces, virials = _together(evaluations)
    found = list(zip(energies.tolist(), forces, virials, strict=True))
    while len(found) < size:
        found.append((found[-1][0], forces[-1].copy(), virials[-1].copy()))
    return found


def _together(evaluations: Evaluations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies, forces and virials of several evaluations, checked, in atomic units."""
    energies, forces, virials = evaluations.energies, evaluations.forces, evaluations.virials
    _check_answer(float(energies.sum()), forces, virials)
    forces = np.multiply(forces, BOHR / HARTREE, order="C")
    return energies / HARTREE, forces, np.divide(virials, HARTREE, order="C")


def committee_extras(
    names: Sequence[str], energies: np.ndarray, forces: np.ndarray, virials: np.ndarray
) -> dict[str, list]:
    """Return the extras of a committee as i-PI's <ffcommittee> reads them, in atomic units.

    Parameters
    ----------
    names : sequence of str
        Which of "committee_pot", "committee_force" and "committee_virial" to return.
    energies : ndarray, shape (M,)
        eV.
    forces : ndarray, shape (M, N, 3)
        eV/Angstrom.
    virials : ndarray, shape (M, 3, 3)
        eV.
    """
    found = {}
    if "committee_pot" in names:
        found["committee_pot"] = (energies / HARTREE).tolist()
    if "committee_force" in names:
        rows = forces.reshape(len(forces), -1) * (BOHR / HARTREE)
        found["committee_force"] = rows.tolist()
    if "committee_virial" in names:
        found["committee_virial"] = (virials.reshape(-1, 9) / HARTREE).tolist()
    return found


def read_evaluation(channel: Channel, number_of_atoms: int) -> Evaluation:
    """Read what follows the header FORCEREADY.

    Numbers may be non-finite here: what to think of a DFT code that sends them is decided
    where labels are checked.

    Raises
    ------
    ProtocolViolation
        If the answer has another number of atoms, or extras beyond the bounds.
    """
    energy, atoms = _ENERGY_AND_ATOMS.unpack(channel.read(_ENERGY_AND_ATOMS.size))
    if atoms != number_of_atoms:
        raise ProtocolViolation(
            f"the answer has {atoms} atoms where {number_of_atoms} were asked for: "
            "is the client's input file for this system?"
        )
    forces = _floats(channel, (number_of_atoms, 3)) * (HARTREE / BOHR)
    virial = _with_both_triangles(_floats(channel, (3, 3)) * HARTREE)
    length = _INTEGER.unpack(channel.read(_INTEGER.size))[0]
    _check_range("length of the extras", length, 0, LARGEST_EXTRAS)
    extras = bytes(channel.read(length)).decode(errors="replace").strip("\0")
    return Evaluation(energy * HARTREE, forces, virial, extras)


def _floats(channel: Channel, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(channel.read(8 * prod(shape))).reshape(shape)


def _with_both_triangles(virial: np.ndarray) -> np.ndarray:
    """Mirror a virial of which only one triangle was filled, as LAMMPS does."""
    upper, lower = np.triu(virial, 1), np.tril(virial, -1)
    if upper.any() == lower.any():
        return virial
    return virial + (upper + lower).T


def _same(arrays: np.ndarray, count: int) -> bool:
    return np.array_equal(arrays[count - 1], arrays[count - 2])


def _check_range(what: str, value: int, smallest: int, largest: int) -> None:
    if not smallest <= value <= largest:
        raise ProtocolViolation(
            f"the peer gives a {what} of {value}, expected {smallest} to {largest}: "
            "is it an i-PI server or client of the same byte order?"
        )


def _check_finite(what: str, values: np.ndarray) -> None:
    # One sum costs a fraction of a test of every number; that of an infinity or of what is not a
    # number is neither below the limit.
    if not np.vdot(values, values) <= LARGEST_LENGTH**2:
        raise ProtocolViolation(
            f"the {what} received hold numbers that are not finite, or beyond {LARGEST_LENGTH:g} "
            "Angstrom: the dynamics has blown up, look at the last steps before this one"
        )


def _check_answer(energy: float, forces: np.ndarray, virial: np.ndarray) -> None:
    """One evaluation's numbers, or those of several with the energies added up."""
    if forces.ndim < 2 or forces.shape[-1] != 3 or virial.shape[-2:] != (3, 3):
        raise RunFailed(
            f"an evaluation has forces of shape {forces.shape} and a virial of shape "
            f"{virial.shape}, expected (N, 3) and (3, 3)"
        )
    total = np.add.reduce(forces, axis=None) + np.add.reduce(virial, axis=None)
    if not isfinite(energy + float(total)):
        raise RunFailed("an evaluation holds numbers that are not finite; nothing was sent")
