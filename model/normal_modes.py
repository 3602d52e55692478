"""Normal modes of a supercell, and the exact quantum statistics of harmonic ones.

What path integrals sample has an exact answer where the potential is harmonic, also for a finite
number of beads P: the P-bead ring polymer of a mode of frequency w has <q^2> = (kT/m) sum_k
1 / (w^2 + w_k^2), w_k = 2 (P kT / hbar) sin(k pi / P) (M. E. Tuckerman, Statistical Mechanics,
chapter 12). P = 1 is classical; P to infinity gives (hbar / 2 m w) coth(hbar w / 2 kT).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import units
from scipy.linalg import eigh

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray
from anharm.model.force_field import ForceField

HBAR = units._hbar / units._e * 1e15  # eV fs
_BOLTZMANN = units.kB  # eV/K
_MASS = units._amu * 1e10 / units._e  # eV fs^2 / Angstrom^2 of an atomic mass unit
_STEP = 1e-3  # Angstrom
_UNSTABLE = -1e-8  # 1/fs^2
_TRANSLATIONS = 3


@dataclass(frozen=True, eq=False)
class NormalModes:
    """The vibrations of a periodic cell, its three translations left out.

    Attributes
    ----------
    frequencies : (n_modes,) float
        Angular frequencies, 1/fs; n_modes = 3 n_atoms - 3.
    vectors : (n_modes, n_atoms, 3) float
        Orthonormal in mass-weighted coordinates.
    masses : (n_atoms,) float
        Atomic mass units.
    """

    frequencies: FloatArray
    vectors: FloatArray
    masses: FloatArray

    @classmethod
    def of(cls, force_field: ForceField, masses: FloatArray) -> NormalModes:
        """Diagonalise the dynamical matrix of a model at its ideal sites.

        Parameters
        ----------
        force_field : ForceField
        masses : (n_atoms,) float
            Atomic mass units, in the supercell's order.

        Raises
        ------
        ModelError
            If the crystal is unstable: a mode without a restoring force has no ground state.
        """
        roots = np.sqrt(np.repeat(masses * _MASS, 3))
        dynamical = hessian(force_field) / np.outer(roots, roots)
        squares, vectors = eigh(dynamical)
        # The translations: the three modes that move all atoms alike, wherever they are sorted.
        uniform = np.kron(np.sqrt(masses / masses.sum())[:, None], np.eye(3))
        order = np.argsort(-np.sum((uniform.T @ vectors) ** 2, axis=0), kind="stable")
        kept = np.sort(order[_TRANSLATIONS:])
        if squares[kept[0]] < _UNSTABLE or squares[kept].min() <= 0:
            raise ModelError(
                f"the crystal is unstable: {int(np.sum(squares[kept] <= 0))} modes of this cell "
                "have an imaginary frequency"
            )
        return cls(np.sqrt(squares[kept]), vectors[:, kept].T.reshape(len(kept), -1, 3), masses)

    def energy(self, temperature: float, beads: int | None = None) -> float:
        """Kinetic and potential energy above the minimum, eV.

        Parameters
        ----------
        temperature : float
            K.
        beads : int, optional
            Of the ring polymer; 1 is classical; quantum mechanics if not given.
        """
        return float(np.sum(self.frequencies**2 * self.squares(temperature, beads)))

    def squares(self, temperature: float, beads: int | None = None) -> FloatArray:
        """(n_modes,) mean squares of the mass-weighted normal coordinates, eV fs^2."""
        thermal, frequencies = _BOLTZMANN * temperature, self.frequencies
        if beads is None:
            result: FloatArray = HBAR / (2 * frequencies)
            return result / np.tanh(HBAR * frequencies / (2 * thermal))
        free = 2 * beads * thermal / HBAR * np.sin(np.pi * np.arange(beads) / beads)
        return thermal * np.sum(1 / (frequencies[:, None] ** 2 + free**2), axis=1)

    def mean_square_displacements(self, temperature: float, beads: int | None = None) -> FloatArray:
        """(n_atoms,) of each atom from its site per Cartesian component, Angstrom^2.

        The mean over the three components; the centre of mass is at rest.
        """
        weights = np.sum(self.vectors**2, axis=2) / 3
        return self.squares(temperature, beads) @ weights / (self.masses * _MASS)


def hessian(force_field: ForceField, displacement: FloatArray | None = None) -> FloatArray:
    """Second derivatives of the energy of a supercell, eV/Angstrom^2.

    Central differences of forces; of a model up to third order they are exact.

    Parameters
    ----------
    force_field : ForceField
    displacement : (n_atoms, 3) float, optional
        Where to differentiate; the ideal sites if not given.

    Returns
    -------
    (3 n_atoms, 3 n_atoms) float
    """
    n = 3 * force_field.supercell.n_atoms
    centre = np.zeros(n) if displacement is None else np.reshape(displacement, n)
    forces = []
    for sign in (1, -1):
        points = (centre + sign * _STEP * np.eye(n)).reshape(n, -1, 3)
        found = force_field.predict(points, errors=False, virial=False)
        forces.append(found.forces.reshape(n, n))
    matrix: FloatArray = (forces[1] - forces[0]) / (2 * _STEP)
    return (matrix + matrix.T) / 2
