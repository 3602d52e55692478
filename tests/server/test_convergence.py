"""Convergence: a plateau of the trajectory-averaged error, or no label for long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.convergence import Refit, assess_convergence

SETTINGS = TrainingSection(convergence_tolerance=0.05, convergence_refits=3, quiet_steps=1000)


def history(*errors: float) -> list[Refit]:
    return [Refit(labels=4 + n, step=50 * n, error=error) for n, error in enumerate(errors)]


def test_nothing_converges_before_there_is_a_model() -> None:
    assert not assess_convergence([], 10_000, SETTINGS).converged


def test_a_plateau_is_convergence_and_is_explained_in_numbers() -> None:
    result = assess_convergence(history(0.1, 0.03, 0.0205, 0.0202, 0.02), 10, SETTINGS)
    assert result.converged
    assert "last 3 refits (6 to 8 labels)" in result.reason
    assert "2.5%, less than the tolerance of 5.0%" in result.reason


@pytest.mark.parametrize("errors", [(0.1, 0.05, 0.02), (0.0220, 0.0213, 0.0206, 0.0199)])
def test_a_falling_error_is_no_plateau_however_slow_each_step(errors: tuple[float, ...]) -> None:
    result = assess_convergence(history(*errors), 10, SETTINGS)
    assert not result.converged and "not less than the tolerance" in result.reason


def test_too_few_refits_show_no_plateau() -> None:
    result = assess_convergence(history(0.02, 0.02), 10, SETTINGS)
    assert not result.converged and "2 of the 3 refits" in result.reason


def test_a_long_quiet_time_is_convergence() -> None:
    result = assess_convergence(history(0.1, 0.05, 0.02), 1000, SETTINGS, refits_since_label=3)
    assert result.converged and "in the last 1000 steps" in result.reason


def test_quiet_proves_nothing_before_further_labels_have_tested_the_model() -> None:
    assert not assess_convergence(history(0.02), 10_000, SETTINGS, 5).converged
    falling = history(0.1, 0.05, 0.02)
    assert not assess_convergence(falling, 10_000, SETTINGS, refits_since_label=2).converged


def test_without_audits_quiet_is_judged_by_all_refits() -> None:
    settings = SETTINGS.model_copy(update={"audit_interval": 0})
    assert assess_convergence(history(0.1, 0.05, 0.02), 1000, settings).converged
    assert not assess_convergence(history(0.1, 0.02), 1000, settings).converged


def test_errors_of_exactly_zero_are_not_trusted() -> None:
    result = assess_convergence(history(0.0, 0.0, 0.0), 10, SETTINGS)
    assert not result.converged and "zero" in result.reason


@given(
    errors=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=10), exponent=st.integers(-10, 10)
)
def test_convergence_does_not_depend_on_the_scale_of_errors(
    errors: list[float], exponent: int
) -> None:
    scaled = [error * 2.0**exponent for error in errors]
    first = assess_convergence(history(*errors), 10, SETTINGS)
    second = assess_convergence(history(*scaled), 10, SETTINGS)
    assert first.converged == second.converged
