"""What is asked of the labelling server, and what it reports."""

from dataclasses import dataclass

from anharm.wire.driver_protocol import Configuration, Evaluation


@dataclass(frozen=True)
class LabelRequest:
    """A configuration whose energy, forces and virial are wanted from the reference."""

    request_id: int
    configuration: Configuration


@dataclass(frozen=True)
class Result:
    """What came of one calculation.

    Attributes
    ----------
    evaluation : Evaluation
    seconds : float
        How long it took.
    program : str
        The name of the client's program; empty where it cannot be known.
    complaints : tuple of str
        What the client's own output says against it.
    """

    evaluation: Evaluation
    seconds: float
    program: str = ""
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClientJoined:
    """A reference client connected."""

    client: str


@dataclass(frozen=True)
class ClientLeft:
    """A reference client left or was dropped."""

    client: str
    reason: str


@dataclass(frozen=True)
class AttemptStarted:
    """A client was given a request."""

    request_id: int
    client: str


@dataclass(frozen=True)
class AttemptFailed:
    """A client failed on a request; attempts are counted from 1."""

    request_id: int
    client: str
    reason: str
    attempt: int


@dataclass(frozen=True)
class LabelReceived:
    """A client answered a request. The answer has the right size and is otherwise unchecked.

    The fields are those of `Result`, with the request and the client.
    """

    request_id: int
    client: str
    evaluation: Evaluation
    seconds: float
    program: str = ""
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestFailed:
    """A request failed as often as it may; it is not tried again."""

    request_id: int
    reason: str


LabellingEvent = (
    ClientJoined | ClientLeft | AttemptStarted | AttemptFailed | LabelReceived | RequestFailed
)
