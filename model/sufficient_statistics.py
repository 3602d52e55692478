"""All that labels say about the parameters, kept as one triangular factor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg.lapack import dtpqrt

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray

_SMALLEST_SQUARE = 1e-24  # of targets that are all zero
_BLOCK = 64  # columns that LAPACK factorises together
_ROUNDING = 1e-13  # of a column; smaller entries of the factor are no information


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
    log_weights : float
        Sum of the logarithms of the targets' weights.
    """

    factor: FloatArray
    n_targets: int
    log_weights: float = 0.0

    @classmethod
    def empty(cls, n_parameters: int) -> SufficientStatistics:
        """Statistics of no labels at all."""
        return cls(np.zeros((n_parameters + 1, n_parameters + 1)), 0)

    @property
    def n_parameters(self) -> int:
        """Number of parameters M."""
        return len(self.factor) - 1

    @property
    def square(self) -> float:
        """Sum of the weighted squares of all targets."""
        return float(self.factor[:, -1] @ self.factor[:, -1])

    @property
    def mean_square(self) -> float:
        """Mean weighted square of the targets, or next to nothing where all are zero."""
        return max(self.square / max(self.n_targets, 1), _SMALLEST_SQUARE)

    @cached_property
    def gram(self) -> FloatArray:
        """(M, M) Phi^T Phi."""
        gram: FloatArray = self.rows.T @ self.rows
        return gram

    @cached_property
    def filled(self) -> FloatArray:
        """(n, M + 1) rows of R that say anything: no more than there are targets."""
        lengths = np.linalg.norm(self.factor, axis=0)
        matter: FloatArray = (np.abs(self.factor) > _ROUNDING * lengths).any(axis=1)
        return np.ascontiguousarray(self.factor[matter])

    @cached_property
    def rows(self) -> FloatArray:
        """(n, M) the same without the targets' column."""
        return np.ascontiguousarray(self.filled[:, :-1])

    @property
    def targets(self) -> FloatArray:
        """(n,) the targets' column."""
        return self.filled[:, -1]

    def add(
        self, rows: FloatArray, targets: FloatArray, weights: FloatArray | None = None
    ) -> SufficientStatistics:
        """Statistics with more targets, in O(n M^2).

        Parameters
        ----------
        rows : (n, M) float
            Design rows.
        targets : (n,) float
        weights : (n,) float, optional
            Relative noise precisions of the targets; 1 without them.

        Raises
        ------
        ModelError
            If a number is not finite.
        """
        if not (np.isfinite(rows).all() and np.isfinite(targets).all()):
            raise ModelError("a training target or its design row is not a finite number")
        added = np.asfortranarray(np.column_stack([rows, targets]))
        log_weights = self.log_weights
        if weights is not None:
            added *= np.sqrt(weights)[:, None]
            log_weights += float(np.log(weights).sum())
        factor = stacked_factor(self.factor, added)
        return SufficientStatistics(factor, self.n_targets + len(rows), log_weights)

    def select(self, columns: IntArray) -> SufficientStatistics:
        """Statistics of some of the parameters, those left out being zero in all rows."""
        kept = np.append(columns, self.n_parameters)
        return replace(self, factor=np.ascontiguousarray(self.factor[np.ix_(kept, kept)]))


def stacked_factor(triangle: FloatArray, rows: FloatArray) -> FloatArray:
    """Upper triangle R of [triangle; rows] = Q R, in O(n M^2): the triangle's zeros stay.

    Parameters
    ----------
    triangle : (M, M) float
        Upper triangular.
    rows : (n, M) float
        Overwritten where it is in Fortran's order.

    Raises
    ------
    ModelError
        If LAPACK fails.
    """
    factor, _, _, failure = dtpqrt(
        0, min(_BLOCK, len(triangle)), np.asfortranarray(triangle), rows, overwrite_b=1
    )
    if failure:
        raise ModelError(f"LAPACK could not update the factorisation (dtpqrt: {failure})")
    return np.ascontiguousarray(np.triu(factor))
