"""How long a trajectory may go on unobserved."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.audits import is_audit_step
from anharm.server.calm import LONGEST_CALM, Calm, calm_after
from anharm.server.decision import Decision, ObservedStep, TrajectoryState, decide


def settings(**changes: Any) -> TrainingSection:
    return TrainingSection(**{"window": 20, "minimum_interval": 5, "audit_interval": 0, **changes})


def observed(
    errors: Sequence[float], training: TrainingSection, beads: int = 1
) -> tuple[TrajectoryState, Decision]:
    """A trajectory after evaluations of these errors, and the decision on the last of them."""
    state = TrajectoryState("t", beads=beads)
    for step, error in enumerate(errors):
        state, decision = decide(state, ObservedStep(step, error, 0), training)
    return state, decision


def calm(errors: Sequence[float], training: TrainingSection, beads: int = 1) -> Calm:
    return calm_after(*observed(errors, training, beads), training)


@given(
    st.lists(
        st.floats(min_value=1e-6, max_value=10, allow_subnormal=False), min_size=1, max_size=80
    ),
    st.floats(min_value=1.5, max_value=5),
    st.none() | st.floats(min_value=1e-3, max_value=1),
    st.integers(1, 20),
)
def test_after_a_calm_step_one_of_a_similar_error_is_not_labelled(
    errors: list[float], factor: float, maximum: float | None, interval: int
) -> None:
    training = settings(factor=factor, maximum=maximum, minimum_interval=interval)
    state, last = observed(errors, training)
    if calm_after(state, last, training).steps:
        # a tenth more; the average, with the calm step in it now, may have moved towards it
        _, following = decide(state, ObservedStep(len(errors), 1.1 * last.value, 0), training)
        assert not following.label


def test_nothing_is_calm_before_the_average_is_known_or_near_the_threshold() -> None:
    assert calm([0.01] * 4, settings()).steps == 0
    assert calm([0.01] * 9, settings()).steps > 0
    assert calm([0.01] * 9 + [0.025], settings()).steps == 0


def test_everything_is_calm_where_no_error_asks_for_a_label() -> None:
    assert calm([0.01, 1e6], TrainingSection(rule="none")).steps == LONGEST_CALM


@given(st.integers(1, 90), st.integers(0, 5), st.integers(200, 260), st.floats(0, 0.5))
def test_the_calm_ends_with_the_next_audit(
    interval: int, seed: int, count: int, gain: float
) -> None:
    training = settings(audit_interval=interval, seed=seed, window=200)
    last = observed([0.01] * count, training)
    found = calm_after(*last, training, gain)
    steps = range(count, count + LONGEST_CALM)
    audits = [is_audit_step(training, "t", step, 1, gain) for step in steps]
    assert found.steps == (audits.index(True) + 1 if any(audits) else LONGEST_CALM)
    assert found.error == pytest.approx(0.8 * training.factor * 0.01)
    assert calm_after(*last, training, gain, has_converged=True).steps == LONGEST_CALM


def test_errors_that_are_not_heard_of_at_once_are_at_most_a_fifth_of_an_average() -> None:
    found = {n: calm([0.01] * (n + 1), settings(window=1000)).steps for n in (6, 20, 100, 500)}
    assert found == {6: 1, 20: 4, 100: 20, 500: LONGEST_CALM}
    assert calm([0.01] * 500, settings(window=20)).steps == 4
    assert calm([0.01] * 2, settings(rule="fixed", threshold=0.1)).steps == LONGEST_CALM


def test_a_path_integral_is_calm_when_all_beads_of_the_step_are_and_for_one_step() -> None:
    for bead, steps in ((0.01, 1), (0.025, 0)):
        assert calm([0.01] * 20 + [bead, 0.01], settings(), beads=2).steps == steps
