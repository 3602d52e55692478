"""Everything that a report tells about a run, read from its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anharm.model.crystal import FloatArray, IntArray
from anharm.server.beads import BeadCounts
from anharm.server.decision import Decision
from anharm.server.record import Event, Label, ModelVersion, Record, Request
from anharm.server.run_directory import RunSettings, run_settings
from anharm.server.run_times import RunTimes, run_times


@dataclass(frozen=True, eq=False)
class Trace:
    """All steps of one trajectory, as columns of one length.

    Attributes
    ----------
    steps, model_version : ndarray of int
    error : ndarray
        max_i sigma_i, eV/Angstrom.
    energy : ndarray
        Of the model, eV.
    beads : int
        Evaluations, which is what is listed, of a step of the ring polymer.
    """

    trajectory: str
    steps: IntArray
    error: FloatArray
    energy: FloatArray
    model_version: IntArray
    beads: int = 1

    @property
    def swaps(self) -> list[tuple[int, int]]:
        """(step, version) wherever another model version took over."""
        changes = np.flatnonzero(np.diff(self.model_version)) + 1
        return [(int(self.steps[i]), int(self.model_version[i])) for i in changes]


@dataclass(frozen=True, eq=False)
class ExplainedLabel:
    """A label and the decision that asked for it; None where no decision did."""

    number: int
    label: Label
    decision: Decision | None

    @property
    def rule(self) -> str:
        """The rule that asked for it, "initial", or "harvested" where only i-PI did."""
        return self.decision.rule if self.decision is not None else self.label.request.origin


@dataclass(frozen=True, eq=False)
class RunData:
    """A run.

    Attributes
    ----------
    metadata : dict
        What the record knows: configuration, versions, how it ended.
    labels : list of ExplainedLabel
    rejected : list of Label
        Answers that failed their checks.
    open_requests : list of Request
        Without an accepted answer.
    refused : list of Decision
        Labels that were wanted beyond the budget.
    """

    directory: Path
    metadata: dict[str, str]
    settings: RunSettings
    traces: list[Trace]
    labels: list[ExplainedLabel]
    rejected: list[Label]
    open_requests: list[Request]
    refused: list[Decision]
    models: list[ModelVersion]
    events: list[Event]
    times: RunTimes

    @property
    def n_steps(self) -> int:
        """Steps of all trajectories."""
        return sum(len(trace.steps) for trace in self.traces)

    def average_errors(self) -> dict[int, float]:
        """Average error of the steps that each model version drove, eV/Angstrom."""
        if not self.traces:
            return {}
        versions = np.concatenate([trace.model_version for trace in self.traces])
        errors = np.concatenate([trace.error for trace in self.traces])
        counts = np.bincount(versions)
        sums = np.bincount(versions, weights=errors)
        return {int(v): float(sums[v] / counts[v]) for v in np.flatnonzero(counts)}


def read_run(directory: Path) -> RunData:
    """Read a run, which may still be going on.

    Raises
    ------
    AnharmError
        If there is no readable record.
    """
    with Record.open(directory, read_only=True) as record:
        metadata = record.metadata()
        settings = run_settings(directory, metadata)
        decisions = record.decisions()
        wanted = {(d.trajectory, d.step): d for d in decisions if d.label}
        labels = [
            ExplainedLabel(number, label, _decision_of(label.request, wanted))
            for number, label in enumerate(record.labels(), start=1)
        ]
        requests = record.requests()
        models, events = record.models(), record.events()
        return RunData(
            directory=directory,
            metadata=metadata,
            settings=settings,
            traces=_traces(record, BeadCounts.from_metadata(metadata)),
            labels=labels,
            rejected=list(record.rejected_labels()),
            open_requests=[r for r in requests if r.state != "labelled"],
            refused=[d for d in decisions if d.verdict == "budget"],
            models=models,
            events=events,
            times=run_times(
                metadata, events, [one.label for one in labels], models, settings.synchronous
            ),
        )


def _decision_of(request: Request, decisions: dict[tuple[str, int], Decision]) -> Decision | None:
    if request.trajectory is None or request.step is None:
        return None
    return decisions.get((request.trajectory, request.step))


def _traces(record: Record, beads: BeadCounts) -> list[Trace]:
    chunks: dict[str, list[tuple[IntArray, FloatArray, FloatArray, IntArray]]] = {}
    for c in record.observations():
        chunks.setdefault(c.trajectory, []).append((c.steps, c.maximum, c.energy, c.model_version))
    traces = []
    for name, parts in chunks.items():
        steps, errors, energies, versions = (np.concatenate(c) for c in zip(*parts, strict=True))
        traces.append(Trace(name, steps, errors, energies, versions, beads.of(name)))
    return traces
