"""Properties that every rule of the decision has, and those of each rule alone."""

import json
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.decision import Decision, ObservedStep, TrajectoryState, decide, refitted
from anharm.server.thresholds import INITIAL_THRESHOLD, AdaptiveHistory

RULES: list[dict[str, Any]] = [
    {"rule": "trajectory-average", "factor": 1.3},
    {"rule": "fixed", "threshold": 1.0},
    {"rule": "adaptive-history", "threshold": 0.5, "history_refits": 3},
    {"rule": "adaptive-history", "history_refits": 2, "history_margin": 0.5},
]
force_errors = st.floats(min_value=1e-6, max_value=1e3, allow_subnormal=False)
events = st.lists(st.tuples(force_errors, st.integers(0, 3)), min_size=1, max_size=60)
trainings = st.builds(
    lambda rule, audit, interval, budget, maximum: TrainingSection(
        **rule,
        window=20,
        minimum_interval=interval,
        audit_interval=audit,
        budget=budget,
        maximum=maximum,
    ),
    rule=st.sampled_from(RULES),
    audit=st.sampled_from([0, 3, 10]),
    interval=st.integers(0, 8),
    budget=st.integers(4, 12),
    maximum=st.sampled_from([None, 5.0]),
)


@dataclass
class Trace:
    """A replay: its decisions, the state before each of them, and what happened."""

    state: TrajectoryState
    decisions: list[Decision]
    states: list[TrajectoryState]
    taken: int


def replay(steps: list[tuple[float, int]], training: TrainingSection, store: bool = False) -> Trace:
    """Drive a trajectory; a label that is taken joins the model some steps later.

    With no delay the step itself is evaluated again by the new model, as in a synchronous run.
    """
    trace = Trace(TrajectoryState("a"), [], [], 0)
    version, arrivals = 1, []

    def observe(step: int, error: float) -> Decision:
        if store:
            content = json.loads(json.dumps(trace.state.as_dict()))
            trace.state = TrajectoryState.from_dict(content)
        trace.states.append(trace.state)
        seen = ObservedStep(step, error, version, trace.taken)
        trace.state, decision = decide(trace.state, seen, training)
        trace.decisions.append(decision)
        trace.taken += decision.label
        return decision

    for step, (error, delay) in enumerate(steps):
        for _ in [arrival for arrival in arrivals if arrival <= step]:
            version += 1
            trace.state = refitted(trace.state, version)
        arrivals = [arrival for arrival in arrivals if arrival > step]
        if observe(step, error).label and delay:
            arrivals.append(step + delay)
        elif trace.decisions[-1].label:
            version += 1
            trace.state = refitted(trace.state, version)
            observe(step, error / 2)
    return trace


@given(steps=events, training=trainings)
def test_the_budget_is_never_exceeded(
    steps: list[tuple[float, int]], training: TrainingSection
) -> None:
    trace = replay(steps, training)
    assert trace.taken == trace.state.requests <= training.budget


@given(steps=events, training=trainings)
def test_labels_keep_their_distance_from_labels_and_refits(
    steps: list[tuple[float, int]], training: TrainingSection
) -> None:
    trace = replay(steps, training)
    for state, decision in zip(trace.states, trace.decisions, strict=True):
        if not decision.label:
            continue
        earlier = [s for s in (state.last_label_step, state.last_refit_step) if s is not None]
        if decision.rule == "critical":
            assert not state.awaits_label  # it waits for nothing else
        else:
            assert all(decision.step - step >= training.minimum_interval for step in earlier)


@given(steps=events, training=trainings)
def test_a_label_is_taken_where_a_threshold_says_so_and_nowhere_else(
    steps: list[tuple[float, int]], training: TrainingSection
) -> None:
    for decision in replay(steps, training).decisions:
        if decision.threshold is None:
            assert decision.rule in {
                "already-labelled",
                "minimum-interval",
                "audit",
                "short-history",
            }
            assert (decision.verdict != "continue") == (decision.rule == "audit")
        else:
            assert isfinite(decision.threshold) and decision.threshold > 0
            assert (decision.verdict != "continue") == (decision.value > decision.threshold)


@given(steps=events, training=trainings)
def test_the_same_observations_lead_to_the_same_decisions_also_from_stored_states(
    steps: list[tuple[float, int]], training: TrainingSection
) -> None:
    first, second = replay(steps, training), replay(steps, training, store=True)
    assert first.decisions == second.decisions
    assert first.state.as_dict() == second.state.as_dict()


@given(steps=events, threshold=force_errors)
def test_the_fixed_rule_labels_exactly_the_steps_above_it(
    steps: list[tuple[float, int]], threshold: float
) -> None:
    training = TrainingSection(
        rule="fixed", threshold=threshold, minimum_interval=0, audit_interval=0
    )
    trace = replay([(error, 1) for error, _ in steps], training)
    labelled = [decision.step for decision in trace.decisions if decision.label]
    assert labelled == [n for n, (error, _) in enumerate(steps) if error > threshold]
    assert {decision.threshold for decision in trace.decisions} == {threshold}


def adaptive(**changes: Any) -> TrainingSection:
    return TrainingSection(
        **{"rule": "adaptive-history", "history_refits": 4, "audit_interval": 0, **changes}
    )


def history(errors: list[float], training: TrainingSection) -> AdaptiveHistory:
    found = AdaptiveHistory()
    for error in errors:
        found = found.after_refit(error, training)
    return found


def test_the_threshold_of_the_adaptive_history_is_its_mean_once_it_is_full() -> None:
    training = adaptive(history_margin=0.2)
    assert history([0.1, 0.1, 0.1], training).threshold(training) == INITIAL_THRESHOLD
    assert history([0.1, 0.11, 0.09, 0.1], training).threshold(training) == pytest.approx(0.12)
    # Every further refit moves it on.
    later = history([9.0, 0.1, 0.11, 0.09, 0.12], training)
    assert later.threshold(training) == pytest.approx(1.2 * np.mean([0.1, 0.11, 0.09, 0.12]))
    assert history([0.1], adaptive(threshold=0.03)).threshold(adaptive(threshold=0.03)) == 0.03


@pytest.mark.parametrize(
    ("errors", "changes"),
    [
        ([0.1, 0.5, 0.1, 0.5], {"history_scatter": 0.4}),  # scattered by 67 % of the mean
        ([0.4, 0.3, 0.2, 0.1], {"history_slope": 0.2, "history_scatter": 10.0}),  # falling by 40 %
    ],
)
def test_scattered_or_drifting_errors_leave_the_threshold_as_it_is(
    errors: list[float], changes: dict[str, Any]
) -> None:
    strict, lenient = adaptive(**changes), adaptive(history_scatter=100, history_slope=100)
    assert history([0.1] * 4 + errors, lenient).threshold(lenient) == np.mean(errors)
    assert history(errors, strict).adapted is None


@given(errors=st.lists(force_errors, min_size=4, max_size=30))
def test_the_adaptive_threshold_lies_within_the_errors_that_made_it(errors: list[float]) -> None:
    adapted = history(errors, adaptive()).adapted
    if adapted is not None:
        assert min(errors) * 0.999999 <= adapted <= max(errors) * 1.000001


def test_an_error_of_twice_the_threshold_is_labelled_within_the_interval() -> None:
    training = adaptive(threshold=0.1, minimum_interval=10)
    steps = [(0.15, 0), (0.15, 0), (0.21, 0), (0.05, 0)]
    decisions = [d for d in replay(steps, training).decisions if d.rule != "already-labelled"]
    rules = [(d.rule, d.label) for d in decisions]
    assert rules == [
        ("adaptive-history", True),
        ("minimum-interval", False),
        ("critical", True),
        ("minimum-interval", False),
    ]
    assert decisions[2].threshold == 0.2


def test_a_critical_error_waits_for_the_label_that_is_on_its_way() -> None:
    training = adaptive(threshold=0.1, minimum_interval=10)
    trace = replay([(1.0, 3), (1.0, 3), (1.0, 3), (1.0, 3)], training)
    assert [d.step for d in trace.decisions if d.label] == [0, 3]


def test_the_adaptive_history_holds_the_errors_of_learnt_steps() -> None:
    training = adaptive(threshold=0.1, minimum_interval=0)
    trace = replay([(0.3, 0), (0.4, 0), (0.05, 0), (0.5, 0)], training)
    assert trace.state.adaptive.errors == (0.15, 0.2, 0.25)
