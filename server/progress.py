"""How a run has gone so far: observations to be stored, and the error of each model version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anharm.server.convergence import Refit
from anharm.server.record import Observations, Record
from anharm.wire.messages import Observation


@dataclass
class ObservationLog:
    """Observations of one trajectory that wait to be written in one piece.

    Consecutive steps share a chunk; a repeated step (the same configuration, evaluated again by a
    newer model) replaces its first entry, unless that has been written.
    """

    trajectory: str
    first_step: int = 0
    entries: list[Observation] = field(default_factory=list)

    def add(self, record: Record, step: int, observation: Observation) -> None:
        """Take one step, writing what is held first where the steps are not consecutive."""
        following = self.first_step + len(self.entries)
        if step < following:
            if step >= self.first_step:
                self.entries[step - self.first_step] = observation
            return
        if step > following:
            self.write(record)
            self.first_step = step
        self.entries.append(observation)

    def write(self, record: Record, state: Mapping[str, Any] | None = None) -> None:
        """Write what is held, with the trajectory's state, and forget it."""
        if not self.entries:
            return
        entries = self.entries
        record.add_observations(
            Observations(
                trajectory=self.trajectory,
                first_step=self.first_step,
                maximum=np.array([entry.force_std_max for entry in entries]),
                mean=np.array([entry.force_std_mean for entry in entries]),
                rms=np.array([entry.force_std_rms for entry in entries]),
                energy=np.array([entry.energy for entry in entries]),
                model_version=np.array([entry.model_version for entry in entries]),
            ),
            state,
        )
        self.first_step += len(entries)
        self.entries = []


@dataclass
class ErrorHistory:
    """Average Bayesian error of the steps that each model version drove (eV/Angstrom)."""

    sums: dict[int, float] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    first_steps: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Record) -> ErrorHistory:
        """The history of a run, from its stored observations and model versions."""
        history = cls()
        for model in record.models():
            history.labels[model.version] = len(model.labels)
        for chunk in record.observations():
            for version in np.unique(chunk.model_version):
                chosen = chunk.model_version == version
                first = chunk.first_step + int(np.argmax(chosen))
                history._add(
                    int(version), float(chunk.maximum[chosen].sum()), int(chosen.sum()), first
                )
        return history

    @property
    def steps(self) -> int:
        """Steps driven by any model."""
        return sum(self.counts.values())

    def refitted(self, version: int, n_labels: int) -> None:
        """Note a new model version."""
        self.labels[version] = n_labels

    def observe(self, version: int, step: int, error: float) -> None:
        """Add the error of one step."""
        self._add(version, error, 1, step)

    def refits(self, minimum_steps: int) -> list[Refit]:
        """Model versions that drove at least so many steps, oldest first."""
        return [
            Refit(self.labels.get(v, 0), self.first_steps[v], self.sums[v] / self.counts[v])
            for v in sorted(self.counts)
            if self.counts[v] >= minimum_steps
        ]

    def _add(self, version: int, error: float, count: int, step: int) -> None:
        self.sums[version] = self.sums.get(version, 0.0) + error
        self.counts[version] = self.counts.get(version, 0) + count
        self.first_steps[version] = min(self.first_steps.get(version, step), step)
