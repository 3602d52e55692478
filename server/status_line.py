"""The supervisor's line to the broker: how does the run stand?"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import zmq

from anharm.errors import RunFailed
from anharm.wire.broker_connection import connect_to_broker
from anharm.wire.messages import (
    LARGEST_CLIENT_FRAME,
    BadMessage,
    Status,
    StatusRequest,
    decode,
    encode,
)

_ASK_AGAIN_SECONDS = 3.0  # a broker that was killed has lost the question


class StatusLine:
    """Asks the broker for its status."""

    def __init__(self, endpoint: str, keys: Path | None) -> None:
        self._context = zmq.Context()
        self._socket = connect_to_broker(
            self._context, endpoint, keys, largest_frame=LARGEST_CLIENT_FRAME
        )
        self._asked_at: float | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether an answer to an earlier question may still come."""
        return self._asked_at is not None

    def ask(self, seconds: float) -> Status | None:
        """The broker's status, or None if it does not answer in time."""
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at > _ASK_AGAIN_SECONDS:
            while self._asked_at is None and self._socket.poll(0):
                self._socket.recv()  # the answer to a question that was asked twice
            with suppress(zmq.Again):  # the queue is full: the broker has been away for long
                self._socket.send(encode(StatusRequest("")), zmq.NOBLOCK)
            self._asked_at = now
        if not self._socket.poll(int(seconds * 1000)):
            return None
        self._asked_at = None
        try:
            message = decode(self._socket.recv())
        except BadMessage as error:
            raise RunFailed(
                f"the broker's address answers with what is no message: {error}"
            ) from error
        return message if isinstance(message, Status) else None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()
