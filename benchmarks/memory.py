"""Peak memory of construction, fit and client, estimated by `anharm plan`'s formula and measured.

    python benchmarks/memory.py

Each row is a process of its own that builds the expansion, and learns labels that a random model of
it made and fits, or evaluates forces and errors of 32 configurations; measured is its largest
resident set. Estimates come before anything is built, and include some 230 MB for Python with its
libraries.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

CASES = ("SILICON_216", "TIN_SELENIDE_959", "ARSENIDE_2100", "SELENIDE_WIDE")
STAGES = ("construct", "fit", "client")


def main() -> None:
    """Print the table, or measure one row of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--stage", choices=STAGES, default="fit")
    arguments = parser.parse_args()
    if arguments.case:
        _measure(arguments.case, arguments.stage)
        return
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "NUMBA")}
    print(f"{'crystal':<18s} {'stage':<10s} {'parameters (estimate)':>22s} {'MB (estimate)':>16s}")
    for case in CASES:
        for stage in STAGES:
            command = [sys.executable, __file__, "--case", case, "--stage", stage]
            subprocess.run(command, check=True, env=os.environ | one_thread)


def _measure(case: str, stage: str) -> None:
    import numpy as np
    from measure import peak_memory

    from anharm.model import Crystal, LatticeSum, Supercell, Trainer, build_expansion
    from anharm.model.expansion_size import estimate_size
    from anharm.model.memory import estimate_memory

    atoms, cutoffs, matrix, n_labels = _cases()[case]
    crystal = Crystal.from_atoms(atoms)
    size = estimate_size(crystal, cutoffs)
    supercell = Supercell(crystal, matrix)
    memory = estimate_memory(size, supercell.n_atoms, n_labels)
    expansion = build_expansion(crystal, cutoffs)
    estimate = memory.process + memory.construction
    if stage == "fit":
        estimate = memory.fit
        random = np.random.default_rng(0)
        supercell = Supercell(expansion.crystal, matrix)
        rows, trainer = LatticeSum(expansion, supercell), Trainer(expansion)
        theta = random.standard_normal(expansion.n_parameters)
        for _ in range(n_labels):
            u = random.normal(0, 0.1, (supercell.n_atoms, 3))
            forces = (rows.force_rows(u) @ theta).reshape(-1, 3)
            trainer.add(supercell.lattice, supercell.positions + u, forces)
        trainer.fit()
    if stage == "client":
        from systems import random_model

        from anharm.model import ForceField

        estimate = memory.client - 2 * memory.model_file  # one model, and no next one
        supercell = Supercell(expansion.crystal, matrix)
        force_field = ForceField(random_model(expansion), supercell)
        force_field.predict(np.zeros((32, supercell.n_atoms, 3)), exact_errors=False)
    measured = peak_memory() * 2**20
    counts = f"{expansion.n_parameters} ({size.n_parameters})"
    print(f"{case:<18s} {stage:<10s} {counts:>22s} {measured / 1e6:>8.0f} ({estimate / 1e6:.0f})")


def _cases() -> dict:
    import numpy as np
    import systems

    conventional = systems.CONVENTIONAL
    selenide = systems.tin_selenide()
    return {
        "SILICON_216": (systems.silicon(), {2: 6.0, 3: 4.5, 4: 3.5}, 3 * conventional, 3),
        "TIN_SELENIDE_959": (
            selenide, {2: 6.0, 3: 4.5, 4: 3.6, 5: 3.2, 6: 3.2}, np.diag([2, 3, 3]), 4,
        ),
        "ARSENIDE_2100": (
            systems.boron_arsenide(), {2: 4.7, 3: 3.5, 4: 3.5, 5: 3.5, 6: 3.5},
            2 * conventional, 12,
        ),
        "SELENIDE_WIDE": (selenide, {2: 6.0, 3: 7.0}, np.diag([2, 4, 4]), 9),
    }  # fmt: skip


if __name__ == "__main__":
    main()
