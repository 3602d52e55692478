"""Thermal displacements are those of the harmonic crystal that the second order describes."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list

from anharm.model import (
    BayesianModel,
    Crystal,
    ForceField,
    Supercell,
    build_expansion,
    fit_structures,
)
from anharm.model.crystal import FloatArray
from anharm.model.thermal_displacements import (
    SOFTEST,
    Phonons,
    find_phonons,
    guess_phonons,
    let_move,
    thermal_phonons,
)

SUPERCELLS = {
    "cube": [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
    "skewed, left-handed": [[1, 2, 0], [2, 0, -1], [0, 1, 2]],
}
HBAR = units._hbar * units.J * 1e15  # eV fs
N_DRAWS = 20_000
CUBE = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])


def spring_matrix(supercell: Supercell, stiffness: float = 1.0) -> FloatArray:
    """(3N, 3N) force constants of springs between near atoms, alike in all directions."""
    atoms = supercell.to_atoms()
    matrix = np.zeros((len(atoms), len(atoms)))
    for i, j, distance in zip(*neighbours(atoms, 3.0), strict=True):
        matrix[i, j] -= stiffness * (6.0 if distance < 2.2 else 1.5)
    matrix -= np.diag(matrix.sum(axis=1))
    return np.kron(matrix, np.eye(3))


def neighbours(atoms: Atoms, cutoff: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    i, j, d = neighbor_list("ijd", atoms, cutoff)
    return i, j, d


def spring_crystal(matrix: list[list[int]], stiffness: float = 1.0) -> tuple[Phonons, FloatArray]:
    """Phonons of a model that has learnt the springs of rock salt, and their force constants."""
    crystal = Crystal.from_atoms(bulk("MgO", "rocksalt", a=4.21))
    large = Supercell(crystal, CUBE)
    model = learnt(large, spring_matrix(large, stiffness))
    supercell = Supercell(model.expansion.crystal, np.array(matrix))
    return find_phonons(model, supercell), spring_matrix(supercell, stiffness)


def learnt(supercell: Supercell, matrix: FloatArray) -> BayesianModel:
    random = np.random.default_rng(3)
    structures = []
    for _ in range(2):
        atoms = supercell.to_atoms()
        moved = random.normal(0, 0.02, atoms.positions.shape)
        forces = -(matrix @ moved.ravel()).reshape(-1, 3)
        atoms.positions += moved
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        structures.append(atoms)
    return fit_structures(build_expansion(supercell.crystal, {2: 3.1}), structures)


def exact_covariance(phonons: Phonons, matrix: FloatArray, temperature: float, quantum: bool):
    """Of the harmonic crystal, from the force constants of the whole supercell."""
    roots = np.sqrt(np.repeat(phonons.masses, 3 * phonons.supercell.n_cells))
    squares, vectors = np.linalg.eigh(matrix / np.outer(roots, roots))
    squares, vectors = squares[3:], vectors[:, 3:]
    variances = units.kB * temperature / squares
    if quantum:
        energies = HBAR * np.sqrt(squares)
        variances = HBAR**2 / (2 * energies) / np.tanh(energies / (2 * units.kB * temperature))
    return (vectors * variances) @ vectors.T / np.outer(roots, roots)


@pytest.mark.parametrize("quantum", [False, True], ids=["classical", "quantum"])
@pytest.mark.parametrize("shape", SUPERCELLS)
def test_covariances_are_those_of_the_harmonic_crystal(shape: str, quantum: bool) -> None:
    phonons, matrix = spring_crystal(SUPERCELLS[shape])
    expected = exact_covariance(phonons, matrix, 200.0, quantum)
    moved = phonons.draw(200.0, N_DRAWS, np.random.default_rng(1), quantum).reshape(N_DRAWS, -1)
    found = moved.T @ moved / N_DRAWS
    assert np.abs(found - expected).max() < 6 * expected.max() / np.sqrt(N_DRAWS)
    assert np.trace(found) == pytest.approx(np.trace(expected), rel=0.01)
    assert np.abs(moved.mean(axis=0)).max() < 6 * np.sqrt(expected.max() / N_DRAWS)


@pytest.mark.parametrize("temperature", [10.0, 300.0])
def test_every_classical_mode_holds_half_kt(temperature: float) -> None:
    phonons, matrix = spring_crystal(SUPERCELLS["cube"])
    moved = phonons.draw(temperature, 2000, np.random.default_rng(2)).reshape(2000, -1)
    energies = 0.5 * np.einsum("ni,ij,nj->n", moved, matrix, moved)
    n_modes = moved.shape[1] - 3
    assert energies.mean() == pytest.approx(n_modes * units.kB * temperature / 2, rel=0.02)
    assert energies.std() == pytest.approx(
        np.sqrt(n_modes / 2) * units.kB * temperature, rel=0.1
    )  # of a gamma distribution


def test_the_centre_of_mass_stays() -> None:
    phonons, _ = spring_crystal(SUPERCELLS["cube"])
    moved = phonons.draw(300.0, 5, np.random.default_rng(0))
    masses = np.repeat(phonons.masses, phonons.supercell.n_cells)
    assert np.abs(np.einsum("a,nai->ni", masses, moved)).max() < 1e-10 * masses.sum()


def test_nuclei_move_at_absolute_zero_only_if_they_are_quantum() -> None:
    phonons, _ = spring_crystal(SUPERCELLS["cube"])
    cold = phonons.variances(1e-9, quantum=True)
    floor = HBAR / (2 * np.sqrt(phonons.squares.max()))
    assert cold.min() == pytest.approx(floor, rel=1e-6)
    assert phonons.variances(1e-9).max() < 1e-6 * floor
    hot = 50_000.0
    assert phonons.variances(hot, quantum=True) == pytest.approx(phonons.variances(hot), rel=1e-4)


def test_unstable_modes_move_like_the_softest_allowed_one() -> None:
    phonons, _ = spring_crystal(SUPERCELLS["cube"], stiffness=-1.0)
    assert phonons.squares.min() < 0
    rms = np.sqrt(np.mean(np.abs(phonons.squares)))
    assert phonons.variances(300.0) == pytest.approx(
        units.kB * 300.0 / (SOFTEST * rms) ** 2, rel=1e-9
    )
    assert np.isfinite(phonons.draw(300.0, 3, np.random.default_rng(0))).all()


def test_no_mode_moves_more_than_twice_as_far_as_guessed() -> None:
    """The amplitude of every mode of an unstable crystal, against its covariance in the guess."""
    phonons, _ = spring_crystal(SUPERCELLS["skewed, left-handed"], stiffness=-1.0)
    guess = guess_phonons(phonons.supercell)
    limited = phonons.no_softer_than(guess)
    moved = limited.draw(300.0, 4000, np.random.default_rng(0))
    free = guess.draw(300.0, 4000, np.random.default_rng(1))
    assert 1.0 < moved.std() / free.std() < 2.1
    stable, _ = spring_crystal(SUPERCELLS["skewed, left-handed"], stiffness=5.0)
    assert stable.no_softer_than(guess).squares == pytest.approx(stable.squares, abs=1e-3)


def test_a_seed_gives_the_same_displacements_again() -> None:
    phonons, _ = spring_crystal(SUPERCELLS["cube"])
    first, again, other = (phonons.draw(300.0, 2, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# Mean square displacement along one direction at room temperature, from X-ray Debye-Waller factors
# B = 8 pi^2 <u^2> (Angstrom^2), averaged over the atoms of a compound.
MEASURED = {
    "Al": (bulk("Al", a=4.05), 0.85),
    "Cu": (bulk("Cu", a=3.61), 0.55),
    "Fe": (bulk("Fe", a=2.87), 0.35),
    "Pb": (bulk("Pb", a=4.95), 2.1),
    "Si": (bulk("Si", a=5.43), 0.46),
    "Ge": (bulk("Ge", a=5.66), 0.57),
    "NaCl": (bulk("NaCl", "rocksalt", a=5.64), 1.6),
    "MgO": (bulk("MgO", "rocksalt", a=4.21), 0.32),
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_guess_is_right_within_a_factor_of_two_at_room_temperature(name: str) -> None:
    atoms, factor = MEASURED[name]
    supercell = Supercell(Crystal.from_atoms(atoms), np.diag([4, 4, 4]))
    moved = guess_phonons(supercell).draw(300.0, 100, np.random.default_rng(0))
    measured = np.sqrt(factor / (8 * np.pi**2))
    assert measured / 2 < moved.std() < 2 * measured


def test_the_guess_is_stable_where_no_symmetry_helps() -> None:
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19, u=0.377)
    atoms.rattle(0.1, seed=1)
    phonons = guess_phonons(Supercell(Crystal.from_atoms(atoms), np.diag([2, 2, 2])))
    squares = np.sort(phonons.squares.ravel())
    assert np.abs(squares[:3]).max() < 1e-10 * squares.max()  # the translations
    assert squares[3] > 1e-3 * squares.max()


@pytest.fixture(scope="module")
def hardening() -> ForceField:
    """Rock salt whose nearest neighbours feel a quartic potential beside the springs."""
    supercell = Supercell(Crystal.from_atoms(bulk("MgO", "rocksalt", a=4.21)), CUBE)
    first, second, lengths = neighbours(supercell.to_atoms(), 3.0)
    first, second = first[lengths < 2.2], second[lengths < 2.2]
    matrix = spring_matrix(supercell, 0.3)
    random = np.random.default_rng(5)
    structures = []
    for _ in range(3):
        atoms = supercell.to_atoms()
        moved = random.normal(0, 0.1, atoms.positions.shape)
        apart = moved[first] - moved[second]
        forces = -(matrix @ moved.ravel()).reshape(-1, 3)
        np.add.at(forces, first, -40 * np.sum(apart**2, axis=1, keepdims=True) * apart)
        atoms.positions += moved
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        structures.append(atoms)
    expansion = build_expansion(supercell.crystal, {2: 3.1, 4: 2.2})
    return ForceField(fit_structures(expansion, structures), supercell)


def test_dynamics_brings_displacements_to_the_distribution_of_all_orders(
    hardening: ForceField,
) -> None:
    """In equilibrium, the mean of minus F.u is kT per degree of freedom, whatever the forces."""
    random = np.random.default_rng(1)
    phonons = find_phonons(hardening.model, hardening.supercell)
    drawn = phonons.draw(600.0, 30, random)
    moved = np.array([let_move(hardening, phonons, d, 600.0, random, 1.0) for d in drawn])
    n_modes = drawn[0].size - 3

    def virial(displacements: FloatArray) -> float:
        forces = hardening.predict(displacements, errors=False, virial=False).forces
        work = -np.einsum("nai,nai->n", forces, displacements)
        return float(work.mean()) / (n_modes * units.kB * 600.0)

    before, after = virial(drawn), virial(moved)
    assert before > 1.2  # phonons are too soft for this crystal
    assert abs(after - 1) < 0.5 * abs(before - 1)


def test_a_dynamics_that_runs_away_is_given_up(hardening: ForceField) -> None:
    random = np.random.default_rng(1)
    phonons = find_phonons(hardening.model, hardening.supercell)
    drawn = phonons.draw(600.0, 1, random)[0]
    largest = np.linalg.norm(drawn, axis=1).max() * 1.001
    assert let_move(hardening, phonons, drawn, 6000.0, random, largest) is drawn


def bottomless() -> ForceField:
    """Rock salt whose nearest bonds give way the more they are stretched, without end."""
    supercell = Supercell(Crystal.from_atoms(bulk("MgO", "rocksalt", a=4.21)), CUBE)
    first, second, bonds = neighbor_list("ijD", supercell.to_atoms(), 2.2)
    bonds /= np.linalg.norm(bonds, axis=1, keepdims=True)
    random = np.random.default_rng(5)
    structures = []
    for _ in range(3):
        atoms = supercell.to_atoms()
        moved = random.normal(0, 0.1, atoms.positions.shape)
        stretch = np.sum((moved[second] - moved[first]) * bonds, axis=1, keepdims=True)
        forces = -(spring_matrix(supercell, 0.6) @ moved.ravel()).reshape(-1, 3)
        np.add.at(forces, first, -60 * stretch**2 * bonds)
        atoms.positions += moved
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        structures.append(atoms)
    expansion = build_expansion(supercell.crystal, {2: 3.1, 3: 2.2})
    return ForceField(fit_structures(expansion, structures), supercell)


def test_a_model_without_bottom_moves_with_less_anharmonicity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temperature = 1200.0  # K: lost at once with all anharmonicity, bound with half of it
    force_field = bottomless()
    phonons = find_phonons(force_field.model, force_field.supercell)
    drawn = phonons.draw(temperature, 1, np.random.default_rng(3))[0]

    def moved() -> FloatArray:
        random = np.random.default_rng(4)
        return let_move(force_field, phonons, drawn, temperature, random, 1.0)

    found = moved()
    assert found is not drawn
    assert np.sqrt(np.mean(found**2)) == pytest.approx(np.sqrt(np.mean(drawn**2)), rel=0.5)
    monkeypatch.setattr("anharm.model.thermal_displacements.ANHARMONICITIES", (1.0,))
    assert moved() is drawn


def test_the_dynamics_holds_modes_that_the_model_has_unstable() -> None:
    supercell = Supercell(Crystal.from_atoms(bulk("MgO", "rocksalt", a=4.21)), CUBE)
    force_field = ForceField(learnt(supercell, spring_matrix(supercell, -0.3)), supercell)
    phonons = thermal_phonons(force_field.model, supercell)
    random = np.random.default_rng(2)
    drawn = phonons.draw(300.0, 10, random)
    moved = np.array([let_move(force_field, phonons, d, 300.0, random, 2.0) for d in drawn])
    assert not any(np.array_equal(*pair) for pair in zip(moved, drawn, strict=True))
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(np.sqrt(np.mean(drawn**2)), rel=0.15)
