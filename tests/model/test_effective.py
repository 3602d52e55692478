"""Effective harmonic force constants are those of the ensemble, and know their own error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner

from anharm.command_line import cli
from anharm.errors import AnharmError, ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    LatticeCalculator,
    Supercell,
    build_expansion,
    fit_structures,
    load_model,
    save_model,
)
from anharm.model.effective import effective_expansion, fit_effective
from anharm.model.regression import Posterior

MULTIPLES = np.diag([3, 3, 3])
WIDTH = 0.15  # Angstrom, standard deviation of displacements


@pytest.fixture(scope="module")
def polonium() -> BayesianModel:
    """Simple-cubic polonium with anharmonic springs to the nearest neighbours."""
    crystal = Crystal.from_atoms(bulk("Po", "sc", a=3.35))
    expansion = build_expansion(crystal, {2: 3.4, 4: 3.4})
    ideal, random, labels = Supercell(crystal, MULTIPLES).to_atoms(), np.random.default_rng(3), []
    for _ in range(8):
        atoms = ideal.copy()
        atoms.positions += random.normal(0, WIDTH, (len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, forces=springs(ideal, atoms))
        labels.append(atoms)
    mean = fit_structures(expansion, labels).posterior.mean  # exact: the expansion holds them
    nothing = np.zeros((len(mean), len(mean)))
    posterior = Posterior(mean, nothing, {}, {"forces": 1.0}, {}, 0.0, 1, 1)
    return BayesianModel(expansion, posterior)


def springs(ideal: Atoms, atoms: Atoms) -> np.ndarray:
    """Forces of bonds along x, y and z: stiff and stiffening along the bond, soft across it."""
    u = (atoms.positions - ideal.positions).reshape(3, 3, 3, 3)
    forces = np.zeros_like(u)
    for axis in range(3):
        stretch = np.roll(u, -1, axis=axis) - u
        pull = 0.2 * stretch
        pull[..., axis] = stretch[..., axis] + 40 / 6 * stretch[..., axis] ** 3
        forces += pull - np.roll(pull, 1, axis=axis)
    return forces.reshape(-1, 3)


def thermal(model: BayesianModel, n: int, seed: int) -> list[Atoms]:
    """Gaussian displacements of one width, with the model's forces."""
    ideal = Supercell(model.expansion.crystal, MULTIPLES).to_atoms()
    calculator, random, found = LatticeCalculator(model), np.random.default_rng(seed), []
    for _ in range(n):
        atoms = ideal.copy()
        atoms.positions += random.normal(0, WIDTH, (len(atoms), 3))
        forces = calculator.get_property("forces", atoms)
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        found.append(atoms)
    return found


def on_site(model: BayesianModel) -> float:
    """Force constant of an atom with itself, along x."""
    clusters, tensors = model.force_constants(2)
    own = np.all(clusters[:, 0] == clusters[:, 1], axis=1)
    return float(tensors[own][0, 0, 0])


def on_site_error(model: BayesianModel) -> float:
    """Standard error of that force constant, which is linear in the parameters."""
    posterior = model.posterior
    parts = [
        on_site(replace(model, posterior=replace(posterior, mean=column)))
        for column in posterior.factor.T
    ]
    return float(np.linalg.norm(parts))


def second_order(model: BayesianModel) -> BayesianModel:
    """The same model without its anharmonic parameters."""
    mean = np.where(model.expansion.parameter_orders == 2, model.posterior.mean, 0.0)
    return replace(model, posterior=replace(model.posterior, mean=mean))


def test_the_model_has_the_springs_it_was_made_of(polonium: BayesianModel) -> None:
    assert on_site(polonium) == pytest.approx(2 * 1 + 4 * 0.2, rel=1e-6)


def test_of_a_harmonic_crystal_they_are_its_own(polonium: BayesianModel) -> None:
    kept = polonium.expansion.parameter_orders == 2
    harmonic = second_order(polonium)
    mean = harmonic.posterior.mean
    fit = fit_effective(effective_expansion(harmonic), thermal(harmonic, 3, seed=0))
    assert fit.left < 1e-6
    assert fit.model.posterior.mean == pytest.approx(mean[kept], rel=1e-6)
    assert np.abs(fit.model.posterior.factor).max() < 1e-6 * np.abs(mean).max()


def test_of_gaussian_displacements_they_are_the_mean_curvature(polonium: BayesianModel) -> None:
    """<F u> = -Phi_eff <u u> for a Gaussian (Stein's lemma), within three standard errors."""
    structures = thermal(polonium, 400, seed=1)
    ideal = Supercell(polonium.expansion.crystal, MULTIPLES).to_atoms().positions
    displacements = np.array([atoms.positions - ideal for atoms in structures])
    displacements -= displacements.mean(axis=1, keepdims=True)
    # The mean of the harmonic part is known; only the anharmonic part needs to be sampled.
    harmonic = LatticeCalculator(second_order(polonium))
    anharmonic = np.array(
        [atoms.get_forces() - harmonic.get_property("forces", atoms) for atoms in structures]
    )
    # Without their mean, displacements covary by -1/n; the sum rule makes that part vanish.
    curvatures = -np.mean(anharmonic * displacements, axis=(1, 2)) / WIDTH**2
    expected = on_site(polonium) + curvatures.mean()
    sampled = curvatures.std(ddof=1) / np.sqrt(len(curvatures))
    fit = fit_effective(effective_expansion(polonium), structures)
    # Both errors are of the same draws, and positively correlated: their sum in squares is ample.
    tolerance = 3 * np.hypot(sampled, on_site_error(fit.model))
    assert tolerance < 0.15 * expected
    assert on_site(fit.model) == pytest.approx(expected, abs=tolerance)
    assert abs(on_site(fit.model) / on_site(polonium) - 1) > 0.2
    assert 0.1 < fit.left < 1


def test_the_errors_are_those_of_other_configurations(polonium: BayesianModel) -> None:
    """The scatter of fits to other draws, which the residual alone would not give."""
    expansion = effective_expansion(polonium)
    fits = [fit_effective(expansion, thermal(polonium, 20, seed)) for seed in range(16)]
    scatter = np.std([fit.model.posterior.mean for fit in fits], axis=0, ddof=1)
    factors = np.array([fit.model.posterior.factor for fit in fits])
    claimed = np.sqrt(np.mean(np.sum(factors**2, axis=2), axis=0))
    assert (claimed / scatter > 0.6).all()
    assert (claimed / scatter < 1.6).all()
    for factor in factors:
        assert np.allclose(factor, np.triu(factor))


def test_forces_may_be_those_of_the_model(polonium: BayesianModel) -> None:
    structures = thermal(polonium, 4, seed=2)
    expansion = effective_expansion(polonium)
    with_forces = fit_effective(expansion, structures)
    bare = [Atoms(one.symbols, one.positions, cell=one.cell, pbc=True) for one in structures]
    without = fit_effective(expansion, bare, polonium)
    assert without.model.posterior.mean == pytest.approx(with_forces.model.posterior.mean)
    with pytest.raises(ModelError, match="structure 0: it has no forces"):
        fit_effective(expansion, bare)
    with pytest.raises(ModelError, match="too few"):
        fit_effective(expansion, structures[:1])


def test_a_constant_force_on_the_sites_does_not_change_the_phonons(laboratory) -> None:
    """The first order takes it up, as where the mean places at a temperature differ from rest."""
    model = laboratory.random_model(laboratory.expansion("tin selenide"))
    expansion = effective_expansion(model)
    assert expansion.parameters_per_order[1] > 0
    fits = []
    for pull in (0.0, 2.0):
        structures = laboratory_displacements(model, expansion, pull)
        fits.append(fit_effective(expansion, structures).model)
    second = expansion.parameter_orders == 2
    before, after = (one.posterior.mean[second] for one in fits)
    assert np.abs(before - after).max() < 0.02 * np.abs(before).max()


def laboratory_displacements(model, expansion, pull: float) -> list[Atoms]:
    """Displacements with the model's harmonic forces and a symmetric force on the sites."""
    from anharm.model.lattice_sum import LatticeSum

    supercell = Supercell(model.expansion.crystal, np.array([[1, 0, 0], [0, 3, 0], [0, 0, 3]]))
    rows_of = LatticeSum(expansion, supercell)
    random = np.random.default_rng(4)
    parameters = np.where(expansion.parameter_orders == 1, pull, random.standard_normal(
        expansion.n_parameters))  # fmt: skip
    ideal, found = supercell.to_atoms(), []
    for _ in range(6):
        displacements = random.normal(0, 0.05, (supercell.n_atoms, 3))
        displacements -= displacements.mean(axis=0)
        forces = (rows_of.force_rows(displacements) @ parameters).reshape(-1, 3)
        atoms = ideal.copy()
        atoms.positions += displacements
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        found.append(atoms)
    return found


def test_the_command_draws_them_beside_those_at_rest(
    polonium: BayesianModel, tmp_path: Path
) -> None:
    pytest.importorskip("phonopy", reason="phonopy is not installed")
    save_model(polonium, tmp_path / "model.h5")
    write(tmp_path / "hot.xyz", thermal(polonium, 5, seed=6), format="extxyz")
    words = ["effective-phonons", tmp_path / "model.h5", tmp_path / "hot.xyz", "--samples", 3,
             "--mesh", "4 4 4", "--output", tmp_path / "hot.svg", "--save", tmp_path]  # fmt: skip
    done = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == {"at rest", "hot"}
    assert found["hot"]["configurations"] == 5
    names = [point["name"] for point in found["hot"]["special_points"]]
    assert {"G", "X", "M", "R"} <= set(names)
    assert (tmp_path / "hot.svg").read_text().startswith("<?xml")
    assert load_model(tmp_path / "hot.h5").n_labels == 5
    done = CliRunner().invoke(cli, [*map(str, words), "--no-dos"])
    assert "at rest" in done.output
    with pytest.raises(AnharmError, match="different names"):
        CliRunner().invoke(cli, [str(w) for w in [*words, tmp_path / "hot.xyz"]],
                           catch_exceptions=False)  # fmt: skip
