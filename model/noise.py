"""What an expansion leaves out, as a noise that grows with the displacements.

On real DFT the residual of a fit is not noise of one size: it is the next order and the range
beyond the cutoffs, and grows with the displacements. Its variance is modelled as v = sum_k c_k s_k,
c_k >= 0, with the shapes s_k of `truncation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from anharm.model.crystal import FloatArray
from anharm.model.truncation import local_powers

# The missing orders are no random noise: they pull the parameters towards values that serve large
# displacements. Weighting by 1/v gives parameters that are best at small displacements and worse at
# large ones; no weighting the opposite. The square root is better than none at every amplitude.
WEIGHT_EXPONENT = 0.5
_ITERATIONS = 200
_FLOOR = 1e-12  # of the mean square residual; smaller variances are rounding
_SMALLEST_SHARE = 1e-4  # of an average structure's variance: that of the ideal crystal's, at least
_RIDGE = 1e-8  # labels that are interpolated this well say nothing about noise
_FREEDOM = 5.0  # degrees of freedom of Student's t, where tails are heavy
_CORE = 3.668996953620151  # times the variance: normal residuals then give their own variance


@dataclass(frozen=True)
class NoiseModel:
    """Variance of targets of one kind about the model, as a sum of shapes.

    Parameters
    ----------
    coefficients : (K,) float
        c_k, in the square of the targets' unit: (eV/Angstrom)^2 for forces; eV^2 per atom for
        energies and virials.
    average : float
        Variance of an average target of the training labels.
    """

    coefficients: FloatArray
    average: float

    def variances(self, shapes: FloatArray) -> FloatArray:
        """(n,) variances for (n, K) shapes."""
        found: FloatArray = np.maximum(shapes @ self.coefficients, _FLOOR * self.average)
        return found

    def weights(self, shapes: FloatArray) -> FloatArray:
        """Relative weights of targets in the regression, about 1 for an average label."""
        found: FloatArray = (self.average / self.variances(shapes)) ** WEIGHT_EXPONENT
        return found

    def by_amplitude(self, shapes: FloatArray) -> FloatArray:
        """(1 + highest_order,) polynomial of the local amplitude that comes nearest.

        Of the forces' noise, for (n, K) shapes of forces.
        """
        powers = local_powers(shapes)
        nearest = estimate_noise(self.variances(shapes), powers, np.zeros(len(shapes)))
        return nearest.coefficients


def estimate_noise(
    squares: FloatArray, shapes: FloatArray, known: FloatArray, heavy_tails: bool = False
) -> NoiseModel:
    """Most probable noise behind residuals whose variance is known in part.

    Many sums of shapes explain a few labels equally well. The likeliest one holds few shapes, and
    is too sure of displacements that the labels barely reach. Each coefficient is therefore
    supposed to be about the same share of the whole, as the square of a normal number of that
    variance is, and the most probable logarithm is taken: one more residual per shape.

    Parameters
    ----------
    squares : (n,) float
        Squared residuals.
    shapes : (n, K) float
        Non-negative; what the noise of each may consist of.
    known : (n,) float
        Variance that the parameters' own uncertainty gives each residual.
    heavy_tails : bool
        Residuals may be of Student's t: few large ones, as where levels cross, then widen the
        intervals of all others less. Scaled so that normal residuals give their variance.

    Returns
    -------
    NoiseModel
        By majorise-minimise steps, which keep every c_k positive: the bound
        (fall c + rise c0^2 / c + c / share - ln c) / 2 touches what is minimised at c0.
    """
    scales = np.maximum(shapes.mean(axis=0), 1e-300)
    scaled = np.ascontiguousarray((shapes / scales).T)
    floor = _FLOOR * float(squares.mean())
    share = max(float(squares.mean()) / len(scaled), 1e-300)
    coefficients = np.full(len(scaled), share)
    for _ in range(_ITERATIONS):
        precisions = 1 / np.maximum(coefficients @ scaled + known, floor)
        ratios = squares * precisions
        importance = (_FREEDOM + 1) / (_CORE + ratios) if heavy_tails else 1.0
        rise = scaled @ (importance * ratios * precisions)
        slope = scaled @ precisions + 1 / share
        coefficients = (1 + np.sqrt(1 + 4 * slope * rise * coefficients**2)) / (2 * slope)
    coefficients[0] = max(coefficients[0], floor)
    return NoiseModel(coefficients / scales, float(coefficients.sum()))


def noise_of_structures(
    squares: FloatArray,
    shapes: FloatArray,
    known: FloatArray,
    by_amplitude: FloatArray,
    power: int,
    ratio: float,
) -> NoiseModel:
    """Noise of energies or virials, of which labels have few: that of the forces, to scale.

    What is missing from the energy or the virial of a configuration is what is missing from its
    forces, times displacements or distances. Their noise therefore grows as that of the forces
    does, and only its scale is estimated: `ratio` squared counts as one more target.

    Parameters
    ----------
    squares, known : (n,) float
        As for `estimate_noise`.
    shapes : (n, K) float
        Mean powers of the local amplitude, see `TruncationShapes.of_structure`.
    by_amplitude : (k,) float
        Variance of the forces' noise as a polynomial of the local amplitude.
    power : int
        0, or 1 where each atom's variance counts times its amplitude.
    ratio : float
        About how many times the forces' noise this noise is.
    """
    coefficients = np.zeros(shapes.shape[1])
    coefficients[power : power + len(by_amplitude)] = ratio**2 * by_amplitude
    coefficients[0] += _SMALLEST_SHARE * float(np.mean(shapes @ coefficients))
    expected = shapes @ coefficients
    scale = estimate_noise(
        np.append(squares, expected.mean()),
        np.append(expected, expected.mean())[:, None],
        np.append(known, 0.0),
    )
    return NoiseModel(scale.coefficients[0] * coefficients, scale.average)


def leave_out(spread: FloatArray, residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Residuals and parameter variances of targets, had they not been among the training labels.

    The residuals of the very labels that were fitted are too small, the more so the more
    parameters they determine; what a label would have shown as an unseen one is
    (1 - H)^-1 (t - Phi m), H = sqrt(W) Phi S Phi^T sqrt(W).

    Parameters
    ----------
    spread : (n, M) float
        sqrt(W) Phi L of all targets of a label, W their noise precisions, S = L L^T.
    residuals : (n,) float
        sqrt(W) (t - Phi m).

    Returns
    -------
    residuals, variances : (n,) float
        Both in units of the targets' noise.
    """
    n, m = spread.shape
    if n <= m:
        inverse = _inverse_complement(spread @ spread.T)
        return inverse @ residuals, np.maximum(np.diag(inverse) - 1, 0.0)
    correction = spread @ _inverse_complement(spread.T @ spread)
    variances = np.maximum(np.einsum("ij,ij->i", correction, spread), 0.0)
    return residuals + correction @ (spread.T @ residuals), variances


def _inverse_complement(gram: FloatArray) -> FloatArray:
    """(1 - G)^-1, G having eigenvalues from 0 to 1.

    Rounding can lift them above 1 where a target alone determines a parameter, as the energy of the
    ideal crystal does, which no error of the expansion touches.
    """
    identity = np.eye(len(gram))
    inverse: FloatArray
    try:
        inverse = cho_solve(cho_factor((1 + _RIDGE) * identity - gram, lower=True), identity)
    except LinAlgError:
        leverages, vectors = np.linalg.eigh(gram)
        inverse = (vectors / (1 + _RIDGE - np.minimum(leverages, 1.0))) @ vectors.T
    return inverse
