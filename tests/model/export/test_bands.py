"""Credible intervals of phonons are those that the posterior of the force constants implies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from anharm.errors import ConfigurationError, ModelError
from anharm.model import BayesianModel, Crystal, Posterior, build_expansion, save_model
from anharm.model.export import to_phonopy
from anharm.model.export.bands import phonon_bands
from anharm.phonons_command import PhononsRequest, phonons

phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")

POLONIUM_MASS = 208.982  # atomic mass units
# sqrt(eV / (Angstrom^2 u)) / (2 pi) in THz, from CODATA
SPRING_TO_THZ = np.sqrt(1.602176634e-19 / 1e-20 / 1.66053906892e-27) / (2 * np.pi) * 1e-12


@pytest.fixture(scope="module")
def springs() -> BayesianModel:
    """Simple-cubic polonium with nearest neighbours: a longitudinal and a transverse spring."""
    expansion = build_expansion(Crystal.from_atoms(bulk("Po", "sc", a=3.35)), {2: 3.4})
    assert expansion.n_parameters == 2
    posterior = Posterior(
        np.zeros(2),
        np.zeros((2, 2)),
        {2: 1.0},
        {"forces": 1.0},
        {2: 2.0},
        0.0,
        n_targets=1,
        n_iterations=1,
    )
    model = BayesianModel(expansion, posterior)
    # Parameters for springs of 3 and 1 eV/Angstrom^2, each known to 10 % and uncorrelated.
    to_springs = np.column_stack([_springs(model, unit) for unit in np.eye(2)])
    to_parameters = np.linalg.inv(to_springs)
    mean, factor = to_parameters @ [3.0, 1.0], to_parameters @ np.diag([0.3, 0.1])
    return replace(model, posterior=replace(posterior, mean=mean, factor=factor))


def _springs(model: BayesianModel, parameters: np.ndarray) -> np.ndarray:
    """Minus the force constants along and across a nearest-neighbour bond."""
    one = replace(model, posterior=replace(model.posterior, mean=parameters))
    clusters, tensors = one.force_constants(2)
    difference = clusters[:, 1, :3] - clusters[:, 0, :3]
    bond = tensors[np.all(difference == [1, 0, 0], axis=1)][0]
    return np.array([-bond[0, 0], -bond[1, 1]])


def test_a_spring_known_to_ten_percent_gives_a_frequency_known_to_five(
    springs: BayesianModel,
) -> None:
    """At X, omega = sqrt(4 k / m) with the longitudinal and the transverse spring."""
    bands = phonon_bands(springs, path="GX", n_points=2, n_samples=2000)
    expected = SPRING_TO_THZ * np.sqrt(4 * np.array([1.0, 1.0, 3.0]) / POLONIUM_MASS)
    assert bands.frequencies[1] == pytest.approx(expected, rel=1e-4)
    lower, upper = bands.interval(0.68269)
    assert upper[1] / lower[1] == pytest.approx(np.sqrt(1.1 / 0.9), rel=0.01)
    spread = np.log(bands.samples[:, 1])
    assert np.corrcoef(spread[:, 0], spread[:, 1])[0, 1] == pytest.approx(1)
    assert abs(np.corrcoef(spread[:, 0], spread[:, 2])[0, 1]) < 0.1


def test_acoustic_modes_are_zero_in_every_sample(random_model) -> None:
    bands = phonon_bands(random_model("boron arsenide"), n_points=20, n_samples=5)
    centre = np.all(np.abs(bands.wave_vectors) < 1e-12, axis=1)
    assert centre.any()
    assert (np.sort(np.abs(bands.samples[:, centre]), axis=-1)[..., :3] < 1e-4).all()


def test_a_posterior_without_width_gives_intervals_without_width(random_model) -> None:
    model = random_model("boron arsenide")
    certain = replace(model.posterior, factor=np.zeros_like(model.posterior.factor))
    bands = phonon_bands(replace(model, posterior=certain), n_points=10, n_samples=3)
    known = to_phonopy(model, [4, 4, 4]).run_qpoints(bands.wave_vectors).frequencies
    assert np.abs(bands.frequencies - known).max() < 1e-4
    lower, upper = bands.interval()
    assert np.abs(upper - lower).max() < 1e-9


def test_the_same_seed_gives_the_same_samples(springs: BayesianModel) -> None:
    first, second = (phonon_bands(springs, n_points=4, n_samples=3, seed=7) for _ in range(2))
    assert np.array_equal(first.samples, second.samples)


def test_a_path_that_the_lattice_does_not_have_is_named(springs: BayesianModel) -> None:
    with pytest.raises(ModelError, match=r"no path 'GW'.*special points are G, M, R, X"):
        phonon_bands(springs, path="GW")


def test_bands_are_written_as_a_picture_or_a_table(springs: BayesianModel, tmp_path: Path) -> None:
    file = tmp_path / "model.h5"
    save_model(springs, file)
    for suffix, start in ((".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")):
        output = tmp_path / f"bands{suffix}"
        phonons(file, output, PhononsRequest(n_samples=3, mesh="4 4 4"))
        assert output.read_bytes().startswith(start)
    table = tmp_path / "bands.csv"
    summary = phonons(file, table, PhononsRequest("4 4 4", "GX,MR", 50, density=False))
    columns = np.genfromtxt(table, delimiter=",", names=True)
    assert (columns["lower_3"][1:-1] <= columns["upper_3"][1:-1]).all()
    assert f"to {columns['mean_3'].max():.3f} THz" in summary
    with pytest.raises(ConfigurationError, match=r"end its name in \.pdf, .*\.csv$"):
        phonons(file, tmp_path / "bands.doc", PhononsRequest())
