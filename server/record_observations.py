"""The part of the record that grows with every step: observations and the states they lead to.

Every evaluation is in the journal before the broker answers its observation. From time to time the
journal is folded: its entries become compressed columns of consecutive steps, and the states of the
trajectories are stored with them in one transaction. A step that is evaluated again (the same
configuration, by a newer model or by a client that came back) is stored again; the last evaluation
counts.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from anharm.model.crystal import FloatArray
from anharm.server.observation_journal import (
    JOURNAL_NAME,
    JournalBlock,
    JournalEntry,
    ObservationJournal,
    read_journal,
)
from anharm.server.record_database import Database, insert, translated
from anharm.server.record_schema import (
    OBSERVATION_COLUMNS,
    Observations,
    decode_observations,
    encode_observations,
)

_FOLDED = "observations_folded"  # the number of the last evaluation in the database
LARGEST_JOURNAL = 4096  # entries; about 64 bytes each


@dataclass(frozen=True)
class _Chunk:
    """Consecutive steps of a trajectory, in the database or in the journal."""

    first_step: int
    count: int
    content: bytes | Observations

    def part(self, trajectory: str, start: int, end: int) -> Observations:
        """The observations of the steps from `start` to before `end`."""
        observations = (
            self.content
            if isinstance(self.content, Observations)
            else decode_observations(trajectory, self.first_step, self.count, self.content)
        )
        if end - start == self.count:
            return observations
        chosen = slice(start - self.first_step, end - self.first_step)
        columns = {c: getattr(observations, c)[chosen] for c in OBSERVATION_COLUMNS}
        return replace(observations, first_step=start, **columns)


def _uncovered(chunks: Sequence[_Chunk]) -> list[tuple[int, int, _Chunk]]:
    """Return (first step, end, chunk) of what counts, in the order of the steps.

    A later chunk covers the steps of earlier ones.
    """
    parts: list[tuple[int, int, _Chunk]] = []
    covered: list[tuple[int, int]] = []  # disjoint, in the order of the steps
    for chunk in reversed(chunks):
        start, end = chunk.first_step, chunk.first_step + chunk.count
        at = start
        for first, last in [*covered, (end, end)]:
            if at < min(first, end):
                parts.append((at, min(first, end), chunk))
            at = max(at, last)
        covered = _merged([*covered, (start, end)])
    return sorted(parts, key=lambda part: part[0])


def _merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class ObservationRecord:
    """Observations and trajectories of a record; `Record` adds the rest.

    Parameters
    ----------
    database : Database
    is_writer : bool
        Whether this process writes the journal.
    """

    def __init__(self, database: Database, is_writer: bool) -> None:
        self._database = database
        self._journal_path = database.path.parent / JOURNAL_NAME
        self._journal: ObservationJournal | None = None
        self._last_number = self._folded()
        self._held: list[JournalBlock] = []  # those of a `together` that is not over
        self._is_holding = False
        if is_writer:
            with translated(self._journal_path):
                self._journal = ObservationJournal(self._journal_path)
            if not self.unfolded():
                self._journal.clear()  # folded, but killed before it began again
            else:
                self._last_number = self._journal.entries[-1].number

    def _folded(self) -> int:
        rows = self._database.rows("SELECT value FROM run WHERE key = ?", (_FOLDED,))
        return int(rows[0]["value"]) if rows else 0

    # Evaluations

    def observe(
        self,
        trajectory: str,
        step: int,
        configurations: Sequence[bytes],
        values: FloatArray,
        model_version: int,
    ) -> None:
        """Keep evaluations of steps in a row; then the death of this process cannot lose them.

        In a block of `together`, that holds when the block ends.

        Parameters
        ----------
        trajectory : str
        step : int
            The first one: that of the last evaluation, if it is repeated, or a later one.
        configurations : sequence of bytes
            Digests of the configurations.
        values : (n, 4) float
            Maximum, mean and rms of the force errors (eV/Angstrom), energy (eV).
        model_version : int
        """
        number = self._last_number + 1
        self._held.append(
            JournalBlock(number, trajectory, step, configurations, values, model_version)
        )
        self._last_number += len(configurations)
        if not self._is_holding:
            self._keep_held()

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block whose evaluations are written at once, when it ends, however it does."""
        self._is_holding = True
        try:
            yield
        finally:
            self._is_holding = False
            self._keep_held()

    def _keep_held(self) -> None:
        blocks, self._held = self._held, []
        if blocks:
            with translated(self._journal_path):
                self._writer.append(blocks)

    @property
    def _writer(self) -> ObservationJournal:
        if self._journal is None:
            raise ValueError("a record that was opened for reading")
        return self._journal

    @property
    def n_unfolded(self) -> int:
        """Evaluations in the journal."""
        return len(self._writer)

    def unfolded(self) -> list[JournalEntry]:
        """Return the evaluations that are in the journal only, oldest first."""
        if self._journal is not None:
            entries = self._journal.entries
        else:
            with translated(self._journal_path):
                entries, _ = read_journal(self._journal_path)
        folded = self._folded()
        return [entry for entry in entries if entry.number > folded]

    def sync(self) -> None:
        """Make all evaluations survive a loss of power."""
        with translated(self._journal_path):
            self._writer.sync()

    def fold(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Store what is in the journal, and the states of the trajectories that it leads to."""
        self._keep_held()
        entries = self.unfolded()
        with self._database.transaction() as connection:
            for chunk in _columns(entries):
                _insert_chunk(connection, chunk)
            for trajectory, state in states.items():
                _store_state(connection, trajectory, state)
            connection.execute(
                "INSERT OR REPLACE INTO run VALUES (?, ?)", (_FOLDED, str(self._last_number))
            )
        with translated(self._journal_path):
            self._writer.clear()

    # Columns

    def add_observations(
        self, observations: Observations, state: Mapping[str, Any] | None = None
    ) -> None:
        """Store consecutive steps and, in the same transaction, the trajectory's state."""
        with self._database.transaction(durable=False) as connection:
            _insert_chunk(connection, observations)
            if state is not None:
                _store_state(connection, observations.trajectory, state)

    def observations(self, trajectory: str | None = None) -> Iterator[Observations]:
        """Iterate over the steps of one trajectory or of all, in their order, each step once.

        Of a step that was evaluated several times, the last evaluation counts. What is still in
        the journal comes as well.
        """
        names = self._trajectories() if trajectory is None else [trajectory]
        for name in names:
            for start, end, chunk in _uncovered(self._chunks(name)):
                yield chunk.part(name, start, end)

    def _trajectories(self) -> list[str]:
        rows = self._database.rows("SELECT DISTINCT trajectory FROM observations")
        return sorted({row["trajectory"] for row in rows} | {e.trajectory for e in self.unfolded()})

    def _chunks(self, trajectory: str) -> list[_Chunk]:
        # The journal first: what is folded meanwhile is then seen twice rather than not at all.
        entries = [entry for entry in self.unfolded() if entry.trajectory == trajectory]
        held = [_Chunk(c.first_step, len(c.maximum), c) for c in _columns(entries)]
        return [*self._folded_chunks(trajectory), *held]

    def _folded_chunks(self, trajectory: str) -> list[_Chunk]:
        rows = self._database.rows(
            "SELECT first_step, count, content FROM observations WHERE trajectory = ? ORDER BY id",
            (trajectory,),
        )
        return [_Chunk(**row) for row in rows]

    def last_errors(self, trajectory: str, window: int) -> np.ndarray:
        """Return the maximum errors of the last folded steps (eV/A), shape (at most window,)."""
        found: list[np.ndarray] = []
        for start, end, chunk in reversed(_uncovered(self._folded_chunks(trajectory))):
            found.insert(0, chunk.part(trajectory, start, end).maximum)
            if sum(map(len, found)) >= window:
                break
        errors = np.concatenate([np.empty(0), *found])
        return errors[max(0, len(errors) - window) :]

    # Trajectories

    def set_trajectory_state(self, trajectory: str, state: Mapping[str, Any]) -> None:
        """Store what a trajectory needs to go on: plain numbers, strings and lists."""
        with self._database.transaction(durable=False) as connection:
            _store_state(connection, trajectory, state)

    def trajectory_states(self) -> dict[str, dict[str, Any]]:
        """Return the states by trajectory, as stored when the journal was folded last."""
        rows = self._database.rows("SELECT trajectory, state FROM trajectories")
        return {row["trajectory"]: json.loads(row["state"]) for row in rows}

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def _columns(entries: Sequence[JournalEntry]) -> list[Observations]:
    """Entries as columns: one object per trajectory and run of consecutive steps."""
    found = []
    for trajectory, group in groupby(
        sorted(entries, key=lambda e: (e.trajectory, e.number)), key=lambda e: e.trajectory
    ):
        last = {entry.step: entry for entry in group}  # the last evaluation of each step
        steps = sorted(last)
        starts = [i for i, step in enumerate(steps) if i == 0 or step != steps[i - 1] + 1]
        for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
            part = [last[step] for step in steps[start:end]]
            found.append(
                Observations(
                    trajectory,
                    steps[start],
                    maximum=np.array([e.maximum for e in part], "<f4"),
                    mean=np.array([e.mean for e in part], "<f4"),
                    rms=np.array([e.rms for e in part], "<f4"),
                    energy=np.array([e.energy for e in part], "<f8"),
                    model_version=np.array([e.model_version for e in part], "<i4"),
                )
            )
    return found


def _insert_chunk(connection: sqlite3.Connection, observations: Observations) -> None:
    insert(
        connection,
        "observations",
        trajectory=observations.trajectory,
        first_step=observations.first_step,
        count=len(observations.maximum),
        content=encode_observations(observations),
    )


def _store_state(connection: sqlite3.Connection, trajectory: str, state: Mapping[str, Any]) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO trajectories VALUES (?, ?, ?)",
        (trajectory, json.dumps(dict(state)), time.time()),
    )
