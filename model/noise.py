"""What an expansion leaves out, as a noise that grows with the local displacement amplitude.

On real DFT the residual of a fit is not noise of one size: it is the next order and the range
beyond the cutoffs, and grows with the displacements. The variance of a force component on an atom
is modelled as v = sum_k c_k d^(2k), c_k >= 0, where d is the rms displacement of the atom relative
to its neighbours: a constant, range missing at second order (d^2), at third (d^4), and so on up to
the first missing order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anharm.model.crystal import FloatArray

# The missing orders are no random noise: they pull the parameters towards values that serve large
# displacements. Weighting by 1/v gives parameters that are best at small displacements and worse at
# large ones; no weighting the opposite. The square root is better than none at every amplitude.
WEIGHT_EXPONENT = 0.5
_ITERATIONS = 200
_SMALLEST_AMPLITUDE = 1e-12  # Angstrom^2


@dataclass(frozen=True)
class NoiseModel:
    """Variance of a force component about the model, as a function of the local amplitude.

    Parameters
    ----------
    coefficients : (K,) float
        c_k in (eV/Angstrom)^2, for amplitudes in units of `scale`.
    scale : float
        Mean square relative displacement of the training labels, Angstrom^2.
    """

    coefficients: FloatArray
    scale: float

    def variances(self, amplitudes: FloatArray) -> FloatArray:
        """Variances (eV/Angstrom)^2 for mean square relative displacements, Angstrom^2."""
        scaled = np.maximum(amplitudes, _SMALLEST_AMPLITUDE) / self.scale
        return np.asarray(np.polynomial.polynomial.polyval(scaled, self.coefficients), dtype=float)

    def weights(self, amplitudes: FloatArray) -> FloatArray:
        """Relative weights of targets in the regression, about 1 for an average label."""
        average = float(self.coefficients.sum())
        found: FloatArray = (average / self.variances(amplitudes)) ** WEIGHT_EXPONENT
        return found


def estimate_noise(squares: FloatArray, amplitudes: FloatArray, highest_order: int) -> NoiseModel:
    """Maximum-likelihood variances from squared residuals.

    Parameters
    ----------
    squares : (n,) float
        Expected squared residuals of force components, (eV/Angstrom)^2.
    amplitudes : (n,) float
        Mean square relative displacement of the atom of each, Angstrom^2.
    highest_order : int
        Highest order of the expansion; the force of the next one grows with its power.

    Returns
    -------
    NoiseModel
        By multiplicative majorise-minimise steps, which keep every c_k non-negative.
    """
    amplitudes = np.maximum(amplitudes, _SMALLEST_AMPLITUDE)
    scale = float(amplitudes.mean())
    powers = np.stack([(amplitudes / scale) ** k for k in range(highest_order + 1)])
    floor = 1e-12 * float(squares.mean())
    coefficients = np.full(len(powers), float(squares.mean()) / len(powers))
    for _ in range(_ITERATIONS):
        variances = np.maximum(coefficients @ powers, floor)
        rise = powers @ (squares / variances**2)
        fall = powers @ (1 / variances)
        coefficients = coefficients * np.sqrt(rise / fall)
    coefficients[0] = max(coefficients[0], floor)
    return NoiseModel(coefficients, scale)
