"""Energy, forces, virial and errors are derivatives of one function, linear in its parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.errors import ModelError
from anharm.model import BayesianModel, ForceField, LatticeSum, Supercell, build_expansion
from anharm.model.lattice_sum import voigt

NAMES = ["silicon", "gallium nitride", "polonium", "tin selenide", "triclinic", "monoclinic"]
EVERY_ORDER = [
    *(("silicon", order, 2.6) for order in range(2, 7)),
    *(("boron arsenide", order, 2.2) for order in range(2, 7)),
    ("triclinic", 2, 4.0),
    ("triclinic", 3, 3.4),
    ("monoclinic", 5, 2.3),
    ("monoclinic", 6, 2.3),
]


@pytest.mark.parametrize(("name", "order", "cutoff"), EVERY_ORDER)
@given(seed=st.integers(0, 2**31), size=st.floats(0.01, 0.4))
@settings(max_examples=4, deadline=None)
def test_forces_are_minus_the_gradient_of_the_energy(
    laboratory, name: str, order: int, cutoff: float, seed: int, size: float
) -> None:
    """One order at a time; a five-point difference along a line is exact up to order four."""
    crystal = laboratory.crystal(name)
    expansion = build_expansion(crystal, {order: cutoff})
    supercell = laboratory.fitting_supercell(expansion)
    force_field = ForceField(laboratory.random_model(expansion, seed=order), supercell)
    random = np.random.default_rng(seed)
    u = random.normal(0, size, (supercell.n_atoms, 3))
    direction = random.normal(size=u.shape)
    steps = np.arange(-3, 4) * 0.1
    line = force_field.predict(u + steps[:, None, None] * direction, errors=False, virial=False)
    polynomial = np.polynomial.Polynomial.fit(
        steps, line.energies - line.energies[3], order, domain=[-0.3, 0.3]
    )
    along = -np.einsum("cai,ai->c", line.forces, direction)
    np.testing.assert_allclose(along, polynomial.deriv()(steps), atol=1e-9 * np.abs(along).max())


@pytest.mark.parametrize("name", NAMES)
def test_every_force_component_is_a_derivative(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    u = np.random.default_rng(2).normal(0, 0.1, (force_field.supercell.n_atoms, 3))
    forces = force_field.predict(u[None], errors=False, virial=False).forces[0]
    step = 1e-3
    for atom in (0, len(u) // 2, len(u) - 1):
        for axis in range(3):
            moved = np.repeat(u[None], 4, axis=0)
            moved[:, atom, axis] += step * np.array([-2, -1, 1, 2])
            energies = force_field.predict(moved, errors=False, virial=False).energies
            slope = energies @ np.array([1, -8, 8, -1]) / (12 * step)
            assert forces[atom, axis] == pytest.approx(-slope, abs=1e-7 * np.abs(forces).max())


@pytest.mark.parametrize("name", NAMES)
def test_design_rows_times_parameters_are_the_predictions(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    model, supercell = force_field.model, force_field.supercell
    u = np.random.default_rng(4).normal(0, 0.1, (supercell.n_atoms, 3))
    rows = LatticeSum(model.expansion, supercell).design_rows(u)
    theta, prediction = model.posterior.mean, force_field.predict(u[None])
    scale = np.abs(prediction.forces).max()
    forces = (rows.forces @ theta).reshape(-1, 3)
    np.testing.assert_allclose(forces, prediction.forces[0], atol=1e-11 * scale)
    energy = prediction.energies[0] - model.energy_per_cell * supercell.n_cells
    assert rows.energy @ theta == pytest.approx(energy, abs=1e-10 * scale)
    np.testing.assert_allclose(rows.virial @ theta, voigt(prediction.virials[0]), atol=1e-9 * scale)
    np.testing.assert_array_equal(LatticeSum(model.expansion, supercell).force_rows(u), rows.forces)


def test_virial_rows_are_in_the_order_xx_yy_zz_yz_xz_xy() -> None:
    tensor = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert voigt(tensor).tolist() == [1, 2, 3, 4, 5, 6]
    lopsided = np.add(tensor, [[0, 1, 0], [-1, 0, 2], [0, -2, 0]])
    np.testing.assert_array_equal(voigt(np.stack([tensor, lopsided])), [[1, 2, 3, 4, 5, 6]] * 2)


def test_a_batch_is_its_configurations_one_by_one(laboratory) -> None:
    """Beads share vector lanes with each other and must not share anything else."""
    for name in ("silicon", "polonium", "tin selenide"):
        force_field = laboratory.force_field(name)
        u = np.random.default_rng(0).normal(0, 0.1, (7, force_field.supercell.n_atoms, 3))
        batch = force_field.predict(u)
        for index in range(len(u)):
            alone = force_field.predict(u[index : index + 1])
            for key in ("energies", "forces", "virials", "force_std"):
                np.testing.assert_allclose(
                    getattr(batch, key)[index], getattr(alone, key)[0], rtol=1e-10, atol=1e-11
                )


@pytest.mark.parametrize("name", ["silicon", "aluminium", "tin selenide"])
def test_supercells_of_every_shape_give_one_energy_per_cell(laboratory, name: str) -> None:
    """A displacement pattern that is periodic in all of them, left-handed and skewed ones too."""
    expansion = laboratory.expansion(name)
    base = laboratory.fitting_supercell(expansion)
    force_field = ForceField(laboratory.random_model(expansion), base)
    u = np.random.default_rng(1).normal(0, 0.1, (base.n_atoms, 3))
    expected = force_field.predict(u[None], errors=False)
    for transform in (
        [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
        [[1, 0, 0], [3, 1, 0], [0, -2, 1]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 1, 0], [-1, 1, 0], [0, 0, 1]],
    ):
        supercell = Supercell(base.crystal, np.array(transform) @ base.matrix)
        atoms = (
            np.arange(base.crystal.n_sites)[:, None] * base.n_cells
            + base.cell_index(supercell.cells)
        ).ravel()
        other = ForceField(laboratory.random_model(expansion), supercell)
        found = other.predict(u[None, atoms], errors=False)
        copies = supercell.n_cells / base.n_cells
        assert found.energies[0] == pytest.approx(expected.energies[0] * copies, rel=1e-10)
        np.testing.assert_allclose(found.forces[0], expected.forces[0][atoms], rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.virials[0], expected.virials[0] * copies, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["silicon", "boron arsenide", "magnesium", "tin selenide", "triclinic", "monoclinic"]
)
def test_force_std_is_the_propagated_posterior_covariance(laboratory, name: str) -> None:
    """sigma^2 = diag(Phi S Phi^T), computed densely."""
    force_field = laboratory.force_field(name)
    posterior = force_field.model.posterior
    u = np.random.default_rng(6).normal(0, 0.1, (force_field.supercell.n_atoms, 3))
    rows = LatticeSum(force_field.model.expansion, force_field.supercell).force_rows(u)
    covariance = posterior.factor @ posterior.factor.T
    dense = np.diag(rows @ covariance @ rows.T).reshape(-1, 3)
    std = force_field.force_std(u[None])[0]
    np.testing.assert_allclose(std**2, dense, rtol=1e-10, atol=1e-14 * dense.max())


@given(seed=st.integers(0, 2**31), size=st.floats(0, 0.5), tiny=st.floats(1e-12, 1.0))
@settings(max_examples=10, deadline=None)
def test_force_std_is_a_non_negative_number_even_where_the_labels_decide_all(
    laboratory, seed: int, size: float, tiny: float
) -> None:
    force_field = laboratory.force_field("polonium")
    model = force_field.model
    certain = replace(
        model, posterior=replace(model.posterior, factor=model.posterior.factor * tiny)
    )
    narrow = ForceField(certain, force_field.supercell)
    u = np.random.default_rng(seed).normal(0, size, (1, force_field.supercell.n_atoms, 3))
    std = narrow.force_std(u)
    assert np.isfinite(std).all()
    assert (std >= 0).all()
    np.testing.assert_allclose(std, tiny * force_field.force_std(u), rtol=1e-9)


@pytest.mark.parametrize("name", ["silicon", "triclinic"])
def test_the_ideal_crystal_has_no_forces_and_no_doubt_about_them(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    prediction = force_field.predict(np.zeros((1, force_field.supercell.n_atoms, 3)))
    assert not prediction.forces.any()
    assert not prediction.force_std.any()
    assert not prediction.virials.any()
    assert prediction.energies[0] == -1.5 * force_field.supercell.n_cells


def test_another_version_of_the_model_replaces_the_first_completely(laboratory) -> None:
    expansion = laboratory.expansion("silicon")
    supercell = laboratory.fitting_supercell(expansion)
    u = np.random.default_rng(0).normal(0, 0.1, (1, supercell.n_atoms, 3))
    second = laboratory.random_model(expansion, seed=2)
    force_field = ForceField(laboratory.random_model(expansion, seed=1), supercell)
    force_field.use(second)
    fresh = ForceField(second, supercell).predict(u)
    swapped = force_field.predict(u)
    np.testing.assert_array_equal(swapped.forces, fresh.forces)
    np.testing.assert_array_equal(swapped.virials, fresh.virials)
    np.testing.assert_array_equal(swapped.force_std, fresh.force_std)


def test_a_model_of_another_expansion_is_refused(laboratory) -> None:
    force_field = laboratory.force_field("silicon")
    other: BayesianModel = laboratory.random_model(laboratory.expansion("polonium"))
    with pytest.raises(ModelError, match="another crystal or expansion"):
        force_field.use(other)


def test_a_cell_that_is_strained_too_far_is_refused_with_its_strain(laboratory) -> None:
    force_field = laboratory.force_field("silicon")
    cell = force_field.supercell.lattice
    assert force_field.deformation(cell + 1e-8) is None
    np.testing.assert_allclose(force_field.deformation(1.02 * cell), 1.02 * np.eye(3), atol=1e-12)
    with pytest.raises(ModelError, match=r"strained by up to 0\.060.*allowed 0\.05"):
        force_field.deformation(1.06 * cell)
    with pytest.raises(ModelError):
        force_field.deformation(np.full((3, 3), np.nan))


def test_a_cell_beyond_the_strain_of_the_labels_is_refused_unless_it_is_allowed(laboratory) -> None:
    force_field = laboratory.force_field("silicon")
    model = replace(force_field.model, largest_strain=0.01)
    cell = force_field.supercell.lattice
    trained = ForceField(model, force_field.supercell)
    np.testing.assert_allclose(trained.deformation(1.019 * cell), 1.019 * np.eye(3), atol=1e-12)
    with pytest.raises(ModelError, match=r"0\.021 .*than the 0\.02 that the model was trained for"):
        trained.deformation(1.021 * cell)
    with pytest.raises(ModelError, match=r"training\.initial_strain.*crystal\.maximum_strain"):
        trained.deformation(1.021 * cell)
    with pytest.raises(ModelError, match=r"allowed 0\.05: train a model about"):
        trained.deformation(1.06 * cell)
    allowed = ForceField(model, force_field.supercell, maximum_strain=0.03)
    assert allowed.deformation(1.029 * cell) is not None
    with pytest.raises(ModelError, match=r"allowed 0\.03"):
        allowed.deformation(1.031 * cell)
    trained.use(replace(model, largest_strain=0.02))  # labels in more strained cells came
    assert trained.deformation(1.021 * cell) is not None
