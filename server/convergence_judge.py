"""Whether a run's training has converged: what is counted for it, and when it is declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from anharm.configuration import TrainingSection
from anharm.server.beads import BeadCounts
from anharm.server.convergence import Convergence, assess_convergence, expected_gain
from anharm.server.convergence_record import (
    has_converged,
    note_convergence,
    withdraw_convergence,
)
from anharm.server.decision import Decision, TrajectoryState
from anharm.server.error_history import ErrorHistory
from anharm.server.record import Record

_EVERY = 10  # steps between judgements


class ConvergenceJudge:
    """Counts steps and refits since a label was last wanted, and the errors of each model.

    Parameters
    ----------
    record : Record
        Of the run, which may go on from an earlier part.
    settings : TrainingSection
    beads : BeadCounts
        Steps are of the ring polymer, errors are averaged over all its beads.
    states : mapping of TrajectoryState
        By trajectory.

    Attributes
    ----------
    steps_since_label : int
        Steps of all trajectories since a label was last wanted, other than for an audit.
    """

    def __init__(
        self,
        record: Record,
        settings: TrainingSection,
        beads: BeadCounts,
        states: Mapping[str, TrajectoryState],
    ) -> None:
        self._record, self._settings, self._beads = record, settings, beads
        self._history = ErrorHistory.from_record(record)
        self._evaluations = Counter(_fewest_since_label(states))
        self.steps_since_label = sum(n // beads.of(name) for name, n in self._evaluations.items())
        self._has_passed = False
        self._refits = -1  # the next one is for the label that was wanted last
        self.convergence = Convergence(False, "No step has been made yet.")
        self.has_converged = has_converged(record, settings)

    @property
    def reason(self) -> str:
        """The last judgement in words."""
        return self.convergence.reason

    def count(self, trajectory: str, evaluations: int = 1) -> None:
        """Note that a trajectory went on by so many evaluations."""
        beads, before = self._beads.of(trajectory), self._evaluations[trajectory]
        self._evaluations[trajectory] = after = before + evaluations
        steps = after // beads - before // beads
        self._has_passed = self.steps_since_label % _EVERY + steps >= _EVERY
        self.steps_since_label += steps

    def observe(self, version: int, step: int, errors: Sequence[float]) -> None:
        """Note the errors of evaluations in a row, eV/Angstrom; `step` is the first."""
        self._history.observe(version, step, errors)

    def label_wanted(self) -> None:
        """Note that a label is wanted; audits do not count: they check, and ask for no more."""
        self._evaluations.clear()
        self.steps_since_label, self._has_passed = 0, False
        self._refits = -1

    def refitted(self, version: int, n_labels: int) -> float:
        """Note a new model version; return the share of its error that endless labels would save.

        The record says which parameters its labels determine.
        """
        self._refits += 1
        known = {m.version: (m.determined_parameters, m.n_targets) for m in self._record.models()}
        determined, targets = known.get(version, (0.0, 0))
        self._history.refitted(version, n_labels, determined, targets)
        return expected_gain(determined, targets)

    @property
    def is_due(self) -> bool:
        """Whether it is time to judge: every few steps, also where they are counted together."""
        return self._has_passed or self.steps_since_label % _EVERY == 0

    def declares(self, n_steps: int) -> str:
        """Judge what has been observed; what to log if training has converged just now, or "".

        Parameters
        ----------
        n_steps : int
            So far.
        """
        if not self.is_due:
            return ""
        steps = self.steps_since_label
        shortest = max(1, self._settings.minimum_interval) * self._beads.largest
        self.convergence = assess_convergence(
            self._history.refits(shortest), steps, self._settings, self._refits
        )
        if not self.convergence.converged:
            return ""
        self.has_converged = True
        note_convergence(self._record, self._settings, n_steps, self.reason)
        return f"training converged at step {n_steps}: {self.reason}"

    def withdraw(self, decision: Decision) -> None:
        """Take the declaration back: a step stands out from what the model knows."""
        self.has_converged = False
        self.convergence = Convergence(
            False,
            f"Training goes on: at step {decision.step} of trajectory {decision.trajectory} the "
            f"error of {decision.value:.4g} eV/A stands out ({decision.rule}).",
        )
        withdraw_convergence(self._record, self.reason)


def _fewest_since_label(states: Mapping[str, TrajectoryState]) -> dict[str, int]:
    """Evaluations since its last label of the trajectory that has made the fewest steps since."""
    counts = {n: (s.last_step or 0) - (s.last_label_step or 0) for n, s in states.items()}
    name = min(counts, key=lambda n: counts[n] // states[n].beads, default=None)
    return {} if name is None else {name: counts[name]}
