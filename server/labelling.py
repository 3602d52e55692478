"""The labelling server: hands configurations to reference clients and collects the answers.

It is the server's side of the i-PI socket protocol, made for DFT codes rather than for
molecular dynamics: clients come, die, hang and come back, and every request is answered once
or reported as failed. Each client has a thread, so that none can hold up another.
"""

import logging
import select
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, Thread
from time import monotonic, sleep

from anharm.errors import ConfigurationError
from anharm.server.flood_limit import FloodLimit
from anharm.server.labelling_client import ClientLimits, ReferenceClient, describe_peer
from anharm.server.labelling_events import (
    AttemptFailed,
    AttemptStarted,
    ClientJoined,
    ClientLeft,
    LabellingEvent,
    LabelReceived,
    LabelRequest,
    RequestFailed,
    Result,
)
from anharm.server.labelling_queue import RequestQueue
from anharm.server.reference_output import NOT_CONVERGED
from anharm.server.wake_up import WakeUp
from anharm.wire.addresses import (
    SocketAddress,
    close_listening_socket,
    is_loopback,
    listen,
)
from anharm.wire.driver_protocol import Configuration

__all__ = [
    "AttemptFailed",
    "AttemptStarted",
    "ClientJoined",
    "ClientLeft",
    "LabelReceived",
    "LabelRequest",
    "LabellingEvent",
    "LabellingServer",
    "RequestFailed",
]

logger = logging.getLogger(__name__)
logger.addFilter(FloodLimit(most=500))

LARGEST_NUMBER_OF_CLIENTS = 256
CLOSING_SECONDS = 5.0
MOST_EVENTS = 1000
REMOTE_WARNING = (
    "the labelling port %s may be reachable from other hosts, and the i-PI protocol has no "
    "authentication: whoever connects to it sees the configurations and can send false forces, of "
    "which only gross errors are found. Use it on a network that you trust, or through an SSH "
    "tunnel"
)


class LabellingServer:
    """A pool of reference clients for one system.

    Parameters
    ----------
    address : SocketAddress
        Where the clients connect.
    number_of_atoms : int
        Atoms of every configuration.
    time_limit : float
        Longest calculation (s); a client that takes longer is dropped.
    attempts : int
        How often a request is tried in all.
    first_configuration : Configuration, optional
        Sent to every new client first, for codes that insist on their input geometry
        (ABINIT). The answer is used if a request asks for the same.
    allow_remote : bool
        Whether a TCP address may be reachable from other hosts.
    wrap_positions : bool
        Whether atoms are moved into the cell, which LAMMPS needs.
    handshake_limit : float
        Longest time for a client to say that it is ready (s). No request waits for it.
    reject_output : sequence of str, optional
        Regular expressions of lines that, in a client's output, make its answer worthless;
        by default what codes print where an SCF has not converged.
    output_files : sequence of Path
        Where clients print to; the standard output of those on this host is found without.

    Notes
    -----
    `fileno` is readable while there are events; `events` returns and forgets them.
    """

    def __init__(
        self,
        address: SocketAddress,
        *,
        number_of_atoms: int,
        time_limit: float,
        attempts: int,
        first_configuration: Configuration | None = None,
        allow_remote: bool = False,
        wrap_positions: bool = False,
        handshake_limit: float = 120.0,
        reject_output: Sequence[str] | None = None,
        output_files: Sequence[Path] = (),
    ) -> None:
        self.address = address
        self._allow_remote = allow_remote
        self._limits = ClientLimits(
            number_of_atoms,
            time_limit,
            handshake_limit,
            first_configuration,
            wrap_positions,
            tuple(NOT_CONVERGED.values() if reject_output is None else reject_output),
            tuple(output_files),
        )
        self._lock = Lock()
        self._queue = RequestQueue(attempts)
        self._events: deque[LabellingEvent] = deque()
        self._has_events = WakeUp()
        self._stop_accepting = WakeUp()
        self._clients: dict[str, tuple[ReferenceClient, Thread]] = {}
        self._joined = 0
        self._is_closing = False
        self._listener: socket.socket | None = None
        self._acceptor = Thread(target=self._accept, name="label-acceptor", daemon=True)

    def start(self) -> None:
        """Listen, and accept clients from now on.

        Raises
        ------
        ConfigurationError, RunFailed
            As `anharm.wire.addresses.listen` does.
        """
        self._listener = listen(self.address, allow_remote=self._allow_remote)
        if self._allow_remote and not is_loopback(self._listener):
            logger.warning(REMOTE_WARNING, self.address)
        if self.address.kind == "tcp":
            port = self._listener.getsockname()[1]
            self.address = SocketAddress("tcp", host=self.address.host, port=port)
        self._acceptor.start()

    def submit(self, request: LabelRequest) -> None:
        """Ask for a label; the answer comes as an event.

        Raises
        ------
        ConfigurationError
            If the request has another number of atoms than this server's system.
        ValueError
            If a request of that identifier is still open.
        """
        atoms = len(request.configuration.positions)
        if atoms != self._limits.number_of_atoms:
            raise ConfigurationError(
                f"label request {request.request_id} has {atoms} atoms, and the reference "
                f"clients of this server are for {self._limits.number_of_atoms}"
            )
        with self._lock:
            self._queue.submit(request)
            self._wake_clients()

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are events."""
        return self._has_events.fileno()

    def events(self) -> list[LabellingEvent]:
        """Return the events since the last call, oldest first."""
        with self._lock:
            self._has_events.clear()
            events = list(self._events)
            self._events.clear()
        return events

    @property
    def number_of_clients(self) -> int:
        """Clients that are connected."""
        return len(self._clients)

    def close(self) -> None:
        """Send the clients home and close everything, within seconds."""
        with self._lock:
            self._is_closing = True
            clients = list(self._clients.values())
        self._stop_accepting.set()
        for client, _ in clients:
            client.stop()
        deadline = monotonic() + CLOSING_SECONDS
        for thread in [self._acceptor, *(thread for _, thread in clients)]:
            if thread.is_alive():
                thread.join(max(0.0, deadline - monotonic()))
        if self._listener is not None:
            close_listening_socket(self._listener)
            self._listener = None
        self._has_events.close()
        self._stop_accepting.close()

    # What the clients call, from their threads.

    @property
    def is_closing(self) -> bool:
        """Whether the server is closing."""
        return self._is_closing

    def has_work(self) -> bool:
        """Tell whether a request waits for a client."""
        with self._lock:
            return bool(self._queue)

    def take(self, client: str) -> LabelRequest | None:
        """Assign the next request to a client."""
        with self._lock:
            return self._assigned(client, self._queue.take(client))

    def take_equal(self, client: str, configuration: Configuration) -> LabelRequest | None:
        """Assign a request for this very configuration to a client."""
        with self._lock:
            return self._assigned(client, self._queue.take_equal(client, configuration))

    def answered(self, client: str, result: Result) -> None:
        """Accept the answer to the request that was assigned to a client."""
        with self._lock:
            self._report(self._queue.answered(client, result))

    def left(self, client: str, reason: str) -> None:
        """Forget a client, and put its request back for the others."""
        level = logging.INFO if self._is_closing else logging.WARNING
        logger.log(level, "reference %s is gone: %s", client, reason)
        with self._lock:
            del self._clients[client]
            self._report(*self._queue.failed(client, reason), ClientLeft(client, reason))
            self._wake_clients()

    def _assigned(self, client: str, request: LabelRequest | None) -> LabelRequest | None:
        if request is not None:
            self._report(AttemptStarted(request.request_id, client))
        return request

    def _report(self, *events: LabellingEvent) -> None:
        """Keep events; who comes and goes is news only, and dropped when nobody listens."""
        is_flooded = len(self._events) > MOST_EVENTS
        self._events.extend(
            event
            for event in events
            if not (is_flooded and isinstance(event, ClientJoined | ClientLeft))
        )
        self._has_events.set()

    def _wake_clients(self) -> None:
        if self._queue:
            for client, _ in self._clients.values():
                client.wake()

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        listener.setblocking(False)
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(self._stop_accepting, select.POLLIN)
        while not self._is_closing:
            poller.poll()
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue  # woken up to stop, or the peer left before it was accepted
            except OSError as error:
                logger.error("cannot accept a reference client: %s", error)
                sleep(0.1)  # out of descriptors, most likely; those of leaving clients come back
                continue
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        with self._lock:
            if self._is_closing:
                connection.close()
                return
            if len(self._clients) >= LARGEST_NUMBER_OF_CLIENTS:
                logger.warning(
                    "a reference client was turned away: %d are connected, the most allowed",
                    len(self._clients),
                )
                connection.close()
                return
            self._joined += 1
            name = f"client {self._joined} ({describe_peer(connection)})"
            client = ReferenceClient(name, connection, self, self._limits)
            thread = Thread(target=client.run, name=name, daemon=True)
            self._clients[name] = (client, thread)
            self._report(ClientJoined(name))
            logger.info("reference %s joined", name)
            thread.start()
