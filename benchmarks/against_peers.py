"""Basis, design rows, forces and errors against hiphive, symfc and scikit-learn, in one run.

`python benchmarks/against_peers.py [ROW ...]` prints all rows or those named (`--list` names
them). One thread, medians of CPU times, ours and the peer's taken in turns; only the rows about
threads take elapsed times. The peers are the extra `benchmark`.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import warnings
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
from ase import Atoms
from hiphive import ClusterSpace, ForceConstantPotential, ForceConstants, StructureContainer
from hiphive.calculators import ForceConstantCalculator
from hiphive.input_output.logging_tools import set_config
from measure import cpu_time, in_process, interleaved, row, wall_time
from sklearn.linear_model import BayesianRidge
from systems import (
    ARSENIDE_64,
    ARSENIDE_216,
    CONVENTIONAL,
    SELENIDE_72,
    SILICON_64,
    SILICON_216,
    System,
    random_model,
)

from anharm.model import (
    BayesianModel,
    ForceField,
    LatticeSum,
    SufficientStatistics,
    Supercell,
    maximise_evidence,
)

ALONE = str(Path(__file__).with_name("alone.py"))
HIPHIVE_FORCES = "hiphive's forces alone"


def displaced(supercell: Supercell, n_configurations: int) -> np.ndarray:
    """Random displacements of 0.03 Angstrom."""
    shape = (n_configurations, supercell.n_atoms, 3)
    return np.random.default_rng(1).normal(0, 0.03, shape)


def cluster_space(system: System) -> ClusterSpace:
    """The same expansion by hiphive."""
    highest = max(system.cutoffs)
    with redirect_stdout(StringIO()):
        return ClusterSpace(system.primitive, [system.cutoffs[n] for n in range(2, highest + 1)])


def hiphive_constants(model: BayesianModel, supercell: Supercell) -> ForceConstants:
    """Our force constants of one supercell as hiphive's."""
    n_cells, tensors = supercell.n_cells, {}
    for order in model.expansion.orders:
        clusters, values = model.force_constants(order)
        for cell in supercell.cells:
            numbers = clusters[..., 3] * n_cells + supercell.cell_index(clusters[..., :3] + cell)
            ascending = np.argsort(numbers, axis=1, kind="stable")
            for atoms, axes, tensor in zip(numbers, ascending, values, strict=True):
                tensors[tuple(atoms[axes].tolist())] = tensor.transpose(axes)
    return ForceConstants.from_sparse_dict(tensors, supercell=supercell.to_atoms())


def hiphive_calculator(constants: ForceConstants) -> ForceConstantCalculator:
    """Its calculator, without its progress bar."""
    with redirect_stdout(StringIO()):
        return ForceConstantCalculator(constants)


def compare_bases() -> None:
    """Time to the irreducible parameters."""
    for system in (SILICON_216, ARSENIDE_216, SELENIDE_72):
        system.expansion()
        ours = interleaved([system.expansion], 3)[0]
        row(f"basis, {system.name}", ours, cpu_time(partial(cluster_space, system)), "hiphive")
    found = in_process(ALONE, "basis", "ARSENIDE_64")
    row(f"basis, {ARSENIDE_64.name}", found["first"], None, "hiphive: unfinished at 380 s",
        f"{found['peak']:.0f} MB")  # fmt: skip


def compare_symfc() -> None:
    """Fourth order alone; memory beyond what the interpreter and its libraries take."""
    ours, peer = (in_process(ALONE, work, "SILICON_FOURTH") for work in ("basis", "symfc_basis"))
    row("basis, Si 64, order 4 alone, 3.5", ours["time"], peer["time"],
        f"symfc, {ours['parameters']:.0f} and {peer['parameters']:.0f} parameters",
        f"{ours['memory']:.0f} of {peer['memory']:.0f} MB")  # fmt: skip


def compare_rows() -> None:
    """Design rows of the forces of one configuration."""
    for system in (SILICON_216, ARSENIDE_216):
        expansion = system.expansion()
        supercell = system.supercell(expansion)
        lattice_sum = LatticeSum(expansion, supercell)
        displacements = displaced(supercell, 1)[0]
        structure = supercell.to_atoms()
        structure.new_array("displacements", displacements)
        structure.new_array("forces", np.zeros_like(displacements))
        container = StructureContainer(cluster_space(system))

        def peer(structure: Atoms = structure, container: StructureContainer = container) -> None:
            container.delete_all_structures()
            with redirect_stdout(StringIO()):
                container.add_structure(structure)

        times = interleaved([partial(lattice_sum.force_rows, displacements), peer], 3)
        row(f"design rows, {system.name}", *times, "hiphive")


def compare_forces() -> None:
    """Energy, forces, virial, and all errors of one configuration, against forces."""
    for system in (SILICON_216, ARSENIDE_216, ARSENIDE_64):
        expansion = system.expansion()
        supercell = system.supercell(expansion)
        model = random_model(expansion)
        force_field = ForceField(model, supercell)
        moved = supercell.to_atoms()
        if system is ARSENIDE_64:
            constants = hiphive_constants(model, supercell)
        else:
            space = cluster_space(system)
            random = np.random.default_rng(1).standard_normal(space.n_dofs)
            with redirect_stdout(StringIO()):
                constants = ForceConstantPotential(space, random).get_force_constants(moved)
        moved.calc = hiphive_calculator(constants)
        batch = displaced(supercell, 1)
        moved.positions += batch[0]

        def peer(moved: Atoms = moved) -> np.ndarray:
            moved.calc.reset()
            return moved.get_forces()

        forces = partial(force_field.predict, batch, errors=False)
        errors = partial(force_field.predict, batch, exact_errors=False)
        times = interleaved([forces, errors, peer], 9)
        if system is ARSENIDE_64:
            scale = np.abs(peer()).max()
            np.testing.assert_allclose(forces().forces[0], peer(), rtol=0, atol=1e-9 * scale)
        row(f"energy + forces + virial, {system.name}", times[0], times[2], HIPHIVE_FORCES)
        row(f"... and all 3N force errors, {system.name}", times[1], times[2], HIPHIVE_FORCES)


def compare_beads() -> None:
    """One of 32 configurations evaluated together, and one alone."""
    for system in (SILICON_64, SILICON_216, ARSENIDE_64, ARSENIDE_216, SELENIDE_72):
        expansion = system.expansion()
        force_field = ForceField(random_model(expansion), system.supercell(expansion))
        beads = displaced(force_field.supercell, 32)
        for what, errors in (("energy + forces + virial", False), ("... and all 3N errors", True)):
            works = [
                partial(force_field.predict, batch, errors, exact_errors=False)
                for batch in (beads, beads[:1])
            ]
            batch, single = interleaved(works, 5)
            row(f"bead of 32: {what}, {system.name}", batch / 32, single, "alone")


def in_new_cell(
    force_field: ForceField, batch: np.ndarray, random: np.random.Generator, errors: bool
) -> None:
    """Evaluate a batch in a cell that was never seen before, as a barostat asks for."""
    deformation = np.eye(3) + 0.003 * random.standard_normal((3, 3))
    force_field.predict_strained(deformation, batch, errors, exact_errors=False)


def compare_strained() -> None:
    """One configuration in a cell that changes at every call, and in the reference cell."""
    random = np.random.default_rng(2)
    for system in (SILICON_64, SILICON_216, ARSENIDE_64, ARSENIDE_216):
        expansion = system.expansion()
        force_field = ForceField(random_model(expansion), system.supercell(expansion))
        batch = displaced(force_field.supercell, 1)
        for what, errors in (("energy + forces + virial", False), ("... and all 3N errors", True)):
            works = [
                partial(in_new_cell, force_field, batch, random, errors),
                partial(force_field.predict, batch, errors, exact_errors=False),
            ]
            row(f"new cell: {what}, {system.name}", *interleaved(works, 5), "reference cell")


def compare_threads() -> None:
    """Two threads and one, elapsed time; wants two idle cores."""
    for system, multiple, n_configurations in (
        (SILICON_216, 12, 1),
        (SILICON_216, 3, 32),
        (ARSENIDE_64, 2, 1),
        (ARSENIDE_64, 2, 32),
    ):
        model = random_model(system.expansion())
        supercell = Supercell(model.expansion.crystal, multiple * CONVENTIONAL)
        beads = displaced(supercell, n_configurations)
        label = f"{n_configurations} x {supercell.n_atoms} atoms, {system.name[:3]}"
        for what, errors in (("forces", False), ("forces + errors", True)):
            works = [
                partial(ForceField(model, supercell, n).predict, beads, errors, exact_errors=False)
                for n in (2, 1)
            ]
            for work in works:
                work()
            times = np.array([[wall_time(work) for work in works] for _ in range(9)])
            row(f"two threads: {what}, {label}", *np.median(times, axis=0), "one thread")


def compare_sizes() -> None:
    """Time and memory per atom as the cell grows."""
    found = {size: in_process(ALONE, "cell", "SILICON_216", str(size)) for size in (3, 6, 12)}
    for what in ("forces", "errors"):
        for numbers in found.values():
            atoms = numbers["atoms"]
            row(f"Si {atoms:.0f} atoms: {'all' if what == 'errors' else 'only'} {what}, per 1000",
                numbers[what] / atoms * 1000, found[3][what] / 216 * 1000, "216 atoms",
                f"{numbers['memory']:.0f} MB in all")  # fmt: skip


def compare_start() -> None:
    """From the start of a process to its first force, with compiled code in the cache."""
    for name in ("SILICON_216", "ARSENIDE_216"):
        in_process(ALONE, "first_force", name)
        row(f"start to first force, {name}", in_process(ALONE, "first_force", name)["time"], None,
            "cached")  # fmt: skip


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

    peer = cpu_time(lambda: BayesianRidge(fit_intercept=False).fit(rows, targets))
    row(f"refit after one more label, {n_parameters} parameters", interleaved([refit], 3)[0], peer,
        "scikit-learn")  # fmt: skip


ROWS = {
    "bases": compare_bases,
    "symfc": compare_symfc,
    "rows": compare_rows,
    "forces": compare_forces,
    "beads": compare_beads,
    "strained": compare_strained,
    "threads": compare_threads,
    "sizes": compare_sizes,
    "refit": compare_refit,
    "start": compare_start,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="rows to print (all of them)")
    parser.add_argument("--list", action="store_true", help="name the rows")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(ROWS))
        return
    warnings.simplefilter("ignore")
    set_config(level=40)
    for name in arguments.rows or ROWS:
        if name not in ROWS:
            parser.error(f"no row {name!r}; there are {', '.join(ROWS)}")
        ROWS[name]()


if __name__ == "__main__":
    main()
