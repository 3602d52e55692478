"""Decisions on many evaluations in a row: those that are certain to go on are noted at once.

The states and decisions are those that `anharm.server.decision` comes to one by one. What makes it
certain that an evaluation goes on is a bound: while errors are added, an average of many changes
little, so that there is a value below which nothing can stand out.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from anharm.configuration import TrainingSection
from anharm.server.audits import first_audit
from anharm.server.beads import reduced
from anharm.server.decision import Decision, ObservedStep, TrajectoryState, decide
from anharm.server.thresholds import threshold_of


def decide_run(
    state: TrajectoryState,
    first: ObservedStep,
    errors: Sequence[float],
    settings: TrainingSection,
) -> tuple[TrajectoryState, Decision, int]:
    """Decide on evaluations in a row, up to the first of which it is not certain that it goes on.

    Parameters
    ----------
    state : TrajectoryState
    first : ObservedStep
        The first of them; what it says beside step and error holds for all.
    errors : sequence of float
        Theirs, eV/Angstrom; the first one's, too.
    settings : TrainingSection

    Returns
    -------
    state : TrajectoryState
        After those that were decided on.
    decision : Decision
        On the last of those; "continue" is the verdict on the ones before it.
    count : int
        How many they are, at least one.

    Raises
    ------
    ValueError
        As `decide` does.
    """
    n = _certain(state, first, errors[:-1], settings)
    if n:
        state = _gone_on(state, errors[:n], settings)
        first = replace(first, step=first.step + n, error=errors[n])
    state, decision = decide(state, first, settings)
    return state, decision, n + 1


def _certain(
    state: TrajectoryState,
    first: ObservedStep,
    errors: Sequence[float],
    settings: TrainingSection,
) -> int:
    """Return how many of the errors, from the first on, are certain to go on."""
    step, last = first.step, state.last_step
    is_next = last is not None and step == last + 1 and len(state.errors) > 0
    is_current = state.refit_version <= first.model_version == state.model_version
    if not (errors and is_next and is_current):
        return 0
    limit = _least_threshold(state, len(errors), settings)
    n = next((n for n, error in enumerate(errors) if not 0 <= error <= limit), len(errors))
    if first.has_converged or settings.rule == "none":
        return n
    steps = range(step, step + n)
    audit = first_audit(settings, state.trajectory, steps, state.beads, first.expected_gain)
    return n if audit is None else audit - step


def _least_threshold(state: TrajectoryState, n: int, settings: TrainingSection) -> float:
    """Return what no threshold falls below during the next n evaluations, eV/Angstrom."""
    if settings.rule == "none":
        return inf
    if settings.rule == "trajectory-average":
        assert state.last_step is not None
        n_steps = (state.last_step + n) // state.beads - state.last_step // state.beads
        threshold = settings.factor * state.errors.least_mean(n_steps, settings.window)
    else:  # the critical threshold is none below the other one
        threshold = threshold_of(settings, state.adaptive, None, 0) or 0.0
    return threshold if settings.maximum is None else min(threshold, settings.maximum)


def _gone_on(
    state: TrajectoryState, errors: Sequence[float], settings: TrainingSection
) -> TrajectoryState:
    """Return the state after evaluations of which none is labelled."""
    assert state.last_step is not None
    last_step, beads = state.last_step + len(errors), state.beads
    missing = -(state.last_step + 1) % beads  # of the step that is going on
    window, bead_errors = state.errors, state.bead_errors
    if missing:
        bead_errors = (*bead_errors, *errors[:missing])
        window = window.with_last(reduced(bead_errors, settings.bead_reduction))
    steps = [tuple(errors[i : i + beads]) for i in range(missing, len(errors), beads)]
    if steps:
        bead_errors = steps[-1]
        window = window.extended(
            [reduced(step, settings.bead_reduction) for step in steps], settings.window
        )
    return replace(
        state,
        errors=window,
        bead_errors=bead_errors,
        last_step=last_step,
        steps=state.steps + len(errors),
    )
