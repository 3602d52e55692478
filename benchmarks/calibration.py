"""How honest the errors are on real DFT: coverage of intervals, and force RMSE, by displacement.

    python benchmarks/calibration.py

Labels are those of tests/data (Quantum ESPRESSO; silicon, cubic BAs, SnSe). Each table row gives,
for frames of one displacement (standard deviation per component, Angstrom), the force RMSE and the
fractions of force components within 1 and 1.96 predictive standard deviations: with the noise of
`anharm fit`, and with one constant noise level. "splits" leaves every pair of frames out in turn;
"new" trains on all of them and tests on frames of tests/data/held_out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import spglib
from ase import Atoms
from ase.io import read

from anharm.model import Crystal, Expansion, StructurePredictor, build_expansion, fit_structures
from anharm.model.labels import LabelReader
from anharm.model.regression import maximise_evidence
from anharm.model.sufficient_statistics import SufficientStatistics

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
CASES = {
    "Si": ("si64_qe_lda_gamma_20Ry", {2: 5.0, 3: 4.0, 4: 3.5}),
    "BAs": ("bas64_qe_lda_gamma_40Ry", {2: 4.6, 3: 3.5, 4: 2.5, 5: 2.5, 6: 2.5}),
    "SnSe": ("snse32_qe_pbe_gth_gamma_26Ry", {2: 4.1, 3: 4.1, 4: 3.2}),
}
Scores = dict[float, list[tuple[float, ...]]]


def expansion_of(name: str) -> Expansion:
    """The expansion of a case about the primitive cell of its ideal crystal."""
    stem, cutoffs = CASES[name]
    ideal = read(DATA / f"{stem}.xyz", index=0)
    cell = (ideal.cell[:], ideal.get_scaled_positions(), ideal.numbers)
    lattice, positions, numbers = spglib.standardize_cell(
        cell, to_primitive=True, no_idealize=True, symprec=1e-3
    )
    primitive = Atoms(numbers=numbers, cell=lattice, scaled_positions=positions, pbc=True)
    return build_expansion(Crystal.from_atoms(primitive), cutoffs)


def constant_noise(expansion: Expansion, train: list[Atoms]) -> StructurePredictor:
    """Predictor of a fit to forces with one noise level for all."""
    reader = LabelReader(expansion)
    statistics = SufficientStatistics.empty(expansion.n_parameters)
    for atoms in train:
        label = reader.read(
            atoms.cell[:], atoms.positions, atoms.get_forces(), None, None, atoms.numbers
        )
        rows = label.rows()["forces"][:, reader.constants.number :]
        statistics = statistics.add(rows, label.targets["forces"].values)
    posterior = maximise_evidence(statistics, expansion.parameter_orders)
    plain = fit_structures(expansion, train, targets=["forces"])
    return StructurePredictor(replace(plain, posterior=posterior, noise={}))


def score(predictor: StructurePredictor, atoms: Atoms) -> tuple[float, ...]:
    """Force RMSE and coverages of one frame."""
    found = predictor.predict(atoms)
    error = found["forces"] - atoms.get_forces()
    ratios = np.abs(error) / found["force_std_predictive"]
    return float(np.sqrt(np.mean(error**2))), float(np.mean(ratios < 1)), np.mean(ratios < 1.96)


def partitions(frames: list[Atoms]) -> Iterator[tuple[list[Atoms], list[Atoms]]]:
    """Every pair of frames left out."""
    for out in combinations(range(len(frames)), 2):
        kept = [frame for index, frame in enumerate(frames) if index not in out]
        yield kept, [frames[index] for index in out]


def main() -> None:
    """Print the table."""
    print("| crystal | frames | displacement | RMSE | 68 % | 95 % | constant: RMSE | 68 % | 95 % |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (stem, _) in CASES.items():
        expansion = expansion_of(name)
        frames = read(DATA / f"{stem}.xyz", index="1:")
        new = read(DATA / "held_out" / f"{stem}.xyz", index=":")
        for kind, parts in (("splits", list(partitions(frames))), ("new", [(frames, new)])):
            scores: Scores = {}
            for train, test in parts:
                ours = StructurePredictor(fit_structures(expansion, train))
                constant = constant_noise(expansion, train)
                for atoms in test:
                    both = score(ours, atoms) + score(constant, atoms)
                    scores.setdefault(float(atoms.info["std"]), []).append(both)
            for displacement, found in sorted(scores.items()):
                numbers = np.mean(found, axis=0)
                columns = [
                    f"{value:.4f}" if index % 3 == 0 else f"{value:.3f}"
                    for index, value in enumerate(numbers)
                ]
                print(f"| {name} | {kind} | {displacement:g} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
