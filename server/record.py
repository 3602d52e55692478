"""The record of a run: what was asked, answered, decided and learnt.

The labels are the truth: a label is committed before anything uses it, and a request
is known by the content of its configuration, so none is computed twice.
"""

import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType

import numpy as np

from anharm.server.decision import Decision
from anharm.server.record_configurations import ConfigurationRecord
from anharm.server.record_database import create_database, insert, open_database
from anharm.server.record_export import write_extended_xyz
from anharm.server.record_models import ModelRecord
from anharm.server.record_observations import ObservationRecord
from anharm.server.record_schema import (
    Answer,
    Event,
    Label,
    ModelVersion,
    Observations,
    Prediction,
    Request,
    RequestState,
    SampledConfiguration,
    content_hash,
    encode_array,
    encode_optional,
    label_from_row,
    prediction_columns,
    request_from_row,
)

__all__ = [
    "Answer",
    "Event",
    "Label",
    "ModelVersion",
    "Observations",
    "Prediction",
    "Record",
    "Request",
    "RequestState",
    "SampledConfiguration",
]

logger = logging.getLogger(__name__)

_DECISION_COLUMNS = "trajectory, step, model_version, verdict, rule, value, threshold, mean, count"
_SOFTWARE = ("anharm", "ipi", "numpy", "scipy", "ase", "spglib")


class Record(ObservationRecord, ConfigurationRecord, ModelRecord):
    """The record in a run's directory; use `Record.open`.

    Methods raise RunFailed where the file cannot be read or written.
    """

    @classmethod
    def open(
        cls,
        directory: str | Path,
        create: bool = False,
        read_only: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> "Record":
        """Open a run's record, or create that of a new run.

        Parameters
        ----------
        directory : str or Path
            The run's directory.
        create : bool
            Create the record, which must not exist yet; otherwise it must.
        read_only : bool
            For readers beside a running broker: nothing is locked.
        metadata : mapping, optional
            What a new record shall know about its run, such as the configuration's text.

        Raises
        ------
        ConfigurationError
            If the record exists, is missing, or was written by another version.
        RunFailed
            If it cannot be used, or another broker holds it.
        """
        if not create:
            return cls(open_database(Path(directory), read_only), is_writer=not read_only)
        record = cls(create_database(Path(directory)), is_writer=True)
        record.set_metadata({**_software(), "created": repr(time.time()), **(metadata or {})})
        return record

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._database.path

    def close(self) -> None:
        """Close the record and let another broker have it."""
        super().close()
        self._database.close()

    # What the run is

    def metadata(self) -> dict[str, str]:
        """Return what is known of the run: configuration, hashes, software versions."""
        return {row["key"]: row["value"] for row in self._database.rows("SELECT * FROM run")}

    def set_metadata(self, entries: Mapping[str, str], durable: bool = True) -> None:
        """Add or replace entries."""
        with self._database.transaction(durable) as connection:
            connection.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", entries.items())

    def log(self, text: str, level: str = "info") -> None:
        """Add a line to the run's log."""
        with self._database.transaction(durable=False) as connection:
            insert(connection, "events", time=time.time(), level=level, text=text)

    def events(self, after: float = 0.0) -> list[Event]:
        """Return the log's lines later than a time (seconds since 1970), oldest first."""
        rows = self._database.rows(
            "SELECT time, level, text FROM events WHERE time > ? ORDER BY id", (after,)
        )
        return [Event(**row) for row in rows]

    # Decisions and requests

    def add_decision(self, decision: Decision) -> int:
        """Store a decision and return its id."""
        with self._database.transaction(durable=False) as connection:
            return insert(connection, "decisions", **decision.__dict__, created=time.time())

    def decisions(self) -> list[Decision]:
        """Return all stored decisions in their order."""
        rows = self._database.rows(f"SELECT {_DECISION_COLUMNS} FROM decisions ORDER BY id")  # noqa: S608
        return [Decision(**row) for row in rows]

    def decision(self, decision_id: int) -> Decision:
        """Return one decision.

        Raises
        ------
        KeyError
            If there is none of this id.
        """
        query = f"SELECT {_DECISION_COLUMNS} FROM decisions WHERE id = ?"  # noqa: S608
        rows = self._database.rows(query, (decision_id,))
        if not rows:
            raise KeyError(f"the record has no decision {decision_id}")
        return Decision(**rows[0])

    def request_for(
        self,
        positions: np.ndarray,
        cell: np.ndarray,
        reason: str,
        decision: Decision | None = None,
    ) -> Request:
        """Return the request of a configuration, stored before if it is new.

        Parameters
        ----------
        positions : ndarray, shape (N, 3)
            Angstrom.
        cell : ndarray, shape (3, 3)
            Rows are the lattice vectors, Angstrom.
        reason : str
            Why the label is wanted.
        decision : Decision, optional
            The decision that wants it, which is stored with it.

        Returns
        -------
        Request
            In state "queued" if it is new, and in whatever state it has if the same
            configuration was asked for before.
        """
        positions, cell = np.asarray(positions, float), np.asarray(cell, float)
        if positions.ndim != 2 or positions.shape[1] != 3 or cell.shape != (3, 3):
            raise ValueError(f"shapes {positions.shape} and {cell.shape}: not (N, 3) and (3, 3)")
        key, now = content_hash(positions, cell), time.time()
        with self._database.transaction() as connection:
            query = "SELECT * FROM requests WHERE content_hash = ?"
            row = connection.execute(query, (key,)).fetchone()
            if row is None:
                decision_id = decision and insert(
                    connection, "decisions", **decision.__dict__, created=now
                )
                insert(
                    connection,
                    "requests",
                    content_hash=key,
                    atoms=len(positions),
                    positions=encode_array(positions),
                    cell=encode_array(cell),
                    reason=reason,
                    decision_id=decision_id,
                    trajectory=decision and decision.trajectory,
                    step=decision and decision.step,
                    state="queued",
                    created=now,
                    updated=now,
                )
                row = connection.execute(query, (key,)).fetchone()
            return request_from_row(dict(row))

    def adopt_request(self, request_id: int, reason: str, decision: Decision) -> Request:
        """Make a harvested request one of training, whatever its state, and return it."""
        now = time.time()
        with self._database.transaction() as connection:
            decision_id = insert(connection, "decisions", **decision.__dict__, created=now)
            connection.execute(
                "UPDATE requests SET reason = ?, decision_id = ?, trajectory = ?, step = ?, "
                "updated = ? WHERE id = ?",
                (reason, decision_id, decision.trajectory, decision.step, now, request_id),
            )
        return self.request(request_id)

    def request(self, request_id: int) -> Request:
        """Return one request.

        Raises
        ------
        KeyError
            If there is none of this id.
        """
        rows = self._database.rows("SELECT * FROM requests WHERE id = ?", (request_id,))
        if not rows:
            raise KeyError(f"the record has no request {request_id}")
        return request_from_row(rows[0])

    def requests(self) -> list[Request]:
        """Return all requests in the order they were made."""
        rows = self._database.rows("SELECT * FROM requests ORDER BY id")
        return [request_from_row(row) for row in rows]

    def requested_steps(self) -> dict[str, list[int]]:
        """Return the steps of each trajectory for which labels were asked for, ascending."""
        found: dict[str, list[int]] = {}
        for row in self._database.rows(
            "SELECT trajectory, step FROM requests WHERE trajectory IS NOT NULL ORDER BY step"
        ):
            found.setdefault(row["trajectory"], []).append(row["step"])
        return found

    def pending_requests(self) -> list[Request]:
        """Return the requests without a final answer, oldest first, for a resumed run."""
        rows = self._database.rows(
            "SELECT * FROM requests WHERE state IN ('queued', 'running') ORDER BY id"
        )
        return [request_from_row(row) for row in rows]

    def request_counts(self) -> dict[str, int]:
        """Return the number of requests in each state that occurs."""
        rows = self._database.rows("SELECT state, COUNT(*) AS n FROM requests GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def start_attempt(self, request_id: int) -> int:
        """Note that a calculation starts, and return how many have started by now."""
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "UPDATE requests SET attempts = attempts + 1, state = 'running', updated = ? "
                "WHERE id = ? AND state != 'labelled'",
                (time.time(), request_id),
            )
        return self.request(request_id).attempts

    def set_request_client(self, request_id: int, client: str) -> None:
        """Note which reference client computes a request."""
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "UPDATE requests SET client = ?, updated = ? WHERE id = ?",
                (client, time.time(), request_id),
            )

    def set_request_state(self, request_id: int, state: RequestState) -> None:
        """Change the state of a request; one that has its label stays labelled."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE requests SET state = ?, updated = ? WHERE id = ? AND state != 'labelled'",
                (state, time.time(), request_id),
            )

    # Labels

    def add_label(
        self,
        request_id: int,
        answer: Answer,
        accepted: bool = True,
        reasons: Sequence[str] = (),
        prediction: Prediction | None = None,
    ) -> Label:
        """Commit an answer; when this returns, no crash can lose it.

        An accepted answer makes its request "labelled". A second answer to a labelled
        request (a slow client that was given up) changes nothing. Rejected answers are
        kept with their reasons, and the request's state is left to the caller.

        Returns
        -------
        Label
            The new label, or the one that the request already has.
        """
        request = self.request(request_id)
        if answer.forces.shape != request.positions.shape:
            raise ValueError(
                f"forces {answer.forces.shape} for {request.positions.shape} positions"
            )
        with self._database.transaction() as connection:
            query = "SELECT * FROM labels WHERE request_id = ? AND accepted = 1"
            row = connection.execute(query, (request_id,)).fetchone()
            if row is not None:
                logger.info("request %d has its label already; another is dropped", request_id)
                return label_from_row(dict(row), request)
            label_id = insert(
                connection,
                "labels",
                request_id=request_id,
                energy=answer.energy,
                forces=encode_array(answer.forces),
                virial=encode_optional(answer.virial),
                extras=answer.extras,
                client=answer.client,
                seconds=answer.seconds,
                program=answer.program,
                **prediction_columns(prediction),
                accepted=int(accepted),
                reasons=json.dumps(list(reasons)),
                created=time.time(),
            )
            if accepted:
                connection.execute(
                    "UPDATE requests SET state = 'labelled', updated = ? WHERE id = ?",
                    (time.time(), request_id),
                )
        return next(self._labels("labels.id = ?", (label_id,)))

    def label_of(self, request_id: int) -> Label:
        """Return the accepted label of a request.

        Raises
        ------
        KeyError
            If it has none.
        """
        for label in self._labels("accepted = 1 AND request_id = ?", (request_id,)):
            return label
        raise KeyError(f"request {request_id} has no label")

    def labels(self) -> Iterator[Label]:
        """Iterate over the accepted labels in the order they came."""
        return self._labels("accepted = 1")

    def rejected_labels(self) -> Iterator[Label]:
        """Iterate over the answers that failed their checks."""
        return self._labels("accepted = 0")

    def label_count(self) -> int:
        """Return the number of accepted labels."""
        rows = self._database.rows("SELECT COUNT(*) AS n FROM labels WHERE accepted = 1")
        return int(rows[0]["n"])

    def _labels(self, condition: str, values: Sequence[object] = ()) -> Iterator[Label]:
        statement = f"SELECT * FROM labels WHERE {condition} ORDER BY id"  # noqa: S608
        for row in self._database.rows(statement, values):
            yield label_from_row(row, self.request(row["request_id"]))

    def export_extended_xyz(self, path: str | Path, symbols: Sequence[str]) -> int:
        """Write the accepted labels as extended XYZ and return their number.

        Energy, forces and (where there is a virial) stress have ASE's standard keys.
        The file is replaced as a whole.
        """
        return write_extended_xyz(path, self.labels(), symbols)


def _software() -> dict[str, str]:
    versions = {f"version.{name}": metadata.version(name) for name in _SOFTWARE}
    return {"version.python": platform.python_version(), **versions}
