"""Exact statistics of harmonic modes: against sums over levels and against the ring polymer."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from anharm.errors import ModelError
from anharm.model import BayesianModel, Crystal, ForceField, Supercell, build_expansion
from anharm.model.normal_modes import HBAR, NormalModes, hessian
from anharm.model.regression import Posterior

FREQUENCY = st.floats(0.01, 0.2)  # 1/fs; silicon reaches 0.1
TEMPERATURE = st.floats(30, 1000)


def oscillator(frequency: float) -> NormalModes:
    return NormalModes(np.array([frequency]), np.array([[[1.0, 0, 0]]]), np.array([28.0855]))


@given(FREQUENCY, TEMPERATURE)
def test_the_energy_is_the_average_over_the_levels(frequency: float, temperature: float) -> None:
    levels = HBAR * frequency * (np.arange(4000) + 0.5)
    weights = np.exp(-(levels - levels[0]) / (units.kB * temperature))
    expected = np.sum(levels * weights) / np.sum(weights)
    assert oscillator(frequency).energy(temperature) == pytest.approx(expected, rel=1e-9)


@given(FREQUENCY, TEMPERATURE, st.integers(1, 12))
def test_beads_have_the_covariance_of_the_ring_polymer(
    frequency: float, temperature: float, beads: int
) -> None:
    """Invert the ring polymer's Hessian, at P times the temperature."""
    thermal = units.kB * temperature
    ring = beads * thermal / HBAR
    identity = np.eye(beads)
    springs = 2 * identity - np.roll(identity, 1, axis=0) - np.roll(identity, -1, axis=0)
    matrix = ring**2 * springs + frequency**2 * identity
    expected = beads * thermal * np.linalg.inv(matrix)[0, 0]
    found = oscillator(frequency).squares(temperature, beads)
    assert found[0] == pytest.approx(expected, rel=1e-9)


@given(FREQUENCY, TEMPERATURE)
def test_beads_lead_from_classical_to_quantum_mechanics(
    frequency: float, temperature: float
) -> None:
    modes = oscillator(frequency)
    energies = [modes.energy(temperature, beads) for beads in (1, 2, 8, 64, 4096)]
    assert energies[0] == pytest.approx(units.kB * temperature)
    assert (np.diff(energies) > 0).all()
    assert energies[-1] == pytest.approx(modes.energy(temperature), rel=2e-3)


@pytest.fixture(scope="module")
def silicon() -> ForceField:
    """Nearest neighbours on springs, the only parameters of order 2 within 3 Angstrom."""
    crystal = Crystal.from_atoms(bulk("Si", "diamond", a=5.43))
    expansion = build_expansion(crystal, {2: 3.0})
    supercell = Supercell(crystal, 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))

    def made(parameters: np.ndarray) -> ForceField:
        n = len(parameters)
        posterior = Posterior(parameters, np.eye(n), {}, {"forces": 1.0}, {}, 0.0, 1, 1)
        return ForceField(BayesianModel(expansion, posterior), supercell)

    # The combination of which the trace is largest is the identity on every bond.
    units_ = np.eye(expansion.n_parameters)
    traces = np.array([np.trace(hessian(made(one))) for one in units_])
    return made(5.0 * traces / np.linalg.norm(traces))


def test_atoms_that_move_along_a_mode_are_pulled_back_by_its_frequency(silicon) -> None:
    masses = np.full(64, 28.0855)
    modes = NormalModes.of(silicon, masses)
    assert len(modes.frequencies) == 3 * 64 - 3
    patterns = modes.vectors[::20] / np.sqrt(masses)[:, None]
    forces = silicon.predict(patterns, errors=False, virial=False).forces
    mass = 28.0855 * units._amu * 1e10 / units._e
    expected = -(modes.frequencies[::20, None, None] ** 2) * mass * patterns
    np.testing.assert_allclose(forces, expected, atol=1e-6 * np.abs(expected).max())
    # Nothing of the centre of mass is left.
    assert np.abs(np.einsum("mai,a->mi", modes.vectors, np.sqrt(masses))).max() < 1e-8


def test_classical_displacements_grow_with_temperature_and_quantum_ones_stay(silicon) -> None:
    modes = NormalModes.of(silicon, np.full(64, 28.0855))
    classical = [modes.mean_square_displacements(t, 1) for t in (10, 20)]
    np.testing.assert_allclose(classical[1], 2 * classical[0])
    quantum = [modes.mean_square_displacements(t) for t in (10, 20)]
    np.testing.assert_allclose(quantum[1], quantum[0], rtol=0.02)
    assert (quantum[0] > 3 * classical[0]).all()
    assert np.ptp(quantum[0]) < 1e-8  # all atoms are equivalent


def test_an_unstable_crystal_has_no_ground_state(silicon) -> None:
    model = silicon.model
    posterior = Posterior(-model.posterior.mean, np.eye(len(model.posterior.mean)), {},
                          {"forces": 1.0}, {}, 0.0, 1, 1)  # fmt: skip
    unstable = ForceField(BayesianModel(model.expansion, posterior), silicon.supercell)
    with pytest.raises(ModelError, match="unstable: 189 modes"):
        NormalModes.of(unstable, np.full(64, 28.0855))
