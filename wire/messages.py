"""Messages between lattice clients, supervisor and broker: msgpack maps over ZeroMQ.

Every message is one frozen dataclass here. A frame from a peer is bounded in size, must decode to
a map with exactly the fields of its kind, and every field must have its type; anything else raises
`BadMessage` and is never used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

PROTOCOL_VERSION = 6
LARGEST_FRAME = 1 << 30  # bytes; a model of thousands of parameters
LARGEST_CLIENT_FRAME = 1 << 26  # bytes, whatever the system; a million atoms are 24 MB
DIGEST_BYTES = 8
LARGEST_BATCH = 4096  # observations in one message
_LARGEST_TEXT = 1 << 16
_LARGEST_NAME = 200
_NAMES = frozenset({"client", "trajectory", "forcefield"})
_LARGEST_NUMBER = 1 << 53  # steps are counted further on, and must fit into 64 bits


class BadMessage(ValueError):
    """A frame that is not a message of this protocol."""


@dataclass(frozen=True)
class Hello:
    """A lattice client asks for the model."""

    protocol: int
    client: str
    trajectory: str


@dataclass(frozen=True)
class Observation:
    """What one evaluation of the model says about its errors (eV/Angstrom; energy in eV).

    `configuration` is the digest by which a configuration that is evaluated again is known.
    `is_answered` says that i-PI has the forces already: whatever model comes, this one drove the
    step.
    """

    client: str
    sequence: int
    configuration: bytes
    model_version: int
    is_answered: bool
    force_std_max: float
    force_std_mean: float
    force_std_rms: float
    energy: float


@dataclass(frozen=True)
class Observations:
    """Observations of consecutive sequence numbers, by one model: beads of a batch, or calm steps.

    They count as if each had come after the answer to the one before it. Answered is the first
    that may not simply proceed, and nothing after it is looked at; or else the last.
    """

    client: str
    sequence: int
    model_version: int
    is_answered: bool
    configurations: bytes
    values: bytes

    @classmethod
    def of(
        cls,
        client: str,
        sequence: int,
        model_version: int,
        is_answered: bool,
        configurations: bytes,
        values: NDArray[np.float64],
    ) -> Observation | Observations:
        """Pack digests, and (n, 4) numbers: largest, mean and rms error, energy."""
        if len(values) == 1:
            numbers = values[0].tolist()
            return Observation(
                client, sequence, configurations, model_version, is_answered, *numbers
            )
        return cls(client, sequence, model_version, is_answered, configurations, pack(values))


@dataclass(frozen=True)
class ConfigurationSent:
    """A configuration that needs a label: (3, 3) cell and (N, 3) positions, Angstrom."""

    client: str
    sequence: int
    cell: bytes
    positions: bytes

    @classmethod
    def of(
        cls, client: str, sequence: int, cell: NDArray[np.float64], positions: NDArray[np.float64]
    ) -> ConfigurationSent:
        """Pack arrays as little-endian float64."""
        return cls(client, sequence, pack(cell), pack(positions))


@dataclass(frozen=True)
class ForcesWanted:
    """A relay asks for the reference's answer: (3, 3) cell and (N, 3) positions, Angstrom.

    It asks again every few seconds until the answer comes, so that neither side has to know whether
    the other was restarted meanwhile. `forcefield` is the name of i-PI's socket that it serves.
    """

    protocol: int
    client: str
    forcefield: str
    sequence: int
    cell: bytes
    positions: bytes

    @classmethod
    def of(
        cls,
        client: str,
        forcefield: str,
        sequence: int,
        cell: NDArray[np.float64],
        positions: NDArray[np.float64],
    ) -> ForcesWanted:
        """Pack arrays as little-endian float64."""
        return cls(PROTOCOL_VERSION, client, forcefield, sequence, pack(cell), pack(positions))


@dataclass(frozen=True)
class Alive:
    """A lattice client is there, though it has nothing to evaluate."""

    client: str


@dataclass(frozen=True)
class Goodbye:
    """A lattice client ends; `failure` is empty when i-PI told it to."""

    client: str
    failure: str


@dataclass(frozen=True)
class StatusRequest:
    """A supervisor asks how the run stands; `stop` asks the broker to end with that reason."""

    stop: str


@dataclass(frozen=True)
class Proceed:
    """The evaluation may be answered to i-PI as it is.

    The next `calm_steps` evaluations, or batches of them, may be answered before they are observed
    together; but the broker wants to hear at once of an error above `calm_error` (eV/Angstrom).
    """

    sequence: int
    calm_steps: int = 0
    calm_error: float = 0.0


@dataclass(frozen=True)
class SendConfiguration:
    """The broker wants a label of this evaluation's configuration."""

    sequence: int


@dataclass(frozen=True)
class ReferenceForces:
    """The reference's answer to a relay, which is in the record by now.

    (N, 3) forces in eV/Angstrom, (3, 3) virial (zeros where the code gives none) and energy in eV;
    `extras` is the code's own text.
    """

    sequence: int
    energy: float
    forces: bytes
    virial: bytes
    extras: bytes


@dataclass(frozen=True)
class Introduce:
    """The broker does not know the client, for the reason it gives: say Hello again."""

    reason: str


@dataclass(frozen=True)
class NewModel:
    """Another model version (the content of its file).

    What i-PI has not been answered is evaluated again, and all that waits is observed again.
    """

    version: int
    content: bytes


@dataclass(frozen=True)
class Waiting:
    """The broker is alive, and this is what it waits for."""

    reason: str


@dataclass(frozen=True)
class Stop:
    """The run ends; `failure` is empty when it ends as intended."""

    reason: str
    failure: str


@dataclass(frozen=True)
class Status:
    """How the run stands (errors in eV/Angstrom, -1 where there is none yet)."""

    phase: str
    waiting_for: str
    steps: int
    labels: int
    pending: int
    model_version: int
    error: float
    average_error: float
    converged: bool
    convergence: str
    failure: str


Message = (
    Hello
    | Observation
    | Observations
    | ConfigurationSent
    | ForcesWanted
    | Alive
    | Goodbye
    | StatusRequest
    | Proceed
    | SendConfiguration
    | ReferenceForces
    | Introduce
    | NewModel
    | Waiting
    | Stop
    | Status
)

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in Message.__args__}
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bytes": bytes, "bool": bool}
_FIELDS: dict[Any, dict[str, type]] = {
    kind: {field.name: _TYPES[str(field.type)] for field in fields(kind)}
    for kind in _KINDS.values()
}


def largest_client_frame(n_atoms: int) -> int:
    """Return the most bytes that a client of a system may send at once."""
    texts = 6 * _LARGEST_TEXT  # two of them, of characters that take up to three bytes
    return min(texts + 24 * (n_atoms + 3), LARGEST_CLIENT_FRAME)


def encode(message: Message) -> bytes:
    """One frame."""
    return bytes(msgpack.packb({"kind": type(message).__name__, **message.__dict__}))


def decode(frame: bytes, largest: int = LARGEST_CLIENT_FRAME) -> Message:
    """The message of one frame.

    Raises
    ------
    BadMessage
        If the frame is too large, malformed, of an unknown kind, or has a wrong field.
    """
    if len(frame) > largest:
        raise BadMessage(f"a frame of {len(frame)} bytes exceeds the limit of {largest}")
    try:
        content = msgpack.unpackb(
            frame, max_array_len=0, max_map_len=32, max_ext_len=0, max_bin_len=largest
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage(f"not msgpack: {error}") from error
    if not isinstance(content, dict):
        raise BadMessage("not a map")
    kind = _KINDS.get(content.pop("kind", None)) if _hashable(content.get("kind")) else None
    if kind is None:
        raise BadMessage("of no known kind")
    return _checked(kind, content)


def is_name(text: str) -> bool:
    """Tell whether a text can be the name of a client or of a trajectory."""
    return 0 < len(text) <= _LARGEST_NAME and text.isprintable()


def _hashable(value: object) -> bool:
    return value is None or isinstance(value, str)


def _checked(kind: Any, content: dict[str, Any]) -> Message:
    expected = _FIELDS[kind]
    if content.keys() != expected.keys():
        names = sorted(str(key)[:20] for key in content)[:12]
        raise BadMessage(f"{kind.__name__} with the fields {names}")
    for name, value in content.items():
        if type(value) is not expected[name]:
            raise BadMessage(f"{kind.__name__}.{name} is a {type(value).__name__}")
        if isinstance(value, int) and not 0 <= value < _LARGEST_NUMBER:
            raise BadMessage(f"{kind.__name__}.{name} is {value}")
        if isinstance(value, float) and not isfinite(value):
            raise BadMessage(f"{kind.__name__}.{name} is not a finite number")
        if isinstance(value, str) and len(value) > _LARGEST_TEXT:
            raise BadMessage(f"{kind.__name__}.{name} is {len(value)} characters long")
        if name in _NAMES and not is_name(str(value)):
            raise BadMessage(f"{kind.__name__}.{name} is no printable name")
    message: Message = kind(**content)
    return message


def pack(array: NDArray[np.float64]) -> bytes:
    """An array of vectors as little-endian float64."""
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def unpack_vectors(content: bytes, n_vectors: int) -> NDArray[np.float64]:
    """(n_vectors, 3) float64 from `pack`.

    Raises
    ------
    BadMessage
        If the size differs or a number is not finite.
    """
    if len(content) != n_vectors * 24:
        raise BadMessage(f"{len(content)} bytes where {n_vectors} vectors were expected")
    vectors = np.frombuffer(content, dtype="<f8").astype(np.float64).reshape(n_vectors, 3)
    if not np.isfinite(vectors).all():
        raise BadMessage("a vector is not finite")
    return vectors
