"""Whether a configuration of a trajectory is labelled, as a pure function.

Three rules set the threshold that the Bayesian error of a step is compared with (they are in
`anharm.server.thresholds`): a factor times its average over the trajectory's last steps, as in
arXiv:2601.21311; a fixed value; or VASP's adaptive history. Added to them are an absolute
maximum, audit steps, taken at random to keep the calibration honest, and a budget. The first
that matches decides:

1. a step that was observed before, evaluated again by the new model: no label;
2. a step that was answered with a model that has been replaced since: no label, since the new
   one may know it, which the next step tells;
3. error above the critical threshold of the adaptive history, with no label on its way: label;
4. fewer than `minimum_interval` steps since the last refit or request: no label, since
   neighbouring steps teach the same thing and a maximum set too low would call the
   reference at every step;
5. error above `maximum`: label;
6. audit step: label;
7. error above the threshold: label.

Where a rule asks for a label and the budget is spent, the verdict is "budget". The rule "none"
never asks.

In path integrals, each bead is an evaluation, and evaluations are numbered. Their errors are what
is compared with thresholds. The trajectory average, and all intervals, are of steps of the ring
polymer, whose errors are reduced from those of its beads (`anharm.server.beads`). An audit takes
one bead in `audit_interval` steps. Everywhere else below, a step is an evaluation.
"""

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal

from anharm.configuration import TrainingSection
from anharm.server.audits import is_audit_step
from anharm.server.beads import reduced
from anharm.server.error_window import ErrorWindow
from anharm.server.thresholds import AdaptiveHistory, threshold_of

Rule = Literal[
    "already-labelled",
    "replaced-model",
    "critical",
    "maximum",
    "minimum-interval",
    "audit",
    "short-history",
    "trajectory-average",
    "fixed",
    "adaptive-history",
    "none",
]
Verdict = Literal["continue", "label", "budget"]


@dataclass(frozen=True, eq=False)
class TrajectoryState:
    """What the decision remembers of one trajectory; its steps are numbered without gaps.

    Attributes
    ----------
    trajectory : str
        Name of the trajectory.
    errors : ErrorWindow
        Errors of the last steps, at most the window, in eV/Angstrom, oldest first; one entry
        per step of the ring polymer, which is the error of the model that finally drove it.
    last_step : int or None
        The step observed last.
    last_label_step : int or None
        The step for which a label was requested last.
    last_refit_step : int or None
        The last step before the latest refit; None before the first step.
    model_version : int
        The latest model version of all observations; 0 before the first.
    refit_version : int
        The model version that the last refit gave; 0 before the first.
    steps, requests : int
        Steps observed and labels requested so far.
    adaptive : AdaptiveHistory
        What the rule "adaptive-history" remembers; empty with other rules.
    beads : int
        Evaluations of a step of the ring polymer.
    bead_errors : tuple of float
        Those of the step that is going on, eV/Angstrom.
    """

    trajectory: str
    errors: ErrorWindow = field(default_factory=ErrorWindow)
    last_step: int | None = None
    last_label_step: int | None = None
    last_refit_step: int | None = None
    model_version: int = 0
    steps: int = 0
    requests: int = 0
    adaptive: AdaptiveHistory = field(default_factory=AdaptiveHistory)
    beads: int = 1
    bead_errors: tuple[float, ...] = ()
    refit_version: int = 0

    @property
    def mean_error(self) -> float | None:
        """Average error over the window (eV/Angstrom); None before the first step."""
        return self.errors.mean

    @property
    def awaits_label(self) -> bool:
        """Whether a label was requested after the last refit."""
        if self.last_label_step is None:
            return False
        return self.last_refit_step is None or self.last_refit_step < self.last_label_step

    def as_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers and lists, exactly, for the record."""
        return {
            **self.__dict__,
            "errors": list(self.errors),
            "adaptive": self.adaptive.as_dict(),
            "bead_errors": list(self.bead_errors),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "TrajectoryState":
        """Return the state that `as_dict` wrote."""
        return cls(
            **{
                **content,
                "errors": ErrorWindow(content["errors"]),
                "adaptive": AdaptiveHistory.from_dict(content.get("adaptive", {})),
                "bead_errors": tuple(content.get("bead_errors", ())),
            }
        )


@dataclass(frozen=True)
class ObservedStep:
    """One step of a trajectory as the decision sees it.

    Attributes
    ----------
    step : int
        Number of the step within its trajectory: the next one, or an earlier one that is
        observed again, mostly by a newer model.
    error : float
        The Bayesian error of the step, max_i sigma_i, in eV/Angstrom.
    model_version : int
        The model that gave it.
    labels_taken : int
        Labels that the whole run has requested so far, to compare with the budget.
    has_converged : bool
        Whether training has converged, after which steps are labelled only where they stand out.
    expected_gain : float
        Share of its true error that endless labels would save the model; more audits are taken
        while it is large.
    """

    step: int
    error: float
    model_version: int
    labels_taken: int = 0
    has_converged: bool = False
    expected_gain: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The verdict on one step, and all that led to it.

    Attributes
    ----------
    verdict : str
        "label", "continue", or "budget" where a label is wanted and none is left.
    rule : str
        The rule that decided.
    value : float
        The error of the step (eV/Angstrom).
    threshold : float or None
        What the value was compared with (eV/Angstrom), if the rule compares.
    mean : float or None
        Average over the window, the step itself excluded (eV/Angstrom).
    count : int
        Number of errors in that average.
    """

    trajectory: str
    step: int
    model_version: int
    verdict: Verdict
    rule: Rule
    value: float
    threshold: float | None
    mean: float | None
    count: int

    @property
    def label(self) -> bool:
        """Whether a label is to be requested."""
        return self.verdict == "label"


def decide(
    state: TrajectoryState, observation: ObservedStep, settings: TrainingSection
) -> tuple[TrajectoryState, Decision]:
    """Decide on one step and return the trajectory's next state.

    Parameters
    ----------
    state : TrajectoryState
    observation : ObservedStep
    settings : TrainingSection
        Rule, thresholds (eV/Angstrom), window and intervals (steps), budget (labels).

    Returns
    -------
    TrajectoryState, Decision

    Raises
    ------
    ValueError
        If the error is not finite and >= 0, or steps are left out.
    """
    step, error = observation.step, observation.error
    if not (isfinite(error) and error >= 0):
        raise ValueError(f"step {step}: the error is {error}, expected a finite number >= 0")
    last = state.last_step
    if last is not None and step > last + 1:
        raise ValueError(f"step {step} comes after step {last}")
    others = _without(state, step).last(settings.window)
    count = len(others)
    mean = others.mean
    if settings.rule == "adaptive-history" and 0 < state.model_version < observation.model_version:
        state = replace(state, adaptive=state.adaptive.after_refit(error, settings))

    rule, threshold, wanted = _first_match(state, observation, settings, mean, count)
    verdict: Verdict = "continue"
    is_frozen = observation.has_converged and settings.after_convergence == "freeze"
    if wanted and not is_frozen:
        verdict = "label" if observation.labels_taken < settings.budget else "budget"
    decision = Decision(
        state.trajectory,
        step,
        observation.model_version,
        verdict,
        rule,
        error,
        threshold,
        mean,
        count,
    )
    return _advance(state, decision, settings), decision


def _without(state: TrajectoryState, step: int) -> ErrorWindow:
    """Return the errors of the window without that of a step, if it is there."""
    slot = _slot(state, step)
    if slot is None:
        return state.errors
    is_last = slot == len(state.errors) - 1
    return state.errors.without_last() if is_last else state.errors.without(slot)


def _slot(state: TrajectoryState, step: int) -> int | None:
    """Return where in the window the error of a step is; None if it is not, or has left it."""
    if state.last_step is None:
        return None
    behind = state.last_step // state.beads - step // state.beads
    slot = len(state.errors) - 1 - behind
    return slot if behind >= 0 and slot >= 0 else None


def _first_match(
    state: TrajectoryState,
    observation: ObservedStep,
    settings: TrainingSection,
    mean: float | None,
    count: int,
) -> tuple[Rule, float | None, bool]:
    """Return the first rule that matches, its threshold, and whether it wants a label."""
    step, error = observation.step, observation.error
    if state.last_step is not None and step <= state.last_step:
        return "already-labelled", None, False
    if settings.rule == "none":
        return "none", None, False
    if observation.model_version < state.refit_version:
        return "replaced-model", None, False
    if settings.rule == "adaptive-history" and not state.awaits_label:
        critical = settings.critical_factor * state.adaptive.threshold(settings)
        if error > critical:
            return "critical", critical, True
    for earlier in (state.last_refit_step, state.last_label_step):
        if earlier is None:
            continue
        if step // state.beads - earlier // state.beads < settings.minimum_interval:
            return "minimum-interval", None, False
    if settings.maximum is not None and error > settings.maximum:
        return "maximum", settings.maximum, True
    is_training = not observation.has_converged
    gain = observation.expected_gain
    if is_training and is_audit_step(settings, state.trajectory, step, state.beads, gain):
        return "audit", None, True
    threshold = threshold_of(settings, state.adaptive, mean, count)
    if threshold is None:
        return "short-history", None, False
    return settings.rule, threshold, error > threshold


def refitted(state: TrajectoryState, version: int) -> TrajectoryState:
    """Return the state after a refit, to a model version: the next label's interval starts here.

    The errors of older models stay in the window, as in the published rule.
    """
    return replace(state, last_refit_step=state.last_step, refit_version=version)


def _advance(
    state: TrajectoryState, decision: Decision, settings: TrainingSection
) -> TrajectoryState:
    """Return the state with the error of a step added, or put in the place of its older one."""
    errors, bead_errors = _noted(state, decision, settings)
    version = max(state.model_version, decision.model_version)
    if state.last_step is not None and decision.step <= state.last_step:
        return replace(state, errors=errors, bead_errors=bead_errors, model_version=version)
    return replace(
        state,
        errors=errors,
        bead_errors=bead_errors,
        last_step=decision.step,
        last_label_step=decision.step if decision.label else state.last_label_step,
        model_version=version,
        steps=state.steps + 1,
        requests=state.requests + decision.label,
    )


def _noted(
    state: TrajectoryState, decision: Decision, settings: TrainingSection
) -> tuple[ErrorWindow, tuple[float, ...]]:
    """Return the window and the errors of the beads with the error of an evaluation."""
    slot = _slot(state, decision.step)
    if state.last_step is None or decision.step // state.beads > state.last_step // state.beads:
        return state.errors.appended(decision.value, settings.window), (decision.value,)
    if slot is None:
        return state.errors, state.bead_errors
    if slot < len(state.errors) - 1:
        # Of earlier steps of several beads only the reduced error is known.
        is_known = state.beads == 1
        errors = state.errors.replaced(slot, decision.value) if is_known else state.errors
        return errors, state.bead_errors
    beads, back = list(state.bead_errors), state.last_step - decision.step
    if back < 0:
        beads.append(decision.value)
    elif back < len(beads):
        beads[-1 - back] = decision.value
    return state.errors.with_last(reduced(beads, settings.bead_reduction)), tuple(beads)
