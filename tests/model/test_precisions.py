"""The iteration of the hyperparameters reaches its limit in few steps, also where it creeps."""

from collections.abc import Callable

import numpy as np
import pytest

from anharm.model.precisions import Precisions, fixed_point

START = Precisions({2: 1.0, 3: 1.0}, {"forces": 1.0})


def sequence(of_prior: Callable[[float], float]) -> Callable[[Precisions], Precisions]:
    """An iteration that halves the distances (of logarithms) to 4 and 9, and moves order 3."""

    def improve(before: Precisions) -> Precisions:
        prior = {2: np.sqrt(4 * before.prior[2]), 3: of_prior(before.prior[3])}
        return Precisions(prior, {"forces": float(np.sqrt(9 * before.noise["forces"]))})

    return improve


def test_steps_that_shrink_alike_are_added_up() -> None:
    found, n_steps = fixed_point(sequence(lambda value: value**0.9 * 7**0.1), START, 1e-6, 100)
    assert [found.prior[2], found.prior[3]] == pytest.approx([4, 7], rel=1e-5)
    assert found.noise["forces"] == pytest.approx(9, rel=1e-5)
    assert n_steps <= 6


def test_a_precision_that_creeps_to_its_limit_gets_there_in_few_steps() -> None:
    found, n_steps = fixed_point(sequence(lambda v: min(1.1 * v, 1e12)), START, 1e-4, 300)
    assert found.prior[3] == pytest.approx(1e12)
    assert [found.prior[2], found.noise["forces"]] == pytest.approx([4, 9], rel=1e-3)
    assert n_steps < 40  # 290 without leaps


def test_leaps_that_lead_away_are_given_up() -> None:
    """Damped oscillation about the limit: what extrapolation must not make worse."""
    found, n_steps = fixed_point(sequence(lambda value: 5 * (5 / value) ** 0.8), START, 1e-4, 200)
    assert found.prior[3] == pytest.approx(5, rel=1e-3)
    assert n_steps < 120


def test_an_iteration_that_never_ends_is_ended() -> None:
    _, n_steps = fixed_point(sequence(lambda value: 1 / (2 * value)), START, 1e-4, 30)
    assert n_steps == 30
