"""Evidence maximisation against scikit-learn, dense algebra, and synthetic data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from anharm.errors import ModelError
from anharm.model import Posterior, SufficientStatistics, maximise_evidence

SEEDS = st.integers(0, 2**31)


def problem(
    seed: int = 0, n: int = 200, m: int = 12, noise: float = 0.3, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, targets and the true parameters."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, m)) * np.geomspace(1, scale, m)
    truth = random.normal(size=m)
    return rows, rows @ truth + noise * random.normal(size=n), truth


def statistics_of(rows: np.ndarray, targets: np.ndarray) -> SufficientStatistics:
    return SufficientStatistics.empty(rows.shape[1]).add(rows, targets)


def fit(rows: np.ndarray, targets: np.ndarray, tolerance: float = 1e-12) -> Posterior:
    """All parameters in one group."""
    groups = np.full(rows.shape[1], 2)
    return maximise_evidence(statistics_of(rows, targets), groups, tolerance, 2000)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_one_group_agrees_with_scikit_learn(noise: float, scale: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="an independent regression")
    rows, targets, _ = problem(seed=3, noise=noise, scale=scale)
    ridge = linear_model.BayesianRidge(
        fit_intercept=False, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-14, max_iter=5000
    ).fit(rows, targets)
    posterior = fit(rows, targets)
    np.testing.assert_allclose(posterior.mean, ridge.coef_, rtol=1e-6, atol=1e-9)
    covariance = posterior.factor @ posterior.factor.T
    np.testing.assert_allclose(covariance, ridge.sigma_, rtol=1e-6, atol=1e-6 * covariance.max())
    assert posterior.noise_precision == pytest.approx(ridge.alpha_, rel=1e-6)
    assert posterior.prior_precisions[2] == pytest.approx(ridge.lambda_, rel=1e-6)


def test_the_fixed_point_is_a_maximum_of_the_evidence() -> None:
    """Any other precisions make the labels less probable: dense marginal likelihood."""
    rows, targets, _ = problem(n=40, m=6)
    groups = np.array([2, 2, 2, 3, 3, 3])
    posterior = maximise_evidence(statistics_of(rows, targets), groups, 1e-12, 2000)
    alpha, beta = posterior.prior_precisions, posterior.noise_precision
    best = _dense_evidence(rows, targets, groups, alpha, beta)
    assert posterior.log_evidence == pytest.approx(best, abs=1e-8)
    for factor in (0.8, 1.25):
        assert _dense_evidence(rows, targets, groups, alpha, beta * factor) < best
        for group in alpha:
            changed = alpha | {group: alpha[group] * factor}
            assert _dense_evidence(rows, targets, groups, changed, beta) < best


@given(seed=SEEDS, n=st.integers(1, 30), m=st.integers(1, 12), noise=st.floats(0.01, 3))
@settings(max_examples=30, deadline=None)
def test_log_evidence_is_the_gaussian_marginal_likelihood(
    seed: int, n: int, m: int, noise: float
) -> None:
    """Also with fewer labels than parameters."""
    rows, targets, _ = problem(seed, n, m, noise)
    groups = np.arange(m) % 3 + 2
    posterior = maximise_evidence(statistics_of(rows, targets), groups, 1e-2, 5)
    dense = _dense_evidence(
        rows, targets, groups, posterior.prior_precisions, posterior.noise_precision
    )
    assert posterior.log_evidence == pytest.approx(dense, rel=1e-5, abs=1e-4)


def _dense_evidence(
    rows: np.ndarray, targets: np.ndarray, groups: np.ndarray, alpha: dict[int, float], beta: float
) -> float:
    prior = np.array([1 / alpha[int(g)] for g in groups])
    covariance = rows * prior @ rows.T + np.eye(len(rows)) / beta
    distribution = multivariate_normal(np.zeros(len(rows)), covariance, allow_singular=True)
    return float(distribution.logpdf(targets))


@given(seed=SEEDS, cuts=st.lists(st.integers(1, 79), max_size=4), order=st.randoms())
@settings(max_examples=20, deadline=None)
def test_labels_may_come_in_pieces_and_in_any_order(seed: int, cuts: list[int], order) -> None:
    rows, targets, _ = problem(seed, n=80, m=7)
    pieces = list(zip(np.split(rows, sorted(cuts)), np.split(targets, sorted(cuts)), strict=True))
    order.shuffle(pieces)
    statistics = SufficientStatistics.empty(7)
    for some_rows, some_targets in pieces:
        statistics = statistics.add(some_rows, some_targets)
    assert statistics.n_targets == 80
    whole = fit(rows, targets)
    parts = maximise_evidence(statistics, np.full(7, 2), 1e-12, 2000)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        parts.factor @ parts.factor.T, whole.factor @ whole.factor.T, rtol=1e-7, atol=1e-12
    )
    assert parts.noise_precision == pytest.approx(whole.noise_precision, rel=1e-8)


@given(seed=SEEDS, scale=st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None)
def test_labels_without_noise_are_recovered(seed: int, scale: float) -> None:
    rows, targets, truth = problem(seed, noise=0.0, scale=1e-3)
    posterior = fit(rows, targets * scale, tolerance=1e-4)
    np.testing.assert_allclose(posterior.mean, truth * scale, rtol=1e-6, atol=1e-7 * scale)
    assert posterior.noise_std < 1e-6 * np.sqrt(np.mean((targets * scale) ** 2))


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_units_of_the_parameters_scale_out(seed: int) -> None:
    """A group's own prior precision makes eV/A^2 and eV/A^6 equally good units."""
    rows, targets, _ = problem(seed, m=6)
    groups = np.array([2, 2, 2, 4, 4, 4])
    units = np.array([1, 1, 1, 1e4, 1e4, 1e4])
    plain = maximise_evidence(statistics_of(rows, targets), groups, 1e-12, 2000)
    scaled = maximise_evidence(statistics_of(rows / units, targets), groups, 1e-12, 2000)
    np.testing.assert_allclose(scaled.mean, plain.mean * units, rtol=1e-6)
    assert scaled.log_evidence == pytest.approx(plain.log_evidence, rel=1e-8)


def test_uncertainty_shrinks_as_labels_come() -> None:
    rows, targets, _ = problem(n=2000, noise=0.3)
    groups = np.full(rows.shape[1], 2)
    traces = []
    for n in (20, 60, 200, 2000):
        posterior = maximise_evidence(statistics_of(rows[:n], targets[:n]), groups)
        traces.append(np.sum(posterior.factor**2))
    assert traces == sorted(traces, reverse=True)
    assert traces[-1] < traces[1] / 10
    assert posterior.noise_std == pytest.approx(0.3, rel=0.05)


def test_the_determined_parameters_are_counted() -> None:
    """Directions that no label touches count nothing."""
    rows, targets, _ = problem(m=10, noise=0.01)
    rows[:, 6:] = 0
    targets = rows @ np.ones(10) + 0.01 * np.random.default_rng(0).normal(size=len(rows))
    posterior = fit(rows, targets)
    assert posterior.effective_parameters[2] == pytest.approx(6, abs=0.05)
    variances = np.sum(posterior.factor**2, axis=1)
    np.testing.assert_allclose(variances[6:], 1 / posterior.prior_precisions[2], rtol=1e-9)
    assert variances[:6].max() < variances[6:].min() / 100


def test_a_group_that_explains_nothing_is_switched_off_and_breaks_nothing() -> None:
    """An order whose rows vanish, and one that only fits noise."""
    rows, targets, truth = problem(m=9, noise=0.05)
    rows[:, 6:] = 0
    groups = np.array([2, 2, 2, 3, 3, 3, 5, 5, 5])
    targets = rows[:, :3] @ truth[:3] + 0.05 * np.random.default_rng(1).normal(size=len(rows))
    posterior = maximise_evidence(statistics_of(rows, targets), groups)
    assert np.isfinite(posterior.mean).all()
    assert np.isfinite(posterior.factor).all()
    np.testing.assert_allclose(posterior.mean[:3], truth[:3], atol=0.05)
    np.testing.assert_allclose(posterior.mean[3:], 0, atol=0.02)
    assert posterior.effective_parameters[5] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("strongest", [3, 4, 5])
def test_no_anharmonic_order_may_give_more_force_than_the_one_below(strongest: int) -> None:
    rows, _, truth = problem(n=12, m=12, seed=4)
    groups = np.repeat([2, 3, 4, 5], 3)
    rows *= np.repeat([1.0, 0.3, 0.1, 0.03], 3)
    targets = rows @ np.where((groups == 2) | (groups == strongest), truth, 0.0)
    found = maximise_evidence(statistics_of(rows, targets), groups).prior_precisions
    shares = [np.sum(rows[:, groups == g] ** 2) / found[g] for g in (3, 4, 5)]
    assert shares[0] >= 0.999 * shares[1] >= 0.998 * shares[2]


def test_samples_have_the_mean_and_covariance_of_the_posterior() -> None:
    posterior = fit(*problem(n=60, m=5, noise=1.0)[:2])
    samples = posterior.samples(40_000, seed=5)
    covariance = posterior.factor @ posterior.factor.T
    error = np.sqrt(np.diag(covariance) / len(samples))
    assert np.all(np.abs(samples.mean(axis=0) - posterior.mean) < 5 * error)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.05 * covariance.max())
    np.testing.assert_array_equal(samples[:10], posterior.samples(40_000, seed=5)[:10])


@pytest.mark.parametrize("n", [30, 300])
def test_the_predictive_interval_holds_as_often_as_it_says(n: int) -> None:
    """68.3 % of new noisy targets lie within one predictive standard deviation."""
    inside = []
    for seed in range(40):
        rows, targets, _ = problem(seed, n=n + 100, m=12, noise=0.5)
        posterior = fit(rows[:n], targets[:n], tolerance=1e-4)
        epistemic = np.sum((rows[n:] @ posterior.factor) ** 2, axis=1)
        predictive = np.sqrt(epistemic + 1 / posterior.noise_precision)
        inside.append(np.abs(targets[n:] - rows[n:] @ posterior.mean) < predictive)
    assert np.mean(inside) == pytest.approx(0.683, abs=0.025)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_labels_than_parameters_give_a_finite_answer(n: int) -> None:
    rows, targets, _ = problem(n=n, m=30)
    posterior = fit(rows, targets, tolerance=1e-4)
    assert np.isfinite(posterior.mean).all()
    assert np.isfinite(posterior.factor).all()
    assert np.isfinite(posterior.log_evidence)
    assert sum(posterior.effective_parameters.values()) <= n + 1e-6


def test_labels_that_cannot_be_used_are_refused() -> None:
    rows, targets, _ = problem()
    groups = np.full(12, 2)
    with pytest.raises(ModelError, match="no labels"):
        maximise_evidence(SufficientStatistics.empty(12), groups)
    with pytest.raises(ModelError, match="zero"):
        maximise_evidence(statistics_of(rows, 0 * targets), groups)
    for bad in (np.nan, np.inf):
        with pytest.raises(ModelError, match="finite"):
            statistics_of(rows, np.where(np.arange(200) == 7, bad, targets))
        with pytest.raises(ModelError, match="finite"):
            statistics_of(np.where(rows == rows[3, 3], bad, rows), targets)


def test_noise_std_is_the_inverse_root_of_the_precision() -> None:
    posterior = replace(fit(*problem()[:2]), noise_precisions={"forces": 25.0})
    assert posterior.noise_std == pytest.approx(0.2)


@given(seed=SEEDS, noise=st.floats(0.05, 1))
@settings(max_examples=20, deadline=None)
def test_a_posterior_of_nearly_the_same_labels_is_a_better_beginning(
    seed: int, noise: float
) -> None:
    rows, targets, _ = problem(seed, n=60, m=9, noise=noise)
    groups = np.arange(9) % 3 + 2
    before = maximise_evidence(statistics_of(rows[:58], targets[:58]), groups, 1e-6, 2000)
    statistics = statistics_of(rows, targets)
    afresh = maximise_evidence(statistics, groups, 1e-6, 2000)
    near = maximise_evidence(statistics, groups, 1e-6, 2000, near=before)
    assert near.log_evidence == pytest.approx(afresh.log_evidence, abs=1e-3)
    again = maximise_evidence(statistics, groups, 1e-6, 2000, near=afresh)
    assert again.n_iterations <= 3


@given(seed=SEEDS, n=st.integers(1, 30), m=st.integers(1, 12), pieces=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_factor_has_no_more_rows_than_there_are_targets(
    seed: int, n: int, m: int, pieces: int
) -> None:
    rows, targets, _ = problem(seed, n, m)
    statistics = SufficientStatistics.empty(m)
    for some in np.array_split(np.arange(n), pieces):
        statistics = statistics.add(rows[some], targets[some])
    assert len(statistics.filled) <= min(n, m + 1)
    every = np.column_stack([rows, targets])
    np.testing.assert_allclose(
        statistics.filled.T @ statistics.filled, every.T @ every, rtol=1e-9, atol=1e-11
    )
