"""One reference client of the labelling server: the strict order of the i-PI protocol.

The order is the one that every known client accepts: STATUS; INIT only where the answer is
NEEDINIT, with a text of one byte; POSDATA; STATUS; GETFORCE. pw.x leaves on a longer text,
CP2K and ABINIT on any INIT, and ABINIT wants one STATUS before each POSDATA.
"""

import logging
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

import numpy as np

from anharm.errors import RunFailed
from anharm.server.flood_limit import FloodLimit
from anharm.server.labelling_events import LabelRequest, Result
from anharm.server.reference_output import NOT_CONVERGED, ReferenceOutput, program_name
from anharm.server.wake_up import WakeUp
from anharm.wire import driver_protocol as protocol
from anharm.wire.channel import Channel, PeerClosed, ProtocolViolation, TimeLimitExceeded
from anharm.wire.driver_protocol import Configuration

logger = logging.getLogger(__name__)
logger.addFilter(FloodLimit(most=500))

FAREWELL_SECONDS = 2.0
# Without an answer of the other host for this long, a connection counts as broken.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class ClientLimits:
    """What a client may take, and what it wants.

    Attributes
    ----------
    number_of_atoms : int
        Atoms of every configuration of this server.
    time_limit : float
        Longest calculation (s).
    handshake_limit : float
        Longest time to answer the question whether the client is ready (s).
    first_configuration : Configuration or None
        What a new client is sent first, since some codes insist on their own input geometry.
    wrap_positions : bool
        Whether atoms are moved into the cell; LAMMPS loses atoms beyond it.
    reject_output : tuple of str
        Regular expressions of lines in a client's output that make an answer worthless.
    output_files : tuple of Path
        Where clients print to, beside the standard output of those on this host.
    """

    number_of_atoms: int
    time_limit: float
    handshake_limit: float
    first_configuration: Configuration | None = None
    wrap_positions: bool = False
    reject_output: tuple[str, ...] = tuple(NOT_CONVERGED.values())
    output_files: tuple[Path, ...] = ()


class Office(Protocol):
    """Where a client gets its work and delivers it; safe to call from any thread."""

    @property
    def is_closing(self) -> bool: ...

    def has_work(self) -> bool: ...

    def take(self, client: str) -> LabelRequest | None: ...

    def take_equal(self, client: str, configuration: Configuration) -> LabelRequest | None: ...

    def answered(self, client: str, result: Result) -> None: ...

    def left(self, client: str, reason: str) -> None: ...


class ReferenceClient:
    """Talks to one client from a thread of its own, until the client or the server leaves."""

    def __init__(
        self, name: str, connection: socket.socket, office: Office, limits: ClientLimits
    ) -> None:
        self.name = name
        self._channel = Channel(connection)
        self._office = office
        self._limits = limits
        self._wake_up = WakeUp()
        self._is_ready = self._has_been_ready = self._is_asking = False
        process = peer_process(connection)
        self._program = "" if process is None else program_name(process)
        self._output = ReferenceOutput(limits.reject_output, limits.output_files, process)
        _keep_alive(connection)

    def wake(self) -> None:
        """Tell an idle client that there is work, or that the server is closing."""
        self._wake_up.set()

    def stop(self) -> None:
        """End the conversation at once, also in the middle of a calculation.

        The office is closing already. A client that owes no answer is left to read its farewell:
        some write once more after their answer, if only nothing (i-PI's driver does).
        """
        self._wake_up.set()
        if not self._is_asking:
            return
        try:
            self._channel.socket.shutdown(socket.SHUT_RD)
        except OSError:
            logger.debug("%s had left already", self.name)

    def run(self) -> None:
        """Serve the client until it leaves, fails, or the server closes."""
        reason = "internal error of the dispatcher"
        try:
            self._converse()
            reason = "the labelling server closed"
        except RunFailed as error:
            reason = "the labelling server closed" if self._office.is_closing else str(error)
        finally:
            self._say_goodbye()
            self._office.left(self.name, reason)

    def _converse(self) -> None:
        if self._limits.first_configuration is not None:
            self._warm_up(self._limits.first_configuration)
        while self._wait_for_work():
            self._become_ready()
            request = self._office.take(self.name)
            if request is not None:
                self._office.answered(self.name, self._calculate(request.configuration))

    def _warm_up(self, configuration: Configuration) -> None:
        """Send the client its own geometry; the answer serves a request for the same."""
        self._become_ready()
        answer = self._calculate(configuration)
        if self._office.take_equal(self.name, configuration) is not None:
            self._office.answered(self.name, answer)

    def _wait_for_work(self) -> bool:
        """Wait until there is work (True) or the server closes (False).

        A newcomer that idles for long is asked whether it is ready, or mute peers would take all
        places as long as no label is wanted.
        """
        connection = self._channel.socket
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        poller.register(self._wake_up, select.POLLIN)
        while True:
            self._wake_up.clear()
            if self._office.is_closing:
                return False
            if self._office.has_work():
                return True
            patience = None if self._has_been_ready else 1000 * self._limits.handshake_limit
            ready = {descriptor for descriptor, _ in poller.poll(patience)}
            if not ready:
                self._become_ready()
            if connection.fileno() in ready and not self._office.is_closing:
                self._raise_reason_for_speaking()

    def _raise_reason_for_speaking(self) -> None:
        """Tell a client that left from a peer that does not know the protocol."""
        try:
            said = self._channel.socket.recv(24, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError as error:
            raise PeerClosed(f"its connection broke while it was idle ({error})") from error
        if not said:
            raise PeerClosed("it closed its connection while it was idle")
        raise ProtocolViolation(f"it said {said!r} without being asked: not an i-PI client")

    def _become_ready(self) -> None:
        """Ask for the status; a client that is ready stays so until it gets positions."""
        if self._is_ready:
            return
        seconds = self._limits.handshake_limit
        answer = self._ask(protocol.STATUS, seconds)
        if answer == protocol.NEEDINIT:
            self._channel.send(protocol.encode_initialisation(0))
            answer = self._ask(protocol.STATUS, seconds)
        if answer != protocol.READY:
            raise ProtocolViolation(f"it answered STATUS with {answer!r}, expected READY")
        self._is_ready = self._has_been_ready = True

    def _calculate(self, configuration: Configuration) -> Result:
        """Return the client's answer."""
        start = monotonic()
        self._output.mark()
        limit = self._limits.time_limit
        if self._limits.wrap_positions:
            configuration = wrapped(configuration)
        self._is_ready = False
        self._channel.deadline = start + limit
        message = protocol.encode_configuration(configuration) + protocol.STATUS
        with _naming_the_calculation(limit, self._output), self._asking():
            self._expect(protocol.HAVEDATA, message, "the positions")
            self._expect(protocol.FORCEREADY, protocol.GETFORCE, "GETFORCE")
            evaluation = protocol.read_evaluation(self._channel, self._limits.number_of_atoms)
        seconds = monotonic() - start
        return Result(evaluation, seconds, self._program, tuple(self._output.complaints()))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Mark that an answer is owed, which `stop` does not wait for."""
        self._is_asking = True
        try:
            if self._office.is_closing:
                raise PeerClosed("the labelling server closes")
            yield
        finally:
            self._is_asking = False

    def _expect(self, answer: bytes, message: bytes, what: str) -> None:
        self._channel.send(message)
        received = bytes(self._channel.read(protocol.HEADER_LENGTH))
        if received != answer:
            raise ProtocolViolation(
                f"it answered {what} with {received!r}, expected {answer.decode().strip()}"
            )

    def _ask(self, message: bytes, seconds: float) -> bytes:
        self._channel.deadline = monotonic() + seconds
        try:
            with self._asking():
                self._channel.send(message)
                return bytes(self._channel.read(protocol.HEADER_LENGTH))
        except TimeLimitExceeded as error:
            raise TimeLimitExceeded(
                f"it did not say within {seconds:g} s whether it is ready"
            ) from error
        except PeerClosed as error:
            raise PeerClosed(f"it left when asked whether it is ready ({error})") from error

    def _say_goodbye(self) -> None:
        """Send the client home, and let it hang up first: it may be writing still."""
        self._channel.deadline = monotonic() + FAREWELL_SECONDS
        patience = 0.0
        if self._office.is_closing:
            try:
                self._channel.send(protocol.EXIT)
                patience = FAREWELL_SECONDS
            except RunFailed:
                logger.debug("%s left before it was told to", self.name)
        self._channel.close(drain_seconds=patience)
        self._wake_up.close()


@contextmanager
def _naming_the_calculation(limit: float, output: ReferenceOutput) -> Iterator[None]:
    """Say of a failure that it ended a calculation, and where to look."""
    try:
        yield
    except TimeLimitExceeded as error:
        raise TimeLimitExceeded(
            f"no answer within the time limit of {limit:g} s for one calculation"
        ) from error
    except PeerClosed as error:
        why = "; ".join(output.last_words()) or (
            "its own output says why: an SCF that did not converge, or a wrong number of atoms, "
            "are usual"
        )
        raise PeerClosed(
            f"it died or left in the middle of a calculation ({error}); {why}"
        ) from error


def wrapped(configuration: Configuration) -> Configuration:
    """Return the configuration with every atom moved into the cell."""
    fractional = np.linalg.solve(configuration.cell.T, configuration.positions.T).T
    return Configuration(
        configuration.cell,
        configuration.positions - np.floor(fractional) @ configuration.cell,
    )


def describe_peer(connection: socket.socket) -> str:
    """Say who is at the other end: the process on this host, or the remote address."""
    if connection.family == socket.AF_UNIX:
        process = peer_process(connection)
        if process is None:
            return "local"
        return ", ".join(filter(None, [program_name(process), f"process {process}"]))
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return "gone already"
    return f"{host}:{port}"


def peer_process(connection: socket.socket) -> int | None:
    """The process at the other end of a UNIX socket, where the system tells."""
    if connection.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    process: int = struct.unpack("3i", credentials)[0]
    return process


def _keep_alive(connection: socket.socket) -> None:
    """Notice a host that went away without a word."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEP_ALIVE.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
