"""A committee drawn from the posterior: its mean is the model, its spread the model's errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anharm.errors import ModelError
from anharm.model import BayesianModel, ForceField
from anharm.model.committee import Members, draw_pairs

STRAIN = np.array([[0.01, 0.002, 0], [0.002, -0.005, 0], [0, 0, 0.003]])


def with_uncertain_constants(model: BayesianModel) -> BayesianModel:
    """Energy and virial of the ideal crystal known as well as two labels would tell."""
    n_columns = 2 + model.expansion.n_parameters
    factor = np.random.default_rng(11).normal(0, 1e-3, (7, n_columns))
    return replace(model, constants_factor=factor)


def members_of(
    force_field: ForceField, n_members: int, u: np.ndarray, deformation: np.ndarray | None
) -> tuple[Members, Members]:
    """The members, and the model as a committee of one."""
    if deformation is None:
        mean = force_field.predict(u, errors=False)
    else:
        mean = force_field.predict_strained(deformation, u, errors=False)
    assert mean.virials is not None
    values = (mean.energies, mean.forces, mean.virials)
    found = force_field.committee(n_members).about(*values, u, deformation)
    return found, Members(*(value[:, None] for value in values))


@pytest.mark.parametrize("deformation", [None, np.eye(3) + STRAIN])
@pytest.mark.parametrize("n_members", [2, 8])
def test_the_mean_of_the_members_is_the_model(laboratory, deformation, n_members) -> None:
    model = with_uncertain_constants(laboratory.force_field("boron arsenide").model)
    force_field = ForceField(model, laboratory.force_field("boron arsenide").supercell)
    u = np.random.default_rng(1).normal(0, 0.05, (3, force_field.supercell.n_atoms, 3))
    found, model_alone = members_of(force_field, n_members, u, deformation)
    for field in ("energies", "forces", "virials"):
        members, mean = getattr(found, field), getattr(model_alone, field)
        assert members.shape[1] == n_members
        assert np.ptp(members, axis=1).max() > 0
        scale = np.abs(members).max()
        np.testing.assert_allclose(members.mean(axis=1), mean[:, 0], atol=1e-13 * scale)


@pytest.mark.parametrize("deformation", [None, np.eye(3) + STRAIN])
@pytest.mark.parametrize("uncertain_constants", [False, True])
def test_a_member_alone_gives_what_it_gives_in_the_committee(
    laboratory, deformation, uncertain_constants
) -> None:
    model = laboratory.force_field("silicon").model
    if uncertain_constants:
        model = with_uncertain_constants(model)
    force_field = ForceField(model, laboratory.force_field("silicon").supercell)
    u = np.random.default_rng(4).normal(0, 0.05, (2, force_field.supercell.n_atoms, 3))
    together, _ = members_of(force_field, 4, u, deformation)
    committee = force_field.committee(4)
    for index in range(4):
        alone = ForceField(committee.member(index), force_field.supercell)
        _, expected = members_of(alone, 2, u, deformation)
        for field in ("energies", "forces", "virials"):
            found, scale = getattr(together, field), np.abs(getattr(together, field)).max()
            np.testing.assert_allclose(
                found[:, index], getattr(expected, field)[:, 0], rtol=0, atol=1e-12 * scale
            )


@pytest.mark.parametrize("deformation", [None, np.eye(3) + STRAIN])
@pytest.mark.parametrize("uncertain_constants", [False, True])
def test_two_members_per_parameter_spread_exactly_as_the_posterior(
    laboratory, deformation, uncertain_constants
) -> None:
    model = laboratory.force_field("silicon").model
    if uncertain_constants:
        model = with_uncertain_constants(model)
    force_field = ForceField(model, laboratory.force_field("silicon").supercell)
    n_dimensions = model.posterior.factor.shape[1] + 2 * uncertain_constants
    u = np.random.default_rng(2).normal(0, 0.05, (1, force_field.supercell.n_atoms, 3))
    found, _ = members_of(force_field, 2 * n_dimensions, u, deformation)
    expected = force_field.structure_errors(u[0], deformation)
    std = force_field.force_std(u, deformation=deformation)
    close = {"rtol": 1e-8, "atol": 1e-12}
    np.testing.assert_allclose(found.energies.std(axis=1), expected.energy_std, **close)
    np.testing.assert_allclose(found.forces.std(axis=1), std, **close)
    np.testing.assert_allclose(found.virials.std(axis=1)[0], expected.virial_std, **close)


@pytest.mark.parametrize("n_pairs", [1, 5, 7, 12])
def test_draws_have_the_variance_of_the_posterior_on_average(n_pairs: int) -> None:
    n_dimensions = 5
    covariance = np.mean(
        [
            draws @ draws.T / n_pairs
            for draws in (draw_pairs(n_pairs, n_dimensions, seed) for seed in range(4000))
        ],
        axis=0,
    )
    np.testing.assert_allclose(covariance, np.eye(n_dimensions), atol=0.1)
    first = draw_pairs(n_pairs, n_dimensions, 0)
    assert first.shape == (n_dimensions, n_pairs)
    np.testing.assert_allclose(np.sum(first**2, axis=0), n_dimensions)


def test_a_member_keeps_its_place_when_the_model_is_loaded_again(laboratory) -> None:
    """Without that, a run that is continued would mix the members."""
    force_field = laboratory.force_field("silicon")
    again = ForceField(force_field.model, force_field.supercell)
    u = np.random.default_rng(3).normal(0, 0.05, (1, force_field.supercell.n_atoms, 3))
    for first, second in zip(
        members_of(force_field, 4, u, None)[0].energies,
        members_of(again, 4, u, None)[0].energies,
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("n_members", [0, 1, 7])
def test_members_come_in_pairs(laboratory, n_members: int) -> None:
    with pytest.raises(ModelError, match="an even number of at least 2"):
        laboratory.force_field("silicon").committee(n_members)
