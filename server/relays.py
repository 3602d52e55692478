"""Relays: i-PI's own calls of the reference, answered by the pool that labels.

Where i-PI mixes the model with the reference (multiple time stepping, ring-polymer contraction,
weighted sums), a relay stands at the socket of the reference's force field and passes each request
on to the broker. So the same clients serve training and dynamics, nothing is computed twice, and
every answer is a label in the record before i-PI sees it.
"""

from __future__ import annotations

import numpy as np

from anharm.server.label_requests import LabelRequests
from anharm.server.lattice_clients import labels_from_clients
from anharm.server.record import Label, Record
from anharm.wire.messages import (
    PROTOCOL_VERSION,
    BadMessage,
    ForcesWanted,
    Message,
    ReferenceForces,
    Stop,
    Waiting,
    pack,
    unpack_vectors,
)

MOST_WAITING = 1024

Reply = tuple[bytes, Message]


class Relays:
    """Who waits for which answer of the reference.

    Parameters
    ----------
    labels : LabelRequests
    record : Record
    n_atoms : int
        Of every configuration.
    """

    def __init__(self, labels: LabelRequests, record: Record, n_atoms: int) -> None:
        self._labels = labels
        self._record = record
        self._n_atoms = n_atoms
        self._waiting: dict[int, dict[bytes, int]] = {}

    def ask(self, address: bytes, message: ForcesWanted) -> list[Reply]:
        """Answer a relay from the record, or remember it; it may ask the same again.

        Raises
        ------
        BadMessage
            If its arrays are not a configuration of this system, or too many wait.
        """
        if message.protocol != PROTOCOL_VERSION:
            failure = (
                f"the relay speaks protocol version {message.protocol}, the broker "
                f"{PROTOCOL_VERSION}: install the same version of anharm on both sides"
            )
            return [(address, Stop("", failure))]
        positions = unpack_vectors(message.positions, self._n_atoms)
        cell = unpack_vectors(message.cell, 3)
        if len(self._waiting) >= MOST_WAITING:
            raise BadMessage(f"{MOST_WAITING} configurations of relays wait already")
        request = self._labels.harvest(positions, cell, message.forcefield)
        if request.state == "labelled":
            label = self._record.label_of(request.id)
            return [(address, _answer(label, message.sequence))]
        self._waiting.setdefault(request.id, {})[address] = message.sequence
        n_clients = self._labels.labelling.number_of_clients
        return [(address, Waiting(labels_from_clients(self._labels.n_open, False, n_clients)))]

    def answer(self, request_id: int) -> list[Reply]:
        """Give the label of a request to all who wait for it, if it is there."""
        if self._labels.is_open(request_id) or request_id not in self._waiting:
            return []
        waiting = self._waiting.pop(request_id)
        label = self._record.label_of(request_id)
        return [(address, _answer(label, sequence)) for address, sequence in waiting.items()]

    def stop(self, message: Stop) -> list[Reply]:
        """Tell all who wait that the run has ended."""
        addresses = {address for waiting in self._waiting.values() for address in waiting}
        self._waiting.clear()
        return [(address, message) for address in addresses]


def _answer(label: Label, sequence: int) -> ReferenceForces:
    answer = label.answer
    virial = np.zeros((3, 3)) if answer.virial is None else answer.virial
    return ReferenceForces(
        sequence, answer.energy, pack(answer.forces), pack(virial), answer.extras.encode()
    )
