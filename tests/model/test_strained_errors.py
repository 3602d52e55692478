"""Errors of forces in strained cells are those of the strained crystal's own design rows."""

from __future__ import annotations

import numpy as np
import pytest

from anharm.model import LatticeSum
from anharm.model.strain import StrainedSum

STRAIN = np.array([[0.01, 0.004, -0.002], [-0.001, -0.006, 0.003], [0.005, 0.0, 0.008]])
NAMES = ["silicon", "boron arsenide", "gallium nitride", "tin selenide", "triclinic"]
POLAR = ("gallium nitride", "triclinic")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.1, 0.001])
def test_the_variance_is_that_of_the_design_rows(laboratory, name: str, scale: float) -> None:
    """These come from the strained energy, whose monomials have origins of their own."""
    force_field = laboratory.force_field(name)
    supercell, posterior = force_field.supercell, force_field.model.posterior
    strained = StrainedSum(LatticeSum(force_field.model.expansion, supercell))
    u = laboratory.random_displacements(supercell, scale, 1)
    for deformation in (np.eye(3) + STRAIN, np.eye(3) - 2 * STRAIN):
        rows = strained.force_rows(deformation, u)
        expected = np.linalg.norm(rows @ posterior.factor, axis=1).reshape(u.shape)
        exact = force_field.force_std(u[None], True, deformation)[0]
        single = force_field.force_std(u[None], False, deformation)[0]
        np.testing.assert_allclose(exact**2, expected**2, rtol=1e-10)
        np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.parametrize("name", NAMES)
def test_only_a_polar_crystal_has_a_mean_to_remove(laboratory, name: str) -> None:
    errors = laboratory.force_field(name)._strained_errors
    assert errors._has_mean == (name in POLAR)


def test_the_mean_of_the_rows_does_not_depend_on_displacements(laboratory) -> None:
    """The rows before their mean is removed, of a polar crystal."""
    force_field = laboratory.force_field("gallium nitride")
    program = force_field._strained.columns(np.eye(3) + STRAIN)
    expansion, atoms = force_field.model.expansion, force_field._sum.body_atoms
    means = []
    for seed, scale in ((1, 0.1), (2, 0.01)):
        u = laboratory.random_displacements(force_field.supercell, scale, seed)[None]
        rows = program.evaluate(u, atoms, virial=False).forces.mean(axis=2)[:, 0]
        means.append(expansion.constrain(rows))
    assert np.abs(means[0]).max() > 1e-6
    np.testing.assert_allclose(means[0], means[1], rtol=0, atol=1e-12)
