"""A ZeroMQ socket connected to the broker, with bounded queues and frames."""

from pathlib import Path

import zmq

from anharm.wire.curve_keys import secure_client

# Whoever stops answering for so long is gone; a host that is merely busy answers sooner, since
# ZeroMQ's own threads do it.
HEARTBEAT_MILLISECONDS = 15_000
SILENCE_MILLISECONDS = 120_000


def connect_to_broker(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    keys: Path | None,
    *,
    largest_frame: int,
    linger_milliseconds: int = 0,
) -> zmq.Socket[bytes]:
    """Return a DEALER socket that connects to the broker as soon as it is there.

    Parameters
    ----------
    context : zmq.Context
    endpoint : str
        ZeroMQ endpoint of the broker.
    keys : Path or None
        Folder of keys, as `anharm.wire.curve_keys` describes it.
    largest_frame : int
        Bytes; a broker that sends more is disconnected.
    linger_milliseconds : int
        How long messages that were not sent yet survive the end of the socket.

    Raises
    ------
    ConfigurationError
        If a key is missing or malformed.
    """
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.MAXMSGSIZE, largest_frame)
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.LINGER, linger_milliseconds)
    set_heartbeat(socket, endpoint)
    try:
        if keys is not None:
            secure_client(socket, keys)
        socket.connect(endpoint)
    except BaseException:
        socket.close()
        raise
    return socket


def set_heartbeat(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Notice peers that are gone without a word, and understand IPv6 numbers."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MILLISECONDS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MILLISECONDS)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
