"""Energy, forces and virial in cells near the reference are derivatives of one function.

Where a strain leaves no force unambiguous (rank-3 tensors, in crystals with neither inversion nor
cubic symmetry), the expansion's translational sum rules do not fix the energy of a strained cell
completely; so statements about arbitrary parameters that go beyond "derivative of one function"
are made for silicon, magnesium oxide, polonium and the like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from anharm.clients.calculators import make_calculator
from anharm.errors import ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    ForceField,
    LatticeCalculator,
    LatticeSum,
    StructurePredictor,
    Supercell,
    Trainer,
    build_expansion,
)
from anharm.model.deformation import identify_strained_supercell
from anharm.model.ideal_crystal import ideal_energy, ideal_virial
from anharm.model.lattice_sum import voigt
from anharm.model.sites import assign_sites
from anharm.model.strain import StrainedSum
from anharm.model.strain_table import build_strain_table, uniform_strain_scale

NAMES = ["silicon", "magnesium oxide", "triclinic", "gallium nitride", "monoclinic"]
ONE = np.eye(3)
# Nine-point central differences.
STENCIL = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}


def random_deformation(seed: int, size: float = 0.01) -> np.ndarray:
    """Nine independent components: stretch, shear and rotation."""
    return ONE + np.random.default_rng(seed).uniform(-size, size, (3, 3))


def with_ideal_virial(force_field: ForceField) -> ForceField:
    """The same model, its reference crystal under stress."""
    tensor = np.array([[3.0, 0.4, -0.7], [0.4, 1.0, 0.2], [-0.7, 0.2, -2.0]])
    return ForceField(replace(force_field.model, virial_per_cell=tensor), force_field.supercell)


def slope(function: Callable[[float], float], step: float = 2e-3) -> float:
    return sum(w * (function(k * step) - function(-k * step)) / step for k, w in STENCIL.items())


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
            u = random_displacements(self.supercell, size, seed)
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


def random_displacements(supercell: Supercell, size: float, seed: int) -> np.ndarray:
    u = np.random.default_rng(seed).normal(0, size, (supercell.n_atoms, 3))
    u -= u.mean(axis=0)
    return u


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2])
def test_forces_and_virial_are_derivatives_of_the_energy(laboratory, name: str, seed: int) -> None:
    """Silicon and magnesium oxide in orders two to six, the others up to four or five."""
    force_field = with_ideal_virial(laboratory.force_field(name))
    u = random_displacements(force_field.supercell, 0.1, seed)
    deformation = random_deformation(seed)
    random = np.random.default_rng(seed)
    direction, strain = random.normal(size=u.shape), random.normal(size=(3, 3))
    strain += strain.T

    def energy(u: np.ndarray, deformation: np.ndarray) -> float:
        found = force_field.predict_strained(deformation, u[None], errors=False, virial=False)
        return float(found.energies[0])

    found = force_field.predict_strained(deformation, u[None], errors=False)
    along = slope(lambda step: energy(u + step * direction, deformation))
    assert -np.sum(found.forces[0] * direction) == pytest.approx(along, rel=1e-8)

    def strained(step: float) -> float:
        further = ONE + step * strain
        return energy(u @ further.T, further @ deformation)

    assert -np.sum(found.virials[0] * strain) == pytest.approx(slope(strained), rel=1e-8)


def test_forces_on_the_sites_of_an_unrelaxed_crystal_are_served_in_strained_cells(
    laboratory,
) -> None:
    crystal = laboratory.crystal("tin selenide")
    expansion = build_expansion(crystal, {2: 4.0, 3: 3.0}, first_order=True)
    force_field = ForceField(
        laboratory.random_model(expansion), laboratory.fitting_supercell(expansion)
    )
    u = random_displacements(force_field.supercell, 0.02, 1)
    deformation = random_deformation(3)
    found = force_field.predict_strained(deformation, u[None], errors=False)
    direction = np.random.default_rng(4).standard_normal(u.shape)
    direction -= direction.mean(axis=0)

    def energy(step: float) -> float:
        moved = (u + step * direction)[None]
        return float(force_field.predict_strained(deformation, moved, errors=False).energies[0])

    assert -slope(energy) == pytest.approx(np.sum(found.forces[0] * direction), rel=1e-7)


@pytest.mark.parametrize("name", [*NAMES, "tin selenide", "magnesium"])
def test_without_strain_the_reference_cell_answers(laboratory, name: str) -> None:
    force_field = with_ideal_virial(laboratory.force_field(name))
    u = np.stack([random_displacements(force_field.supercell, 0.1, seed) for seed in range(3)])
    expected, found = force_field.predict(u), force_field.predict_strained(ONE, u)
    for key in ("energies", "forces", "virials", "force_std"):
        wanted = getattr(expected, key)
        np.testing.assert_allclose(
            getattr(found, key), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max()
        )


@pytest.mark.parametrize("name", ["silicon", "gallium nitride", "triclinic"])
def test_design_rows_times_parameters_are_the_predictions(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    model, supercell = force_field.model, force_field.supercell
    u, deformation = random_displacements(supercell, 0.1, 3), random_deformation(3)
    strained_sum = StrainedSum(LatticeSum(model.expansion, supercell))
    rows = strained_sum.design_rows(deformation, u)
    found = force_field.predict_strained(deformation, u[None])
    scale = np.abs(found.virials).max()
    theta = model.posterior.mean
    np.testing.assert_allclose(rows.forces @ theta, found.forces.ravel(), atol=1e-12 * scale)
    np.testing.assert_allclose(rows.virial @ theta, voigt(found.virials[0]), atol=1e-12 * scale)
    energy = found.energies[0] - model.energy_per_cell * supercell.n_cells
    assert rows.energy @ theta == pytest.approx(energy, abs=1e-12 * scale)
    covariance = model.posterior.factor @ model.posterior.factor.T
    variances = np.einsum("ip,pq,iq->i", rows.forces, covariance, rows.forces)
    np.testing.assert_allclose(found.force_std.ravel() ** 2, variances, rtol=1e-8)
    single = force_field.predict_strained(deformation, u[None], exact_errors=False).force_std
    np.testing.assert_allclose(single, found.force_std, atol=1e-5 * found.force_std.max())


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide", "polonium"])
def test_every_strained_monomial_is_one_of_the_reference_or_of_lower_order(
    laboratory, name: str
) -> None:
    """One identical contribution per term, no monomial twice, the lowest body at home."""
    expansion = laboratory.expansion(name)
    table = build_strain_table(expansion)
    alone = np.all(table.factors < 0, axis=1)
    identical = table.monomials.variables[table.targets[alone]]
    order = np.argsort(table.terms[alone])
    np.testing.assert_array_equal(identical[order], expansion.monomials.variables)
    np.testing.assert_array_equal(table.weights[alone], 1.0)
    assert len(np.unique(table.monomials.variables, axis=0)) == table.n_targets - 1
    assert not expansion.bodies[table.monomials.anchors, :3].any()
    assert uniform_strain_scale(2) == pytest.approx(2)
    assert uniform_strain_scale(3) == pytest.approx(9 / 4)


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide", "tin selenide"])
def test_order_of_atoms_and_place_of_the_crystal_do_not_matter(laboratory, name: str) -> None:
    force_field = with_ideal_virial(laboratory.force_field(name))
    supercell, deformation = force_field.supercell, random_deformation(7, 0.03)
    u = random_displacements(supercell, 0.1, 0)
    atoms = supercell.to_atoms()
    atoms.set_cell(supercell.lattice @ deformation.T)
    atoms.positions = supercell.positions @ deformation.T + u
    direct = force_field.predict_strained(deformation, u[None])
    order = np.random.default_rng(1).permutation(len(atoms))
    other = atoms[order]
    other.translate([3.1, -7.3, 0.2])
    other.wrap()
    other.calc = LatticeCalculator(force_field.model)
    assert other.get_potential_energy() == pytest.approx(direct.energies[0], rel=1e-9)
    np.testing.assert_allclose(other.get_forces(), direct.forces[0][order], atol=1e-9)
    found = -other.get_stress(voigt=False) * other.get_volume()
    np.testing.assert_allclose(found, direct.virials[0], atol=1e-9 * np.abs(found).max())
    std = other.calc.results["force_std"]
    np.testing.assert_allclose(std, direct.force_std[0][order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide"])
def test_the_choice_of_primitive_cell_and_origin_does_not_matter(laboratory, name: str) -> None:
    """A model of another primitive cell learns a random one from forces in the reference cell."""
    cutoffs = {2: 3.1, 3: 2.6, 4: 2.4}
    supercell = Supercell(laboratory.crystal(name), np.diag([3, 3, 3]))
    expansion = build_expansion(supercell.crystal, cutoffs)
    teacher = ForceField(laboratory.random_model(expansion), supercell)
    primitive, shift = laboratory.atoms(name), np.array([0.3, 1.1, 0.7])
    primitive.translate(shift)
    primitive.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ primitive.cell[:])
    primitive.wrap()
    trainer = Trainer(build_expansion(Crystal.from_atoms(primitive), cutoffs))
    for seed in range(6):
        u = random_displacements(supercell, 0.2, seed)
        taught = teacher.predict(u[None], errors=False)
        turned = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ supercell.lattice
        trainer.add(turned, supercell.positions + u + shift, taught.forces[0], taught.energies[0])
    deformation = random_deformation(5, 0.02)
    atoms = supercell.to_atoms()
    atoms.positions = supercell.positions @ deformation.T + random_displacements(supercell, 0.1, 9)
    atoms.set_cell(turned @ deformation.T)
    student = StructurePredictor(trainer.fit(), maximum_strain=0.05).predict(atoms)
    atoms.set_cell(supercell.lattice @ deformation.T)
    expected = StructurePredictor(teacher.model).predict(atoms)
    assert student["energy"] == pytest.approx(expected["energy"], abs=1e-6)
    for key in ("forces", "stress"):
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(student[key], expected[key], rtol=0, atol=1e-7 * scale)


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
    cells = [random_deformation(seed, 0.02) if strained_labels else ONE for seed in range(5)]
    model = springs.train(pairs(bond), cells, size=0.15)
    predictor = StructurePredictor(model, maximum_strain=0.05)
    for seed, size in ((11, 0.01), (12, 0.03)):
        deformation, u = random_deformation(seed, size), random_displacements(supercell, 0.1, seed)
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
        deformation = random_deformation(3, size / 3)
        # Labels are a tenth as large, so that the fit gives Taylor's coefficients.
        model = springs.train(pairs(3.0, highest), [ONE] * 4, size / 10)
        u = random_displacements(supercell, size, 8)
        predictor = StructurePredictor(model, maximum_strain=0.05)
        found = predictor.predict(springs.structure(u, deformation))
        atoms = springs.structure(u, deformation)
        virial_error = found["stress"] * atoms.get_volume() + voigt(springs.virial(u, deformation))
        force_error = found["forces"] - springs.forces(u, deformation)
        errors.append([np.abs(force_error).max(), np.abs(virial_error).max()])
    gains = np.divide(errors[0], errors[1])
    assert np.all(gains > 2.0**highest / 1.5)
    assert np.all(gains < 2.0**highest * 1.5)


@pytest.mark.parametrize("name", ["aluminium", "iron", "polonium"])
def test_uniform_strain_of_a_bravais_crystal_gives_no_force(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    still = np.zeros((1, force_field.supercell.n_atoms, 3))
    found = force_field.predict_strained(random_deformation(1, 0.03), still, errors=False)
    assert np.abs(found.forces).max() < 1e-9
    assert np.abs(found.virials).max() > 1


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
            found = slope(lambda step, i=i, j=j: stress(step, i, j))
            assert found == pytest.approx(expected[i, j, k, other], abs=1e-6 * expected.max())


def test_the_elastic_constants_of_a_crystal_with_angular_forces_are_those_of_its_potential(
    laboratory,
) -> None:
    """Tersoff's silicon is far from the Cauchy relation, C12 = C44 before its atoms relax."""
    matrix = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
    supercell = Supercell(laboratory.crystal("silicon"), matrix)
    trainer = Trainer(build_expansion(supercell.crystal, {2: 5.0}), targets=["forces"])
    reference = make_calculator("tersoff-silicon")
    for seed in range(2):
        atoms = supercell.to_atoms()
        atoms.positions += random_displacements(supercell, 1e-4, seed)
        trainer.add(supercell.lattice, atoms.positions, reference.get_forces(atoms))
    force_field = ForceField(trainer.fit(), supercell, maximum_strain=0.05)
    volume, still = supercell.to_atoms().get_volume(), np.zeros((1, supercell.n_atoms, 3))

    def difference(strain: np.ndarray) -> np.ndarray:
        virials = [
            force_field.predict_strained(ONE + sign * strain, still, errors=False).virials
            for sign in (1, -1)
        ]
        return -voigt(virials[0][0] - virials[1][0]) / volume

    def reference_difference(strain: np.ndarray) -> np.ndarray:
        stresses = []
        for sign in (1, -1):
            atoms = supercell.to_atoms()
            atoms.set_cell(supercell.lattice @ (ONE + sign * strain).T, scale_atoms=True)
            stresses.append(reference.get_stress(atoms))
        return stresses[0] - stresses[1]

    stretch, shear = 1e-4 * np.diag([1.0, 0, 0]), 1e-4 * np.eye(3)[[0, 2, 1]] * [[0], [1], [1]]
    expected = [reference_difference(strain) for strain in (stretch, shear)]
    assert expected[1][3] / 2 > 1.4 * expected[0][1]  # C44 and C12
    for strain, wanted in zip((stretch, shear), expected, strict=True):
        np.testing.assert_allclose(difference(strain), wanted, atol=0.01 * np.abs(wanted).max())
    rotation = 1e-4 * np.cross(ONE, [1.0, 0, 0])
    assert np.abs(difference(rotation)).max() < 1e-6 * np.abs(expected[0]).max()


def test_a_crystal_under_pressure_does_the_work_of_its_change_of_volume() -> None:
    deformation = 1.01 * ONE
    volume_change = 1.01**3 - 1
    assert ideal_energy(3.0 * ONE, deformation) == pytest.approx(-3.0 * volume_change, rel=1e-4)
    found = ideal_virial(3.0 * ONE, deformation)
    np.testing.assert_allclose(found, 3.0 * 1.01**3 * ONE, rtol=1e-4)


def test_displacements_are_counted_from_the_strained_sites(laboratory) -> None:
    supercell = laboratory.force_field("tin selenide").supercell
    deformation, u = random_deformation(4, 0.04), random_displacements(supercell, 0.05, 4)
    order = np.random.default_rng(0).permutation(supercell.n_atoms)
    positions = (supercell.positions @ deformation.T + u)[order] + [1.0, 20.0, -3.0]
    numbers = supercell.numbers[order]
    assignment = assign_sites(supercell, positions, numbers, deformation=deformation)
    np.testing.assert_array_equal(supercell.numbers[assignment.sites], numbers)
    found = assignment.displacements(positions, deformation)
    distances = np.linalg.norm(assignment.to_user_order(found) - u[order], axis=1)
    assert distances.max() < 1e-10


def test_the_number_of_atoms_tells_a_strained_supercell_from_a_larger_one(laboratory) -> None:
    crystal = laboratory.crystal("silicon")
    matrix = np.diag([14, 14, 14])
    cell = 0.955 * matrix @ crystal.lattice
    found = identify_strained_supercell(crystal, cell, 2 * 14**3)
    np.testing.assert_array_equal(found, matrix)


def test_too_large_a_strain_is_refused_with_a_remedy(laboratory) -> None:
    force_field = laboratory.force_field("silicon")
    atoms = force_field.supercell.to_atoms()
    atoms.set_cell(1.06 * atoms.cell[:], scale_atoms=True)
    with pytest.raises(ModelError, match=r"not a supercell.*strained by at most 0\.05"):
        StructurePredictor(force_field.model).predict(atoms)
    with pytest.raises(ModelError, match=r"strained by up to 0\.060"):
        force_field.deformation(np.array(atoms.cell[:]))
