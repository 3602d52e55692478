"""Translational invariance, from the force constants and from the forces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.errors import ModelError
from anharm.model.clusters import canonical, encode

NAMES = [
    "silicon", "magnesium oxide", "boron arsenide", "aluminium", "iron", "polonium", "magnesium",
    "gallium nitride", "tin selenide", "selenium", "triclinic", "monoclinic",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_sum_over_the_last_atom_vanishes_in_the_infinite_crystal(laboratory, name: str) -> None:
    """sum_b Phi(a, ..., b) = 0, b running over the whole crystal, order by order."""
    model = laboratory.random_model(laboratory.expansion(name))
    n_sites = model.expansion.crystal.n_sites
    for order in model.expansion.orders:
        clusters, tensors = model.force_constants(order)
        sums: dict[bytes, np.ndarray] = {}
        for cluster, tensor in zip(clusters, tensors, strict=True):
            seen = set()
            for last in range(order):
                if cluster[last].tobytes() in seen:
                    continue
                seen.add(cluster[last].tobytes())
                rest, _ = canonical(np.delete(cluster, last, axis=0), n_sites)
                key = encode(rest, n_sites).tobytes()
                sums[key] = sums.get(key, 0) + np.moveaxis(tensor, last, -1)
        largest = max(np.abs(total).max() for total in sums.values())
        assert np.abs(tensors).max() > 0.1
        assert largest < 1e-12 * np.abs(tensors).max()


@pytest.mark.parametrize("name", NAMES)
def test_force_constants_are_symmetric_under_exchange_of_equal_atoms(laboratory, name: str) -> None:
    model = laboratory.random_model(laboratory.expansion(name))
    for order in model.expansion.orders:
        clusters, tensors = model.force_constants(order)
        for i in range(order - 1):
            same = np.all(clusters[:, i] == clusters[:, i + 1], axis=1)
            np.testing.assert_array_equal(tensors[same], np.swapaxes(tensors[same], i + 1, i + 2))


@pytest.mark.parametrize("name", NAMES)
@given(shift=st.tuples(*[st.floats(-1, 1)] * 3), seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_moving_the_whole_crystal_costs_nothing(
    laboratory, name: str, shift: tuple[float, float, float], seed: int
) -> None:
    force_field = laboratory.force_field(name)
    shape = (1, force_field.supercell.n_atoms, 3)
    u = np.random.default_rng(seed).normal(0, 0.1, shape)
    here, there = force_field.predict(u), force_field.predict(u + shift)
    scale = np.abs(here.forces).max()
    np.testing.assert_allclose(there.forces, here.forces, rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(there.energies, here.energies, rtol=1e-9)
    np.testing.assert_allclose(there.force_std, here.force_std, rtol=1e-7, atol=1e-9 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_the_net_force_is_zero(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    u = np.random.default_rng(3).normal(0, 0.15, (3, force_field.supercell.n_atoms, 3))
    forces = force_field.predict(u, errors=False, virial=False).forces
    assert np.abs(forces.sum(axis=1)).max() < 1e-12 * np.abs(forces).sum(axis=1).max()


def test_force_constants_of_an_absent_order_are_refused(laboratory) -> None:
    model = laboratory.random_model(laboratory.expansion("aluminium"))
    with pytest.raises(ModelError, match=r"orders \(2, 3, 4, 6\), not 5"):
        model.force_constants(5)
