"""Bayesian linear regression with evidence maximisation, from sufficient statistics.

Model: t = Phi theta + noise, noise ~ N(0, 1/beta), theta_g ~ N(0, 1/alpha_g) for each group g of
parameters (here: the orders of the expansion).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cholesky, qr, solve_triangular
from scipy.linalg.lapack import dtpqrt, dtrtri

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray

_RELATIVE_NOISE_FLOOR = 1e-9  # noise below this fraction of the rms target is rounding
_BLOCK = 64  # columns that LAPACK factorises together
_SMALLEST_PIVOT = 1e-4  # of a Cholesky factor of unit diagonal; its square is the conditioning
_PRECISION_RANGE = 1e16  # a prior this much narrower or wider than its start has been decided


@dataclass(frozen=True)
class SufficientStatistics:
    """All that labels say about the parameters, as one triangular factor.

    The factor R of [Phi, t] = Q R keeps Phi^T Phi = R^T R without forming it, so that neither
    ill-determined parameters nor the residual suffer from cancellation.

    Parameters
    ----------
    factor : (M + 1, M + 1) float
        Upper triangular; the last column belongs to the targets.
    n_targets : int
        Number of scalar targets seen.
    """

    factor: FloatArray
    n_targets: int

    @classmethod
    def empty(cls, n_parameters: int) -> SufficientStatistics:
        """Statistics of no labels at all."""
        return cls(np.zeros((n_parameters + 1, n_parameters + 1)), 0)

    @property
    def n_parameters(self) -> int:
        """Number of parameters M."""
        return len(self.factor) - 1

    def add(self, rows: FloatArray, targets: FloatArray) -> SufficientStatistics:
        """Statistics with more targets, in O(n M^2).

        Parameters
        ----------
        rows : (n, M) float
            Design rows.
        targets : (n,) float

        Raises
        ------
        ModelError
            If a number is not finite.
        """
        if not (np.isfinite(rows).all() and np.isfinite(targets).all()):
            raise ModelError("a training target or its design row is not a finite number")
        added = np.asfortranarray(np.column_stack([rows, targets]))
        size = self.n_parameters + 1
        # QR of a triangle on top of a rectangle, which leaves the zeros of the triangle alone.
        factor, _, _, failure = dtpqrt(
            0, min(_BLOCK, size), np.asfortranarray(self.factor), added, overwrite_b=1
        )
        if failure:
            raise ModelError(f"LAPACK could not update the factorisation (dtpqrt: {failure})")
        return SufficientStatistics(
            np.ascontiguousarray(np.triu(factor)), self.n_targets + len(rows)
        )


@dataclass(frozen=True)
class Posterior:
    """What the labels leave uncertain about the parameters.

    Parameters
    ----------
    mean : (M,) float
        Mean parameters, eV/Angstrom^order.
    factor : (M, M) float
        S = factor @ factor.T is the posterior covariance; variances are sums of squares.
    prior_precisions : dict
        Order -> alpha, inverse variance of its parameters.
    noise_precision : float
        beta, inverse variance of a force component about the model, (eV/Angstrom)^-2.
    effective_parameters : dict
        Order -> gamma, the number of its parameters that the labels determine.
    log_evidence : float
        ln p(targets | hyperparameters).
    n_targets : int
    n_iterations : int
    """

    mean: FloatArray
    factor: FloatArray
    prior_precisions: dict[int, float]
    noise_precision: float
    effective_parameters: dict[int, float]
    log_evidence: float
    n_targets: int
    n_iterations: int

    @property
    def noise_std(self) -> float:
        """Standard deviation of a target about the model, eV/Angstrom."""
        return float(1 / np.sqrt(self.noise_precision))

    def samples(self, n_samples: int, seed: int = 0) -> FloatArray:
        """(n_samples, M) draws of the parameters from the posterior."""
        random = np.random.default_rng(seed)
        draws = random.standard_normal((n_samples, self.factor.shape[1]))
        sampled: FloatArray = self.mean + draws @ self.factor.T
        return sampled


@dataclass(frozen=True)
class _Solution:
    """Mean, factor and quadratic forms at fixed hyperparameters."""

    mean: FloatArray
    factor: FloatArray
    log_determinant: float
    residual: float


def maximise_evidence(
    statistics: SufficientStatistics,
    groups: IntArray,
    tolerance: float = 1e-4,
    maximum_iterations: int = 300,
) -> Posterior:
    """Find prior and noise precisions that make the labels most probable, and the posterior.

    Fixed-point iteration of MacKay, Neural Computation 4, 415 (1992), Eqs. 3.22-3.25, with one
    prior precision per group: alpha_g = gamma_g / |m_g|^2, gamma_g = M_g - alpha_g tr S_gg,
    beta = (n - sum gamma) / |t - Phi m|^2.

    Parameters
    ----------
    statistics : SufficientStatistics
    groups : (M,) int
        The group (order) of each parameter.
    tolerance : float
        Largest relative change of any precision at convergence.

    Raises
    ------
    ModelError
        If there are no labels, or all targets are zero.
    """
    n, factor = statistics.n_targets, statistics.factor
    square = float(factor[:, -1] @ factor[:, -1])
    gram = factor[:, :-1].T @ factor[:, :-1]
    if n == 0:
        raise ModelError("there are no labels to fit to; give at least one labelled structure")
    if square == 0:
        raise ModelError("every training force is zero; give labels of displaced configurations")
    members = {int(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    spread = np.einsum("ij,ij->j", factor[:-1, :-1], factor[:-1, :-1])
    start = {g: max(float(spread[i].sum()), 1e-300) / square for g, i in members.items()}
    alpha = dict(start)
    largest_beta = n / (square * _RELATIVE_NOISE_FLOOR**2)
    beta = 1e4 * n / square
    iteration = 0
    while iteration < maximum_iterations:
        iteration += 1
        solution = _solve(factor, gram, members, alpha, beta)
        gamma = _effective_parameters(solution, members, alpha)
        new_alpha = {}
        for g, index in members.items():
            norm = float(solution.mean[index] @ solution.mean[index])
            value = max(gamma[g], 1e-12) / max(norm, 1e-300)
            limits = start[g] / _PRECISION_RANGE, start[g] * _PRECISION_RANGE
            new_alpha[g] = float(np.clip(value, *limits))
        free = max(n - sum(gamma.values()), 1e-3)
        new_beta = min(free / max(solution.residual, 1e-300), largest_beta)
        change = max(
            abs(np.log(new_beta / beta)), *(abs(np.log(new_alpha[g] / alpha[g])) for g in members)
        )
        alpha, beta = new_alpha, new_beta
        if change < tolerance:
            break
    solution = _solve(factor, gram, members, alpha, beta)
    return Posterior(
        mean=solution.mean,
        factor=solution.factor,
        prior_precisions=alpha,
        noise_precision=beta,
        effective_parameters=_effective_parameters(solution, members, alpha),
        log_evidence=_log_evidence(solution, members, alpha, beta, n),
        n_targets=n,
        n_iterations=iteration,
    )


def _solve(
    factor: FloatArray,
    gram: FloatArray,
    members: Mapping[int, IntArray],
    alpha: Mapping[int, float],
    beta: float,
) -> _Solution:
    """Posterior at fixed precisions: from the Gram matrix if that loses nothing, else from R."""
    roots = np.empty(len(gram))
    for g, index in members.items():
        roots[index] = np.sqrt(alpha[g])
    found = _solve_gram(factor, gram, roots, beta)
    inverse, mean, log_determinant = found or _solve_stacked(factor, roots, beta)
    difference = factor[:, :-1] @ mean - factor[:, -1]
    return _Solution(mean, inverse, log_determinant, float(difference @ difference))


def _solve_gram(
    factor: FloatArray, gram: FloatArray, roots: FloatArray, beta: float
) -> tuple[FloatArray, FloatArray, float] | None:
    """Cholesky factorisation of the scaled precision, its solution refined with R.

    None if the precision is so ill-conditioned that squaring R has lost digits.
    """
    precision = beta * gram
    precision[np.diag_indices_from(precision)] += roots**2
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
    mean = np.zeros(len(gram))
    for _ in range(3):
        residual = factor[:, -1] - factor[:, :-1] @ mean
        gradient = beta * (factor[:, :-1].T @ residual) - roots**2 * mean
        mean = mean + inverse @ (inverse.T @ gradient)
    log_determinant = 2 * float(np.log(pivots / scale).sum())
    return np.ascontiguousarray(inverse), mean, log_determinant


def _solve_stacked(
    factor: FloatArray, roots: FloatArray, beta: float
) -> tuple[FloatArray, FloatArray, float]:
    """QR factorisation of [sqrt(beta) R; sqrt(alpha)], safe for any conditioning."""
    size = len(roots)
    stacked = np.zeros((2 * size + 1, size + 1))
    stacked[: size + 1] = np.sqrt(beta) * factor
    stacked[size + 1 + np.arange(size), np.arange(size)] = roots
    triangle = qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][:size]
    precision_root, right = triangle[:, :size], triangle[:, size]
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
    members: Mapping[int, IntArray],
    alpha: Mapping[int, float],
    beta: float,
    n: int,
) -> float:
    """MacKay (1992), Eq. 3.17."""
    prior = sum(
        len(index) * np.log(alpha[g]) - alpha[g] * float(np.sum(solution.mean[index] ** 2))
        for g, index in members.items()
    )
    likelihood = n * np.log(beta / (2 * np.pi)) - beta * solution.residual
    return 0.5 * float(prior + likelihood - solution.log_determinant)
