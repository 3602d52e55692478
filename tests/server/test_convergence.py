"""Convergence: a plateau of the trajectory-averaged error, or no label for long."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.convergence import Refit, assess_convergence

SETTINGS = TrainingSection(convergence_tolerance=0.05, convergence_refits=3, quiet_steps=1000)


def history(*errors: float) -> list[Refit]:
    return [Refit(labels=4 + n, step=50 * n, error=error) for n, error in enumerate(errors)]


def determining(*determined: float) -> list[Refit]:
    """Refits whose errors have settled, and what their labels determine."""
    return [Refit(5 + n, 50 * n, 0.02, number) for n, number in enumerate(determined)]


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


@pytest.mark.parametrize("quiet", [10, 1000])
def test_neither_plateau_nor_quiet_counts_while_labels_determine_more_parameters(
    quiet: int,
) -> None:
    growing = determining(268.0, 292.0, 319.0, 337.0)  # SnSe, 632 parameters, 6 to 9 labels
    result = assess_convergence(growing, quiet, SETTINGS, refits_since_label=3)
    assert not result.converged
    assert "(6 to 8 labels) it went from 292 to 337 parameters, a change of 14.2%" in result.reason
    settled = determining(268.0, 613.2, 614.7, 613.3)
    assert assess_convergence(settled, quiet, SETTINGS, refits_since_label=3).converged


def test_parameters_that_no_label_determines_do_not_delay_convergence() -> None:
    never_more_than_half = determining(60.1, 60.2, 60.2)  # of 120, say
    assert assess_convergence(never_more_than_half, 10, SETTINGS).converged


def test_what_labels_determine_counts_over_the_refits_of_the_plateau_alone() -> None:
    assert not assess_convergence(determining(500.0, 600.0, 601.0), 10, SETTINGS).converged
    assert assess_convergence(determining(500.0, 600.0, 601.0, 602.0), 10, SETTINGS).converged


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


def counting(determined: float, targets: int) -> list[Refit]:
    """Refits whose errors and parameters have settled, the last one of so many targets."""
    return [Refit(5 + n, 50 * n, 0.02, determined, targets) for n in range(3)]


def test_training_goes_on_while_labels_are_few_for_what_they_determine() -> None:
    result = assess_convergence(counting(800.0, 4000), 10, SETTINGS)
    assert not result.converged
    assert "7 labels are few for the 800 parameters" in result.reason
    assert "lower the true error by 11.8%, not less than convergence_gain = 6.0%" in result.reason
    assert assess_convergence(counting(800.0, 8000), 10, SETTINGS).converged
    assert not assess_convergence(counting(800.0, 700), 10, SETTINGS).converged


def test_labels_enough_for_what_they_determine_are_convergence() -> None:
    falling = [Refit(5 + n, 50 * n, 0.02 / (1 + n), 90.0, 2000) for n in range(3)]
    result = assess_convergence(falling, 10, SETTINGS)
    assert result.converged
    assert "By the 90 parameters that 7 labels determine, endless labels" in result.reason
    assert "lower the true error by 2.3%, less than the tolerance of 5.0%" in result.reason
    assert not assess_convergence(falling[:2], 10, SETTINGS).converged
    growing = [Refit(5 + n, 50 * n, 0.02, 80.0 + 10 * n, 2000) for n in range(3)]
    assert not assess_convergence(growing, 10, SETTINGS).converged


def test_the_expected_gain_is_what_unseen_targets_of_a_regression_show() -> None:
    """Least squares with 40 parameters and 200 targets, against noise of known size."""
    random = np.random.default_rng(0)
    squares = []
    for _ in range(400):
        rows, noise = random.normal(size=(201, 40)), random.normal(size=201)
        found = np.linalg.lstsq(rows[:200], noise[:200], rcond=None)[0]
        squares.append((rows[200] @ found - noise[200]) ** 2)
    gain = Refit(1, 0, 1.0, 40.0, 200).expected_gain
    assert np.sqrt(np.mean(squares)) == pytest.approx(1 + gain, rel=0.08)
