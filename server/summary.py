"""What a run did, read from its record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anharm.server.beads import BeadCounts
from anharm.server.energy_zero import count_programs
from anharm.server.record import Record
from anharm.server.record_schema import GIVEN


@dataclass(frozen=True)
class Summary:
    """Result of a run.

    Attributes
    ----------
    steps, labels, models : int
        The labels are those that training asked for.
    evaluations : int
        More than steps where there are several beads.
    error_start, error_end : float or None
        Bayesian error max_i sigma_i averaged over the first and the last steps (at most the
        training window), eV/Angstrom.
    label_rmse : tuple of float
        Force RMSE of each of them before it was learnt, in their order, eV/Angstrom.
    given : int
        Labels of an earlier run.
    harvested : int
        Answers of the reference that i-PI itself wanted, and that are labels, too.
    harvested_rmse : float or None
        Force RMSE of the model against these, eV/Angstrom.
    converged : str
        Why training converged; empty if it has not.
    converged_step : int or None
    failure : str
        Why the run failed; empty if it did not.
    quarantined : int
        Answers of the reference that failed their checks.
    pending : int
        Labels that were asked for and have not come.
    lack_of_data : tuple of str
        A sentence for each order that the last model's labels do not determine.
    programs : dict
        Labels by the program that computed them, the first one first.
    """

    steps: int
    evaluations: int
    labels: int
    models: int
    error_start: float | None
    error_end: float | None
    label_rmse: tuple[float, ...]
    given: int
    harvested: int
    harvested_rmse: float | None
    converged: str
    converged_step: int | None
    failure: str
    quarantined: int
    pending: int
    lack_of_data: tuple[str, ...]
    programs: dict[str, int]


def summarise(directory: Path, window: int) -> Summary:
    """Read the summary of the run in a directory.

    Parameters
    ----------
    directory : Path
    window : int
        Steps to average over.

    Raises
    ------
    AnharmError
        If there is no readable record.
    """
    with Record.open(directory, read_only=True) as record:
        known = record.metadata()
        chunks = list(record.observations())
        errors = np.concatenate([c.maximum for c in chunks]) if chunks else np.empty(0)
        evaluations = {(c.trajectory, step) for c in chunks for step in c.steps.tolist()}
        beads = BeadCounts.from_metadata(known)
        steps = {(name, number // beads.of(name)) for name, number in evaluations}
        models = record.models()
        labels = list(record.labels())
        asked = [label for label in labels if label.request.is_paid]
        harvested = [
            label.prediction.force_rmse
            for label in labels
            if label.request.is_harvested and label.prediction is not None
        ]
        average = max(1, min(window * beads.largest, len(errors) // 2))
        return Summary(
            steps=len(steps),
            evaluations=len(evaluations),
            labels=len(asked),
            models=len(models),
            error_start=float(errors[:average].mean()) if len(errors) else None,
            error_end=float(errors[-average:].mean()) if len(errors) else None,
            label_rmse=tuple(one.prediction.force_rmse for one in asked if one.prediction),
            harvested=sum(label.request.is_harvested for label in labels),
            given=sum(label.request.origin == GIVEN for label in labels),
            harvested_rmse=float(np.sqrt(np.mean(np.square(harvested)))) if harvested else None,
            converged=known.get("converged", ""),
            converged_step=int(known["converged_step"]) if known.get("converged_step") else None,
            failure=known.get("failure", ""),
            quarantined=sum(1 for _ in record.rejected_labels()),
            pending=sum(
                request.state != "labelled" and not request.is_harvested
                for request in record.requests()
            ),
            lack_of_data=tuple(
                models[-1].hyperparameters.get("lack_of_data", ()) if models else ()
            ),
            programs=count_programs(labels),
        )


def format_summary(summary: Summary, directory: Path, rule: str) -> str:
    """The summary as text, of a run with this `training.rule`."""
    rows = [
        *_progress(summary),
        *_labels(summary),
        *_end(summary, rule),
        ("record", f"{directory / 'record.sqlite'}"),
        ("models", f"{directory / 'models'}"),
        ("logs", f"{directory / 'logs'}"),
        ("i-PI's own output", f"{directory}"),
    ]
    return "\n".join(f"{name:25}{text}" for name, text in rows)


def _progress(summary: Summary) -> Iterator[tuple[str, str]]:
    has_beads = summary.evaluations > summary.steps
    beads = f" ({summary.evaluations} evaluations, one per bead)" if has_beads else ""
    yield "steps", f"{summary.steps}{beads}"
    yield "labels", f"{summary.labels}"
    yield "model versions", f"{summary.models}"
    if summary.error_start is not None and summary.error_end is not None:
        start, end = summary.error_start, summary.error_end
        yield "average error", f"{start:.4f} eV/A at the start, {end:.4f} eV/A at the end"
    if summary.label_rmse:
        first, last = summary.label_rmse[0], summary.label_rmse[-1]
        yield (
            "force RMSE of labels",
            f"{first:.4f} eV/A (first) to {last:.4f} eV/A (last) before they were learnt",
        )


def _labels(summary: Summary) -> Iterator[tuple[str, str]]:
    """Those that are not as every run has them."""
    if summary.given:
        yield "given", f"{summary.given} labels of an earlier run"
    if summary.harvested:
        rmse = summary.harvested_rmse
        error = "" if rmse is None else f"; force RMSE of the model {rmse:.4f} eV/A"
        yield (
            "harvested",
            f"{summary.harvested} labels from i-PI's own calls of the reference{error}",
        )
    if len(summary.programs) > 1:
        shares = ", ".join(f"{number} by {name}" for name, number in summary.programs.items())
        yield "several codes", f"{shares}: the model learns the mixture of their"
        yield "", "forces, and energies and virials of the first alone"
    if summary.quarantined:
        yield "quarantined answers", f"{summary.quarantined}"
    if summary.pending:
        yield "labels pending", f"{summary.pending}, the first thing on --resume"


def _end(summary: Summary, rule: str) -> Iterator[tuple[str, str]]:
    yield from (("warning", line) for line in summary.lack_of_data)
    if summary.converged:
        yield "converged", f"at step {summary.converged_step}"
        yield "", summary.converged
    elif rule == "none":
        yield "converged", 'not asked for: training.rule = "none" labels no step'
    else:
        yield "converged", "no; --resume goes on, with a larger <total_steps> if all were made"
