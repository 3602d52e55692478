"""Bayesian linear regression with evidence maximisation, from sufficient statistics.

Model: t_k = Phi_k theta + noise, noise ~ N(0, 1/beta_k) for each kind k of targets (forces,
energies, virials), theta_g ~ N(0, 1/alpha_g) for each group g of parameters (here: the orders of
the expansion).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dtrtri

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.precisions import Precisions, fixed_point
from anharm.model.sufficient_statistics import SufficientStatistics, stacked_factor

_RELATIVE_NOISE_FLOOR = 1e-9  # noise below this fraction of the rms target is rounding
FREE = 0  # the group of parameters that have no prior
_FREE_PRECISION = 1e-12  # relative prior precision of free parameters, so that none is singular
_SMALLEST_SCALE = 1e-200  # of design rows that are all zero
_PSEUDO_TARGETS = 2.0  # that a noise ratio counts as
_SMALLEST_PIVOT = 1e-4  # of a Cholesky factor of unit diagonal; its square is the conditioning
_PRECISION_RANGE = 1e16  # a prior this much narrower or wider than its start has been decided


@dataclass(frozen=True)
class Posterior:
    """What the labels leave uncertain about the parameters.

    Parameters
    ----------
    mean : (M,) float
        Mean parameters, eV/Angstrom^order.
    factor : (M, M) float
        Upper triangular; S = factor @ factor.T is the posterior covariance, and variances are sums
        of squares.
    prior_precisions : dict
        Order -> alpha, inverse variance of its parameters.
    noise_precisions : dict
        Kind of target -> beta, inverse variance of such a target of weight 1 about the model,
        (eV/Angstrom)^-2 for forces.
    effective_parameters : dict
        Order -> gamma, the number of its parameters that the labels determine.
    log_evidence : float
        ln p(targets | hyperparameters); compares expansions fitted to the same labels.
    n_targets : int
    n_iterations : int
    """

    mean: FloatArray
    factor: FloatArray
    prior_precisions: dict[int, float]
    noise_precisions: dict[str, float]
    effective_parameters: dict[int, float]
    log_evidence: float
    n_targets: int
    n_iterations: int

    @property
    def noise_precision(self) -> float:
        """Noise precision beta of the forces, (eV/Angstrom)^-2; of the first kind without them."""
        first = next(iter(self.noise_precisions.values()))
        return self.noise_precisions.get("forces", first)

    @property
    def noise_std(self) -> float:
        """Standard deviation of a force component about the model, eV/Angstrom."""
        return float(1 / np.sqrt(self.noise_precision))

    def of_parameters(self, n_constants: int) -> Posterior:
        """The posterior without the first unknowns, whatever they are."""
        return replace(
            self,
            mean=self.mean[n_constants:],
            factor=np.ascontiguousarray(self.factor[n_constants:, n_constants:]),
            prior_precisions=_without_free(self.prior_precisions),
            effective_parameters=_without_free(self.effective_parameters),
        )

    def samples(self, n_samples: int, seed: int = 0) -> FloatArray:
        """(n_samples, M) draws of the parameters from the posterior."""
        random = np.random.default_rng(seed)
        draws = random.standard_normal((n_samples, self.factor.shape[1]))
        sampled: FloatArray = self.mean + draws @ self.factor.T
        return sampled


def _without_free(by_group: dict[int, float]) -> dict[int, float]:
    return {group: value for group, value in by_group.items() if group != FREE}


@dataclass(frozen=True)
class _Solution:
    """Mean, factor and quadratic forms at fixed hyperparameters."""

    mean: FloatArray
    factor: FloatArray
    log_determinant: float
    residuals: dict[str, float]


def maximise_evidence(
    statistics: SufficientStatistics | Mapping[str, SufficientStatistics],
    groups: IntArray,
    tolerance: float = 1e-4,
    maximum_iterations: int = 300,
    noise_ratios: Mapping[str, float] | None = None,
    near: Posterior | None = None,
) -> Posterior:
    """Find prior and noise precisions that make the labels most probable, and the posterior.

    Fixed-point iteration of MacKay, Neural Computation 4, 415 (1992), Eqs. 3.22-3.25, with one
    prior precision per group and one noise precision per kind of target: alpha_g = gamma_g /
    |m_g|^2, gamma_g = M_g - alpha_g tr S_gg, beta_k = (n_k - gamma_k) / |t_k - Phi_k m|^2,
    gamma_k = beta_k tr S Phi_k^T Phi_k. Groups from 3 on are orders of a Taylor series, which is
    supposed to converge: no order's prior allows larger forces than that of the order below.

    Parameters
    ----------
    statistics : SufficientStatistics, or dict
        By kind of target; one alone is of forces.
    groups : (M,) int
        The group (order) of each parameter; those of group 0 have no prior.
    tolerance : float
        Largest relative change of any precision at convergence.
    noise_ratios : dict, optional
        Kind -> about how many times the forces' noise its own is. Counts as a few targets: where a
        kind has no more targets than it determines parameters, the labels alone would make its
        noise zero.
    near : Posterior, optional
        Of the same parameters and nearly the same labels: its precisions are begun with.

    Raises
    ------
    ModelError
        If there are no labels, or all targets are zero.
    """
    if isinstance(statistics, SufficientStatistics):
        statistics = {"forces": statistics}
    if not any(one.n_targets for one in statistics.values()):
        raise ModelError("there are no labels to fit to; give at least one labelled structure")
    statistics = {kind: one for kind, one in statistics.items() if one.n_targets}
    if not any(one.square > 0 for one in statistics.values()):
        raise ModelError("every training force is zero; give labels of displaced configurations")
    members = {int(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    ratios = noise_ratios if noise_ratios and "forces" in statistics else {}
    start = _start(statistics, members)

    def improve(precisions: Precisions) -> Precisions:
        solution = _solve(statistics, members, precisions)
        return _improved(solution, statistics, members, precisions, start, ratios)

    begin = start
    if near is not None:
        prior = {**near.prior_precisions, FREE: start.prior.get(FREE, 0.0)}
        begin = Precisions({g: prior[g] for g in members}, near.noise_precisions)
    found, iteration = fixed_point(improve, begin, tolerance, maximum_iterations)
    solution = _solve(statistics, members, found)
    gammas = _effective_parameters(solution, members, found.prior)
    return Posterior(
        mean=solution.mean,
        factor=solution.factor,
        prior_precisions=found.prior,
        noise_precisions=found.noise,
        effective_parameters=gammas,
        log_evidence=_log_evidence(solution, statistics, members, found),
        n_targets=sum(one.n_targets for one in statistics.values()),
        n_iterations=iteration,
    )


def _start(
    statistics: Mapping[str, SufficientStatistics], members: Mapping[int, IntArray]
) -> Precisions:
    """Precisions from the scales of targets and design rows alone."""
    prior = {}
    most = max(statistics.values(), key=lambda one: one.n_targets)
    total = most.mean_square * most.n_targets
    for g, index in members.items():
        scale = float(np.sum(most.factor[:-1, index] ** 2)) / total
        prior[g] = max(scale, _SMALLEST_SCALE)
        if g == FREE:
            scales = [float(np.sum(one.factor[:, index] ** 2)) for one in statistics.values()]
            prior[g] = _FREE_PRECISION * max(scales) / total
    noise = {kind: 1e4 / one.mean_square for kind, one in statistics.items()}
    return Precisions(prior, noise)


def _improved(
    solution: _Solution,
    statistics: Mapping[str, SufficientStatistics],
    members: Mapping[int, IntArray],
    precisions: Precisions,
    start: Precisions,
    noise_ratios: Mapping[str, float],
) -> Precisions:
    """One step of the fixed-point iteration."""
    gammas = _effective_parameters(solution, members, precisions.prior)
    prior = {}
    for g, index in members.items():
        norm = float(solution.mean[index] @ solution.mean[index])
        value = max(gammas[g], 1e-12) / max(norm, 1e-300)
        limits = start.prior[g] / _PRECISION_RANGE, start.prior[g] * _PRECISION_RANGE
        prior[g] = start.prior[g] if g == FREE else float(np.clip(value, *limits))
    prior = _of_converging_series(prior, start.prior)
    shares = _shares(solution, statistics, precisions, sum(gammas.values()))
    noise = {}
    for kind, one in statistics.items():
        largest = 1 / (one.mean_square * _RELATIVE_NOISE_FLOOR**2)
        free = max(one.n_targets - shares[kind], 1e-3)
        residual = solution.residuals[kind]
        if kind in noise_ratios:
            free += _PSEUDO_TARGETS
            residual += _PSEUDO_TARGETS * noise_ratios[kind] ** 2 / precisions.noise["forces"]
        noise[kind] = min(free / max(residual, 1e-300), largest)
    return Precisions(prior, noise)


def _of_converging_series(prior: dict[int, float], scales: dict[int, float]) -> dict[int, float]:
    """Prior precisions that let no order give larger forces than the one below, from the third on.

    `scales` are precisions at which each order would explain all targets by itself. With few
    labels of a strongly anharmonic crystal the evidence alone prefers huge parameters of the
    highest orders to the third order, which explains these labels and no others.
    """
    found = dict(prior)
    orders = sorted(group for group in prior if group >= 3)
    for lower, order in pairwise(orders):
        found[order] = max(found[order], found[lower] * scales[order] / scales[lower])
    return found


def _shares(
    solution: _Solution,
    statistics: Mapping[str, SufficientStatistics],
    precisions: Precisions,
    total: float,
) -> dict[str, float]:
    """gamma_k of each kind of target; they sum to the number of determined parameters."""
    largest, *others = sorted(statistics, key=lambda kind: -statistics[kind].n_targets)
    shares = {}
    for kind in others:
        spread = dtrmm(1.0, solution.factor, statistics[kind].rows, side=1)
        shares[kind] = precisions.noise[kind] * float(np.sum(spread**2))
    shares[largest] = total - sum(shares.values())
    return shares


def _solve(
    statistics: Mapping[str, SufficientStatistics],
    members: Mapping[int, IntArray],
    precisions: Precisions,
) -> _Solution:
    """Posterior at fixed precisions: from the Gram matrix if that loses nothing, else from R."""
    roots = np.empty(sum(map(len, members.values())))
    for g, index in members.items():
        roots[index] = np.sqrt(precisions.prior[g])
    parts = [(precisions.noise[kind], one) for kind, one in statistics.items()]
    inverse, mean, log_determinant = _solve_gram(parts, roots) or _solve_stacked(parts, roots)
    residuals = {}
    for kind, one in statistics.items():
        difference = one.rows @ mean - one.targets
        residuals[kind] = float(difference @ difference)
    return _Solution(mean, inverse, log_determinant, residuals)


def _solve_gram(
    parts: list[tuple[float, SufficientStatistics]], roots: FloatArray
) -> tuple[FloatArray, FloatArray, float] | None:
    """Cholesky factorisation of the scaled precision, its solution refined with R.

    None if the precision is so ill-conditioned that squaring R has lost digits.
    """
    precision = np.diag(roots**2)
    for beta, one in parts:
        precision += beta * one.gram
    scale = 1 / np.sqrt(np.diag(precision))
    precision *= scale[:, None] * scale
    try:
        lower = cholesky(precision, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    pivots = np.diag(lower)
    if pivots.min() < _SMALLEST_PIVOT:
        return None
    inverse = dtrtri(lower, lower=1)[0].T * scale[:, None]
    mean = np.zeros(len(roots))
    for _ in range(3):
        gradient = -(roots**2) * mean
        for beta, one in parts:
            gradient += beta * ((one.targets - one.rows @ mean) @ one.rows)
        mean = mean + inverse @ (inverse.T @ gradient)
    log_determinant = 2 * float(np.log(pivots / scale).sum())
    return np.ascontiguousarray(inverse), mean, log_determinant


def _solve_stacked(
    parts: list[tuple[float, SufficientStatistics]], roots: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """QR factorisation of [sqrt(beta_k) R_k; sqrt(alpha)], safe for any conditioning."""
    size = len(roots)
    rows = np.vstack([np.sqrt(beta) * one.filled for beta, one in parts])
    triangle = stacked_factor(np.diag(np.append(roots, 0.0)), np.asfortranarray(rows))
    precision_root, right = triangle[:size, :size], triangle[:size, size]
    inverse = solve_triangular(precision_root, np.eye(size), check_finite=False)
    mean = solve_triangular(precision_root, right, check_finite=False)
    return inverse, mean, 2 * float(np.log(np.abs(np.diag(precision_root))).sum())


def _effective_parameters(
    solution: _Solution, members: Mapping[int, IntArray], alpha: Mapping[int, float]
) -> dict[int, float]:
    return {
        g: float(len(index) - alpha[g] * np.sum(solution.factor[index] ** 2))
        for g, index in members.items()
    }


def _log_evidence(
    solution: _Solution,
    statistics: Mapping[str, SufficientStatistics],
    members: Mapping[int, IntArray],
    precisions: Precisions,
) -> float:
    """MacKay (1992), Eq. 3.17, for targets of unequal weight; free parameters add no prior."""
    prior = sum(
        len(index) * np.log(alpha) - alpha * float(np.sum(solution.mean[index] ** 2))
        for g, index in members.items()
        if g != FREE
        for alpha in [precisions.prior[g]]
    )
    likelihood = sum(
        one.n_targets * np.log(precisions.noise[kind] / (2 * np.pi))
        + one.log_weights
        - precisions.noise[kind] * solution.residuals[kind]
        for kind, one in statistics.items()
    )
    return 0.5 * float(prior + likelihood - solution.log_determinant)
