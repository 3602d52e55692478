"""Evaluations in a row are decided on together as one by one."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.decision import Decision, ObservedStep, TrajectoryState, decide, refitted
from anharm.server.decision_runs import decide_run
from anharm.server.error_window import ErrorWindow

RULES: list[dict[str, Any]] = [
    {"rule": "trajectory-average", "factor": 1.3},
    {"rule": "trajectory-average", "factor": 3.0},
    {"rule": "fixed", "threshold": 1.0},
    {"rule": "adaptive-history", "threshold": 1.0, "history_refits": 2},
    {"rule": "adaptive-history", "threshold": 1.0, "critical_factor": 1.0},
]
TRAININGS = st.just(TrainingSection(rule="none", window=12)) | st.builds(
    lambda rule, **options: TrainingSection(**rule, **options),
    rule=st.sampled_from(RULES),
    window=st.integers(3, 12),
    minimum_interval=st.integers(0, 3),
    audit_interval=st.sampled_from([0, 0, 20]),
    budget=st.integers(4, 8),
    maximum=st.sampled_from([None, 1.2]),
    bead_reduction=st.sampled_from(["max", "mean"]),
    after_convergence=st.sampled_from(["watch", "freeze"]),
)
CALM = st.floats(0.5, 0.75, width=32)
# Errors in a row; whether the first was evaluated before; what happens after them.
MESSAGES = st.lists(
    st.tuples(
        st.lists(CALM | CALM | st.floats(0.0, 2.0, width=32), min_size=1, max_size=70),
        st.booleans(),
        st.sampled_from(["", "", "", "refit", "late refit", "converged"]),
    ),
    min_size=1,
    max_size=8,
)


def one_by_one(
    state: TrajectoryState, first: ObservedStep, errors: list[float], training: TrainingSection
) -> tuple[TrajectoryState, list[Decision]]:
    """States and decisions of single evaluations, up to the first that may not simply go on."""
    decisions = []
    for n, error in enumerate(errors):
        state, decision = decide(state, replace(first, step=first.step + n, error=error), training)
        decisions.append(decision)
        if decision.verdict != "continue":
            break
    return state, decisions


def together(
    state: TrajectoryState, first: ObservedStep, errors: list[float], training: TrainingSection
) -> tuple[TrajectoryState, list[Decision], list[int]]:
    """The same of runs: decisions on the last ones, and how many each run has."""
    decisions: list[Decision] = []
    counts: list[int] = []
    while (done := sum(counts)) < len(errors):
        rest = replace(first, step=first.step + done, error=errors[done])
        state, decision, count = decide_run(state, rest, errors[done:], training)
        decisions.append(decision)
        counts.append(count)
        if decision.verdict != "continue":
            break
    return state, decisions, counts


@settings(max_examples=400, deadline=None)
@given(messages=MESSAGES, training=TRAININGS, beads=st.integers(1, 64), gain=st.floats(0, 0.5))
def test_states_and_decisions_are_those_of_single_evaluations(messages, training, beads, gain):
    state, taken, version, has_converged = TrajectoryState("a", beads=beads), 4, 1, False
    for errors, is_repeated, event in messages:
        last = -1 if state.last_step is None else state.last_step
        step = max(0, last) if is_repeated else last + 1
        first = ObservedStep(step, errors[0], version, taken, has_converged, gain)
        expected, single = one_by_one(state, first, errors, training)
        state, decisions, counts = together(state, first, errors, training)
        assert {**state.__dict__, "errors": 0} == {**expected.__dict__, "errors": 0}
        assert list(state.errors) == list(expected.errors)
        assert state.mean_error == expected.mean_error
        ends = [sum(counts[: n + 1]) for n in range(len(counts))]
        assert decisions == [single[end - 1] for end in ends]
        assert ends[-1] == len(single), "nothing stands out unnoticed"
        taken += decisions[-1].label
        has_converged |= event == "converged"
        if event == "refit":
            version += 1
        if event.endswith("refit"):  # the late one's model drives no step of the next message
            state = refitted(state, version + event.startswith("late"))


@pytest.mark.parametrize("beads", [1, 32])
def test_a_calm_message_is_two_decisions_at_most(beads):
    training = TrainingSection(window=1000, audit_interval=0)
    state = TrajectoryState("a", beads=beads)
    for step in range(200 * beads):
        state, _ = decide(state, ObservedStep(step, 0.01, 1), training)
    first = ObservedStep(200 * beads, 0.012, 1)
    _, decision, count = decide_run(state, first, [0.012] * 32, training)
    assert count == 32
    assert decision.step == first.step + 31


@given(
    errors=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    added=st.lists(st.floats(0, 1e6), max_size=10),
    most=st.integers(1, 25),
)
def test_no_mean_falls_below_the_least_one(errors, added, most):
    window = ErrorWindow(errors).last(most)
    least = window.least_mean(len(added), most)
    for error in added:
        assert window.mean >= least
        if len(window) > 1:
            assert window.without_last().mean >= least
        window = window.with_last(0.0).appended(error, most)
    assert window.with_last(0.0).mean >= least
