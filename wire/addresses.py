"""Addresses of the i-PI protocol, and the sockets that listen at them or connect to them."""

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Literal

from anharm.errors import ConfigurationError, RunFailed

# i-PI, pw.x, ABINIT, CP2K and LAMMPS all build the path of a UNIX socket like this.
SOCKET_PREFIX = "/tmp/ipi_"
LONGEST_PATH = 107  # of struct sockaddr_un on Linux
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 1.0

OnWait = Callable[[float, str], None]


@dataclass(frozen=True)
class SocketAddress:
    """Where a server of the i-PI protocol listens.

    Attributes
    ----------
    kind : "unix" or "tcp"
    path : str
        Path of the UNIX socket; empty for TCP.
    host : str
        Name or number of the host; empty for a UNIX socket.
    port : int
        TCP port; 0 lets the system choose one when listening.
    """

    kind: Literal["unix", "tcp"]
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path.removeprefix(SOCKET_PREFIX)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse_address(text: str) -> SocketAddress:
    """Return the address that `unix:NAME`, `tcp://HOST:PORT` or `HOST:PORT` stands for.

    `unix:NAME` is the socket /tmp/ipi_NAME, the name that i-PI and the DFT codes build; a
    NAME that starts with a slash is a path.

    Raises
    ------
    ConfigurationError
        If the text is none of these.
    """
    if text.startswith("unix:"):
        return SocketAddress("unix", path=_socket_path(text))
    match = re.fullmatch(r"(?:tcp://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise ConfigurationError(
            f"address {text!r}: expected unix:NAME, tcp://HOST:PORT or HOST:PORT "
            "with a port up to 65535"
        )
    return SocketAddress("tcp", host=match[1].strip("[]"), port=int(match[2]))


def listen(
    address: SocketAddress, *, allow_remote: bool = False, backlog: int = 64
) -> socket.socket:
    """Return a socket that listens at an address.

    A UNIX socket is readable and writable by its owner alone. A socket file that a killed
    process left behind is removed.

    Raises
    ------
    ConfigurationError
        If the address is not of this host alone and `allow_remote` is False.
    RunFailed
        If the address is in use or cannot be bound.
    """
    if address.kind == "unix":
        return _listen_unix(Path(address.path), address, backlog)
    family, numeric = _resolve(address)
    if not allow_remote and not _is_loopback(numeric[0]):
        raise ConfigurationError(
            f"address {address} can be reached from other hosts, and the i-PI protocol knows "
            "no authentication: whoever connects can send forces. Use a UNIX socket or "
            "127.0.0.1 (with an SSH tunnel, if need be), or set reference.allow_remote = true "
            "on a network that you trust"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bind(listener, numeric, address, backlog)


def is_loopback(listener: socket.socket) -> bool:
    """Tell whether only this host can reach a listening socket."""
    return listener.family == socket.AF_UNIX or _is_loopback(listener.getsockname()[0])


def close_listening_socket(listener: socket.socket) -> None:
    """Close a listening socket and remove its file, if it has one."""
    if listener.family == socket.AF_UNIX:
        # Removed while still listening, so that no one else can have taken the name.
        Path(listener.getsockname()).unlink(missing_ok=True)
    listener.close()


def connect(
    address: SocketAddress, deadline_seconds: float, on_wait: OnWait | None = None
) -> socket.socket:
    """Return a socket connected to a server, waiting for the server to come up.

    Parameters
    ----------
    address : SocketAddress
    deadline_seconds : float
        How long to try, with growing pauses between the attempts.
    on_wait : callable, optional
        Called after each failed attempt with the seconds waited so far and the reason.

    Raises
    ------
    RunFailed
        If no server answers in that time.
    """
    start = monotonic()
    pause = SHORTEST_PAUSE
    while True:
        remaining = deadline_seconds - (monotonic() - start)
        try:
            return _connect_once(address, max(remaining, 0.1))
        except OSError as error:
            reason = _reason(error)
        waited = monotonic() - start
        if on_wait is not None:
            on_wait(waited, reason)
        if waited >= deadline_seconds:
            raise RunFailed(
                f"no server at {address}{_where(address)} after {waited:.0f} s ({reason}). "
                "Start the server of this address first (i-PI for a force field, the broker "
                "for a reference code), check that both give the same address, or allow more "
                "time for the connection"
            )
        sleep(max(0.0, min(pause, deadline_seconds - waited)))
        pause = min(2 * pause, LONGEST_PAUSE)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _socket_path(text: str) -> str:
    name = text.removeprefix("unix:")
    path = name if name.startswith("/") else SOCKET_PREFIX + name
    if not name or "\0" in name or ("/" in name and not name.startswith("/")):
        raise ConfigurationError(
            f"address {text!r}: expected a name without slashes, or an absolute path, after unix:"
        )
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ConfigurationError(
            f"address {text!r}: the path {path} has {len(os.fsencode(path))} bytes, and sockets "
            f"allow {LONGEST_PATH}; give a shorter name"
        )
    return path


def _listen_unix(path: Path, address: SocketAddress, backlog: int) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and _is_abandoned(path):
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    return _bind(listener, str(path), address, backlog)


def _bind(
    listener: socket.socket, numeric: str | tuple, address: SocketAddress, backlog: int
) -> socket.socket:
    try:
        listener.bind(numeric)
        if isinstance(numeric, str):
            os.chmod(numeric, 0o600)  # before `listen`: until then nobody can connect
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise RunFailed(
            f"cannot listen at {address}{_where(address)}: {_reason(error)}. Another run may use "
            "this address: end that run or choose another address"
        ) from error
    return listener


def _is_abandoned(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _resolve(address: SocketAddress) -> tuple[socket.AddressFamily, tuple]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RunFailed(f"cannot find the host of {address}: {_reason(error)}") from error
    family, _, _, _, numeric = found[0]
    return family, numeric


def _connect_once(address: SocketAddress, timeout: float) -> socket.socket:
    if address.kind == "tcp":
        connection = socket.create_connection((address.host, address.port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    else:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(address.path)
        except OSError:
            connection.close()
            raise
    connection.settimeout(None)
    return connection


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _where(address: SocketAddress) -> str:
    return f" (socket file {address.path})" if address.kind == "unix" else ""
