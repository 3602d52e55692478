"""Exact, bounded reads and whole writes on one connected stream socket."""

import socket
from time import monotonic

from anharm.errors import RunFailed


class PeerClosed(RunFailed):
    """The other side of a connection closed it in the middle of an exchange."""


class ProtocolViolation(RunFailed):
    """The other side of a connection sent what the protocol does not allow."""


class TimeLimitExceeded(RunFailed):
    """The other side of a connection did not answer in time."""


class Channel:
    """A connected socket that gives exactly as many bytes as asked for.

    What has arrived is read in as few system calls as possible and kept until asked for.

    Parameters
    ----------
    connection : socket.socket
        A connected stream socket; the channel owns it from now on.

    Attributes
    ----------
    deadline : float or None
        Value of `time.monotonic` at which a read or a write gives up; None waits for ever.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.deadline: float | None = None
        self._view = memoryview(bytearray(1 << 16))
        self._start = 0
        self._end = 0
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, count: int) -> memoryview:
        """Return the next `count` bytes; the view is valid until the next read.

        Raises
        ------
        PeerClosed
            If the connection ends before all of them have arrived.
        TimeLimitExceeded
            If the deadline passes.
        """
        if self._end - self._start < count and not self._receive(count):
            arrived = self._end - self._start
            raise PeerClosed(
                f"the connection was closed after {arrived} of {count} bytes that were expected"
            )
        start, self._start = self._start, self._start + count
        return self._view[start : self._start]

    def read_unless_closed(self, count: int) -> memoryview | None:
        """Return the next `count` bytes, or None where the peer closed between messages."""
        if self._end == self._start and not self._receive(1):
            return None
        return self.read(count)

    def send(self, message: bytes) -> None:
        """Send the whole message.

        Raises
        ------
        PeerClosed, TimeLimitExceeded
            As in `read`.
        """
        self._set_timeout()
        try:
            self.socket.sendall(message)
        except TimeoutError as error:
            raise TimeLimitExceeded("the other side did not take the message in time") from error
        except OSError as error:
            raise PeerClosed(f"the connection broke while sending ({error})") from error

    def close(self, drain_seconds: float = 0.0) -> None:
        """Close the connection.

        Bytes left unread would turn the close into a connection reset, which ends i-PI's
        polling thread; so what is pending is read and thrown away first, for at most
        `drain_seconds`.
        """
        self.deadline = monotonic() + drain_seconds
        self._start = self._end = 0
        try:
            if drain_seconds > 0:
                self.socket.shutdown(socket.SHUT_WR)
                while self._receive(1):
                    self._start = self._end = 0
        except (OSError, PeerClosed, TimeLimitExceeded):
            pass  # the connection is gone already, or the peer keeps it open: close it anyway
        finally:
            self.socket.close()

    def _receive(self, count: int) -> bool:
        """Receive until `count` bytes are held; False where the peer closed before that."""
        self._make_room(count)
        while self._end - self._start < count:
            self._set_timeout()
            try:
                received = self.socket.recv_into(self._view[self._end :])
            except TimeoutError as error:
                raise TimeLimitExceeded("the other side did not answer in time") from error
            except OSError as error:
                raise PeerClosed(f"the connection broke while receiving ({error})") from error
            if received == 0:
                return False
            self._end += received
        return True

    def _make_room(self, count: int) -> None:
        held = self._end - self._start
        if self._start + count > len(self._view):
            # A fresh buffer where it must grow: views handed out may still refer to this one.
            target = (
                self._view if count <= len(self._view) else memoryview(bytearray(count + (1 << 12)))
            )
            target[:held] = self._view[self._start : self._end]
            self._view = target
            self._start, self._end = 0, held
        elif held == 0:
            self._start = self._end = 0

    def _set_timeout(self) -> None:
        if self.deadline is None:
            if self.socket.gettimeout() is not None:
                self.socket.settimeout(None)
            return
        self.socket.settimeout(max(self.deadline - monotonic(), 1e-6))
