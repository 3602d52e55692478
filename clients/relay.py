"""The relay: i-PI asks for the reference's forces, the broker has them computed and recorded."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from pathlib import Path

import zmq

from anharm.clients.broker_link import RunEnded
from anharm.errors import RunFailed
from anharm.wire.addresses import SocketAddress, connect
from anharm.wire.broker_connection import connect_to_broker
from anharm.wire.channel import PeerClosed
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Configuration, Evaluation
from anharm.wire.messages import (
    LARGEST_FRAME,
    BadMessage,
    ForcesWanted,
    Message,
    ReferenceForces,
    Status,
    StatusRequest,
    Stop,
    decode,
    encode,
    unpack_vectors,
)

logger = logging.getLogger(__name__)

_ASK_AGAIN_SECONDS = 2.0  # a broker that was restarted has forgotten who waits for what
_LOOK_SECONDS = 0.5
_COME_BACK_SECONDS = 3.0


class Relay:
    """Passes configurations on to the broker and brings the reference's answers back.

    Parameters
    ----------
    endpoint : str
        ZeroMQ endpoint of the broker.
    forcefield : str
        Name of i-PI's force field that is served.
    silence_limit : float
        Longest time without any message from the broker, seconds.
    keys : Path, optional
        Folder of keys, for a broker that wants them.
    """

    def __init__(
        self, endpoint: str, forcefield: str, silence_limit: float, keys: Path | None = None
    ) -> None:
        self._name = f"relay-{uuid.uuid4().hex[:8]}"
        self._endpoint = endpoint
        self._forcefield = forcefield
        self._limit = silence_limit
        self._sequence = -1
        self._context = zmq.Context()
        self._socket = connect_to_broker(self._context, endpoint, keys, largest_frame=LARGEST_FRAME)

    def await_first_model(self) -> None:
        """Wait until the initial labels are learnt: i-PI has nothing to do before.

        Raises
        ------
        RunEnded, RunFailed
            If the broker ends the run, or has been silent for too long.
        """
        heard = time.monotonic()
        while True:
            reply = self._exchange(StatusRequest(""), _LOOK_SECONDS)
            if isinstance(reply, Status):
                heard = time.monotonic()
                if reply.phase == "stopped":
                    raise _ending(Stop("the run has ended", reply.failure))
                if reply.model_version > 0 and reply.phase != "initial labels":
                    return
                time.sleep(_LOOK_SECONDS)
            self._check_silence(heard)

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """The reference's energy, forces and virial of one configuration.

        Raises
        ------
        RunEnded, RunFailed
            If the broker ends the run, or has been silent for too long.
        """
        self._sequence += 1
        question = ForcesWanted.of(
            self._name,
            self._forcefield,
            self._sequence,
            configuration.cell,
            configuration.positions,
        )
        heard = time.monotonic()
        while True:
            reply = self._exchange(question, _ASK_AGAIN_SECONDS)
            if reply is not None:
                heard = time.monotonic()
            if isinstance(reply, ReferenceForces):
                return _evaluation(reply, len(configuration.positions))
            self._check_silence(heard)

    def close(self) -> None:
        """Close the connection to the broker."""
        self._socket.close()
        self._context.term()

    def _exchange(self, question: Message, seconds: float) -> Message | None:
        """Ask, and return the answer; some other message if only that came in time."""
        try:
            self._socket.send(encode(question), zmq.NOBLOCK)
        except zmq.Again:
            logger.debug("the broker does not take messages at the moment")
        deadline = time.monotonic() + seconds
        last: Message | None = None
        while self._socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            try:
                last = decode(self._socket.recv(), LARGEST_FRAME)
            except BadMessage as error:
                raise RunFailed(f"the broker sent what is no message: {error}") from error
            if isinstance(last, Stop):
                raise _ending(last)
            if isinstance(last, Status):
                return last
            if isinstance(last, ReferenceForces) and last.sequence == self._sequence:
                return last
        return last if not isinstance(last, ReferenceForces) else None

    def _check_silence(self, heard: float) -> None:
        if time.monotonic() - heard > self._limit:
            raise RunFailed(
                f"the broker at {self._endpoint} has been silent for {self._limit:.0f} s; is "
                "`anharm broker` running with the same run.toml?"
            )


def _ending(message: Stop) -> RunFailed:
    return RunFailed(message.failure) if message.failure else RunEnded(message.reason)


def _evaluation(answer: ReferenceForces, n_atoms: int) -> Evaluation:
    try:
        forces = unpack_vectors(answer.forces, n_atoms)
        virial = unpack_vectors(answer.virial, 3)
    except BadMessage as error:
        raise RunFailed(f"the broker sent forces that are none: {error}") from error
    return Evaluation(answer.energy, forces, virial, answer.extras.decode(errors="replace"))


def run_relay(
    engine_address: SocketAddress,
    broker_endpoint: str,
    forcefield: str,
    *,
    connection_limit: float = 60.0,
    keys: Path | None = None,
) -> None:
    """Serve the reference's force field of i-PI until i-PI ends.

    Parameters
    ----------
    engine_address : SocketAddress
        Where i-PI listens for the clients of this force field.
    broker_endpoint : str
        ZeroMQ endpoint of the broker.
    forcefield : str
        Its name, for the record.
    connection_limit : float
        Deadline for i-PI to appear once there is a model, and longest silence of the broker, s.
    keys : Path, optional
        Folder of keys, for a broker that wants them.

    Raises
    ------
    AnharmError
        If i-PI or the broker does not appear or disappears.
    """
    relay = Relay(broker_endpoint, forcefield, connection_limit, keys)
    try:
        relay.await_first_model()
        connection = connect(engine_address, connection_limit)
        while not _serve_once(connection, relay):
            try:
                connection = connect(engine_address, _COME_BACK_SECONDS)
            except RunFailed:
                logger.info("i-PI has left %s", engine_address)
                return
    except RunEnded as ending:
        logger.info("the broker ended the run: %s", ending)
    finally:
        relay.close()


def _serve_once(connection: socket.socket, relay: Relay) -> bool:
    """Serve i-PI until it says EXIT (True), or gives up this connection (False).

    It does so when an answer takes longer than its <timeout>. Whoever comes back is asked again,
    and has the answer from the record.
    """
    try:
        return serve(connection, relay.evaluate) == "exit"
    except PeerClosed as error:
        logger.info("%s", error)
        return False
