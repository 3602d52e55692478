"""A lattice client's conversation with the uncertainty broker."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from pathlib import Path

import zmq

from anharm.errors import ConfigurationError, RunFailed
from anharm.wire.broker_connection import connect_to_broker
from anharm.wire.messages import (
    LARGEST_FRAME,
    PROTOCOL_VERSION,
    Alive,
    BadMessage,
    Goodbye,
    Hello,
    Introduce,
    Message,
    Stop,
    Waiting,
    decode,
    encode,
    is_name,
)

logger = logging.getLogger(__name__)

_ALIVE_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 0.5


class RunEnded(RunFailed):
    """The broker ended the run as intended."""


class BrokerLink:
    """Request and reply with the broker; it is alive as long as it says so.

    Parameters
    ----------
    endpoint : str
        ZeroMQ endpoint of the broker.
    trajectory : str
        Name of the trajectory that this client's i-PI runs.
    silence_limit : float
        Longest time without any message from the broker, seconds.
    keys : Path, optional
        Folder of keys, for a broker that wants them.
    """

    def __init__(
        self, endpoint: str, trajectory: str, silence_limit: float, keys: Path | None = None
    ) -> None:
        self._trajectory = trajectory
        self.name = self._new_name()
        if not is_name(self.name):
            raise ConfigurationError(
                f"the name {trajectory[:50]!r} of the trajectory is too long, or has characters "
                "that cannot be printed"
            )
        self._endpoint = endpoint
        self._limit = silence_limit
        self._keys = keys
        self._context = zmq.Context()
        self._socket = self._connect()
        self._closed = threading.Event()
        self._pulse = threading.Thread(target=self._keep_alive, daemon=True)

    def join(self) -> Message:
        """Introduce this client; returns the first message that is not `Waiting`."""
        self._introduce()
        self._pulse.start()
        return self.receive()

    def _new_name(self) -> str:
        return f"{self._trajectory}-{uuid.uuid4().hex[:8]}"

    def _connect(self) -> zmq.Socket[bytes]:
        self._patience = -1  # milliseconds that a new socket waits for a frame
        return connect_to_broker(
            self._context,
            self._endpoint,
            self._keys,
            largest_frame=LARGEST_FRAME,
            linger_milliseconds=1000,
        )

    def _introduce(self) -> None:
        self._socket.send(encode(Hello(PROTOCOL_VERSION, self.name, self._trajectory)))

    def _introduce_again(self, reason: str) -> None:
        """Begin afresh with a broker that does not know this client.

        On a new connection, for which no answer to anything earlier is on its way, and under a new
        name, since the broker lets nobody take that of a client it still believes to be there.
        """
        logger.warning("the broker does not know this client (%s): joining again", reason)
        self._socket.close(linger=0)
        self._socket = self._connect()
        self.name = self._new_name()
        self._introduce()

    def ask(self, message: Message) -> Message:
        """Send a message and return its answer.

        A broker that was restarted meanwhile answers with its model.

        Raises
        ------
        RunEnded, RunFailed
            If the broker ends the run, or has been silent for too long.
        """
        self.tell(message)
        return self.receive()

    def tell(self, message: Message) -> None:
        """Send a message, whose answer `receive` returns."""
        self._socket.send(encode(message))

    def receive(self) -> Message:
        """The broker's next message other than `Waiting`; raises as `ask` does."""
        deadline = time.monotonic() + self._limit
        reason = asked = ""
        while True:
            frame = self._frame_before(deadline, asked)
            try:
                message = decode(frame, LARGEST_FRAME)
            except BadMessage as error:
                raise RunFailed(f"the broker sent what is no message: {error}") from error
            if isinstance(message, Stop):
                if message.failure:
                    raise RunFailed(message.failure)
                raise RunEnded(message.reason)
            if isinstance(message, Introduce):
                if asked:  # once more: not faster than a broker that was just restarted needs
                    self._closed.wait(_ASK_AGAIN_SECONDS)
                asked = message.reason or "for no reason"
                self._introduce_again(message.reason)
                continue
            if not isinstance(message, Waiting):
                return message
            deadline, asked = time.monotonic() + self._limit, ""
            if message.reason != reason:
                reason = message.reason
                logger.info("waiting for %s", reason or "the broker")

    def _frame_before(self, deadline: float, asked: str) -> bytes:
        """Wait for a frame; `asked` is why the broker last asked who this is."""
        while True:
            remaining = deadline - time.monotonic()
            if remaining > 0 or not asked:
                patience = max(0.0, min(remaining, _ASK_AGAIN_SECONDS))
                try:
                    self._set_patience(int(1000 * patience))
                    return self._socket.recv()
                except zmq.Again:
                    pass
            if remaining > 0:
                # A broker that lost the question with its life asks who this is.
                self._send(Alive(self.name))
                continue
            if asked:
                raise RunFailed(
                    f"the broker at {self._endpoint} asks again and again who this is: {asked}"
                )
            raise RunFailed(
                f"the broker at {self._endpoint} has been silent for {self._limit:.0f} s; "
                f"is `anharm broker` running with the same run.toml{self._and_keys}?"
            )

    def _set_patience(self, milliseconds: int) -> None:
        if milliseconds != self._patience:
            self._socket.setsockopt(zmq.RCVTIMEO, milliseconds)
            self._patience = milliseconds

    @property
    def _and_keys(self) -> str:
        if self._keys is None:
            return ""
        return f", and does it know the client of {self._keys} (the same client.key and broker.key)"

    def leave(self, failure: str = "") -> None:
        """Say goodbye and close."""
        self._closed.set()
        self._send(Goodbye(self.name, failure))
        if self._pulse.is_alive():
            self._pulse.join()
        self._socket.close()
        self._context.term()

    def _send(self, message: Message) -> None:
        """Send unless the queue is full, as it is when the broker has been away for long."""
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            logger.debug("the broker does not take messages at the moment")

    def _keep_alive(self) -> None:
        """Tell the broker from time to time that this client is there, whatever i-PI does."""
        socket = connect_to_broker(
            self._context, self._endpoint, self._keys, largest_frame=LARGEST_FRAME
        )
        while not self._closed.wait(_ALIVE_SECONDS):
            while socket.poll(0):
                socket.recv()  # who this is, the broker also asks where it is answered
            try:
                socket.send(encode(Alive(self.name)), zmq.NOBLOCK)
            except zmq.Again:
                logger.debug("the broker does not take messages at the moment")
        socket.close()
