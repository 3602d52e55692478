"""The stretch of a deformation: what is left of it without its rotation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anharm.model.crystal import FloatArray


@dataclass(frozen=True)
class Stretch:
    """F = R (1 + strain), with a rotation R and a symmetric strain.

    Parameters
    ----------
    deformation : (3, 3) float
        F.
    strain : (3, 3) float
    ratios : (3,) float
        Eigenvalues of 1 + strain.
    axes : (3, 3) float
        Its eigenvectors, as columns.
    """

    deformation: FloatArray
    strain: FloatArray
    ratios: FloatArray
    axes: FloatArray

    @classmethod
    def of(cls, deformation: FloatArray) -> Stretch:
        """The polar decomposition of a deformation that is near one."""
        return _decomposed(np.asarray(deformation, dtype=float).tobytes())

    def virial(self, gradient: FloatArray) -> FloatArray:
        """-(dE/dF) F^T, symmetric, of the (..., 3, 3) derivative of an energy by `strain`.

        A change dF changes the stretch by dU, with U dU + dU U the symmetric part of 2 F^T dF.
        """
        within = self.axes.T @ gradient @ self.axes / (self.ratios[:, None] + self.ratios)
        axes = self.deformation @ self.axes
        virial: FloatArray = -2 * axes @ within @ axes.T
        return virial


@lru_cache(maxsize=4)
def _decomposed(numbers: bytes) -> Stretch:
    """Of the nine numbers of F; one evaluation asks for the same several times."""
    deformation = np.frombuffer(numbers).reshape(3, 3)
    eta = deformation - np.eye(3)
    # Of F^T F - 1 rather than F^T F, for the digits of a small strain.
    squares, axes = np.linalg.eigh(eta + eta.T + eta.T @ eta)
    ratios = np.sqrt(1 + squares)
    strain = (axes * (squares / (1 + ratios))) @ axes.T
    return Stretch(deformation, strain, ratios, axes)
