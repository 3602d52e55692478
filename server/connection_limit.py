"""A bound on the connections of a ZeroMQ socket, which has none of its own."""

from __future__ import annotations

import logging
import os
import resource
import socket
from threading import Thread

import zmq
from zmq.utils.monitor import recv_monitor_message

from anharm.server.flood_limit import FloodLimit

logger = logging.getLogger(__name__)
logger.addFilter(FloodLimit())

LARGEST_NUMBER_OF_CONNECTIONS = 512
DESCRIPTORS_WANTED = 4096


class ConnectionLimit:
    """Closes what is accepted while too many peers are connected; files must still open.

    Those that are connected already stay so. Whoever was turned away tries again by itself, if it
    is a ZeroMQ client. All this happens in a thread, since the broker may be busy with a refit.

    Parameters
    ----------
    listener : zmq.Socket
        A socket that is not bound yet.
    largest : int
        Connections.
    """

    def __init__(
        self, listener: zmq.Socket[bytes], largest: int = LARGEST_NUMBER_OF_CONNECTIONS
    ) -> None:
        self.connections = 0
        self._largest = largest
        self._listener = listener
        address = f"inproc://connections-{id(self)}"
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
        listener.monitor(address, events)
        self._monitor = listener.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # a full queue would hold up ZeroMQ's own thread
        self._monitor.connect(address)
        self._thread = Thread(target=self._count, name="connection-limit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop counting; to be called before the listener is closed."""
        self._listener.disable_monitor()  # which the thread hears of
        self._thread.join()

    def _count(self) -> None:
        while True:
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                break
            if event["event"] == zmq.EVENT_DISCONNECTED:
                self.connections -= 1
                continue
            self.connections += 1
            if self.connections > self._largest:
                _hang_up(event["value"], event["endpoint"].decode())
                logger.warning(
                    "a connection to %s was closed: %d are open, the most allowed",
                    event["endpoint"].decode(),
                    self._largest,
                )
        self._monitor.close(0)


def raise_descriptor_limit() -> None:
    """Allow this process more open files and connections, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _hang_up(descriptor: int, endpoint: str) -> None:
    """Shut down a connection that ZeroMQ has accepted; it then closes the descriptor itself.

    The connection may have ended meanwhile, and its number may be that of another file. Another
    connection to the same endpoint is as new as this one was, and may be shut down in its place.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if _listens_at(connection, endpoint):
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("a connection beyond the limit had ended by itself")


def _listens_at(connection: socket.socket, endpoint: str) -> bool:
    name = connection.getsockname()
    if isinstance(name, str):
        return endpoint == f"ipc://{name}"
    return endpoint.rpartition(":")[2] == str(name[1])
