"""The decision: which steps of a trajectory are labelled."""

import json
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.audits import is_audit_step
from anharm.server.decision import (
    Decision,
    ObservedStep,
    TrajectoryState,
    decide,
    refitted,
)

errors_of_a_trajectory = st.lists(
    st.floats(min_value=1e-6, max_value=10, allow_subnormal=False), min_size=1, max_size=80
)


def settings(**changes: Any) -> TrainingSection:
    return TrainingSection(**{"window": 20, "minimum_interval": 5, "audit_interval": 0, **changes})


def replay(
    errors: list[float], training: TrainingSection, refit: bool = True
) -> tuple[TrajectoryState, list[Decision]]:
    """Drive a trajectory through the decision, refitting after every label."""
    state, decisions, taken = TrajectoryState("a"), [], 0
    for step, error in enumerate(errors):
        state, decision = decide(state, ObservedStep(step, error, taken, taken), training)
        decisions.append(decision)
        if decision.label:
            taken += 1
            if refit:
                state = refitted(state, taken)
    return state, decisions


def labelled(decisions: list[Decision]) -> list[int]:
    return [decision.step for decision in decisions if decision.label]


def test_an_error_above_three_times_the_average_is_labelled() -> None:
    _, decisions = replay([0.01] * 10 + [0.029, 0.036], settings())
    assert labelled(decisions) == [11]
    last = decisions[-1]
    assert last.rule == "trajectory-average" and last.value == 0.036 and last.count == 11
    assert last.threshold == pytest.approx(3 * (0.1 + 0.029) / 11)


def test_no_average_is_trusted_before_it_holds_enough_errors() -> None:
    _, decisions = replay([0.01, 1.0, 0.01, 0.01, 0.01, 5.0], settings())
    assert [decision.rule for decision in decisions[:5]] == ["short-history"] * 5
    assert labelled(decisions) == [5]


def test_the_absolute_maximum_labels_however_often_the_interval_allows() -> None:
    errors = [0.5] * 12
    _, decisions = replay(errors, settings(maximum=0.1, minimum_interval=5))
    assert [d.step for d in decisions if d.label] == [0, 5, 10]
    assert {d.rule for d in decisions if d.label} == {"maximum"}


def test_a_fixed_threshold_ignores_the_history() -> None:
    training = settings(rule="fixed", threshold=0.1)
    _, decisions = replay([1.0] * 3 + [0.2, 0.09, 0.1, 0.2], training)
    assert labelled(decisions) == [0, 6]


def test_a_labelled_step_evaluated_again_is_not_labelled_again() -> None:
    training = settings(maximum=0.1)
    state, first = decide(TrajectoryState("a"), ObservedStep(7, 0.5, 0), training)
    state = refitted(state, 1)
    state, second = decide(state, ObservedStep(7, 0.3, 1), training)
    assert first.label and second.rule == "already-labelled" and not second.label
    assert list(state.errors) == [0.3] and state.steps == 1


def test_the_error_of_a_model_that_was_replaced_asks_for_no_label() -> None:
    """i-PI was answered by it, so that it counts; the next step has the new model's error."""
    training = settings(maximum=0.1, minimum_interval=0)
    state, first = decide(TrajectoryState("a"), ObservedStep(0, 0.5, 1), training)
    state, second = decide(refitted(state, 2), ObservedStep(1, 0.6, 1), training)
    state, third = decide(state, ObservedStep(2, 0.6, 2), training)
    assert [d.verdict for d in (first, second, third)] == ["label", "continue", "label"]
    assert second.rule == "replaced-model"
    assert list(state.errors) == [0.5, 0.6, 0.6] and state.model_version == 2


def test_a_request_starts_the_interval_even_before_its_refit() -> None:
    _, decisions = replay([0.01] * 6 + [1.0] * 6, settings(factor=1.5), refit=False)
    assert labelled(decisions) == [6, 11]


def test_a_spent_budget_is_said_and_takes_no_label() -> None:
    training = settings(maximum=0.1, budget=4)
    state, decision = decide(TrajectoryState("a"), ObservedStep(0, 0.5, 0, 4), training)
    assert decision.verdict == "budget" and decision.rule == "maximum" and not decision.label
    assert state.requests == 0


def test_only_the_last_errors_count() -> None:
    state, _ = replay([float(n) for n in range(1, 51)], settings(factor=1000))
    assert list(state.errors) == [float(n) for n in range(31, 51)]
    assert state.mean_error == 40.5


def test_the_window_keeps_the_errors_of_older_models() -> None:
    state, _ = replay([0.02] * 10, settings())
    assert list(refitted(state, 1).errors) == [0.02] * 10


@pytest.mark.parametrize("error", [float("nan"), float("inf"), -0.1])
def test_an_error_that_is_no_error_is_refused(error: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        decide(TrajectoryState("a"), ObservedStep(0, error, 0), settings())


def test_no_step_is_left_out() -> None:
    state, _ = replay([0.1] * 3, settings())
    with pytest.raises(ValueError, match="step 4 comes after step 2"):
        decide(state, ObservedStep(4, 0.1, 0), settings())


def test_a_step_evaluated_again_after_others_takes_its_own_place_in_the_average() -> None:
    """Several clients of one trajectory: one waits for a label, the others go on."""
    training = settings(maximum=0.4, window=4, minimum_interval=4)
    state, decisions = replay([0.1, 0.5, 0.2, 0.3], training, refit=False)
    assert labelled(decisions) == [1]
    state, decision = decide(refitted(state, 1), ObservedStep(1, 0.05, 1), training)
    assert decision.rule == "already-labelled" and not decision.label
    assert list(state.errors) == [0.1, 0.05, 0.2, 0.3]
    assert (state.last_step, state.last_label_step, state.steps) == (3, 1, 4)
    state, _ = replay([0.1] * 10, training)
    again, _ = decide(state, ObservedStep(2, 5.0, 1), training)  # it has left the window
    assert list(again.errors) == list(state.errors)


def test_audits_come_once_per_interval_on_average_and_the_same_in_every_replay() -> None:
    training = settings(audit_interval=50)
    steps = [n for n in range(50_000) if is_audit_step(training, "a", n)]
    assert abs(len(steps) - 1000) < 5 * np.sqrt(1000)
    assert steps == [n for n in range(50_000) if is_audit_step(training, "a", n)]
    other = settings(audit_interval=50, seed=1)
    assert steps != [n for n in range(50_000) if is_audit_step(other, "a", n)]
    assert not any(is_audit_step(settings(), "a", n) for n in range(1000))


def test_an_audit_is_recorded_as_one() -> None:
    _, decisions = replay([0.01] * 200, settings(audit_interval=20))
    assert labelled(decisions)
    assert {d.rule for d in decisions if d.label} == {"audit"}


@given(errors=errors_of_a_trajectory, audit=st.sampled_from([0, 3, 10]))
def test_labels_keep_their_distance_whatever_the_rule(errors: list[float], audit: int) -> None:
    _, decisions = replay(errors, settings(factor=1.1, maximum=5.0, audit_interval=audit))
    labels = [d for d in decisions if d.label]
    for earlier, later in pairwise(labels):
        assert later.step - earlier.step >= 5


@given(errors=errors_of_a_trajectory, exponent=st.integers(-10, 10))
def test_the_relative_rule_does_not_depend_on_the_scale_of_errors(
    errors: list[float], exponent: int
) -> None:
    # Powers of two scale floating-point numbers exactly.
    scaled = [error * 2.0**exponent for error in errors]
    _, first = replay(errors, settings(factor=1.5))
    _, second = replay(scaled, settings(factor=1.5))
    assert [d.verdict for d in first] == [d.verdict for d in second]


@given(errors=errors_of_a_trajectory, cut=st.integers(0, 80))
def test_a_state_stored_and_read_again_decides_the_same(errors: list[float], cut: int) -> None:
    training = settings(factor=1.3, maximum=8.0)
    state, _ = replay(errors[:cut], training)
    stored = TrajectoryState.from_dict(json.loads(json.dumps(state.as_dict())))
    assert stored.as_dict() == state.as_dict()
    observation = ObservedStep(len(errors[:cut]), errors[-1], 1)
    assert decide(stored, observation, training)[1] == decide(state, observation, training)[1]


@given(errors=errors_of_a_trajectory)
def test_deciding_leaves_the_state_as_it_was(errors: list[float]) -> None:
    state, _ = replay(errors, settings())
    before = state.as_dict()
    step = len(errors)
    first = decide(state, ObservedStep(step, 0.3, 0), settings())
    second = decide(state, ObservedStep(step, 0.3, 0), settings())
    assert state.as_dict() == before
    assert first[1] == second[1] and first[0].as_dict() == second[0].as_dict()


def test_a_decision_costs_next_to_nothing() -> None:
    training = TrainingSection(audit_interval=1000)
    state, _ = replay([0.01] * 1000, training)
    best = np.inf
    for _ in range(20):
        start = time.perf_counter()
        for step in range(state.steps, state.steps + 100):
            state, _ = decide(state, ObservedStep(step, 0.01, 0), training)
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 100e-6, f"{best * 1e6:.1f} microseconds"  # about 6 on an idle core


@pytest.mark.parametrize(("after", "wanted"), [("watch", [30]), ("freeze", [])])
def test_after_convergence_a_step_is_labelled_only_where_it_stands_out(
    after: str, wanted: list[int]
) -> None:
    training = settings(audit_interval=3, after_convergence=after)
    state, asked = TrajectoryState("a"), []
    assert any(is_audit_step(training, "a", step) for step in range(30))
    for step, error in enumerate([0.01] * 30 + [1.0]):
        seen = ObservedStep(step, error, 1, has_converged=True)
        before = state.last_label_step
        state, decision = decide(state, seen, training)
        asked += [step] if decision.label else []
        assert (state.last_label_step != before) == decision.label
    assert asked == wanted
