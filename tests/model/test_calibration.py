"""Errors are honest where the truth is known: a crystal with more orders than the model has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from anharm.model import (
    Expansion,
    ForceField,
    StructurePredictor,
    build_expansion,
    fit_structures,
)
from anharm.model.crystal import FloatArray
from anharm.model.noise import estimate_noise, noise_of_structures

SMALL, MIDDLE, LARGE = 0.04, 0.08, 0.12  # standard deviations of displacements, Angstrom
RATIO = 0.25  # of the forces of an order at large displacements to those of the order below


@pytest.fixture(scope="module")
def true_crystal(laboratory) -> ForceField:
    """Silicon with random parameters of orders 2 to 6, in a series that converges."""
    expansion = laboratory.expansion("silicon")
    model = laboratory.random_model(expansion, seed=3)
    supercell = laboratory.fitting_supercell(expansion)
    force_field = ForceField(model, supercell)
    displaced = np.random.default_rng(0).normal(0, LARGE, (1, supercell.n_atoms, 3))
    mean, orders = model.posterior.mean.copy(), expansion.parameter_orders
    for order in expansion.orders:
        alone = np.where(orders == order, model.posterior.mean, 0)
        force_field.use(replace(model, posterior=replace(model.posterior, mean=alone)))
        forces = force_field.predict(displaced, errors=False).forces
        mean[orders == order] *= RATIO ** (order - 2) / np.sqrt(np.mean(forces**2))
    force_field.use(replace(model, posterior=replace(model.posterior, mean=mean)))
    return force_field


@pytest.fixture(scope="module")
def short_expansion(true_crystal: ForceField) -> Expansion:
    """What a model of it may have: orders 2 to 4."""
    crystal = true_crystal.supercell.crystal
    return build_expansion(crystal, {2: 4.0, 3: 2.6, 4: 2.6})


def labelled(true_crystal: ForceField, displacement: float, seed: int) -> Atoms:
    """A configuration of Gaussian displacements with its true energy, forces and stress."""
    atoms = true_crystal.supercell.to_atoms()
    moved = np.random.default_rng(seed).normal(0, displacement, atoms.positions.shape)
    moved -= moved.mean(axis=0)
    found = true_crystal.predict(moved[None], errors=False)
    assert found.virials is not None
    atoms.positions += moved
    stress = -found.virials[0][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / atoms.get_volume()
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(found.energies[0]), forces=found.forces[0], stress=stress
    )
    return atoms


@pytest.fixture(scope="module")
def standardised(true_crystal: ForceField, short_expansion: Expansion) -> dict[float, FloatArray]:
    """True force errors over predictive errors, by displacement, over several trainings."""
    found: dict[float, list[FloatArray]] = {SMALL: [], LARGE: []}
    for training in range(6):
        sizes = [SMALL, MIDDLE, LARGE] * 2
        labels = [labelled(true_crystal, size, 10 * training + n) for n, size in enumerate(sizes)]
        predictor = StructurePredictor(fit_structures(short_expansion, labels))
        for size, ratios in found.items():
            for seed in range(100, 104):
                atoms = labelled(true_crystal, size, seed)
                result = predictor.predict(atoms)
                error = result["forces"] - atoms.calc.results["forces"]
                ratios.append(np.abs(error) / result["force_std_predictive"])
    return {size: np.array(ratios) for size, ratios in found.items()}


@pytest.mark.parametrize("displacement", [SMALL, LARGE])
def test_what_an_expansion_lacks_is_foretold_at_small_and_at_large_displacements(
    standardised: dict[float, FloatArray], displacement: float
) -> None:
    ratios = standardised[displacement]
    assert np.mean(ratios < 1) == pytest.approx(0.683, abs=0.05)
    assert np.mean(ratios < 1.96) == pytest.approx(0.95, abs=0.03)


def test_few_energies_have_honest_errors_since_forces_tell_how_these_grow() -> None:
    random = np.random.default_rng(4)
    by_amplitude, powers = np.array([0.01, 0.5, 0.3]), np.arange(6)
    ours: list[FloatArray] = []
    on_their_own: list[FloatArray] = []
    for _ in range(300):
        amplitudes = random.uniform(0.2, 2, 25)
        shapes = amplitudes[:, None] ** powers
        variances = 0.2 * shapes[:, 1:4] @ by_amplitude
        energies = random.normal(0, np.sqrt(variances))
        few = energies[:5] ** 2, shapes[:5], np.zeros(5)
        known = noise_of_structures(*few, by_amplitude, power=1, ratio=0.5)
        for found, noise in ((ours, known), (on_their_own, estimate_noise(*few))):
            found.append(np.abs(energies[5:]) / np.sqrt(noise.variances(shapes[5:])))
    assert np.mean(np.array(ours) < 1) == pytest.approx(0.683, abs=0.05)
    # Six targets, the ratio being one: Student's t gives 0.90 there.
    assert 0.9 < np.mean(np.array(ours) < 1.96) < 0.95
    gained = np.mean(np.array(ours) < 1.96) - np.mean(np.array(on_their_own) < 1.96)
    assert gained > 0.04  # intervals of energies alone hold 0.87
