"""A descriptor that one thread sets and another one's `select` or poller sees."""

import socket


class WakeUp:
    """A flag with a descriptor, readable while the flag is set."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make the descriptor readable."""
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            pass  # full of earlier wake-ups: readable already
        except OSError:
            pass  # closed: nobody waits any more

    def clear(self) -> None:
        """Make the descriptor unreadable until it is set again."""
        try:
            while self._reader.recv(4096):
                pass
        except OSError:
            pass  # emptied, or closed

    def close(self) -> None:
        """Close the descriptor."""
        self._reader.close()
        self._writer.close()
