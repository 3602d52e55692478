"""What each model version knew, and the average error of the steps that it drove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from anharm.server.convergence import Refit
from anharm.server.record import Record


@dataclass
class ErrorHistory:
    """What each model version knew: its labels, the parameters that they determine, and the
    average Bayesian error of the steps that it drove (eV/Angstrom)."""

    sums: dict[int, float] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    first_steps: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    determined: dict[int, float] = field(default_factory=dict)
    targets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Record) -> ErrorHistory:
        """The history of a run, from its stored observations and model versions."""
        history = cls()
        for model in record.models():
            history.refitted(
                model.version, len(model.labels), model.determined_parameters, model.n_targets
            )
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

    def refitted(self, version: int, n_labels: int, determined: float, targets: int = 0) -> None:
        """Note a new model version, its numbers of determined parameters and of targets."""
        self.labels[version] = n_labels
        self.determined[version] = determined
        self.targets[version] = targets

    def observe(self, version: int, step: int, errors: Sequence[float]) -> None:
        """Add the errors of steps in a row, from the first one on."""
        self._add(version, sum(errors), len(errors), step)

    def refits(self, minimum_steps: int) -> list[Refit]:
        """Model versions that drove at least so many steps, oldest first."""
        return [
            Refit(
                self.labels.get(v, 0),
                self.first_steps[v],
                self.sums[v] / self.counts[v],
                self.determined.get(v, 0.0),
                self.targets.get(v, 0),
            )
            for v in sorted(self.counts)
            if self.counts[v] >= minimum_steps
        ]

    def _add(self, version: int, error: float, count: int, step: int) -> None:
        self.sums[version] = self.sums.get(version, 0.0) + error
        self.counts[version] = self.counts.get(version, 0) + count
        self.first_steps[version] = min(self.first_steps.get(version, step), step)
