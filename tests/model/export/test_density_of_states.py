"""The density of states counts the modes, and phonons of other codes are met at the same places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses

from anharm.errors import ConfigurationError, ModelError
from anharm.model import BayesianModel, LatticeCalculator, save_model
from anharm.model.export import to_phonopy
from anharm.model.export.bands import frequencies_at, phonon_bands
from anharm.model.export.density_of_states import density_of_states
from anharm.model.export.other_phonons import load_phonopy, translate_wave_vectors
from anharm.phonons_command import PhononsRequest, phonons

phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")

# (2 pi nu)^2 in eV / (Angstrom^2 u) for nu = 1 THz, from CODATA
THZ_TO_SPRING = (2e12 * np.pi) ** 2 * 1.66053906892e-27 * 1e-20 / 1.602176634e-19
SKEW = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])


@pytest.fixture(scope="module")
def silicon(oracle, restrict) -> BayesianModel:
    """Harmonic silicon with a posterior."""
    return restrict(oracle.model, 2)


def ends(model: BayesianModel) -> tuple[float, float]:
    frequencies = phonon_bands(model, n_samples=2).frequencies
    return float(frequencies.min()), float(frequencies.max())


def test_the_density_counts_every_mode_and_its_second_moment_is_the_trace_of_the_springs(
    silicon: BayesianModel,
) -> None:
    """Integral of g is 3 N; integral of omega^2 g is the sum of Phi_ii / m of the atoms."""
    found = density_of_states(silicon, ends(silicon), [12, 12, 12], n_samples=2)
    clusters, tensors = silicon.force_constants(2)
    own = np.all(clusters[:, 0] == clusters[:, 1], axis=1)
    trace = np.trace(tensors[own], axis1=1, axis2=2).sum() / atomic_masses[14]
    assert np.trapezoid(found.densities, found.frequencies) == pytest.approx(6, rel=2e-3)
    squares = found.frequencies * np.abs(found.frequencies)  # imaginary modes are negative
    second = np.trapezoid(found.densities * squares, found.frequencies)
    assert second * THZ_TO_SPRING == pytest.approx(trace, rel=5e-3)


def test_a_posterior_without_width_gives_a_density_without_width(silicon: BayesianModel) -> None:
    certain = replace(silicon.posterior, factor=np.zeros_like(silicon.posterior.factor))
    model = replace(silicon, posterior=certain)
    lower, upper = density_of_states(model, ends(model), [4, 4, 4], n_samples=2).interval()
    assert np.abs(upper - lower).max() < 1e-9


def finite_displacements(model: BayesianModel, folder: Path) -> Path:
    """What phonopy makes of the model's own forces, in a file."""
    phonon = phonopy.Phonopy(to_phonopy(model).unitcell, -2 * np.eye(3) + 2 * (1 - np.eye(3)))
    phonon.generate_displacements(0.01)
    calculator = LatticeCalculator(model)
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    file = folder / "phonopy_params.yaml"
    phonon.save(file)
    return file


def test_the_model_has_the_phonons_of_finite_displacements_of_itself(
    silicon: BayesianModel, tmp_path: Path
) -> None:
    file = finite_displacements(silicon, tmp_path)
    save_model(silicon, tmp_path / "model.h5")
    request = PhononsRequest(n_samples=20, mesh="6 6 6", compare=file)
    summary = phonons(tmp_path / "model.h5", tmp_path / "bands.png", request)
    difference = float(summary.split("rms difference ")[1].split()[0])
    assert difference < 2e-3
    phonons(tmp_path / "model.h5", tmp_path / "bands.csv", request)
    table = np.genfromtxt(tmp_path / "bands_dos.csv", delimiter=",", names=True)
    assert np.trapezoid(table["mean"], table["frequency"]) == pytest.approx(6, rel=0.01)


def test_wave_vectors_are_those_of_the_other_primitive_cell(
    silicon: BayesianModel, tmp_path: Path
) -> None:
    """Another choice of lattice vectors has the same frequencies at the same places."""
    ours = to_phonopy(silicon)
    other = load_phonopy(finite_displacements(silicon, tmp_path))
    skewed = SimpleNamespace(primitive=ours.primitive.copy())
    skewed.primitive.cell = SKEW @ ours.primitive.cell
    wave_vectors = np.array([[0.1, 0.2, 0.3], [0.5, 0.0, 0.25]])
    theirs = translate_wave_vectors(wave_vectors, skewed, other)
    cartesian = wave_vectors @ np.linalg.inv(skewed.primitive.cell).T
    assert np.allclose(cartesian, theirs @ np.linalg.inv(other.primitive.cell).T)
    own = frequencies_at(ours, cartesian @ ours.primitive.cell.T)
    assert np.abs(own - frequencies_at(other, theirs)).max() < 5e-3


def test_phonons_of_another_crystal_are_refused(
    silicon: BayesianModel, random_model, tmp_path: Path
) -> None:
    other = random_model("boron arsenide")
    to_phonopy(other).save(tmp_path / "other.yaml", settings={"force_constants": True})
    save_model(silicon, tmp_path / "model.h5")
    request = PhononsRequest(n_samples=2, density=False, compare=tmp_path / "other.yaml")
    with pytest.raises(ModelError, match="another crystal"):
        phonons(tmp_path / "model.h5", tmp_path / "bands.png", request)


def test_files_that_lead_to_no_force_constants_are_named(
    silicon: BayesianModel, tmp_path: Path
) -> None:
    to_phonopy(silicon).save(tmp_path / "cells.yaml", settings={"force_constants": False})
    with pytest.raises(ModelError, match=r"beside it is none of .*FORCE_SETS"):
        load_phonopy(tmp_path / "cells.yaml")
    with pytest.raises(ModelError, match="does not exist"):
        load_phonopy(tmp_path / "missing.yaml")
    (tmp_path / "nonsense.yaml").write_text("a: [1")
    with pytest.raises(ModelError, match="cannot read"):
        load_phonopy(tmp_path / "nonsense.yaml")


@pytest.mark.parametrize("mesh", ["0 4 4", "4 4", "-3", "many", "inf"])
def test_a_mesh_that_is_none_is_refused(mesh: str, silicon: BayesianModel, tmp_path: Path) -> None:
    save_model(silicon, tmp_path / "model.h5")
    with pytest.raises(ConfigurationError, match="three divisions"):
        phonons(tmp_path / "model.h5", tmp_path / "bands.png", PhononsRequest(mesh=mesh))
