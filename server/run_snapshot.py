"""How a run stands, read beside the broker that may be writing its record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anharm.model.crystal import FloatArray
from anharm.server.beads import BeadCounts, errors_of_steps
from anharm.server.record import Event, Record, Request
from anharm.server.run_directory import RunSettings, is_running, run_settings
from anharm.server.thresholds import AdaptiveHistory, threshold_of

_LAST_REQUESTS = 5
_LAST_EVENTS = 4
_MOST_ERRORS = 1000


@dataclass(frozen=True, eq=False)
class TrajectoryView:
    """The last steps of one trajectory; errors in eV/Angstrom.

    Attributes
    ----------
    name : str
    steps : int
        So far; of the ring polymer where there are beads.
    errors : ndarray
        Of the last steps, oldest first.
    average, threshold : float or None
        Over the window of the decisions, and what a step is compared with.
    """

    name: str
    steps: int
    errors: FloatArray
    average: float | None
    threshold: float | None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at one moment.

    Attributes
    ----------
    is_running : bool
        Whether a broker holds the run directory.
    phase, waiting_for, convergence : str
        As the broker wrote them last.
    ended, failure : str
        Why the run ended, once it has.
    labels, model_version : int
    pending : list of Request
        Labels that are wanted or being computed.
    last_requests : list of Request
        Those made last, oldest first.
    events : list of Event
        The last lines of the log.
    trajectories : list of TrajectoryView
    """

    time: float
    is_running: bool
    phase: str
    waiting_for: str
    convergence: str
    ended: str
    failure: str
    labels: int
    model_version: int
    pending: list[Request]
    last_requests: list[Request]
    events: list[Event]
    trajectories: list[TrajectoryView]

    @property
    def steps(self) -> int:
        """Steps of all trajectories."""
        return sum(view.steps for view in self.trajectories)

    @property
    def state(self) -> str:
        """One or two words: the phase of a living run, or how a dead one ended."""
        if self.is_running:
            return self.phase or "starting"
        if self.failure:
            return "failed"
        return "ended" if self.ended else "dead"


def take_snapshot(directory: Path) -> Snapshot:
    """Read how a run stands; nothing is locked or written.

    Raises
    ------
    AnharmError
        If there is no readable record.
    """
    running = is_running(directory)
    with Record.open(directory, read_only=True) as record:
        known = record.metadata()
        settings = run_settings(directory, known)
        models = record.models()
        return Snapshot(
            time=time.time(),
            is_running=running,
            phase=known.get("phase", ""),
            waiting_for=known.get("waiting_for", "") if running else "",
            convergence=known.get("converged") or known.get("convergence", ""),
            ended=known.get("ended", ""),
            failure=known.get("failure", ""),
            labels=record.label_count(),
            model_version=models[-1].version if models else 0,
            pending=record.pending_requests(),
            last_requests=[r for r in record.requests() if r.step is not None][-_LAST_REQUESTS:],
            events=record.events()[-_LAST_EVENTS:],
            trajectories=_views(record, settings, BeadCounts.from_metadata(known)),
        )


def _views(record: Record, settings: RunSettings, beads: BeadCounts) -> list[TrajectoryView]:
    states = record.trajectory_states()
    held: dict[str, dict[int, float]] = {}
    for entry in record.unfolded():
        held.setdefault(entry.trajectory, {})[entry.step] = entry.maximum
    training = settings.training
    views = []
    for name in sorted({*states, *held}):
        last = states.get(name, {}).get("last_step")
        newer = held.get(name, {})
        n_beads = beads.of(name)
        stored = record.last_errors(name, min(training.window, _MOST_ERRORS) * n_beads)
        repeated = 0 if last is None else sum(1 for step in newer if step <= last)
        evaluated = np.concatenate(
            [stored[: len(stored) - repeated], [newer[step] for step in sorted(newer)]]
        )
        number = 1 + max([-1 if last is None else int(last), *newer])
        errors = errors_of_steps(evaluated, number, n_beads, training.bead_reduction)
        errors = errors[-training.window :]
        average = float(errors.mean()) if len(errors) else None
        adaptive = AdaptiveHistory.from_dict(states.get(name, {}).get("adaptive", {}))
        views.append(
            TrajectoryView(
                name,
                -(-number // n_beads),
                errors,
                average,
                threshold_of(training, adaptive, average, len(errors)),
            )
        )
    return views
