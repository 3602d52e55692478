"""The broker's ZeroMQ socket: where it listens, whom it lets in, and how much it holds for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import zmq

from anharm.errors import RunFailed
from anharm.server.connection_limit import ConnectionLimit, raise_descriptor_limit
from anharm.server.preflight import is_in_use
from anharm.wire.addresses import parse_address
from anharm.wire.broker_connection import notice_lost_hosts
from anharm.wire.curve_keys import authenticator, secure_broker

HANDSHAKE_MILLISECONDS = 10_000
# A client waits for its answer before it sends again; more than a few messages are a flood.
LONGEST_QUEUE = 16

Delivery = Literal["sent", "gone", "full"]


@contextmanager
def broker_socket(
    endpoint: str, keys: Path | None, largest_frame: int
) -> Iterator[zmq.Socket[bytes]]:
    """A ROUTER socket bound to the endpoint; on leaving, it is closed with its last messages sent.

    Parameters
    ----------
    endpoint : str
        `ipc:///PATH` or `tcp://HOST:PORT`.
    keys : Path or None
        Folder of keys, as `anharm.wire.curve_keys` describes it. Without it, everybody who can
        reach the endpoint is a client.
    largest_frame : int
        Bytes; a peer that sends more is disconnected.

    Raises
    ------
    ConfigurationError
        If a key is missing or malformed.
    RunFailed
        If the endpoint is in use or cannot be made.
    """
    raise_descriptor_limit()
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, largest_frame)
    socket.setsockopt(zmq.RCVHWM, LONGEST_QUEUE)
    socket.setsockopt(zmq.SNDHWM, LONGEST_QUEUE)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # say what cannot be sent; do not drop it silently
    socket.setsockopt(zmq.LINGER, 2000)
    notice_lost_hosts(socket, endpoint)
    with ExitStack() as leaving:
        leaving.callback(_close, socket, context)
        if keys is not None:
            secure_broker(socket, keys)
            leaving.enter_context(authenticator(context, keys))
        limit = ConnectionLimit(socket)
        leaving.callback(limit.close)
        _bind(socket, endpoint)
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            leaving.callback(path.unlink, missing_ok=True)
        yield socket


def send_to(socket: zmq.Socket[bytes], address: bytes, frame: zmq.Frame) -> Delivery:
    """Send one message to one client, without waiting.

    Returns
    -------
    "sent", "gone" or "full"
        "gone" where nobody with this address is connected, "full" where the client has left as
        many messages unread as are kept for it.
    """
    for _ in range(2):
        try:
            socket.send_multipart([address, frame], zmq.NOBLOCK, copy=False)
            return "sent"
        except zmq.Again:
            # ZeroMQ looks about once per millisecond at what the client has taken from its queue,
            # which is too seldom for one that asks often; asking for events makes it look now.
            socket.getsockopt(zmq.EVENTS)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return "gone"
    return "full"


def _close(socket: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]]) -> None:
    socket.close()
    context.term()


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind; a UNIX socket is its owner's alone, and in a directory of its owner.

    Raises
    ------
    RunFailed
        If the endpoint is in use or cannot be made.
    """
    mask = os.umask(0o077)
    try:
        if endpoint.startswith("ipc://"):
            folder = Path(endpoint.removeprefix("ipc://")).parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_in_use(parse_address(endpoint.replace("ipc://", "unix:"))):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))  # ZeroMQ would steal
            if folder.stat().st_uid != os.getuid():
                raise RunFailed(f"the folder {folder} for the broker's socket is not yours")
        socket.bind(endpoint)
    except (OSError, zmq.ZMQError) as error:
        raise RunFailed(
            f"the broker cannot listen at {endpoint}: {error.strerror}; stop the process that "
            "uses it, or set run.broker to another endpoint"
        ) from error
    finally:
        os.umask(mask)
