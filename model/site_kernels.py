"""Compiled displacements from the sites: what every step of the dynamics begins with."""

from __future__ import annotations

import numpy as np
from numba import njit

from anharm.model.crystal import FloatArray, IntArray


@njit(cache=True, nogil=True, error_model="numpy")
def site_displacements(
    positions: FloatArray,
    sites: FloatArray,
    guess: FloatArray,
    to_fractional: FloatArray,
    to_cartesian: FloatArray,
    order: IntArray,
    result: FloatArray,
) -> float:
    """Displacements of one configuration from the nearest images of its sites, without their mean.

    Parameters
    ----------
    positions : (n_atoms, 3) float
        In the user's order, Angstrom.
    sites : (n_atoms, 3) float
        Ideal positions in the user's order, in units of the reduced lattice.
    guess : (3,) float
        About the common shift of all atoms, in the same units: it only chooses the images.
    to_fractional, to_cartesian : (3, 3) float
        From Angstrom (rows) to these units and back, in the present cell.
    order : (n_atoms,) int
        The row of the result that each atom's displacement goes to.
    result : (n_atoms, 3) float
        Displacements, Angstrom.

    Returns
    -------
    float
        Square of the longest displacement; not a number if a position is not finite.
    """
    n_atoms = len(positions)
    to, back = to_fractional, to_cartesian
    mean = np.zeros(3)
    moved = np.empty((n_atoms, 3))
    for atom in range(n_atoms):
        x, y, z = positions[atom, 0], positions[atom, 1], positions[atom, 2]
        for axis in range(3):
            value = x * to[0, axis] + y * to[1, axis] + z * to[2, axis]
            value -= sites[atom, axis] + guess[axis]
            value -= np.rint(value)
            moved[atom, axis] = value
            mean[axis] += value
    mean /= n_atoms
    longest = 0.0
    for atom in range(n_atoms):
        x, y, z = moved[atom, 0] - mean[0], moved[atom, 1] - mean[1], moved[atom, 2] - mean[2]
        square = 0.0
        for axis in range(3):
            value = x * back[0, axis] + y * back[1, axis] + z * back[2, axis]
            result[order[atom], axis] = value
            square += value * value
        if not square <= longest:
            longest = square  # also what is not a number: the mean spreads it to all atoms
    return longest
