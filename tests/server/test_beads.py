"""Steps of a ring polymer: what their error is, and that intervals are counted in them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.audits import is_audit_step
from anharm.server.beads import BeadCounts, errors_of_steps
from anharm.server.convergence_judge import ConvergenceJudge
from anharm.server.decision import (
    Decision,
    ObservedStep,
    TrajectoryState,
    decide,
    refitted,
)
from anharm.server.record import Record

BEADS = 4
ERRORS = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=60)


def settings(**changes: Any) -> TrainingSection:
    return TrainingSection(**{"window": 20, "minimum_interval": 2, "audit_interval": 0, **changes})


def replay(
    errors: list[float], training: TrainingSection
) -> tuple[TrajectoryState, list[Decision]]:
    """Drive a ring polymer through the decision, refitting after every label."""
    state, decisions = TrajectoryState("a", beads=BEADS), []
    for number, error in enumerate(errors):
        state, decision = decide(state, ObservedStep(number, error, 0), training)
        decisions.append(decision)
        state = refitted(state, 0) if decision.label else state
    return state, decisions


def labelled(decisions: list[Decision]) -> list[int]:
    return [decision.step for decision in decisions if decision.label]


@given(errors=ERRORS, reduction=st.sampled_from(["max", "mean"]))
def test_the_window_holds_the_reduced_error_of_every_step(errors: list[float], reduction) -> None:
    state, _ = replay(errors, settings(bead_reduction=reduction))
    reduce = max if reduction == "max" else np.mean
    expected = [reduce(errors[n : n + BEADS]) for n in range(0, len(errors), BEADS)]
    assert list(state.errors) == pytest.approx(expected[-20:])
    # The record, which holds evaluations, gives the same, from wherever it is read.
    for read in range(len(errors) + 1):
        found = errors_of_steps(np.array(errors[read:]), len(errors), BEADS, reduction)
        assert found == pytest.approx(expected[-(-read // BEADS) :])


@pytest.mark.parametrize(("reduction", "wanted"), [("max", []), ("mean", [23])])
def test_a_bead_is_compared_with_the_largest_or_the_average_bead_of_the_steps(
    reduction, wanted
) -> None:
    step = [0.1, 0.1, 0.1, 0.3]  # largest 0.3, mean 0.15
    errors = [*(5 * step), 0.1, 0.1, 0.1, 0.35]
    training = settings(bead_reduction=reduction, factor=2.0, minimum_interval=5)
    _, decisions = replay(errors, training)
    assert labelled(decisions) == wanted
    last = decisions[-1]
    assert last.count == 5 and last.value == 0.35
    assert last.mean == pytest.approx(0.3 if reduction == "max" else 0.15)
    # The beads of the step itself are not in the average, so that all meet one threshold.
    assert len({decision.threshold for decision in decisions[-BEADS:]}) == 1


def test_a_bead_that_stands_out_is_labelled_at_once_and_the_others_of_its_step_are_not() -> None:
    _, decisions = replay([0.1] * 12 + [0.1, 0.9, 0.9, 0.9] + [0.9] * 12, settings(factor=1.5))
    assert labelled(decisions) == [13, 13 + 3 + 4]  # two steps later, at its first bead
    assert {d.rule for d in decisions[14:20]} == {"minimum-interval"}


def test_an_evaluation_by_a_new_model_takes_the_place_of_the_older_one() -> None:
    training = settings()
    state, _ = replay([0.1, 0.1, 0.1, 0.1, 0.2, 0.8], training)
    state, decision = decide(state, ObservedStep(5, 0.15, 1), training)
    assert decision.rule == "already-labelled" and decision.mean == pytest.approx(0.1)
    assert list(state.errors) == pytest.approx([0.1, 0.2])
    state, _ = decide(state, ObservedStep(4, 0.05, 1), training)
    assert list(state.errors) == pytest.approx([0.1, 0.15])


def test_one_bead_in_so_many_steps_is_audited() -> None:
    training = settings(audit_interval=10)
    audits = [n for n in range(40_000) if is_audit_step(training, "a", n, BEADS)]
    assert len(audits) == pytest.approx(40_000 / (10 * BEADS), rel=0.1)
    assert {n % BEADS for n in audits} == set(range(BEADS))


def test_a_quiet_run_has_been_quiet_for_steps_and_not_for_beads(tmp_path) -> None:
    training = settings(quiet_steps=30, convergence_refits=2)
    with Record.open(tmp_path / "run", create=True) as record:
        judge = ConvergenceJudge(record, training, BeadCounts({"a": BEADS}), {})
        number, said = 0, ""
        for version in (1, 2):
            judge.refitted(version, version)
            for _ in range(8 * BEADS):
                judge.observe(version, number, [0.1 * version])
                number += 1
        for _ in range(30 * BEADS - 1):
            judge.count("a")
            said = said or judge.declares(number)
        assert not said and judge.steps_since_label == 29
        judge.count("a")
        assert "in the last 30 steps" in judge.declares(number)
        assert judge.has_converged


def test_steps_that_are_counted_together_are_judged_no_more_seldom(tmp_path) -> None:
    with Record.open(tmp_path / "run", create=True) as record:
        judge = ConvergenceJudge(record, settings(), BeadCounts({"a": BEADS}), {})
        due = []
        for _ in range(40):
            judge.count("a", 3 * BEADS)
            due.append(judge.is_due)
        assert judge.steps_since_label == 120
        assert sum(due) == 12
        judge.label_wanted()
        assert judge.steps_since_label == 0
