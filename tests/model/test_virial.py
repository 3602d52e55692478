"""The virial against interatomic potentials that know the answer.

A potential that is a polynomial in scalar products of interatomic vectors is a finite polynomial
in the displacements and rotationally invariant, so an expansion to its order reproduces it: not
only its forces, to which the model is fitted, but also its virial, which the model never saw.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.model import (
    BayesianModel,
    Crystal,
    ForceField,
    LatticeSum,
    StructurePredictor,
    SufficientStatistics,
    Supercell,
    build_expansion,
    maximise_evidence,
)

Energy = Callable[[np.ndarray, np.ndarray], float]

# Nine-point central differences.
STENCIL = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}


class BondedCrystal:
    """Bonds and angles of an ideal supercell, kept while its atoms move and its cell strains."""

    def __init__(self, supercell: Supercell, cutoff: float) -> None:
        atoms = supercell.to_atoms()
        self.positions, self.cell = supercell.positions, supercell.lattice
        self.first, self.second, self.shifts, vectors = neighbor_list("ijSD", atoms, cutoff)
        self.ideal = vectors
        self.angles = [
            (a, b)
            for atom in range(len(atoms))
            for a in np.flatnonzero(self.first == atom)
            for b in np.flatnonzero(self.first == atom)
            if a < b
        ]

    def bonds(self, displacements: np.ndarray, strain: np.ndarray) -> np.ndarray:
        """Vectors along the bonds when positions and cell are strained together."""
        deform = np.eye(3) + strain
        positions = (self.positions + displacements) @ deform.T
        shifts = self.shifts @ self.cell @ deform.T
        bonds: np.ndarray = positions[self.second] + shifts - positions[self.first]
        return bonds


def stretch_springs(
    crystal: BondedCrystal, stiffness: Callable[[np.ndarray], np.ndarray]
) -> Energy:
    """sum over bonds of k s^2 + c s^3, s = |r|^2 - |r_0|^2: sixth order in the displacements."""
    ideal = np.sum(crystal.ideal**2, axis=1)
    k = stiffness(ideal)

    def energy(displacements: np.ndarray, strain: np.ndarray) -> float:
        s = np.sum(crystal.bonds(displacements, strain) ** 2, axis=1) - ideal
        return float(np.sum(k * (s**2 + 0.03 * s**3)) / 2)

    return energy


def keating(crystal: BondedCrystal, alpha: float, beta: float) -> Energy:
    """Keating's potential, Phys. Rev. 145, 637 (1966): fourth order in the displacements."""
    ideal = np.sum(crystal.ideal**2, axis=1)
    a, b = np.array(crystal.angles).T
    ideal_products = np.sum(crystal.ideal[a] * crystal.ideal[b], axis=1)

    def energy(displacements: np.ndarray, strain: np.ndarray) -> float:
        bonds = crystal.bonds(displacements, strain)
        stretches = np.sum(bonds**2, axis=1) - ideal
        bends = np.sum(bonds[a] * bonds[b], axis=1) - ideal_products
        return float(alpha * np.sum(stretches**2) / 2 + beta * np.sum(bends**2))

    return energy


def pressed_springs(crystal: BondedCrystal, tension: float) -> Energy:
    """Bonds under tension: k s^2 + t s, so that the ideal crystal itself has a virial."""
    ideal = np.sum(crystal.ideal**2, axis=1)

    def energy(displacements: np.ndarray, strain: np.ndarray) -> float:
        s = np.sum(crystal.bonds(displacements, strain) ** 2, axis=1) - ideal
        return float(np.sum(0.08 * s**2 + tension * s) / 2)

    return energy


def morse(crystal: BondedCrystal, depth: float, width: float, length: float) -> Energy:
    """A pair potential of every order in the displacements, with residual stress."""

    def energy(displacements: np.ndarray, strain: np.ndarray) -> float:
        r = np.linalg.norm(crystal.bonds(displacements, strain), axis=1)
        return float(np.sum(depth * (1 - np.exp(-width * (r - length))) ** 2) / 2)

    return energy


def pairs(cutoff: float) -> dict[int, dict[int, float]]:
    """Orders two to six of clusters of at most two atoms."""
    return {2: {2: cutoff}} | {order: {2: cutoff, 3: 0.0} for order in range(3, 7)}


def numerical_forces(energy: Energy, displacements: np.ndarray, step: float) -> np.ndarray:
    forces = np.zeros_like(displacements)
    still = np.zeros((3, 3))
    for index in np.ndindex(*displacements.shape):
        for multiple, weight in STENCIL.items():
            for sign in (1, -1):
                moved = displacements.copy()
                moved[index] += sign * multiple * step
                forces[index] -= sign * weight * energy(moved, still) / step
    return forces


def numerical_virial(energy: Energy, displacements: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """-dE/dstrain of one symmetric strain component at a time."""
    virial = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        for multiple, weight in STENCIL.items():
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[i, j] += sign * multiple * step / 2
                strain[j, i] += sign * multiple * step / 2
                virial[i, j] -= sign * weight * energy(displacements, strain) / step
    return virial


def fit(
    crystal: Crystal,
    supercell: Supercell,
    cutoffs: dict,
    energy: Energy,
    size: float,
    n: int,
    first_order: bool = False,
) -> ForceField:
    """A model of the potential from the forces of n random configurations."""
    expansion = build_expansion(crystal, cutoffs, first_order=first_order)
    supercell = Supercell(expansion.crystal, supercell.matrix)
    lattice_sum = LatticeSum(expansion, supercell)
    statistics = SufficientStatistics.empty(expansion.n_parameters)
    random = np.random.default_rng(0)
    for _ in range(n):
        u = random.normal(0, size, (supercell.n_atoms, 3))
        rows = lattice_sum.force_rows(u)
        statistics = statistics.add(rows, numerical_forces(energy, u, size / 4).ravel())
    posterior = maximise_evidence(statistics, expansion.parameter_orders)
    return ForceField(BayesianModel(expansion, posterior), supercell)


def virial_error(
    force_field: ForceField, energy: Energy, size: float, seed: int = 1
) -> tuple[float, float]:
    """Largest error of virial(u) - virial(0), and its largest component, eV."""
    u = np.random.default_rng(seed).normal(0, size, (force_field.supercell.n_atoms, 3))
    u -= u.mean(axis=0)
    truth = numerical_virial(energy, u) - numerical_virial(energy, np.zeros_like(u))
    virial = force_field.predict(u[None], errors=False).virials[0]
    return float(np.abs(virial - truth).max()), float(np.abs(truth).max())


def energy_error(force_field: ForceField, energy: Energy, size: float) -> float:
    u = np.random.default_rng(2).normal(0, size, (force_field.supercell.n_atoms, 3))
    still = np.zeros((3, 3))
    truth = energy(u, still) - energy(np.zeros_like(u), still)
    u -= u.mean(axis=0)
    return abs(float(force_field.predict(u[None], errors=False).energies[0]) - truth)


def test_keating_silicon_is_reproduced_with_its_virial(laboratory) -> None:
    crystal = laboratory.crystal("silicon")
    supercell = Supercell(crystal, np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]]))
    energy = keating(BondedCrystal(supercell, 2.6), alpha=0.2, beta=0.06)
    cutoffs = {2: 4.0, 3: 4.0, 4: 4.0}
    force_field = fit(crystal, supercell, cutoffs, energy, size=0.1, n=2)
    error, scale = virial_error(force_field, energy, size=0.1)
    assert scale > 0.5
    assert error < 1e-6 * scale
    assert energy_error(force_field, energy, size=0.1) < 1e-6


@pytest.mark.parametrize(
    ("name", "matrix", "bond", "cutoffs", "n"),
    [
        ("polonium", [3, 3, 3], 3.5, pairs(3.5), 3),
        ("aluminium", [3, 3, 3], 3.0, pairs(3.0), 3),
        ("gallium nitride", [2, 2, 2], 2.1, pairs(2.1), 3),
        ("tin selenide", [1, 2, 2], 2.9, pairs(2.9), 6),
        ("monoclinic", [2, 2, 2], 2.4, pairs(2.4), 4),
        ("triclinic", [2, 2, 2], 3.3, pairs(3.3), 8),
    ],
)  # fmt: skip
def test_springs_between_neighbours_are_reproduced_with_their_virial(
    laboratory, name: str, matrix: list[int], bond: float, cutoffs: dict, n: int
) -> None:
    crystal = laboratory.crystal(name)
    supercell = Supercell(crystal, np.diag(matrix))
    energy = stretch_springs(BondedCrystal(supercell, bond), lambda square: 0.5 / square)
    force_field = fit(crystal, supercell, cutoffs, energy, size=0.15, n=n)
    error, scale = virial_error(force_field, energy, size=0.15)
    assert error < 1e-6 * scale
    assert energy_error(force_field, energy, size=0.15) < 1e-6


@pytest.mark.parametrize("tension", [0.2, -0.03])
def test_the_virial_of_the_ideal_crystal_is_only_a_constant(laboratory, tension: float) -> None:
    crystal = laboratory.crystal("magnesium oxide")
    supercell = Supercell(crystal, np.diag([3, 3, 3]))
    energy = pressed_springs(BondedCrystal(supercell, 2.2), tension)
    force_field = fit(crystal, supercell, {2: 2.2, 3: 2.2, 4: 2.2}, energy, size=0.15, n=2)
    assert np.abs(numerical_virial(energy, np.zeros((54, 3)))).max() > 10
    error, scale = virial_error(force_field, energy, size=0.15)
    assert error < 1e-6 * scale


@pytest.mark.parametrize(
    ("name", "matrix", "bond", "n"),
    [("gallium nitride", [2, 2, 2], 2.1, 3), ("tin selenide", [1, 2, 2], 2.9, 6),
     ("triclinic", [2, 2, 2], 3.3, 8)],
)  # fmt: skip
def test_bonds_that_pull_on_the_sites_are_reproduced_with_their_virial(
    laboratory, name: str, matrix: list[int], bond: float, n: int
) -> None:
    """The reference is not relaxed; forces on the sites are the first order of the expansion."""
    crystal = laboratory.crystal(name)
    supercell = Supercell(crystal, np.diag(matrix))
    energy = pressed_springs(BondedCrystal(supercell, bond), 0.2)
    cutoffs = {order: pairs(bond)[order] for order in (2, 3, 4)}
    force_field = fit(crystal, supercell, cutoffs, energy, size=0.15, n=n, first_order=True)
    u = np.zeros((supercell.n_atoms, 3))
    at_rest = force_field.predict(u[None], errors=False).forces[0]
    assert np.abs(at_rest).max() > 0.01
    np.testing.assert_allclose(at_rest, numerical_forces(energy, u, 0.04), atol=1e-7)
    error, scale = virial_error(force_field, energy, size=0.15)
    assert error < 1e-6 * scale
    assert energy_error(force_field, energy, size=0.15) < 1e-6


@pytest.mark.parametrize("highest_order", [4, 6])
def test_the_virial_of_a_morse_crystal_converges_with_the_displacement(
    laboratory, highest_order: int
) -> None:
    """The virial begins with u^2 here, and what orders up to n miss is of order u^n."""
    crystal = laboratory.crystal("aluminium")
    supercell = Supercell(crystal, np.diag([3, 3, 3]))
    energy = morse(BondedCrystal(supercell, 3.0), depth=0.3, width=1.4, length=2.9)
    cutoffs = {order: pairs(3.0)[order] for order in range(2, highest_order + 1)}
    relative = []
    for size in (0.06, 0.03):
        force_field = fit(crystal, supercell, cutoffs, energy, size=size, n=2)
        error, scale = virial_error(force_field, energy, size)
        relative.append(error / scale)
    gain = 2.0 ** (highest_order - 2)
    assert relative[0] < {4: 2e-2, 6: 3e-4}[highest_order]
    assert gain / 1.6 < relative[0] / relative[1] < gain * 1.6


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide", "tin selenide"])
@given(shift=st.tuples(*[st.floats(-0.3, 0.3)] * 3), seed=st.integers(0, 2**31))
@settings(max_examples=6, deadline=None)
def test_the_virial_does_not_depend_on_where_the_crystal_stands(
    laboratory, name: str, shift: tuple[float, float, float], seed: int
) -> None:
    force_field = laboratory.force_field(name)
    n_atoms = force_field.supercell.n_atoms
    u = np.random.default_rng(seed).normal(0, 0.1, (1, n_atoms, 3))
    here, there = force_field.predict(u).virials, force_field.predict(u + shift).virials
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-9 * np.abs(here).max())


def test_a_polar_crystal_of_rotationally_invariant_bonds_feels_no_uniform_displacement(
    laboratory,
) -> None:
    """Symmetry forbids this virial in most crystals, in a polar one only the Born-Huang rules do.

    They are not imposed here, but bonds obey them, and so does a model fitted to bonds.
    """
    crystal = laboratory.crystal("gallium nitride")
    supercell = Supercell(crystal, np.diag([2, 2, 2]))
    energy = stretch_springs(BondedCrystal(supercell, 2.1), lambda square: 0.5 / square)
    force_field = fit(crystal, supercell, pairs(2.1), energy, size=0.15, n=3)
    u = np.broadcast_to([0.11, -0.07, 0.05], (1, supercell.n_atoms, 3)).copy()
    assert np.abs(force_field.predict(u).virials).max() < 1e-8


def test_the_virial_is_the_same_for_every_choice_of_cell_and_origin(laboratory) -> None:
    """The reference positions enter the virial, so their origin and home cells must not."""
    atoms = laboratory.atoms("gallium nitride")
    supercell = atoms.repeat((2, 2, 2))
    expected = None
    for shift, moved in [((0, 0, 0), False), ((0.3, 0.4, 0.9), False), ((0.2, 0.1, 0.6), True)]:
        primitive = atoms.copy()
        primitive.translate(np.array(shift) @ atoms.cell[:])
        if moved:
            primitive.set_cell(np.array([[1, 0, 0], [1, 1, 0], [2, -1, 1]]) @ atoms.cell[:])
        primitive.wrap()
        crystal = Crystal.from_atoms(primitive)
        structure = supercell.copy()
        random = np.random.default_rng(0)
        structure.positions += random.normal(0, 0.1, structure.positions.shape)
        structure.translate(np.array(shift) @ atoms.cell[:])
        virial = _springs_model(crystal, structure)
        expected = virial if expected is None else expected
        np.testing.assert_allclose(virial, expected, atol=1e-9 * np.abs(expected).max())


def _springs_model(crystal: Crystal, structure: Atoms) -> np.ndarray:
    """Stress of a structure under a model fitted to springs between first neighbours."""
    supercell = Supercell(crystal, np.diag([3, 3, 3]))
    energy = stretch_springs(BondedCrystal(supercell, 2.1), lambda square: 0.5 / square)
    force_field = fit(crystal, supercell, pairs(2.1), energy, size=0.1, n=3)
    stress: np.ndarray = StructurePredictor(force_field.model).predict(structure)["stress"]
    return stress
