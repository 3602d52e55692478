"""Compiled displacements from the sites: what every step of the dynamics begins with."""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray


@njit(cache=True, nogil=True, error_model="numpy")
def site_displacements(
    positions: FloatArray,
    sites: FloatArray,
    guesses: FloatArray,
    to_fractional: FloatArray,
    to_cartesian: FloatArray,
    order: IntArray,
    result: FloatArray,
) -> FloatArray:
    """Displacements from the nearest images of the sites, without their mean.

    Parameters
    ----------
    positions : (n_configurations, n_atoms, 3) float
        In the user's order, Angstrom.
    sites : (n_atoms, 3) float
        Ideal positions in the user's order, in units of the reduced lattice.
    guesses : (n_configurations, 3) float
        About the common shift of all atoms, in the same units: it only chooses the images.
    to_fractional, to_cartesian : (3, 3) float
        From Angstrom (rows) to these units and back, in the present cell.
    order : (n_atoms,) int
        The row of the result that each atom's displacement goes to.
    result : (n_configurations, n_atoms, 3) float
        Displacements, Angstrom.

    Returns
    -------
    (n_configurations,) float
        Square of the longest displacement; not a number if a position is not finite.
    """
    n_configurations, n_atoms, _ = positions.shape
    to, back = to_fractional, to_cartesian
    longest = np.zeros(n_configurations)
    moved = np.empty((n_atoms, 3))
    mean = np.empty(3)
    for number in range(n_configurations):
        mean[:] = 0
        for atom in range(n_atoms):
            x, y, z = positions[number, atom]
            for axis in range(3):
                value = x * to[0, axis] + y * to[1, axis] + z * to[2, axis]
                value -= sites[atom, axis] + guesses[number, axis]
                value -= np.rint(value)
                moved[atom, axis] = value
                mean[axis] += value
        mean /= n_atoms
        for atom in range(n_atoms):
            x, y, z = moved[atom, 0] - mean[0], moved[atom, 1] - mean[1], moved[atom, 2] - mean[2]
            square = 0.0
            for axis in range(3):
                value = x * back[0, axis] + y * back[1, axis] + z * back[2, axis]
                result[number, order[atom], axis] = value
                square += value * value
            if not square <= longest[number]:
                longest[number] = square  # what is not a number spreads to all by the mean
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
