"""Compiled displacements from the sites: what every step of the dynamics begins with."""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray

_compiled = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


@_compiled
def _transformed(x: float, y: float, z: float, matrix: FloatArray) -> tuple[float, float, float]:
    """The row (x, y, z) times a (3, 3) matrix."""
    return (
        x * matrix[0, 0] + y * matrix[1, 0] + z * matrix[2, 0],
        x * matrix[0, 1] + y * matrix[1, 1] + z * matrix[2, 1],
        x * matrix[0, 2] + y * matrix[1, 2] + z * matrix[2, 2],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def site_displacements(
    positions: FloatArray,
    sites: FloatArray,
    guesses: FloatArray,
    to_fractional: FloatArray,
    to_cartesian: FloatArray,
    order: IntArray,
    result: FloatArray,
) -> float:
    """Displacements from the nearest images of the sites, without their mean.

    Parameters
    ----------
    positions : (n_configurations, n_atoms, 3) float
        In the user's order, Angstrom.
    sites : (n_atoms, 3) float
        Ideal positions in the user's order, in units of the reduced lattice.
    guesses : (n_configurations, 3) float
        About the common shift of all atoms, in the same units: it only chooses the images. Of
        length 0 if the first atom tells.
    to_fractional, to_cartesian : (3, 3) float
        From Angstrom (rows) to these units and back, in the present cell.
    order : (n_atoms,) int
        The row of the result that each atom's displacement goes to.
    result : (n_configurations, n_atoms, 3) float
        Displacements, Angstrom.

    Returns
    -------
    float
        Square of the longest displacement; not a number if a position is not finite.
    """
    n_configurations, n_atoms, _ = positions.shape
    longest = 0.0
    moved = np.empty((n_atoms, 3))
    for number in range(n_configurations):
        if len(guesses) > 0:
            a, b, c = guesses[number, 0], guesses[number, 1], guesses[number, 2]
        else:
            x, y, z = positions[number, 0, 0], positions[number, 0, 1], positions[number, 0, 2]
            a, b, c = _transformed(x, y, z, to_fractional)
            a, b, c = a - sites[0, 0], b - sites[0, 1], c - sites[0, 2]
        sum_a = sum_b = sum_c = 0.0
        for atom in range(n_atoms):
            x, y, z = (
                positions[number, atom, 0],
                positions[number, atom, 1],
                positions[number, atom, 2],
            )
            x, y, z = _transformed(x, y, z, to_fractional)
            x, y, z = x - (sites[atom, 0] + a), y - (sites[atom, 1] + b), z - (sites[atom, 2] + c)
            x, y, z = x - np.rint(x), y - np.rint(y), z - np.rint(z)
            moved[atom, 0], moved[atom, 1], moved[atom, 2] = x, y, z
            sum_a, sum_b, sum_c = sum_a + x, sum_b + y, sum_c + z
        a, b, c = sum_a / n_atoms, sum_b / n_atoms, sum_c / n_atoms
        for atom in range(n_atoms):
            x, y, z = moved[atom, 0] - a, moved[atom, 1] - b, moved[atom, 2] - c
            x, y, z = _transformed(x, y, z, to_cartesian)
            row = order[atom]
            result[number, row, 0], result[number, row, 1], result[number, row, 2] = x, y, z
            square = x * x + y * y + z * z
            if square > longest or square != square:
                longest = square  # what is not a number stays
    return longest


@njit(cache=True, nogil=True, fastmath={"reassoc"}, error_model="numpy")
def error_statistics(force_std: FloatArray) -> FloatArray:
    """(n_configurations, 3) largest, mean and root mean square of (n_configurations, n) errors."""
    found = np.empty((len(force_std), 3))
    for number in range(len(force_std)):
        largest = total = squares = 0.0
        for error in force_std[number]:
            largest = max(largest, error)
            total += error
            squares += error * error
        size = force_std.shape[1]
        found[number, 0], found[number, 1] = largest, total / size
        found[number, 2] = np.sqrt(squares / size)
    return found
