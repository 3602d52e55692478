"""What the record stores: its tables, the objects read from them, and their encodings.

Arrays of labels and requests are little-endian float64 without headers, so that any
program can read them. Observations are columns compressed with zlib.
"""

import json
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import numpy as np

SCHEMA_VERSION = 2

# How the reason of a request begins that training did not make.
HARVESTED = "harvested"  # of what only the dynamics needs
GIVEN = "given"  # of what the user has from an earlier run

RequestState = Literal["queued", "running", "labelled", "failed", "quarantined"]

SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, trajectory TEXT NOT NULL, step INTEGER NOT NULL,
    verdict TEXT NOT NULL, rule TEXT NOT NULL, value REAL NOT NULL, threshold REAL, mean REAL,
    count INTEGER NOT NULL, model_version INTEGER NOT NULL, created REAL NOT NULL);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, content_hash TEXT NOT NULL UNIQUE, atoms INTEGER NOT NULL,
    positions BLOB NOT NULL, cell BLOB NOT NULL, reason TEXT NOT NULL,
    decision_id INTEGER REFERENCES decisions(id), trajectory TEXT, step INTEGER,
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'labelled', 'failed', 'quarantined')),
    attempts INTEGER NOT NULL DEFAULT 0, client TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, updated REAL NOT NULL);
CREATE INDEX requests_by_state ON requests(state);
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, request_id INTEGER NOT NULL REFERENCES requests(id),
    energy REAL NOT NULL, forces BLOB NOT NULL, virial BLOB, extras TEXT NOT NULL,
    client TEXT NOT NULL, seconds REAL NOT NULL, program TEXT NOT NULL, predicted_energy REAL,
    predicted_force_rmse REAL, predicted_forces BLOB, force_std BLOB,
    predictive_force_std BLOB, model_version INTEGER, accepted INTEGER NOT NULL,
    reasons TEXT NOT NULL, created REAL NOT NULL);
CREATE UNIQUE INDEX one_accepted_label ON labels(request_id) WHERE accepted = 1;
CREATE TABLE models (
    version INTEGER PRIMARY KEY, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    labels TEXT NOT NULL, hyperparameters TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE observations (
    id INTEGER PRIMARY KEY, trajectory TEXT NOT NULL, first_step INTEGER NOT NULL,
    count INTEGER NOT NULL, content BLOB NOT NULL);
CREATE INDEX observations_by_step ON observations(trajectory, first_step);
CREATE TABLE configurations (
    trajectory TEXT NOT NULL, step INTEGER NOT NULL, positions BLOB NOT NULL, cell BLOB NOT NULL,
    PRIMARY KEY (trajectory, step));
CREATE TABLE trajectories (
    trajectory TEXT PRIMARY KEY, state TEXT NOT NULL, updated REAL NOT NULL);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL);
"""


@dataclass(frozen=True, eq=False)
class Request:
    """A configuration that wants, or has, a label.

    Attributes
    ----------
    positions : ndarray, shape (N, 3)
        Angstrom, in the user's order of atoms.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, Angstrom.
    reason : str
        Why it was asked for: "initial ...", the rule of a decision, or "harvested ...".
    attempts : int
        Calculations started so far.
    client : str
        The reference client that computes it, or did; empty while it is queued.
    created, updated : float
        When it was asked for and when its state changed last, seconds since 1970.
    """

    id: int
    positions: np.ndarray
    cell: np.ndarray
    reason: str
    decision_id: int | None
    trajectory: str | None
    step: int | None
    state: RequestState
    attempts: int
    client: str = ""
    created: float = 0.0
    updated: float = 0.0

    @property
    def is_harvested(self) -> bool:
        """Whether only the dynamics needed the answer, and training has not asked for it."""
        return self.reason.startswith(HARVESTED)

    @property
    def is_paid(self) -> bool:
        """Whether it counts towards the budget of training."""
        return not self.reason.startswith((HARVESTED, GIVEN))

    @property
    def origin(self) -> str:
        """Where a request comes from that no decision made: "harvested", "given" or "initial"."""
        return "initial" if self.is_paid else self.reason.split()[0]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a reference client sent for one request.

    Attributes
    ----------
    energy : float
        eV.
    forces : ndarray, shape (N, 3)
        eV/Angstrom.
    virial : ndarray, shape (3, 3), or None
        -dE/dstrain in eV; None where the code gives none.
    extras : str
        The raw text that came with it.
    client : str
        Which client answered.
    seconds : float
        How long it took.
    program : str
        The name of the client's program, such as "pw.x"; empty where it is not known.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None = None
    extras: str = ""
    client: str = ""
    seconds: float = 0.0
    program: str = ""


@dataclass(frozen=True)
class Prediction:
    """What the model said of a label before it learnt from it.

    Attributes
    ----------
    energy : float
        eV.
    force_rmse : float
        Against the label, eV/Angstrom.
    forces, force_std, predictive_force_std : ndarray, shape (N, 3), or None
        Forces, their epistemic errors, and these with what the expansion leaves out
        (eV/Angstrom), in the user's order of atoms; None if they were not kept.
    """

    energy: float
    force_rmse: float
    model_version: int
    forces: np.ndarray | None = field(default=None, compare=False)
    force_std: np.ndarray | None = field(default=None, compare=False)
    predictive_force_std: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Label:
    """A committed answer together with the configuration it belongs to."""

    id: int
    request: Request
    answer: Answer
    prediction: Prediction | None
    accepted: bool
    reasons: tuple[str, ...]
    created: float


@dataclass(frozen=True)
class ModelVersion:
    """One model file and what it was made from.

    Attributes
    ----------
    labels : tuple of int
        The labels it was fitted to.
    hyperparameters : dict
        Noise and prior precisions and whatever else describes the fit.
    """

    version: int
    path: str
    sha256: str
    labels: tuple[int, ...]
    hyperparameters: dict[str, Any]
    created: float = 0.0

    @property
    def determined_parameters(self) -> float:
        """Parameters that the labels determine, of all orders (MacKay's gamma); 0 if not noted."""
        return sum(self.hyperparameters.get("effective_parameters", {}).values(), 0.0)

    @property
    def n_targets(self) -> int:
        """Force components, energies and virials that it was fitted to; 0 if not noted."""
        return int(self.hyperparameters.get("n_targets", 0))


@dataclass(frozen=True)
class Event:
    """A line of the run's log."""

    time: float
    level: str
    text: str


@dataclass(frozen=True, eq=False)
class SampledConfiguration:
    """A configuration of a trajectory, kept to judge later models by.

    Attributes
    ----------
    positions : ndarray, shape (N, 3)
        Angstrom, in the user's order of atoms.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, Angstrom.
    """

    trajectory: str
    step: int
    positions: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True, eq=False)
class Observations:
    """Consecutive steps of one trajectory, as columns of equal length n.

    Attributes
    ----------
    trajectory : str
    first_step : int
        The columns belong to steps first_step, first_step + 1, ...
    maximum, mean, rms : ndarray, shape (n,)
        Bayesian force errors of the steps, eV/Angstrom, to single precision.
    energy : ndarray, shape (n,)
        Model energies, eV.
    model_version : ndarray, shape (n,)
    """

    trajectory: str
    first_step: int
    maximum: np.ndarray
    mean: np.ndarray
    rms: np.ndarray
    energy: np.ndarray
    model_version: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """The steps of the columns, shape (n,)."""
        return self.first_step + np.arange(len(self.maximum))


OBSERVATION_COLUMNS = {
    "maximum": "<f4",
    "mean": "<f4",
    "rms": "<f4",
    "energy": "<f8",
    "model_version": "<i4",
}


def encode_observations(observations: Observations) -> bytes:
    """Return the columns one after the other, compressed.

    Raises
    ------
    ValueError
        If the columns differ in length.
    """
    columns = [
        np.asarray(getattr(observations, name), kind) for name, kind in OBSERVATION_COLUMNS.items()
    ]
    if any(column.shape != (len(observations.maximum),) for column in columns):
        raise ValueError("the columns of observations must have one dimension and one length")
    return zlib.compress(b"".join(column.tobytes() for column in columns), level=1)


def decode_observations(
    trajectory: str, first_step: int, count: int, content: bytes
) -> Observations:
    """Return what `encode_observations` wrote."""
    data = zlib.decompress(content)
    columns, start = {}, 0
    for name, kind in OBSERVATION_COLUMNS.items():
        columns[name] = np.frombuffer(data, kind, count=count, offset=start)
        start += columns[name].nbytes
    return Observations(trajectory, first_step, **columns)


def encode_array(array: np.ndarray) -> bytes:
    """Return an array as little-endian float64 in row-major order."""
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def encode_optional(array: np.ndarray | None) -> bytes | None:
    """Return an array as `encode_array` does, and nothing for none."""
    return None if array is None else encode_array(array)


def prediction_columns(prediction: Prediction | None) -> dict[str, object]:
    """Return the columns of a label that say what was predicted of it."""
    if prediction is None:
        return {}
    return {
        "predicted_energy": prediction.energy,
        "predicted_force_rmse": prediction.force_rmse,
        "predicted_forces": encode_optional(prediction.forces),
        "force_std": encode_optional(prediction.force_std),
        "predictive_force_std": encode_optional(prediction.predictive_force_std),
        "model_version": prediction.model_version,
    }


def decode_vectors(content: bytes) -> np.ndarray:
    """Return the rows of three numbers that `encode_array` wrote, shape (n, 3)."""
    return np.frombuffer(content, "<f8").reshape(-1, 3)


def content_hash(positions: np.ndarray, cell: np.ndarray) -> str:
    """Return a hash that is equal exactly where positions and cell are equal numbers."""
    # Adding zero turns -0.0 into 0.0, which is the same number with other bits.
    return sha256(encode_array(positions + 0.0) + b"|" + encode_array(cell + 0.0)).hexdigest()


def request_from_row(row: dict[str, Any]) -> Request:
    """Build a request from a row of its table."""
    return Request(
        id=row["id"],
        positions=decode_vectors(row["positions"]),
        cell=decode_vectors(row["cell"]),
        reason=row["reason"],
        decision_id=row["decision_id"],
        trajectory=row["trajectory"],
        step=row["step"],
        state=row["state"],
        attempts=row["attempts"],
        client=row["client"],
        created=row["created"],
        updated=row["updated"],
    )


def label_from_row(row: dict[str, Any], request: Request) -> Label:
    """Build a label from a row of its table and its request."""
    answer = Answer(
        energy=row["energy"],
        forces=decode_vectors(row["forces"]),
        virial=None if row["virial"] is None else decode_vectors(row["virial"]),
        extras=row["extras"],
        client=row["client"],
        seconds=row["seconds"],
        program=row["program"],
    )
    prediction = None
    if row["model_version"] is not None:
        columns = ("predicted_forces", "force_std", "predictive_force_std")
        arrays = [None if row[name] is None else decode_vectors(row[name]) for name in columns]
        prediction = Prediction(
            row["predicted_energy"], row["predicted_force_rmse"], row["model_version"], *arrays
        )
    return Label(
        id=row["id"],
        request=request,
        answer=answer,
        prediction=prediction,
        accepted=bool(row["accepted"]),
        reasons=tuple(json.loads(row["reasons"])),
        created=row["created"],
    )
