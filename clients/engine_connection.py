"""A lattice client's conversation with i-PI, from the connection to the goodbye."""

from __future__ import annotations

import logging
import socket
from typing import Protocol

from anharm.errors import RunFailed
from anharm.wire.addresses import SocketAddress
from anharm.wire.channel import PeerClosed
from anharm.wire.driver_client import Idle, serve
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation, Evaluations

logger = logging.getLogger(__name__)


class Evaluates(Protocol):
    """Whatever answers for configurations."""

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Answer for one."""

    def evaluate_batch(self, batch: Batch) -> Evaluations:
        """Answer for each of a batch."""


def serve_engine(
    connection: socket.socket, client: Evaluates, address: SocketAddress, idle: Idle | None = None
) -> None:
    """Serve i-PI until it says EXIT; to end in any other way is no good end.

    Where `idle` is given, it is called after each answer, while i-PI moves the atoms.

    Raises
    ------
    RunFailed
        If i-PI breaks off.
    """
    try:
        batched = client.evaluate_batch
        if serve(connection, client.evaluate, evaluate_batch=batched, idle=idle) == "exit":
            return
    except PeerClosed as error:
        logger.info("%s", error)
    raise RunFailed(
        f"i-PI at {address} broke off without a goodbye: it crashed or was killed; see its "
        "own output"
    )
