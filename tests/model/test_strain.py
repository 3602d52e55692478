"""Energy, forces and virial in cells near the reference are derivatives of one function.

Where a strain leaves no force unambiguous (rank-3 tensors, in crystals with neither inversion nor
cubic symmetry), the expansion's translational sum rules do not fix the energy of a strained cell
completely; so statements about arbitrary parameters that go beyond "derivative of one function"
are made for silicon, magnesium oxide, polonium and the like.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anharm.model import (
    Crystal,
    ForceField,
    LatticeCalculator,
    LatticeSum,
    StructurePredictor,
    Supercell,
    Trainer,
    build_expansion,
)
from anharm.model.elastic_energy import uniform_strain_scale
from anharm.model.lattice_sum import voigt
from anharm.model.strain import StrainedSum
from anharm.model.strain_table import build_strain_table

NAMES = ["silicon", "magnesium oxide", "triclinic", "gallium nitride", "monoclinic"]
ONE = np.eye(3)


def with_ideal_virial(force_field: ForceField) -> ForceField:
    """The same model, its reference crystal under stress."""
    tensor = np.array([[3.0, 0.4, -0.7], [0.4, 1.0, 0.2], [-0.7, 0.2, -2.0]])
    return ForceField(replace(force_field.model, virial_per_cell=tensor), force_field.supercell)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2])
def test_forces_and_virial_are_derivatives_of_the_energy(laboratory, name: str, seed: int) -> None:
    """Silicon and magnesium oxide in orders two to six, the others up to four or five."""
    force_field = with_ideal_virial(laboratory.force_field(name))
    u = laboratory.random_displacements(force_field.supercell, 0.1, seed)
    deformation = laboratory.random_deformation(seed)
    random = np.random.default_rng(seed)
    direction, strain = random.normal(size=u.shape), random.normal(size=(3, 3))
    strain += strain.T

    def energy(u: np.ndarray, deformation: np.ndarray) -> float:
        found = force_field.predict_strained(deformation, u[None], errors=False, virial=False)
        return float(found.energies[0])

    found = force_field.predict_strained(deformation, u[None], errors=False)
    along = laboratory.slope(lambda step: energy(u + step * direction, deformation))
    assert -np.sum(found.forces[0] * direction) == pytest.approx(along, rel=1e-8)

    def strained(step: float) -> float:
        further = ONE + step * strain
        return energy(u @ further.T, further @ deformation)

    assert -np.sum(found.virials[0] * strain) == pytest.approx(laboratory.slope(strained), rel=1e-8)


def test_forces_on_the_sites_of_an_unrelaxed_crystal_are_served_in_strained_cells(
    laboratory,
) -> None:
    crystal = laboratory.crystal("tin selenide")
    expansion = build_expansion(crystal, {2: 4.0, 3: 3.0}, first_order=True)
    force_field = ForceField(
        laboratory.random_model(expansion), laboratory.fitting_supercell(expansion)
    )
    u = laboratory.random_displacements(force_field.supercell, 0.02, 1)
    deformation = laboratory.random_deformation(3)
    found = force_field.predict_strained(deformation, u[None], errors=False)
    direction = np.random.default_rng(4).standard_normal(u.shape)
    direction -= direction.mean(axis=0)

    def energy(step: float) -> float:
        moved = (u + step * direction)[None]
        return float(force_field.predict_strained(deformation, moved, errors=False).energies[0])

    assert -laboratory.slope(energy) == pytest.approx(np.sum(found.forces[0] * direction), rel=1e-7)


@pytest.mark.parametrize("name", [*NAMES, "tin selenide", "magnesium"])
def test_without_strain_the_reference_cell_answers(laboratory, name: str) -> None:
    force_field = with_ideal_virial(laboratory.force_field(name))
    u = np.stack(
        [laboratory.random_displacements(force_field.supercell, 0.1, seed) for seed in range(3)]
    )
    expected, found = force_field.predict(u), force_field.predict_strained(ONE, u)
    for key in ("energies", "forces", "virials", "force_std"):
        wanted = getattr(expected, key)
        np.testing.assert_allclose(
            getattr(found, key), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max()
        )


@pytest.mark.parametrize(
    "name", ["silicon", "boron arsenide", "gallium nitride", "tin selenide", "triclinic"]
)
def test_design_rows_times_parameters_are_the_predictions(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    model, supercell = force_field.model, force_field.supercell
    u, deformation = (
        laboratory.random_displacements(supercell, 0.1, 3),
        laboratory.random_deformation(3),
    )
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
    np.testing.assert_allclose(found.force_std.ravel() ** 2, variances, rtol=1e-10)
    single = force_field.predict_strained(deformation, u[None], exact_errors=False).force_std
    np.testing.assert_allclose(single, found.force_std, atol=1e-5 * found.force_std.max())


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide", "polonium"])
def test_every_strained_monomial_is_one_of_the_reference_or_of_lower_order(
    laboratory, name: str
) -> None:
    """One identical contribution per term, no monomial twice, the lowest body at home."""
    expansion = laboratory.expansion(name)
    table = build_strain_table(expansion)
    alone = table.numbers == 0
    identical = table.monomials.variables[table.targets[alone]]
    order = np.argsort(table.terms[alone])
    np.testing.assert_array_equal(identical[order], expansion.monomials.variables)
    np.testing.assert_array_equal(table.weights[alone], 1.0)
    assert len(np.unique(table.monomials.variables, axis=0)) == table.n_targets
    assert not expansion.bodies[table.monomials.anchors, :3].any()
    assert uniform_strain_scale(2) == pytest.approx(2)
    assert uniform_strain_scale(3) == pytest.approx(9 / 4)


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide", "tin selenide"])
def test_order_of_atoms_and_place_of_the_crystal_do_not_matter(laboratory, name: str) -> None:
    force_field = with_ideal_virial(laboratory.force_field(name))
    supercell, deformation = force_field.supercell, laboratory.random_deformation(7, 0.03)
    u = laboratory.random_displacements(supercell, 0.1, 0)
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
        u = laboratory.random_displacements(supercell, 0.2, seed)
        taught = teacher.predict(u[None], errors=False)
        turned = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ supercell.lattice
        trainer.add(turned, supercell.positions + u + shift, taught.forces[0], taught.energies[0])
    deformation = laboratory.random_deformation(5, 0.02)
    atoms = supercell.to_atoms()
    atoms.positions = supercell.positions @ deformation.T + laboratory.random_displacements(
        supercell, 0.1, 9
    )
    atoms.set_cell(turned @ deformation.T)
    student = StructurePredictor(trainer.fit(), maximum_strain=0.05).predict(atoms)
    atoms.set_cell(supercell.lattice @ deformation.T)
    expected = StructurePredictor(teacher.model).predict(atoms)
    assert student["energy"] == pytest.approx(expected["energy"], abs=1e-6)
    for key in ("forces", "stress"):
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(student[key], expected[key], rtol=0, atol=1e-7 * scale)
