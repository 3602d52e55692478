"""Path integrals by real i-PI against exact results: the short form of the benchmarks."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units

from anharm.model import ForceField, Supercell
from anharm.model.normal_modes import HBAR, NormalModes

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from perturbation_theory import Anharmonicity
from quantum_harmonic import tersoff_model
from ring_polymer import harmonic_part, masses_of, mean_and_error, sample
from systems import SILICON_64


@pytest.fixture(scope="module")
def silicon() -> tuple[ForceField, ForceField, NormalModes]:
    """Orders 2 to 4 of Tersoff silicon, its order 2, and the modes of 64 atoms."""
    model = tersoff_model()
    supercell = Supercell(model.expansion.crystal, SILICON_64.matrix)
    harmonic = ForceField(harmonic_part(model), supercell)
    return ForceField(model, supercell), harmonic, NormalModes.of(harmonic, masses_of(supercell))


def test_a_harmonic_model_has_the_exact_quantum_energy(silicon) -> None:
    _, harmonic, modes = silicon
    run = sample(harmonic, temperature=300, beads=8, steps=2000, timestep=2.0)
    energy, error = mean_and_error(run.energies)
    assert error < 0.01 * energy
    assert abs(energy - modes.energy(300, beads=8)) < 4 * error
    # Far from classical mechanics, and next to the quantum limit.
    assert energy - modes.energy(300, beads=1) > 10 * error
    assert modes.energy(300, beads=8) == pytest.approx(modes.energy(300), rel=0.007)
    squares, error = mean_and_error(run.squares.mean(axis=1))
    assert error < 0.05 * squares
    assert abs(squares - modes.mean_square_displacements(300, beads=8).mean()) < 4 * error


@pytest.mark.long
def test_order_four_shifts_the_free_energy_as_perturbation_theory_says(silicon) -> None:
    anharmonic, harmonic, modes = silicon
    first = sample(harmonic, 100, 16, 3000, 1.5, compared=anharmonic)
    second = sample(anharmonic, 100, 16, 3000, 1.5, compared=harmonic)
    shift, error = mean_and_error((first.differences - second.differences) / 2)
    expected = sum(Anharmonicity.of(anharmonic, modes).free_energy(100, 16))
    assert expected < -5 * error
    assert abs(shift - expected) < 4 * error + 0.1 * abs(expected)


@pytest.mark.parametrize(("cubic", "quartic"), [(0.05, 0.0), (0.0, 0.02), (0.05, 0.02)])
@pytest.mark.parametrize("temperature", [50.0, 600.0])
def test_perturbation_theory_is_that_of_one_anharmonic_oscillator(
    cubic: float, quartic: float, temperature: float
) -> None:
    """Against the levels of w^2 q^2 / 2 + a q^3 / 6 + b q^4 / 24, diagonalised."""
    frequency, n = 0.08, 160
    scale = HBAR / (2 * frequency)  # of q^2
    a, b = cubic * HBAR * frequency / scale**1.5, quartic * HBAR * frequency / scale**2
    ladder = np.diag(np.sqrt(np.arange(1, n)), 1)
    q = np.sqrt(scale) * (ladder + ladder.T)
    energies = HBAR * frequency * (np.arange(n) + 0.5)
    powers = a * np.linalg.matrix_power(q, 3) / 6 + b * np.linalg.matrix_power(q, 4) / 24
    levels = np.linalg.eigvalsh(np.diag(energies) + powers)[: n // 2]
    thermal = units.kB * temperature

    def free(e: np.ndarray) -> float:
        return e[0] - thermal * np.log(np.sum(np.exp(-(e - e[0]) / thermal)))

    modes = NormalModes(np.array([frequency]), np.array([[[1.0, 0, 0]]]), np.array([28.0]))
    theory = Anharmonicity(modes, np.array([[[a]]]), np.array([[b]]))
    exact = free(levels) - free(energies[: n // 2])
    assert sum(theory.free_energy(temperature)) == pytest.approx(exact, rel=0.08)
    assert sum(theory.free_energy(temperature, 64)) == pytest.approx(exact, rel=0.08)
