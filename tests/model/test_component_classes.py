"""The error of a force involves the parameters of clusters around its atom, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.linalg import null_space

from anharm.model import ForceField, LatticeSum
from anharm.model.component_classes import ComponentClasses
from anharm.model.force_errors import PosteriorFactor

DOUBLE = np.dtype(float)


@pytest.mark.parametrize(("name", "n_classes"), [("silicon", 1), ("boron arsenide", 2)])
def test_sites_that_symmetry_relates_are_one_class(laboratory, name: str, n_classes: int) -> None:
    errors = laboratory.force_field(name)._errors
    assert len(errors.classes.components) == n_classes


def test_a_mirror_plane_divides_the_axes_of_a_site(laboratory) -> None:
    """Pnma: both species lie on mirror planes perpendicular to y, four sites of each."""
    classes = laboratory.force_field("tin selenide")._errors.classes
    assert len(classes.components) == 6
    for components in classes.components:
        sites, axes = np.divmod(components, 3)
        assert len(set(axes)) == 1
        assert set(sites) in ({0, 1, 2, 3}, {4, 5, 6, 7})


@pytest.mark.parametrize("name", ["boron arsenide", "tin selenide", "triclinic"])
def test_doubts_about_other_forces_do_not_add_to_an_error(laboratory, name: str) -> None:
    """A direction of the parameters that no force along x on the first site depends on."""
    force_field = laboratory.force_field(name)
    model, supercell = force_field.model, force_field.supercell
    lattice_sum, parameters = LatticeSum(model.expansion, supercell), model.expansion.n_parameters
    here = np.arange(supercell.n_atoms) < supercell.n_cells  # atoms are ordered by site
    rows: list[np.ndarray] = []
    while len(rows) * here.sum() < parameters:
        u = laboratory.random_displacements(supercell, 0.3, len(rows))
        rows.append(lattice_sum.force_rows(u).reshape(-1, 3, parameters)[here, 0])
    elsewhere = null_space(np.concatenate(rows))
    assert elsewhere.size
    factor = np.hstack([model.posterior.factor, 10 * elsewhere])
    doubtful = replace(model, posterior=replace(model.posterior, factor=factor))
    u = laboratory.random_displacements(supercell, 0.1, 99)[None]
    before, after = (ForceField(x, supercell).force_std(u)[0] for x in (model, doubtful))
    np.testing.assert_allclose(after[here, 0], before[here, 0], rtol=1e-9)
    assert (after > 1.001 * before).any()


def test_factors_are_as_large_as_the_parameters_that_touch_a_class(laboratory) -> None:
    force_field = laboratory.force_field("tin selenide")
    classes = force_field._errors.classes
    factors = force_field._factor.packed(classes, DOUBLE)
    assert (
        sum(len(x) ** 2 for x in classes.parameters)
        < 2 * force_field.model.expansion.n_parameters**2
    )
    assert len(factors.first_groups) == len(classes.parameters) + 1
    longest = np.diff(factors.starts)
    for number, parameters in enumerate(classes.parameters):
        first, last = factors.first_groups[number : number + 2]
        assert longest[first:last].max() == len(parameters)


def test_what_no_parameter_touches_has_no_error(laboratory) -> None:
    force_field = laboratory.force_field("boron arsenide")
    touched = np.zeros((force_field.model.expansion.n_parameters, 6), dtype=bool)
    touched[:, 1:] = True
    classes = ComponentClasses.of(touched)
    factor = PosteriorFactor(force_field.model.posterior.factor, force_field._independent)
    counts = np.diff(factor.packed(classes, DOUBLE).first_groups)
    assert counts.tolist()[0] == 0
    assert counts[1] > 0


@given(
    touched=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)),
)
@settings(max_examples=100, deadline=None)
def test_every_component_is_in_one_class_with_all_its_parameters(touched: np.ndarray) -> None:
    """Where sets differ much, classes are merged before their factors outgrow that of all."""
    classes = ComponentClasses.of(touched)
    n_parameters, n_components = touched.shape
    together = np.sort(np.concatenate(classes.components))
    np.testing.assert_array_equal(together, np.arange(n_components))
    for components, parameters in zip(classes.components, classes.parameters, strict=True):
        needed = np.flatnonzero(touched[:, components].any(axis=1))
        np.testing.assert_array_equal(parameters, needed)
    assert sum(len(x) ** 2 for x in classes.parameters) <= 2 * n_parameters**2
