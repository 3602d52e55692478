"""How honest the errors are on real DFT: coverage of intervals, and force RMSE, by displacement.

    python benchmarks/calibration.py [--choices 20] [--dynamics]

Labels are those of tests/data (Quantum ESPRESSO; silicon, cubic BAs, SnSe), of displacements of
three sizes (standard deviation per component, Angstrom). "given" trains on the frames of
tests/data and tests on tests/data/held_out; "random" trains on as many of each size, chosen at
random from both, and tests on all others, again and again.

Each row gives the force RMSE and the fractions of force components within 1 and 1.96 predictive
standard deviations, with their standard errors from frame to frame (components of a frame are not
independent); the same with one constant noise level; and how far the first fraction scatters from
one choice of training frames to the next, beside the fractions and that scatter on synthetic
labels: those of a model with just the noise that it declares. With --dynamics, the trainings of
results/ and their independent frames of molecular dynamics, for the third of the atoms that is
displaced least, and for that displaced most: after the labels of the run, and after as many of
labels and frames that were shuffled, which come from the same dynamics as those that test them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import spglib
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from calibration_plots import displacement_of
from numpy.typing import NDArray

from anharm.configuration import load_configuration
from anharm.model import Crystal, Expansion, StructurePredictor, build_expansion, fit_structures
from anharm.model.crystal import identify_supercell
from anharm.model.labels import LabelReader
from anharm.model.regression import maximise_evidence
from anharm.model.sufficient_statistics import SufficientStatistics
from anharm.server.learner import build_expansion_of

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
CASES = {
    "Si": ("si64_qe_lda_gamma_20Ry", {2: "supercell", 3: 4.0, 4: 3.5}),
    "BAs": ("bas64_qe_lda_gamma_40Ry", {2: "supercell", 3: 3.5, 4: 2.5, 5: 2.5, 6: 2.5}),
    "SnSe": ("snse32_qe_pbe_gth_gamma_26Ry", {2: "supercell", 3: 4.1, 4: 3.2}),
}
RESULTS = Path(__file__).resolve().parents[1] / "results"
RUNS = ("si/tersoff-300K", "si/qe64-300K", "bas/chgnet-300K", "bas/qe64-300K", "snse/7net-300K")
Scores = NDArray[np.float64]  # of frames: mean square error, fractions within 1 and 1.96


def expansion_of(name: str) -> Expansion:
    """The expansion of a case about the primitive cell of its ideal crystal."""
    stem, cutoffs = CASES[name]
    ideal = read(DATA / f"{stem}.xyz", index=0)
    cell = (ideal.cell[:], ideal.get_scaled_positions(), ideal.numbers)
    lattice, positions, numbers = spglib.standardize_cell(
        cell, to_primitive=True, no_idealize=True, symprec=1e-3
    )
    primitive = Atoms(numbers=numbers, cell=lattice, scaled_positions=positions, pbc=True)
    crystal = Crystal.from_atoms(primitive)
    supercell = identify_supercell(crystal, np.array(ideal.cell[:]))
    return build_expansion(crystal, cutoffs, supercell=supercell)


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


def scores(predictor: StructurePredictor, frames: list[Atoms]) -> Scores:
    """(n_frames, 3) mean square force error and coverages."""
    found = []
    for atoms in frames:
        answer = predictor.predict(atoms)
        error = answer["forces"] - atoms.get_forces()
        found.append(score(error, error / answer["force_std_predictive"]))
    return np.array(found)


def score(error: Scores, ratio: Scores) -> tuple[float, ...]:
    """Mean square error and coverages of some components."""
    size = np.abs(ratio)
    return float(np.mean(error**2)), float(np.mean(size < 1)), float(np.mean(size < 1.96))


def choices(sizes: list[float], n_train: int, number: int) -> Iterator[tuple[list[int], list[int]]]:
    """Training and test frames: the first, then as many of each size at random."""
    random = np.random.default_rng(0)
    everything = np.arange(len(sizes))
    yield list(range(n_train)), list(range(n_train, len(sizes)))
    for _ in range(number):
        train: list[int] = []
        for size in sorted(set(sizes)):
            members = everything[np.array(sizes) == size]
            train += random.permutation(members)[: sizes[:n_train].count(size)].tolist()
        yield train, [index for index in everything.tolist() if index not in train]


def synthetic(model: StructurePredictor, frames: list[Atoms], seed: int) -> list[Atoms]:
    """The frames with forces of the model and noise as it declares."""
    random, found = np.random.default_rng(seed), []
    for atoms in frames:
        answer = model.predict(atoms)
        noise = np.sqrt(answer["force_std_predictive"] ** 2 - answer["force_std"] ** 2)
        copy = atoms.copy()
        forces = answer["forces"] + noise * random.standard_normal(noise.shape)
        copy.calc = SinglePointCalculator(copy, forces=forces)
        found.append(copy)
    return found


def rows_of(name: str, number: int) -> Iterator[str]:
    """Table rows of one crystal."""
    stem = CASES[name][0]
    expansion = expansion_of(name)
    frames = read(DATA / f"{stem}.xyz", index="1:")
    n_train = len(frames)
    frames += read(DATA / "held_out" / f"{stem}.xyz", index=":")
    sizes = [float(atoms.info["std"]) for atoms in frames]
    truth = StructurePredictor(fit_structures(expansion, frames))
    shape = (1 + number, len(frames), 3)
    ours, constant, known = (np.full(shape, np.nan) for _ in range(3))
    for index, (train, test) in enumerate(choices(sizes, n_train, number)):
        labels, unseen = [frames[i] for i in train], [frames[i] for i in test]
        ours[index, test] = scores(StructurePredictor(fit_structures(expansion, labels)), unseen)
        constant[index, test] = scores(constant_noise(expansion, labels), unseen)
        made = synthetic(truth, frames, index)
        fitted = fit_structures(expansion, [made[i] for i in train])
        known[index, test] = scores(StructurePredictor(fitted), [made[i] for i in test])
    for kind, chosen in (("given", slice(0, 1)), ("random", slice(1, None))):
        for size in sorted(set(sizes)):
            members = np.flatnonzero(np.array(sizes) == size)
            parts = [one[chosen][:, members] for one in (ours, constant, known)]
            known_columns = summary(parts[2]).partition(" | ")[2]
            scatter = [f"{spread_of_choices(part):.3f}" for part in (parts[0], parts[2])]
            columns = f"{scatter[0]} | {known_columns} | {scatter[1]}"
            yield (
                f"| {name} | {kind} | {size:g} | {summary(parts[0], errors=True)} | "
                f"{summary(parts[1])} | {columns if kind == 'random' else ' | | | '} |"
            )


def spread_of_choices(found: Scores) -> float:
    """Standard deviation over the choices of the coverage of 68 % of their test frames."""
    return float(np.std(np.nanmean(found[:, :, 1], axis=1)))


def summary(found: Scores, errors: bool = False) -> str:
    """RMSE and coverages, of (n_choices, n_frames, 3) scores; also how many frames, and errors."""
    by_frame = found[:, ~np.isnan(found[..., 0]).all(axis=0)]
    by_frame = np.nanmean(by_frame, axis=0)
    square, *coverages = by_frame.mean(axis=0)
    spread = by_frame.std(axis=0, ddof=1)[1:] / np.sqrt(len(by_frame))
    columns = [f"{value:.3f}" for value in coverages]
    if errors:
        columns = [f"{c} ± {e:.3f}" for c, e in zip(columns, spread, strict=True)]
    first = [str(len(by_frame))] if errors else []
    return " | ".join([*first, f"{np.sqrt(square):.4f}", *columns])


def rows_of_run(name: str) -> Iterator[str]:
    """Table rows of the frames of molecular dynamics of one training."""
    folder = RESULTS / name
    labels = read(folder / "labels.xyz.gz", index=":", format="extxyz")
    frames = read(folder / "frames.xyz.gz", index=":", format="extxyz")
    run = load_configuration(folder / "run.toml")
    expansion = build_expansion_of(run, "fit", len(labels[0]), len(labels))
    every = labels + frames
    shuffled = np.random.default_rng(0).permutation(len(every)).tolist()
    for kind, order in (("run", range(len(every))), ("shuffled", shuffled)):
        train, test = ([every[i] for i in part] for part in np.split(order, [len(labels)]))
        predictor = StructurePredictor(fit_structures(expansion, train))
        found: dict[str, list[tuple[float, ...]]] = {"all": [], "least": [], "most": []}
        for atoms in test:
            answer = predictor.predict(atoms)
            error = answer["forces"] - atoms.get_forces()
            ratio = error / answer["force_std_predictive"]
            moved = displacement_of(atoms, expansion.crystal)
            low, high = np.quantile(moved, [1 / 3, 2 / 3])
            masks = {"all": moved >= 0, "least": moved <= low, "most": moved >= high}
            for which, mask in masks.items():
                found[which].append(score(error[mask], ratio[mask]))
        for which, parts in found.items():
            columns = summary(np.array(parts)[None], errors=True)
            yield f"| {name} | {kind} | {len(labels)} | {which} | {columns} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choices", type=int, default=20, help="of training frames")
    parser.add_argument("--dynamics", action="store_true", help="frames of results/ instead")
    words = parser.parse_args()
    if words.dynamics:
        print("| training | labels | number | atoms displaced | frames | RMSE | 68 % | 95 % |")
        print("|---" * 8 + "|")
        for name in RUNS:
            for row in rows_of_run(name):
                print(row, flush=True)
        return
    print(
        "| crystal | training frames | displacement | frames | RMSE | 68 % | 95 % | "
        "constant: RMSE | 68 % | 95 % | scatter of 68 % | synthetic: 68 % | 95 % | scatter |"
    )
    print("|---" * 14 + "|")
    for name in CASES:
        for row in rows_of(name, words.choices):
            print(row, flush=True)


if __name__ == "__main__":
    main()
