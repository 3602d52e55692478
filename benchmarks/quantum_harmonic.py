"""Path integrals of silicon against exact results: harmonic energy, and zero-point shift.

    python benchmarks/quantum_harmonic.py [--steps 6000] [--seed 31415] [--table harmonic|shift]

64 atoms, the Tersoff potential learnt in orders 2 to 4, real i-PI with PILE-L and all beads of a
step in one message. Table 1, order 2 alone: the energy per atom (above the minimum, meV) against
the exact one of the same number of beads, sum of hbar w / 2 coth(hbar w / 2 kT) over the modes of
the cell, and the sampled one extrapolated to it from two numbers of beads. Table 2, orders 2 to 4:
what anharmonicity adds, against perturbation theory (`perturbation_theory.py`), which samples
nothing. Errors in parentheses are standard errors with autocorrelation.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import ring_polymer  # sets thread counts first
from ring_polymer import harmonic_part, masses_of, mean_and_error, sample

# isort: split
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from perturbation_theory import Anharmonicity
from systems import SILICON_64

from anharm.clients.calculators import make_calculator
from anharm.model import BayesianModel, ForceField, fit_structures
from anharm.model.normal_modes import NormalModes

BEADS = {50: (32, 64), 100: (16, 32), 300: (8, 16)}
TIMESTEP = 1.5  # fs
SHIFT_AT = (100, 16)  # K, beads


def tersoff_model() -> BayesianModel:
    """Orders 2 to 4, learnt from eight displaced configurations; energy 0 at the minimum."""
    expansion = SILICON_64.expansion()
    supercell, random = SILICON_64.supercell(expansion), np.random.default_rng(0)
    labels = []
    for displacement in (0.03, 0.06, 0.09, 0.12) * 2:
        atoms: Atoms = supercell.to_atoms()
        atoms.positions += random.normal(0, displacement, atoms.positions.shape)
        atoms.calc = make_calculator("tersoff-silicon")
        forces, energy = atoms.get_forces(), atoms.get_potential_energy()
        atoms.calc = SinglePointCalculator(atoms, forces=forces, energy=energy)
        labels.append(atoms)
    model = fit_structures(expansion, labels, targets=["forces", "energies"])
    return replace(model, energy_per_cell=0.0)


def harmonic_table(harmonic: ForceField, modes: NormalModes, steps: int, seed: int) -> None:
    """Print table 1."""
    atoms = harmonic.supercell.n_atoms
    print("| T (K) | beads | sampled | exact, as many beads | difference / error |")
    print("|---|---|---|---|---|", flush=True)
    for temperature, beads in BEADS.items():
        found = []
        for number in beads:
            run = sample(harmonic, temperature, number, steps, TIMESTEP, seed)
            mean, error = (1e3 * x / atoms for x in mean_and_error(run.energies))
            _row(temperature, number, mean, error, 1e3 * modes.energy(temperature, number) / atoms)
            found.append((mean, error))
        # The error of P beads falls off as 1 / P^2.
        mean = (4 * found[1][0] - found[0][0]) / 3
        error = float(np.hypot(4 * found[1][1], found[0][1])) / 3
        exact = 1e3 * modes.energy(temperature) / atoms
        _row(temperature, f"{beads[0]}, {beads[1]} -> infinity", mean, error, exact)


def _row(temperature: int, beads: object, mean: float, error: float, exact: float) -> None:
    ratio = (mean - exact) / error
    print(f"| {temperature} | {beads} | {mean:.3f} ({error:.3f}) | {exact:.3f} | {ratio:+.1f} |",
          flush=True)  # fmt: skip


def shift_table(
    harmonic: ForceField, anharmonic: ForceField, modes: NormalModes, steps: int, seed: int
) -> None:
    """Print table 2.

    The free energy follows from two runs by the trapezoidal rule of thermodynamic integration,
    F - F_harmonic = (<V - V_harmonic>_harmonic + <V - V_harmonic>_anharmonic) / 2, which leaves
    out third order. The energy is the difference of two runs with the same random forces, whose
    noise cancels mostly.
    """
    temperature, beads = SHIFT_AT
    theory = Anharmonicity.of(anharmonic, modes)
    first = sample(harmonic, temperature, beads, steps, TIMESTEP, seed, anharmonic)
    second = sample(anharmonic, temperature, beads, steps, TIMESTEP, seed, harmonic)
    third, fourth = theory.free_energy(temperature, beads)
    free = (first.differences - second.differences) / 2
    rows = {
        "<V - V_harmonic>, harmonic run": (first.differences, fourth),
        "<V - V_harmonic>, anharmonic run": (-second.differences, fourth + 2 * third),
        "free energy (zero-point shift)": (free, third + fourth),
        "energy": (second.energies - first.energies, theory.energy(temperature, beads)),
    }
    atoms = harmonic.supercell.n_atoms
    print(f"\n| {temperature} K, {beads} beads, meV per atom | sampled | perturbation theory |")
    print("|---|---|---|")
    for name, (series, expected) in rows.items():
        mean, error = (1e3 * x / atoms for x in mean_and_error(series))
        print(f"| {name} | {mean:.4f} ({error:.4f}) | {1e3 * expected / atoms:.4f} |")
    third, fourth = theory.free_energy(temperature)
    print(f"| the same shift, any number of beads | | {1e3 * (third + fourth) / atoms:.4f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=31415)
    parser.add_argument("--table", choices=("harmonic", "shift"))
    chosen = parser.parse_args()
    model = tersoff_model()
    supercell = ring_polymer.Supercell(model.expansion.crystal, SILICON_64.matrix)
    harmonic = ForceField(harmonic_part(model), supercell)
    modes = NormalModes.of(harmonic, masses_of(supercell))
    if chosen.table != "harmonic":
        anharmonic = ForceField(model, supercell)
        shift_table(harmonic, anharmonic, modes, chosen.steps, chosen.seed)
    if chosen.table != "shift":
        harmonic_table(harmonic, modes, chosen.steps, chosen.seed)


if __name__ == "__main__":
    main()
