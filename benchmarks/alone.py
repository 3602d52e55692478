"""One measurement in a process of its own: `python benchmarks/alone.py NAME`, a line of JSON.

Time in seconds, memory in MB: the peak of the process, and what it was before the work.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import json
import sys
import time

from measure import cpu_time, peak_memory


def basis(name: str) -> dict[str, float]:
    """Our basis, twice: the first call may compile."""
    import systems

    system = getattr(systems, name)
    before = peak_memory()
    first = cpu_time(system.expansion)
    return {"time": cpu_time(system.expansion), "first": first, "memory": peak_memory() - before,
            "peak": peak_memory(), "parameters": system.expansion().n_parameters}  # fmt: skip


def symfc_basis(name: str) -> dict[str, float]:
    """Fourth order alone, by symfc."""
    import systems
    from symfc import Symfc
    from symfc.utils.utils import SymfcAtoms

    system = getattr(systems, name)
    atoms = system.supercell(system.expansion()).to_atoms()
    cell = SymfcAtoms(
        numbers=atoms.numbers, scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell[:]
    )
    before = peak_memory()
    solver = Symfc(cell, cutoff={4: system.cutoffs[4]})
    elapsed = cpu_time(lambda: solver.compute_basis_set(4))
    parameters = solver.basis_set[4].basis_set.shape[1]
    return {"time": elapsed, "memory": peak_memory() - before, "peak": peak_memory(),
            "parameters": parameters}  # fmt: skip


def first_force(name: str) -> dict[str, float]:
    """CPU time of the whole process up to its first force, expansion included."""
    import numpy as np
    import systems

    from anharm.model import ForceField

    system = getattr(systems, name)
    expansion = system.expansion()
    force_field = ForceField(systems.random_model(expansion), system.supercell(expansion))
    force_field.predict(np.zeros((1, force_field.supercell.n_atoms, 3)), exact_errors=False)
    return {"time": time.process_time()}


def cell(name: str, size: str) -> dict[str, float]:
    """Forces, and forces with errors, of a cubic cell of size^3 conventional cells."""
    import numpy as np
    import systems

    from anharm.model import ForceField, Supercell

    system = getattr(systems, name)
    model = systems.random_model(system.expansion())
    supercell = Supercell(model.expansion.crystal, int(size) * systems.CONVENTIONAL)
    u = np.random.default_rng(0).normal(0, 0.03, (1, supercell.n_atoms, 3))
    small = ForceField(model, system.supercell(model.expansion))
    small.predict(u[:, : small.supercell.n_atoms], exact_errors=False)
    before = peak_memory()
    made = cpu_time(lambda: ForceField(model, supercell).predict(u, exact_errors=False))
    force_field = ForceField(model, supercell)
    force_field.predict(u, exact_errors=False)
    repeats = 9 if supercell.n_atoms < 2000 else 3
    found = []
    for errors in (False, True):
        works = [cpu_time(lambda e=errors: force_field.predict(u, e, exact_errors=False))
                 for _ in range(repeats)]  # fmt: skip
        found.append(float(np.median(works)))
    return {"atoms": supercell.n_atoms, "first": made, "forces": found[0], "errors": found[1],
            "memory": peak_memory() - before}  # fmt: skip


def main() -> None:
    """Run what the command line names."""
    works = {work.__name__: work for work in (basis, symfc_basis, first_force, cell)}
    print(json.dumps(works[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
