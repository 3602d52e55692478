"""Quantum and classical mean square displacements of silicon and cubic BAs, by path integrals.

    python benchmarks/mean_square_displacement.py [--steps 3000]

Force fields of `anharm fit`'s kind, learnt from the DFT labels of tests/data (64 atoms, the cell in
which all is computed: longer waves, which would add to the displacements, do not fit in). Per
Cartesian component, 1e-3 Angstrom^2: harmonic values are exact sums over the modes; the others are
sampled with all orders of the model by real i-PI, one bead for classical nuclei. Two runs with the
same random forces, with and without the orders above 2, differ by what anharmonicity does, and most
of their noise cancels; their difference is added to the exact harmonic value, that of quantum
mechanics for path integrals, which takes off most of what the number of beads leaves out, too. The
plain average of the run is in the last column, for the number of beads that it has.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from ring_polymer import harmonic_part, masses_of, mean_and_error, sample

# isort: split
import numpy as np
from ase.io import read
from calibration import CASES, DATA, expansion_of

from anharm.model import ForceField, Supercell, fit_structures
from anharm.model.crystal import identify_supercell
from anharm.model.normal_modes import NormalModes

BEADS = {("Si", 100): 16, ("Si", 300): 8, ("BAs", 100): 32, ("BAs", 300): 12}


def force_fields(name: str) -> tuple[ForceField, ForceField]:
    """All orders, and order 2 of the same model, in the cell of the labels."""
    expansion = expansion_of(name)
    frames = read(DATA / f"{CASES[name][0]}.xyz", index=":")
    model = replace(fit_structures(expansion, frames[1:]), energy_per_cell=0.0)
    matrix = identify_supercell(expansion.crystal, frames[0].cell[:])
    supercell = Supercell(expansion.crystal, matrix)
    return ForceField(model, supercell), ForceField(harmonic_part(model), supercell)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    print("| crystal | T (K) | atom | nuclei | harmonic | all orders | beads | plain average |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in ("Si", "BAs"):
        anharmonic, harmonic = force_fields(name)
        supercell = anharmonic.supercell
        modes = NormalModes.of(harmonic, masses_of(supercell))
        symbols = np.array(supercell.to_atoms().get_chemical_symbols())
        for temperature in (100, 300):
            for nuclei, beads in (("classical", 1), ("quantum", BEADS[name, temperature])):
                runs = [sample(f, temperature, beads, steps) for f in (anharmonic, harmonic)]
                exact = modes.mean_square_displacements(temperature, beads if beads == 1 else None)
                for symbol in dict.fromkeys(symbols):
                    atoms = symbols == symbol
                    series = [1e3 * run.squares[:, atoms].mean(axis=1) for run in runs]
                    value = 1e3 * exact[atoms].mean()
                    shift, error = mean_and_error(series[0] - series[1])
                    plain, plain_error = mean_and_error(series[0])
                    print(
                        f"| {name} | {temperature} | {symbol} | {nuclei} | {value:.3f} "
                        f"| {value + shift:.3f} ({error:.3f}) | {beads} "
                        f"| {plain:.3f} ({plain_error:.3f}) |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
