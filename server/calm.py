"""How long the dynamics may go on before it is observed again: far from any threshold, for a while.

Errors follow the positions, which a step of dynamics changes little. Where the error is well below
whatever it is compared with, i-PI is therefore answered first, and the uncertainty broker hears of
several steps together.
"""

from dataclasses import dataclass
from sys import float_info

from anharm.configuration import TrainingSection
from anharm.server.audits import first_audit
from anharm.server.decision import Decision, TrajectoryState
from anharm.server.thresholds import threshold_of

CALM = 0.8  # of the threshold
LONGEST_CALM = 32  # steps
LARGEST_SHARE = 5  # a fifth of the errors of an average may be replaced unheard of


@dataclass(frozen=True)
class Calm:
    """How far the dynamics may go on before it is observed again.

    Attributes
    ----------
    steps : int
        Steps that may be answered first, and observed together.
    error : float
        A step whose error is larger is to be observed at once, eV/Angstrom.
    """

    steps: int = 0
    error: float = 0.0


NOT_CALM = Calm()


def calm_after(
    state: TrajectoryState,
    decision: Decision,
    settings: TrainingSection,
    expected_gain: float = 0.0,
    has_converged: bool = False,
) -> Calm:
    """Return how calm the steps after one that was just decided on will be.

    In a path integral, all beads of the step have to be far from the threshold, and it is calm for
    one step. The calm ends with the next audit, of which there are more while endless labels are
    expected to gain much, and none once training has converged; and before the average that errors
    are compared with could be much smaller than it was.
    """
    limit = _limit(state, decision, settings)
    if max(decision.value, *state.bead_errors, 0.0) >= CALM * limit:
        return NOT_CALM
    most = 1 if state.beads > 1 else LONGEST_CALM
    if settings.rule == "trajectory-average":
        most = min(most, max(1, decision.count // LARGEST_SHARE))
    if not has_converged:
        later = range(decision.step + 1, decision.step + most)
        audit = first_audit(settings, state.trajectory, later, expected_gain=expected_gain)
        most = most if audit is None else audit - decision.step
    return Calm(most, CALM * limit)


def _limit(state: TrajectoryState, decision: Decision, settings: TrainingSection) -> float:
    """Return the smallest error of a step to be labelled; 0 where it is not known yet."""
    if settings.rule == "none":
        return float_info.max
    threshold = threshold_of(settings, state.adaptive, decision.mean, decision.count)
    if threshold is None:
        return 0.0
    return threshold if settings.maximum is None else min(threshold, settings.maximum)
