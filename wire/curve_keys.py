"""CURVE keys of the broker's ZeroMQ port: who may connect from another host, and to whom.

A folder of keys holds `broker.key` and `client.key` (public) with `broker.key_secret` and
`client.key_secret`, in the format of ZeroMQ's own tools. The broker needs its secret and the
public keys of all clients; a client needs its secret and the broker's public key.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from zmq.auth import create_certificates, load_certificate
from zmq.auth.thread import ThreadAuthenticator

from anharm.errors import ConfigurationError

BROKER, CLIENT = "broker", "client"
PUBLIC, SECRET = ".key", ".key_secret"
_KEY_LENGTH = 40  # characters; 32 bytes in Z85


def make_keys(folder: Path) -> list[Path]:
    """Make a key pair for the broker and one for its clients.

    Returns
    -------
    list of Path
        The four files; those with secrets are readable by their owner alone.

    Raises
    ------
    ConfigurationError
        If there are keys in the folder already, which are never overwritten, or it cannot be
        written.
    """
    files = [folder / (name + kind) for name in (BROKER, CLIENT) for kind in (PUBLIC, SECRET)]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_to_overwrite(files)
        # Nobody else can look into a temporary folder, so no secret is ever readable by others.
        with tempfile.TemporaryDirectory(dir=folder) as closed:
            for name in (BROKER, CLIENT):
                create_certificates(closed, name)
            for file in files:
                made = Path(closed) / file.name
                made.chmod(0o600 if file.suffix == SECRET else 0o644)
                os.link(made, file)  # unlike a rename, never replaces a file
    except OSError as error:
        raise ConfigurationError(f"cannot write keys to {folder}: {error.strerror}") from error
    return files


def secure_broker(socket: zmq.Socket[bytes], folder: Path) -> None:
    """Let a socket that will be bound accept known clients only, by the keys of a folder.

    Raises
    ------
    ConfigurationError
        If a key is missing, malformed, or a secret is readable by others.
    """
    _check_clients(folder)
    public, secret = _load_pair(folder, BROKER)
    socket.curve_publickey, socket.curve_secretkey = public, secret
    socket.curve_server = True


def secure_client(socket: zmq.Socket[bytes], folder: Path) -> None:
    """Let a socket that will be connected prove who it is, and talk to the known broker only.

    Raises
    ------
    ConfigurationError
        As `secure_broker` does.
    """
    socket.curve_serverkey = _load(folder / (BROKER + PUBLIC))[0]
    socket.curve_publickey, socket.curve_secretkey = _load_pair(folder, CLIENT)


@contextmanager
def authenticator(context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> Iterator[None]:
    """Check the clients of all secured sockets of a context against the keys of a folder."""
    checking = ThreadAuthenticator(context)
    checking.start()
    try:
        checking.configure_curve(domain="*", location=str(folder))
        yield
    finally:
        checking.stop()


def _refuse_to_overwrite(files: list[Path]) -> None:
    present = [file.name for file in files if file.exists()]
    if present:
        raise ConfigurationError(
            f"{files[0].parent} holds {', '.join(present)} already, and keys are never "
            "overwritten; give another folder, or move these away if nobody uses them any more"
        )


def _check_clients(folder: Path) -> None:
    public = [file for file in folder.glob("*" + PUBLIC) if file.name != BROKER + PUBLIC]
    if not public:
        raise ConfigurationError(
            f"run.keys: {folder} holds no public key of a client ({CLIENT}{PUBLIC}), so nobody "
            f"could connect; make keys with `anharm keys {folder}`"
        )
    for file in public:
        _load(file)


def _load_pair(folder: Path, name: str) -> tuple[bytes, bytes]:
    file = folder / (name + SECRET)
    public, secret = _load(file)
    if secret is None or len(secret) != _KEY_LENGTH:
        raise ConfigurationError(f"run.keys: {file} holds no secret key")
    if file.stat().st_mode & 0o077:
        raise ConfigurationError(
            f"run.keys: others can read the secret key {file}; run `chmod 600 {file}`, or make "
            "new keys if somebody may have read it"
        )
    return public, secret


def _load(file: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"run.keys: {file} is missing or holds no key; make keys with `anharm keys "
            f"{file.parent}` on one host, and copy what the other needs (docs/security.md)"
        ) from error
    if len(public) != _KEY_LENGTH:
        raise ConfigurationError(f"run.keys: {file} holds no public key of {_KEY_LENGTH} letters")
    return public, secret
