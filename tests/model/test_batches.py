"""Beads, threads and blocks share the work and must not change the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from anharm.model import ForceField, force_errors
from anharm.model.force_errors import PosteriorFactor
from anharm.model.lanes import NARROW, TINY
from anharm.model.threads import ranges

FIELDS = ("energies", "forces", "virials", "force_std")


def close(found: np.ndarray, expected: np.ndarray, relative: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max())


@pytest.mark.parametrize("name", ["silicon", "boron arsenide", "triclinic"])
@pytest.mark.parametrize("n_configurations", [2, 9, 32, 67])
@pytest.mark.parametrize("strained", [False, True])
def test_every_configuration_of_a_batch_is_as_if_alone(
    laboratory, name: str, n_configurations: int, strained: bool
) -> None:
    """Fewer and more than the lanes of a block, multiples of it and not."""
    force_field = laboratory.force_field(name)
    shape = (n_configurations, force_field.supercell.n_atoms, 3)
    u = np.random.default_rng(5).normal(0, 0.1, shape)
    deformation = np.eye(3) + np.array([[0.01, 0.002, 0], [0.002, -0.005, 0], [0, 0, 0.003]])

    def predict(displacements: np.ndarray, exact: bool):
        if strained:
            return force_field.predict_strained(deformation, displacements, exact_errors=exact)
        return force_field.predict(displacements, exact_errors=exact)

    batch, roughly = predict(u, True), predict(u, False)
    for index in {0, n_configurations // 2, n_configurations - 1}:
        alone = predict(u[index : index + 1], True)
        for field in FIELDS:
            close(getattr(batch, field)[index], getattr(alone, field)[0], 1e-12)
        close(roughly.force_std[index], alone.force_std[0], 1e-5)


@pytest.mark.parametrize("name", ["silicon", "tin selenide"])
@pytest.mark.parametrize("n_configurations", [1, 3, 40])
def test_two_threads_give_the_numbers_of_one(laboratory, name: str, n_configurations: int) -> None:
    one = laboratory.force_field(name)
    two = ForceField(one.model, one.supercell, threads=2)
    u = np.random.default_rng(7).normal(0, 0.1, (n_configurations, one.supercell.n_atoms, 3))
    for deformation in (None, 1.01 * np.eye(3)):
        if deformation is None:
            expected, found = one.predict(u), two.predict(u)
        else:
            expected = one.predict_strained(deformation, u)
            found = two.predict_strained(deformation, u)
        for field in FIELDS:
            close(getattr(found, field), getattr(expected, field), 1e-12)


def test_a_factor_need_not_be_triangular(laboratory) -> None:
    force_field = laboratory.force_field("silicon")
    factor = force_field.model.posterior.factor
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=factor.shape))[0]
    errors, independent = force_field._errors, force_field._independent
    u = np.random.default_rng(9).normal(0, 0.1, (1, force_field.supercell.n_atoms, 3))
    found = errors.standard_deviations(u, PosteriorFactor(factor @ turn, independent))
    close(found, errors.standard_deviations(u, PosteriorFactor(factor, independent)), 1e-11)


@pytest.mark.parametrize("n_configurations", [1, 2, 9])
def test_products_may_be_as_wide_as_the_registers_of_any_processor(
    laboratory, monkeypatch: pytest.MonkeyPatch, n_configurations: int
) -> None:
    """One to four registers per row, in blocks of lanes of every width."""
    force_field = laboratory.force_field("boron arsenide")
    shape = (n_configurations, force_field.supercell.n_atoms, 3)
    u = np.random.default_rng(11).normal(0, 0.1, shape)
    found = []
    for block in (TINY, NARROW):
        monkeypatch.setattr(force_errors, "PRODUCT_BLOCK", block)
        found.append(force_field.force_std(u))
    close(found[0], found[1], 1e-12)


@pytest.mark.parametrize(
    ("size", "parts", "grain"), [(0, 2, 1), (7, 3, 1), (100, 2, 32), (5, 9, 1)]
)
def test_ranges_cover_everything_once(size: int, parts: int, grain: int) -> None:
    found = ranges(size, parts, grain)
    assert len(found) <= parts
    assert [item for begin, stop in found for item in range(begin, stop)] == list(range(size))
    assert all(stop % grain == 0 for _, stop in found[:-1])
