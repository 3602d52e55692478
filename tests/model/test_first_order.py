"""Forces on the sites of a crystal that is not relaxed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell

from anharm.errors import ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    Expansion,
    ForceField,
    LatticeSum,
    Supercell,
    Trainer,
    build_expansion,
)
from anharm.model.storage import model_from_bytes, model_to_bytes

# Invariants of the sites' symmetry, less those that move the crystal as a whole.
FORCES = {
    "silicon": 0,
    "magnesium oxide": 0,
    "magnesium": 0,
    "gallium nitride": 2 - 1,  # along c for each element
    "tin selenide": 4,  # x and z for each element; the glide planes cancel their sum
    "monoclinic": 2,  # x and z of the oxygens, opposite on the two
    "triclinic": 3 * (3 - 1),
}
CUTOFFS = {
    "gallium nitride": {2: 3.3, 3: 2.5},
    "tin selenide": {2: 3.6, 3: 3.0},
    "triclinic": {2: 4.0, 3: {2: 3.6, 3: 3.5}, 4: {2: 3.3, 3: 0.0}},
}


def with_forces(atoms: Atoms, cutoffs: dict) -> Expansion:
    return build_expansion(Crystal.from_atoms(atoms), cutoffs, first_order=True)


@pytest.fixture(scope="module", params=list(CUTOFFS))
def teacher(request, laboratory) -> ForceField:
    """A random model with forces of about 0.5 eV/Angstrom on the sites."""
    expansion = with_forces(laboratory.atoms(request.param), CUTOFFS[request.param])
    model = laboratory.random_model(expansion)
    mean = np.where(expansion.parameter_orders == 1, 0.2, 1.0) * model.posterior.mean
    model = replace(model, posterior=replace(model.posterior, mean=mean))
    return ForceField(model, laboratory.fitting_supercell(expansion))


def at_rest(force_field: ForceField) -> np.ndarray:
    return np.zeros((1, force_field.supercell.n_atoms, 3))


@pytest.mark.parametrize("name", FORCES)
def test_the_forces_that_symmetry_allows_are_counted(laboratory, name: str) -> None:
    atoms = laboratory.atoms(name)
    expansion = with_forces(atoms, {2: 4.0})
    assert expansion.orders == (1, 2)
    assert expansion.parameters_per_order[1] == FORCES[name]
    without = build_expansion(Crystal.from_atoms(atoms), {2: 4.0})
    assert without.orders == (2,) and 1 not in without.parameters_per_order
    assert expansion.parameters_per_order[2] == without.parameters_per_order[2]


def test_a_crystal_without_symmetry_has_three_per_site_but_one() -> None:
    random = np.random.default_rng(2)
    cell = [[6.1, 0.2, -0.3], [0.7, 6.4, 0.1], [-0.4, 0.9, 6.9]]
    for n_sites in (1, 2, 5):
        atoms = Atoms(["H", "O", "C", "N", "F"][:n_sites], cell=cell, pbc=True)
        atoms.set_scaled_positions(random.uniform(0, 1, (n_sites, 3)))
        expansion = with_forces(atoms, {2: 7.5})
        assert expansion.parameters_per_order[1] == 3 * (n_sites - 1)


def test_a_multiple_cell_has_the_forces_of_the_primitive_cell(laboratory) -> None:
    atoms = laboratory.atoms("gallium nitride")
    multiple = make_supercell(atoms, [[1, -1, 0], [1, 2, 0], [0, 0, 1]])
    assert with_forces(multiple, {2: 3.3}).parameters_per_order[1] == 1


def test_first_order_is_no_cutoff(laboratory) -> None:
    with pytest.raises(ModelError, match=r"order 1 .* expansion\.first_order"):
        build_expansion(laboratory.crystal("tin selenide"), {1: 0.1, 2: 3.6})


def test_force_constants_of_first_order_are_the_forces_on_the_sites(teacher) -> None:
    supercell = teacher.supercell
    forces = teacher.predict(at_rest(teacher), errors=False).forces[0]
    assert np.abs(forces).max() > 0.05
    clusters, tensors = teacher.model.force_constants(1)
    expected = np.zeros((supercell.crystal.n_sites, 3))
    expected[clusters[:, 0, 3]] = -tensors
    np.testing.assert_allclose(forces, np.repeat(expected, supercell.n_cells, axis=0), atol=1e-13)
    assert np.abs(tensors.sum(axis=0)).max() < 1e-12 * np.abs(tensors).max()


def test_an_expansion_without_allowed_forces_has_no_such_force_constants(laboratory) -> None:
    model = laboratory.random_model(with_forces(laboratory.atoms("silicon"), {2: 4.0}))
    clusters, tensors = model.force_constants(1)
    assert clusters.shape == (0, 1, 4) and tensors.shape == (0, 3)


def test_forces_are_the_slope_of_the_energy(teacher) -> None:
    n_atoms = teacher.supercell.n_atoms
    u, along = np.random.default_rng(0).normal(0, 0.05, (2, n_atoms, 3))
    h = 1e-4
    steps = np.array([u - 2 * h * along, u - h * along, u + h * along, u + 2 * h * along])
    energies = teacher.predict(steps, errors=False).energies
    slope = (energies @ [1, -8, 8, -1]) / (12 * h)
    forces = teacher.predict(u[None], errors=False).forces[0]
    assert -np.sum(forces * along) == pytest.approx(slope, rel=1e-8)


def test_the_energy_and_the_virial_of_first_order_are_those_of_constant_forces(teacher) -> None:
    """E = -sum f u, whose strain at fixed fractional coordinates gives the virial f u."""
    posterior = teacher.model.posterior
    first = np.where(teacher.model.expansion.parameter_orders == 1, posterior.mean, 0)
    model = replace(teacher.model, posterior=replace(posterior, mean=first), energy_per_cell=0.0)
    linear = ForceField(model, teacher.supercell)
    u = np.random.default_rng(1).normal(0, 0.1, at_rest(teacher).shape)
    found = linear.predict(u, errors=False)
    np.testing.assert_allclose(found.forces, linear.predict(0 * u, errors=False).forces)
    assert found.energies[0] == pytest.approx(-np.sum(found.forces * u), rel=1e-12)
    moment = np.einsum("ai,aj->ij", found.forces[0], u[0])
    np.testing.assert_allclose(found.virials[0], (moment + moment.T) / 2, atol=1e-12)


def test_design_rows_are_the_model(teacher) -> None:
    u = np.random.default_rng(2).normal(0, 0.1, at_rest(teacher).shape)
    rows = LatticeSum(teacher.model.expansion, teacher.supercell).design_rows(u[0])
    found = teacher.predict(u, errors=False)
    mean = teacher.model.posterior.mean
    scale = np.abs(found.forces).max()
    assert np.abs(rows.forces @ mean - found.forces.ravel()).max() < 1e-12 * scale
    offset = teacher.model.energy_per_cell * teacher.supercell.n_cells
    assert rows.energy @ mean + offset == pytest.approx(found.energies[0], rel=1e-10)


def train(teacher: ForceField, expansion: Expansion, n: int) -> BayesianModel:
    """A model of the teacher's forces, energies and virials of n random configurations."""
    supercell = teacher.supercell
    trainer = Trainer(expansion)
    for u in np.random.default_rng(3).normal(0, 0.1, (n, supercell.n_atoms, 3)):
        u -= u.mean(axis=0)  # which the trainer does, and random models of polar crystals feel
        found = teacher.predict(u[None], errors=False)
        trainer.add(
            supercell.lattice,
            supercell.positions + u,
            found.forces[0],
            float(found.energies[0]),
            supercell.numbers,
            found.virials[0],
        )
    return trainer.fit()


def test_a_fit_finds_the_forces_on_the_sites(teacher) -> None:
    ideal = np.diag([0.3, 0.3, 0.1])  # a stress that the symmetry of every crystal here allows
    teacher = ForceField(replace(teacher.model, virial_per_cell=ideal), teacher.supercell)
    model = train(teacher, teacher.model.expansion, n=6)
    student = ForceField(model, teacher.supercell)
    for u in (at_rest(teacher), np.random.default_rng(4).normal(0, 0.1, at_rest(teacher).shape)):
        found, truth = student.predict(u, errors=False), teacher.predict(u, errors=False)
        np.testing.assert_allclose(found.forces, truth.forces, atol=1e-9)
        np.testing.assert_allclose(found.energies, truth.energies, atol=1e-7)
        np.testing.assert_allclose(found.virials, truth.virials, atol=1e-7)
    _, tensors = model.force_constants(1)
    _, expected = teacher.model.force_constants(1)
    np.testing.assert_allclose(tensors, expected, atol=1e-9)


def test_without_first_order_such_forces_cannot_be_described(teacher) -> None:
    expansion = teacher.model.expansion
    cutoffs = {order: cutoff for order, cutoff in expansion.cutoffs.items() if order > 1}
    model = train(teacher, build_expansion(expansion.crystal, cutoffs), n=6)
    at_sites = ForceField(model, teacher.supercell).predict(at_rest(teacher), errors=False)
    assert not at_sites.forces.any()


def test_the_noise_and_the_errors_know_first_order(teacher) -> None:
    """At the ideal sites only the forces there are uncertain."""
    std = teacher.force_std(at_rest(teacher))
    assert std.max() > 0
    assert (teacher.predictive_force_std(at_rest(teacher)) > std).all()


def test_a_model_file_keeps_first_order(teacher) -> None:
    loaded = model_from_bytes(model_to_bytes(teacher.model), "here")
    assert loaded.expansion.orders == teacher.model.expansion.orders
    assert loaded.expansion.cutoffs == teacher.model.expansion.cutoffs
    assert loaded.expansion.is_same(teacher.model.expansion)
    u = np.random.default_rng(5).normal(0, 0.1, at_rest(teacher).shape)
    before = teacher.predict(u)
    after = ForceField(loaded, Supercell(loaded.expansion.crystal, teacher.supercell.matrix))
    for key in ("energies", "forces", "virials", "force_std"):
        np.testing.assert_array_equal(getattr(after.predict(u), key), getattr(before, key))
