"""Displacements of thermal size and shape: from a guess, from phonons, from a model's dynamics.

Before there is any label, the crystal is guessed to consist of springs between all near atoms,
whose stiffness falls with the sixth power of their length. With one constant for all crystals, this
gives the measured mean square displacements of metals, ionic crystals and semiconductors within a
factor of two, and their shape: near atoms move together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ase import units
from ase.data import atomic_masses
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.export.force_constants import ordered_clusters
from anharm.model.force_field import ForceField

SOFTEST = 0.15  # of the root mean square frequency: softer modes move as if they were as hard
LARGEST_AMPLITUDE = 2.0  # of any mode, in units of the amplitude that the guess gives it
SPRING = 400.0  # eV Angstrom^4: stiffness of a spring times the sixth power of its length
TRANSVERSE = 0.1  # stiffness across a spring, in units of that along it
LONGEST_SPRING = 6.0  # Angstrom
DURATION = 1000.0  # fs, of the dynamics that adds what phonons leave out
STEP = 0.5  # its time step in units of the largest angular frequency's inverse
FRICTION = 0.01  # 1/fs
ANHARMONICITIES = (1.0, 0.85, 0.7, 0.5, 0.35)  # tried in turn until no atom is lost
_SAME_STIFFNESS = 1e-9  # of the hardest mode's; a smaller difference is rounding
_HBAR = units._hbar * units.J * 1e15  # eV fs
_MASS = 1 / units.fs**2  # of one atomic mass unit, eV fs^2 / Angstrom^2


@dataclass(frozen=True)
class Phonons:
    """Normal modes of a supercell: those of its primitive cell at commensurate wave vectors.

    Parameters
    ----------
    supercell : Supercell
    wave_vectors : (n_cells, 3) float
        In units of the reciprocal primitive lattice.
    squares : (n_cells, 3 n_sites) float
        Squared angular frequencies, 1/fs^2; negative for unstable modes.
    vectors : (n_cells, 3 n_sites, 3 n_sites) complex
        Mass-weighted eigenvectors, one per column.
    masses : (n_sites,) float
        eV fs^2 / Angstrom^2.
    """

    supercell: Supercell
    wave_vectors: FloatArray
    squares: FloatArray
    vectors: NDArray[np.complex128]
    masses: FloatArray

    @property
    def floor(self) -> float:
        """Frequency below which a mode is taken to have this frequency, rad/fs.

        An unstable mode, or one that no label has determined yet, has no thermal amplitude of its
        own.
        """
        return SOFTEST * float(np.sqrt(np.mean(np.abs(self.squares))))

    def no_softer_than(self, guess: Phonons) -> Phonons:
        """These modes, but none with more than `LARGEST_AMPLITUDE` times the guessed amplitude.

        The first labels leave some modes of complex crystals undetermined, or unstable.
        """
        hard = np.maximum(guess.squares, guess.floor**2)
        compliances = np.einsum(
            "qak,qk,qbk->qab", guess.vectors, 1 / hard, guess.vectors.conj(), optimize=True
        )
        along = np.einsum(
            "qak,qab,qbk->qk", self.vectors.conj(), compliances, self.vectors, optimize=True
        ).real
        return replace(self, squares=np.maximum(self.squares, 1 / (LARGEST_AMPLITUDE**2 * along)))

    def variances(self, temperature: float, quantum: bool = False) -> FloatArray:
        """(n_cells, 3 n_sites) variance of each mass-weighted normal coordinate, eV fs^2.

        kT / omega^2 for classical nuclei, (hbar / 2 omega) coth(hbar omega / 2 kT) otherwise.
        """
        frequencies = np.sqrt(np.maximum(self.squares, self.floor**2))
        if not quantum:
            return units.kB * temperature / frequencies**2
        found: FloatArray = _HBAR / (2 * frequencies)
        if temperature > 0:
            found = found / np.tanh(_HBAR * frequencies / (2 * units.kB * temperature))
        return found

    def draw(
        self, temperature: float, number: int, random: np.random.Generator, quantum: bool = False
    ) -> FloatArray:
        """(number, n_atoms, 3) displacements in the supercell's order, Angstrom.

        Parameters
        ----------
        temperature : float
            K.
        number : int
            How many independent configurations.
        random : numpy Generator
        quantum : bool
            Whether nuclei are quantum particles, as in path integrals.
        """
        n_cells, n_modes = self.squares.shape
        normal = random.standard_normal((2, number, n_cells, n_modes))
        amplitudes = (normal[0] + 1j * normal[1]) * np.sqrt(self.variances(temperature, quantum))
        polarised = np.einsum("qak,nqk->nqa", self.vectors, amplitudes, optimize=True)
        phases = np.exp(2j * np.pi * self.wave_vectors @ self.supercell.cells.T)
        # Real parts of independent complex waves at all q: q and -q need not be paired.
        weighted = np.einsum("qc,nqa->nac", phases, polarised, optimize=True).real / np.sqrt(
            n_cells
        )
        weights = np.repeat(self.masses, self.supercell.n_cells)[:, None]
        moved = weighted.reshape(number, -1, 3, n_cells).transpose(0, 1, 3, 2)
        moved = moved.reshape(number, -1, 3) / np.sqrt(weights)
        centre = (weights * moved).sum(axis=1, keepdims=True) / weights.sum()
        displacements: FloatArray = moved - centre  # the three translations
        return displacements


def find_phonons(model: BayesianModel, supercell: Supercell) -> Phonons:
    """Normal modes of the model's second order in a supercell."""
    return _diagonalise(supercell, *ordered_clusters(model, 2))


def guess_phonons(supercell: Supercell) -> Phonons:
    """Normal modes of springs between near atoms, before anything is known of the forces."""
    crystal = supercell.crystal
    first, second, vectors, shifts = neighbor_list("ijDS", crystal.to_atoms(), LONGEST_SPRING)
    lengths = np.linalg.norm(vectors, axis=1)
    along = np.einsum("ki,kj->kij", vectors, vectors) / lengths[:, None, None] ** 2
    tensors = TRANSVERSE * np.eye(3) + (1 - TRANSVERSE) * along
    tensors *= (SPRING / lengths**6)[:, None, None]
    clusters = np.zeros((2 * len(first), 2, 4), dtype=np.int64)
    clusters[:, 0, 3] = np.tile(first, 2)
    clusters[: len(first), 1] = np.column_stack([shifts, second])
    clusters[len(first) :, 1, 3] = first
    return _diagonalise(supercell, clusters, np.concatenate([-tensors, tensors]))


def thermal_phonons(model: BayesianModel, supercell: Supercell) -> Phonons:
    """Those of the model as far as its labels determine them, limited by the guess."""
    return find_phonons(model, supercell).no_softer_than(guess_phonons(supercell))


def _diagonalise(supercell: Supercell, clusters: IntArray, tensors: FloatArray) -> Phonons:
    """Normal modes from (n, 2, 4) pairs of atoms that begin in the home cell and their tensors."""
    crystal = supercell.crystal
    masses = atomic_masses[crystal.numbers] * _MASS
    n_sites, n_cells = crystal.n_sites, supercell.n_cells
    transposed = Supercell(crystal, supercell.matrix.T)
    wave_vectors = transposed.cells @ np.linalg.inv(supercell.matrix).T
    dynamical = np.zeros((n_cells, n_sites, n_sites, 3, 3), dtype=complex)
    for (home, other), tensor in zip(clusters, tensors, strict=True):
        phases = np.exp(2j * np.pi * wave_vectors @ other[:3])
        weight = 1 / np.sqrt(masses[home[3]] * masses[other[3]])
        dynamical[:, home[3], other[3]] += phases[:, None, None] * tensor * weight
    matrices = dynamical.transpose(0, 1, 3, 2, 4).reshape(n_cells, 3 * n_sites, 3 * n_sites)
    matrices = (matrices + matrices.conj().transpose(0, 2, 1)) / 2
    squares, vectors = np.linalg.eigh(matrices)
    return Phonons(supercell, wave_vectors, squares, vectors, masses)


def let_move(
    force_field: ForceField,
    phonons: Phonons,
    displacements: FloatArray,
    temperature: float,
    random: np.random.Generator,
    largest: float,
) -> FloatArray:
    """Where displacements are after a Langevin dynamics in the force field, all orders of it.

    Phonons give the right size and the right second moments; anharmonic crystals have other ones,
    too, to which a dynamics brings the displacements. A model of one or two labels of a soft
    crystal loses atoms, though: what it has learnt of the third order has no bottom. Then the
    dynamics begins anew with less anharmonicity, F(s u) / s, which leaves the second order as it is
    and multiplies order n by s^(n - 2). Modes that the model has softer than `phonons` are as hard
    as these.

    Parameters
    ----------
    force_field : ForceField
    phonons : Phonons
        Of its supercell; they say how fast it moves.
    displacements : (n_atoms, 3) float
        Angstrom.
    temperature : float
        K.
    random : numpy Generator
    largest : float
        Largest displacement of any atom, Angstrom. Where the dynamics exceeds it with the least
        anharmonicity, too, the first displacements are returned.
    """
    stiffen = _stiffening(find_phonons(force_field.model, phonons.supercell), phonons)
    for scale in ANHARMONICITIES:

        def forces_of(u: FloatArray, scale: float = scale) -> FloatArray:
            return _forces(force_field, scale * u) / scale + stiffen(u)

        moved = _langevin(forces_of, phonons, displacements, temperature, random, largest)
        if moved is not None:
            return moved
    return displacements


def _stiffening(soft: Phonons, hard: Phonons) -> Callable[[FloatArray], FloatArray]:
    """Forces, by displacements, that make modes as hard as those of the same vectors elsewhere."""
    missing = np.maximum(hard.squares, hard.floor**2) - soft.squares
    missing[missing <= _SAME_STIFFNESS * hard.squares.max()] = 0.0
    chosen = missing.any(axis=1)
    vectors, missing, supercell = soft.vectors[chosen], missing[chosen], soft.supercell
    phases = np.exp(2j * np.pi * soft.wave_vectors[chosen] @ supercell.cells.T)
    phases /= np.sqrt(supercell.n_cells)
    dynamical = np.einsum("qak,qk,qbk->qab", vectors, missing, vectors.conj(), optimize=True)
    roots = np.sqrt(np.repeat(soft.masses, supercell.n_cells))[:, None]
    shape = (len(soft.masses), supercell.n_cells, 3)

    def forces_of(displacements: FloatArray) -> FloatArray:
        weighted = (roots * displacements).reshape(shape).transpose(1, 0, 2)
        waves = phases.conj() @ weighted.reshape(supercell.n_cells, -1)
        pulled = (phases.T @ np.einsum("qab,qb->qa", dynamical, waves)).real
        forces: FloatArray = -roots * pulled.reshape(shape[1], -1, 3).transpose(1, 0, 2).reshape(
            -1, 3
        )
        return forces

    return forces_of


def _langevin(
    forces_of: Callable[[FloatArray], FloatArray],
    phonons: Phonons,
    displacements: FloatArray,
    temperature: float,
    random: np.random.Generator,
    largest: float,
) -> FloatArray | None:
    """Displacements after `DURATION`; None where one has exceeded the largest.

    BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)), whose displacements are
    those of a harmonic crystal exactly, for any step that is stable.
    """
    masses = np.repeat(phonons.masses, phonons.supercell.n_cells)[:, None]
    spread = np.sqrt(units.kB * temperature / masses)
    step = STEP / float(np.sqrt(np.abs(phonons.squares).max()))
    kept = np.exp(-FRICTION * step)
    moved, forces = displacements, forces_of(displacements)
    velocities = spread * random.standard_normal(moved.shape)
    for _ in range(int(np.ceil(DURATION / step))):
        velocities = velocities + step / 2 * forces / masses
        moved = moved + step / 2 * velocities
        noise = np.sqrt(1 - kept**2) * spread * random.standard_normal(moved.shape)
        velocities = kept * velocities + noise
        velocities -= (masses * velocities).sum(axis=0) / masses.sum()
        moved = moved + step / 2 * velocities
        if not np.linalg.norm(moved, axis=1).max() < largest:
            return None
        forces = forces_of(moved)
        velocities = velocities + step / 2 * forces / masses
    return moved


def _forces(force_field: ForceField, displacements: FloatArray) -> FloatArray:
    centred = displacements - displacements.mean(axis=0)
    forces: FloatArray = force_field.predict(centred[None], errors=False, virial=False).forces[0]
    return forces
