"""How far the force constants of second order reach: force errors at small displacements.

    python benchmarks/second_order_range.py [--material snse] [--supercell 2 4 4] CUTOFF ...

Where displacements are small, nothing but the range of the second order limits a model. Eight
configurations of the supercell with displacements of 0.01 Angstrom (standard deviation) are fitted
for each cutoff (Angstrom, or the word "supercell") with the material's own third and fourth order,
and two more tell the error relative to the rms force. Materials are those of
benchmarks/economy/materials.toml.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from economy.materials import Material, read_materials
from economy.offline import TestSet
from economy.reference_dynamics import labelled

from anharm.model import ForceField, build_expansion, fit_structures

SIZE = 0.01  # Angstrom
N_LABELS, N_TESTS = 8, 2
SEED = 0


def relative_errors(
    material: Material, cutoffs: list[float | str]
) -> list[tuple[float | str, int, float]]:
    """Cutoff, parameters, and force RMSE relative to the rms force, for each cutoff."""
    supercell, ideal = material.crystal_supercell(), material.ideal()
    random, calculator = np.random.default_rng(SEED), material.reference()
    frames = [
        labelled(ideal, random.normal(0, SIZE, ideal.positions.shape), calculator)
        for _ in range(N_LABELS + N_TESTS)
    ]
    test = TestSet.of(material, frames[N_LABELS:])
    found = []
    for cutoff in cutoffs:
        higher = {order: material.cutoffs[order] for order in (3, 4)}
        expansion = build_expansion(
            supercell.crystal, {2: cutoff, **higher}, supercell=material.supercell
        )
        model = fit_structures(expansion, frames[:N_LABELS])
        error = test.rmse(ForceField(model, supercell)) / np.sqrt(np.mean(test.forces**2))
        found.append((cutoff, expansion.n_parameters, float(error)))
    return found


def _cutoff(text: str) -> float | str:
    return text if text == "supercell" else float(text)


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cutoffs", nargs="+", type=_cutoff, metavar="CUTOFF")
    parser.add_argument("--material", default="snse")
    parser.add_argument("--supercell", nargs=3, type=int, help="the material's by default")
    words = parser.parse_args()
    material = read_materials()[words.material]
    if words.supercell:
        material = replace(material, supercell=words.supercell)
    print("| cutoff (A) | parameters | error / rms force |\n|---|---|---|")
    for cutoff, number, error in relative_errors(material, words.cutoffs):
        print(f"| {cutoff} | {number} | {error:.3f} |")


if __name__ == "__main__":
    main()
