"""Crystals of springs in strained cells: energy, forces and virial are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from anharm.model import (
    BayesianModel,
    Crystal,
    ForceField,
    StructurePredictor,
    Supercell,
    Trainer,
    build_expansion,
)
from anharm.model.lattice_sum import voigt

ONE = np.eye(3)


class Springs:
    """phi(|r|^2) between neighbours: energy, forces and virial in any cell, in closed form."""

    def __init__(
        self,
        supercell: Supercell,
        cutoff: float,
        energy: Callable[[np.ndarray, np.ndarray], np.ndarray],
        slope: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> None:
        self.supercell, self._phi, self._slope = supercell, energy, slope
        self.first, self.second, self.ideal = neighbor_list("ijD", supercell.to_atoms(), cutoff)
        self._ideal_squares = np.sum(self.ideal**2, axis=1)

    def _bonds(self, u: np.ndarray, deformation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bonds = self.ideal @ deformation.T + u[self.second] - u[self.first]
        return bonds, np.sum(bonds**2, axis=1)

    def energy(self, u: np.ndarray, deformation: np.ndarray = ONE) -> float:
        squares = self._bonds(u, deformation)[1]
        return float(self._phi(squares, self._ideal_squares).sum() / 2)

    def forces(self, u: np.ndarray, deformation: np.ndarray = ONE) -> np.ndarray:
        bonds, squares = self._bonds(u, deformation)
        pulls = self._slope(squares, self._ideal_squares)[:, None] * bonds
        forces = np.zeros_like(u)
        np.add.at(forces, self.first, pulls)
        np.add.at(forces, self.second, -pulls)
        return forces

    def virial(self, u: np.ndarray, deformation: np.ndarray = ONE) -> np.ndarray:
        bonds, squares = self._bonds(u, deformation)
        slopes = self._slope(squares, self._ideal_squares)
        virial: np.ndarray = -np.einsum("b,bi,bj->ij", slopes, bonds, bonds)
        return virial

    def train(self, cutoffs: dict, deformations: list[np.ndarray], size: float) -> BayesianModel:
        """A model fitted to random displacements in these cells, with energies and virials."""
        trainer = Trainer(build_expansion(self.supercell.crystal, cutoffs))
        for seed, deformation in enumerate(deformations):
            u = np.random.default_rng(seed).normal(0, size, self.supercell.positions.shape)
            trainer.add(
                self.supercell.lattice @ deformation.T,
                self.supercell.positions @ deformation.T + u,
                self.forces(u, deformation),
                self.energy(u, deformation),
                virial=self.virial(u, deformation),
            )
        return trainer.fit()

    def structure(self, u: np.ndarray, deformation: np.ndarray) -> Atoms:
        atoms = self.supercell.to_atoms()
        atoms.set_cell(self.supercell.lattice @ deformation.T)
        atoms.positions = self.supercell.positions @ deformation.T + u
        return atoms


def stretched(tension: float) -> tuple[Callable, Callable]:
    """A polynomial of third order in |r|^2, so of sixth in the displacements, under tension."""
    return (
        lambda q, q0: 0.08 * (q - q0) ** 2 + 0.003 * (q - q0) ** 3 + tension * (q - q0),
        lambda q, q0: 2 * (0.08 * (q - q0) + 0.0045 * (q - q0) ** 2 + tension / 2),
    )


def morse(width: float, length: float) -> tuple[Callable, Callable]:
    def energy(q: np.ndarray, _: np.ndarray) -> np.ndarray:
        return 0.3 * (1 - np.exp(-width * (np.sqrt(q) - length))) ** 2

    def slope(q: np.ndarray, _: np.ndarray) -> np.ndarray:
        decay = np.exp(-width * (np.sqrt(q) - length))
        return 0.6 * width * (1 - decay) * decay / np.sqrt(q)

    return energy, slope


def pairs(cutoff: float, highest: int = 6) -> dict:
    """Orders from two of clusters of at most two atoms."""
    return {2: {2: cutoff}} | {n: {2: cutoff, 3: 0.0} for n in range(3, highest + 1)}


@pytest.mark.parametrize("strained_labels", [False, True])
@pytest.mark.parametrize(
    ("name", "bond"), [("silicon", 2.4), ("magnesium oxide", 2.2), ("polonium", 3.4)]
)
def test_a_polynomial_spring_crystal_is_reproduced_in_strained_cells(
    laboratory, name: str, bond: float, strained_labels: bool
) -> None:
    """Its energy is a finite polynomial in strain and displacement, and so exact throughout."""
    supercell = Supercell(laboratory.crystal(name), np.diag([3, 3, 3]))
    springs = Springs(supercell, bond, *stretched(tension=0.05))
    cells = [
        laboratory.random_deformation(seed, 0.02) if strained_labels else ONE for seed in range(5)
    ]
    model = springs.train(pairs(bond), cells, size=0.15)
    predictor = StructurePredictor(model, maximum_strain=0.05)
    for seed, size in ((11, 0.01), (12, 0.03)):
        deformation, u = (
            laboratory.random_deformation(seed, size),
            laboratory.random_displacements(supercell, 0.1, seed),
        )
        atoms = springs.structure(u, deformation)
        found = predictor.predict(atoms)
        forces, virial = springs.forces(u, deformation), springs.virial(u, deformation)
        error = np.abs(found["forces"] - forces).max()
        assert error < 1e-6 * np.abs(forces).max()
        stress = -voigt(virial) / atoms.get_volume()
        assert np.abs(found["stress"] - stress).max() < 1e-6 * np.abs(stress).max()
        assert found["energy"] == pytest.approx(springs.energy(u, deformation), abs=1e-5)


@pytest.mark.parametrize("highest", [3, 4])
def test_a_morse_crystal_is_approached_with_the_order_of_the_expansion(
    laboratory, highest: int
) -> None:
    """What orders up to n miss of the forces is of order n in strain and displacement together."""
    supercell = Supercell(laboratory.crystal("aluminium"), np.diag([3, 3, 3]))
    springs = Springs(supercell, 3.0, *morse(width=1.4, length=2.9))
    errors = []
    for size in (0.04, 0.02):
        deformation = laboratory.random_deformation(3, size / 3)
        # Labels are a tenth as large, so that the fit gives Taylor's coefficients.
        model = springs.train(pairs(3.0, highest), [ONE] * 4, size / 10)
        u = laboratory.random_displacements(supercell, size, 8)
        predictor = StructurePredictor(model, maximum_strain=0.05)
        found = predictor.predict(springs.structure(u, deformation))
        atoms = springs.structure(u, deformation)
        virial_error = found["stress"] * atoms.get_volume() + voigt(springs.virial(u, deformation))
        force_error = found["forces"] - springs.forces(u, deformation)
        errors.append([np.abs(force_error).max(), np.abs(virial_error).max()])
    gains = np.divide(errors[0], errors[1])
    assert np.all(gains > 2.0**highest / 1.5)
    assert np.all(gains < 2.0**highest * 1.5)


def test_the_elastic_constants_of_a_spring_crystal_are_the_analytic_ones(laboratory) -> None:
    """C_ijkl = 4 k sum_bonds D_i D_j D_k D_l / V for the energy k (|r|^2 - |D|^2)^2 per bond."""
    supercell = Supercell(laboratory.crystal("aluminium"), np.diag([3, 3, 3]))
    springs = Springs(supercell, 3.0, *stretched(tension=0.0))
    model = springs.train(pairs(3.0), [ONE] * 4, size=0.15)
    force_field = ForceField(model, supercell)
    volume, d = supercell.to_atoms().get_volume(), springs.ideal
    expected = 4 * 0.08 * np.einsum("bi,bj,bk,bl->ijkl", d, d, d, d) / volume
    still = np.zeros((1, supercell.n_atoms, 3))
    for k, other in [(0, 0), (0, 1), (1, 2)]:
        strain = np.zeros((3, 3))
        strain[k, other] += 0.5
        strain[other, k] += 0.5

        def stress(step: float, i: int, j: int, strain: np.ndarray = strain) -> float:
            found = force_field.predict_strained(ONE + step * strain, still, errors=False)
            return float(-found.virials[0, i, j] / volume)

        for i, j in [(0, 0), (1, 1), (1, 2)]:
            found = laboratory.slope(lambda step, i=i, j=j: stress(step, i, j))
            assert found == pytest.approx(expected[i, j, k, other], abs=1e-6 * expected.max())


@pytest.mark.parametrize(
    "direction",
    [
        np.diag([0.0, 0.0, 1.0]),
        np.array([[0, 1.0, 0], [0, 0, 0], [0, 0, 0]]),
        np.array([[0.3, -0.8, 0.5], [0.2, -0.6, 0.9], [-0.7, 0.1, 0.4]]),
    ],
    ids=["stretch", "sheared row", "anything"],
)
def test_a_crystal_that_is_stressed_differently_along_its_axes_answers_to_strain_as_it_should(
    stressed: tuple[ForceField, Springs], direction: np.ndarray
) -> None:
    """Its virial to second order in strain, from forces at rest and the stress at rest."""
    force_field, springs = stressed
    still = np.zeros((1, force_field.supercell.n_atoms, 3))
    step = 2e-3 * direction

    def of_model(deformation: np.ndarray) -> np.ndarray:
        found = force_field.predict_strained(deformation, still, errors=False).virials
        assert found is not None
        return np.asarray(found[0])

    def differences(virial: Callable) -> tuple[np.ndarray, np.ndarray]:
        plus, minus = virial(ONE + step), virial(ONE - step)
        return plus - minus, plus + minus - 2 * virial(ONE)

    expected = differences(lambda deformation: springs.virial(still[0], deformation))
    for found, wanted in zip(differences(of_model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def stressed(laboratory) -> tuple[ForceField, Springs]:
    """An orthorhombic crystal of springs whose three stresses at rest differ."""
    crystal = Crystal.from_atoms(Atoms("Po", cell=[3.0, 3.3, 3.7], pbc=True))
    supercell = Supercell(crystal, np.diag([3, 3, 3]))
    springs = Springs(supercell, 4.6, *morse(width=1.0, length=3.2))
    trainer = Trainer(build_expansion(crystal, pairs(4.6, 3)), targets=["forces"])
    for seed in range(8):
        u = (-1) ** seed * laboratory.random_displacements(supercell, 2e-3, seed // 2)
        trainer.add(supercell.lattice, supercell.positions + u, springs.forces(u))
    at_rest = springs.virial(np.zeros_like(supercell.positions)) / supercell.n_cells
    model = replace(trainer.fit(), virial_per_cell=at_rest)
    return ForceField(model, supercell, maximum_strain=0.05), springs
