"""Where an expansion leaves something out: how that grows with the displacements, atom by atom.

What an expansion of highest order n lacks is range at its own orders and everything at the next.
Range missing at order k + 1 gives forces that grow as the k-th power of the displacements around
an atom; the next order's are largest along bonds that are stretched or compressed; and what is
missing anywhere pulls the parameters, whose error grows with all displacements together. A shape is
the square of such a growth; the variance of what is missing is a sum of shapes (`noise`).
"""

from __future__ import annotations

import numpy as np

from anharm.model.clusters import neighbours
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell

UNIT_AMPLITUDE = 0.1  # Angstrom; a shape is a power of a displacement in this unit
_FIRST_SHELL = 1.2  # bonds are this much longer than an atom's shortest, at most
_NEAREST_SEARCH = 1.5  # factor by which the search for the nearest neighbours widens


class TruncationShapes:
    """Growth of the missing forces with the displacements, for one supercell.

    Parameters
    ----------
    supercell : Supercell
    range_cutoff : float
        Neighbours within it, Angstrom, make the surroundings of an atom.
    highest_order : int
        Of the expansion.
    """

    def __init__(self, supercell: Supercell, range_cutoff: float, highest_order: int) -> None:
        self._n_atoms = supercell.n_atoms
        self._highest_order = highest_order
        around = neighbours(supercell.crystal, range_cutoff)
        self._first, self._second = _pairs(supercell, around)
        bonds = _bonds(supercell.crystal)
        self._bond_first, self._bond_second = _pairs(supercell, bonds)
        self._directions = _directions(supercell, bonds)

    def local_amplitudes(self, displacements: FloatArray) -> FloatArray:
        """Mean square displacement of each atom relative to its surroundings, per component.

        Parameters
        ----------
        displacements : (n_atoms, 3) float
            Angstrom.

        Returns
        -------
        (n_atoms,) float
            Angstrom^2.
        """
        relative = displacements[self._first] - displacements[self._second]
        squares = np.einsum("pi,pi->p", relative, relative) / 3
        counts = np.maximum(np.bincount(self._first, minlength=self._n_atoms), 1)
        found: FloatArray = np.bincount(self._first, squares, self._n_atoms) / counts
        return found

    def of_forces(self, displacements: FloatArray) -> FloatArray:
        """Shapes of the missing part of every force component.

        Returns
        -------
        (3 n_atoms, 1 + 3 highest_order) float
            A constant; the powers 1 to `highest_order` of the mean square amplitude of all atoms,
            and of the local mean square amplitude; and, of the same powers, the sums over bonds b
            of (stretch of b)^2k (direction of b)^2. In units of `UNIT_AMPLITUDE`.
        """
        powers = range(1, self._highest_order + 1)
        amplitudes = self.local_amplitudes(displacements) / UNIT_AMPLITUDE**2
        relative = displacements[self._bond_second] - displacements[self._bond_first]
        stretches = np.einsum("bi,bi->b", relative, self._directions) ** 2 / UNIT_AMPLITUDE**2
        along = self._directions**2
        everywhere = float(amplitudes.mean())
        columns = [np.full(3 * self._n_atoms, everywhere**k) for k in [0, *powers]]
        columns += [np.repeat(amplitudes**k, 3) for k in powers]
        for k in powers:
            weighted = stretches[:, None] ** k * along
            sums = [np.bincount(self._bond_first, w, self._n_atoms) for w in weighted.T]
            columns.append(np.stack(sums, axis=1).ravel().astype(float))
        return np.stack(columns, axis=1)

    def of_structure(self, displacements: FloatArray) -> FloatArray:
        """Shapes of the missing part of the energy and the virial, per atom.

        Returns
        -------
        (2 + highest_order,) float
            A constant, and the mean over atoms of the powers 1 to `highest_order` + 1 of the local
            mean square amplitude in units of `UNIT_AMPLITUDE`.
        """
        amplitudes = self.local_amplitudes(displacements) / UNIT_AMPLITUDE**2
        powers = np.arange(self._highest_order + 2)
        found: FloatArray = (amplitudes[:, None] ** powers).mean(axis=0)
        return found


def local_powers(shapes: FloatArray) -> FloatArray:
    """(n, 1 + highest_order) powers, from 0, of the local amplitude in shapes of forces."""
    highest_order = shapes.shape[1] // 3
    return shapes[:, [0, *range(1 + highest_order, 1 + 2 * highest_order)]]


def _bonds(crystal: Crystal) -> list[IntArray]:
    """Neighbours of each site within its first shell."""
    volume = abs(np.linalg.det(crystal.lattice)) / crystal.n_sites
    cutoff = float(np.cbrt(volume))
    found = neighbours(crystal, cutoff)
    while any(len(one) == 0 for one in found) or _widest(crystal, found) > cutoff:
        cutoff *= _NEAREST_SEARCH
        found = neighbours(crystal, cutoff)
    shells = []
    for site, around in enumerate(found):
        lengths = _lengths(crystal, site, around)
        shells.append(around[lengths < _FIRST_SHELL * lengths.min()])
    return shells


def _widest(crystal: Crystal, found: list[IntArray]) -> float:
    """Radius within which all first shells lie."""
    nearest = max(_lengths(crystal, site, around).min() for site, around in enumerate(found))
    return float(_FIRST_SHELL * nearest)


def _vectors(crystal: Crystal, site: int, around: IntArray) -> FloatArray:
    ends = (around[:, :3] + crystal.fractional_positions[around[:, 3]]) @ crystal.lattice
    vectors: FloatArray = ends - crystal.fractional_positions[site] @ crystal.lattice
    return vectors


def _lengths(crystal: Crystal, site: int, around: IntArray) -> FloatArray:
    lengths: FloatArray = np.linalg.norm(_vectors(crystal, site, around), axis=1)
    return lengths


def _pairs(supercell: Supercell, around: list[IntArray]) -> tuple[IntArray, IntArray]:
    """Atoms and their neighbours in the supercell, as two (n_pairs,) arrays."""
    first, second = [], []
    for site, others in enumerate(around):
        cells = supercell.cell_index(supercell.cells[:, None] + others[None, :, :3])
        second.append((others[:, 3] * supercell.n_cells + cells).ravel())
        own = site * supercell.n_cells + np.arange(supercell.n_cells)
        first.append(np.repeat(own, len(others)))
    return np.concatenate(first), np.concatenate(second)


def _directions(supercell: Supercell, bonds: list[IntArray]) -> FloatArray:
    """(n_bonds, 3) unit vectors, in the order of `_pairs`."""
    parts = []
    for site, around in enumerate(bonds):
        vectors = _vectors(supercell.crystal, site, around)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        parts.append(np.tile(vectors, (supercell.n_cells, 1)))
    return np.concatenate(parts)
