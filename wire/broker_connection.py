"""A ZeroMQ socket connected to the broker, with bounded queues and frames."""

from pathlib import Path

import zmq

from anharm.wire.curve_keys import secure_client

# Hosts that are gone without a word are noticed by the kernel's own probes. ZeroMQ's heartbeat
# would end the process (libzmq 4.3.5: `Assertion failed: !_io_error`) where it falls due on a
# connection that broke while the queue of received messages was full.
IDLE_SECONDS = 60
PROBE_SECONDS = 15
PROBES = 4
UNANSWERED_MILLISECONDS = 120_000


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
    notice_lost_hosts(socket, endpoint)
    try:
        if keys is not None:
            secure_client(socket, keys)
        socket.connect(endpoint)
    except BaseException:
        socket.close()
        raise
    return socket


def notice_lost_hosts(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Close connections to hosts that are gone without a word, and understand IPv6 numbers."""
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, IDLE_SECONDS)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_SECONDS)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, PROBES)
    socket.setsockopt(zmq.TCP_MAXRT, UNANSWERED_MILLISECONDS)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
