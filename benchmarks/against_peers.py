"""Basis, design rows, forces and errors against hiphive, symfc and scikit-learn, in one run.

One thread, medians; `python benchmarks/against_peers.py [--quick]`. The peers are the extra
`benchmark`. A row says what was done, our time, the peer's time, and the ratio.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
from hiphive import ClusterSpace, ForceConstantPotential, StructureContainer
from hiphive.calculators import ForceConstantCalculator
from hiphive.input_output.logging_tools import set_config
from sklearn.linear_model import BayesianRidge
from systems import (
    ARSENIDE_64,
    ARSENIDE_216,
    SELENIDE_72,
    SILICON_216,
    System,
    random_model,
)

from anharm.model import ForceField, LatticeSum, SufficientStatistics, maximise_evidence


def median(work: Callable[[], object], repeats: int) -> float:
    """Median time of some calls, seconds, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def once(work: Callable[[], object]) -> float:
    """Time of one call, seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(what: str, ours: float, peer: float, name: str) -> None:
    """Print one line of the table."""
    print(
        f"{what:<58s} {ours * 1e3:10.2f} ms {peer * 1e3:10.1f} ms {peer / ours:8.1f}x  {name}",
        flush=True,
    )


def cluster_space(system: System) -> ClusterSpace:
    """The same expansion by hiphive."""
    highest = max(system.cutoffs)
    with redirect_stdout(StringIO()):
        return ClusterSpace(system.primitive, [system.cutoffs[n] for n in range(2, highest + 1)])


def compare_basis(system: System) -> ClusterSpace:
    """Time to the irreducible parameters."""
    system.expansion()
    ours = median(system.expansion, 3)
    spaces: list[ClusterSpace] = []
    peer = once(lambda: spaces.append(cluster_space(system)))
    row(f"basis, {system.name}", ours, peer, "hiphive")
    return spaces[0]


def compare_evaluation(system: System, space: ClusterSpace) -> None:
    """Design rows, forces and errors of one configuration."""
    expansion = system.expansion()
    supercell = system.supercell(expansion)
    lattice_sum = LatticeSum(expansion, supercell)
    force_field = ForceField(random_model(expansion), supercell)
    ideal = supercell.to_atoms()
    random = np.random.default_rng(1)
    displacements = random.normal(0, 0.03, (supercell.n_atoms, 3))
    container = StructureContainer(space)

    def peer_rows() -> None:
        structure = ideal.copy()
        structure.new_array("displacements", displacements)
        structure.new_array("forces", np.zeros_like(displacements))
        container.delete_all_structures()
        container.add_structure(structure)

    ours = median(lambda: lattice_sum.force_rows(displacements), 7)
    with redirect_stdout(StringIO()):
        peer = median(peer_rows, 2)
    row(f"design rows, {system.name}", ours, peer, "hiphive")
    potential = ForceConstantPotential(space, random.standard_normal(space.n_dofs))
    moved = ideal.copy()
    with redirect_stdout(StringIO()):
        moved.calc = ForceConstantCalculator(potential.get_force_constants(ideal))

    def peer_forces() -> None:
        moved.positions = ideal.positions + displacements
        moved.calc.reset()
        moved.get_forces()

    peer = median(peer_forces, 7)
    batch = displacements[None]
    ours = median(lambda: force_field.predict(batch, errors=False), 25)
    row(f"energy + forces + virial, {system.name}", ours, peer, "hiphive's forces alone")
    ours = median(lambda: force_field.predict(batch, exact_errors=False), 15)
    row(f"... and all 3N force errors, {system.name}", ours, peer, "hiphive's forces alone")
    single = ours
    beads = random.normal(0, 0.03, (32, supercell.n_atoms, 3))
    many = median(lambda: force_field.predict(beads, exact_errors=False), 3) / 32
    row(f"... per bead of a batch of 32, {system.name}", many, single, "one at a time")


def compare_refit(n_parameters: int = 853, n_structures: int = 50) -> None:
    """One more label on top of fifty."""
    random = np.random.default_rng(2)
    parameters = random.standard_normal(n_parameters)
    rows = random.standard_normal((n_structures * 216, n_parameters))
    targets = rows @ parameters + 0.1 * random.standard_normal(len(rows))
    statistics = SufficientStatistics.empty(n_parameters).add(rows[:-216], targets[:-216])
    groups = np.zeros(n_parameters, dtype=np.int64)

    def refit() -> None:
        maximise_evidence(statistics.add(rows[-216:], targets[-216:]), groups)

    peer = once(lambda: BayesianRidge(fit_intercept=False).fit(rows, targets))
    row(f"refit after one more label, {n_parameters} parameters", median(refit, 3), peer,
        "scikit-learn")  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    set_config(level=40)
    compare_refit()
    for system in (SILICON_216, ARSENIDE_216):
        compare_evaluation(system, compare_basis(system))
    if not quick:
        compare_basis(SELENIDE_72)
    ours = median(ARSENIDE_64.expansion, 3)
    row(f"basis, {ARSENIDE_64.name}", ours, 380.0, "hiphive was unfinished after 380 s elsewhere")


if __name__ == "__main__":
    main()
