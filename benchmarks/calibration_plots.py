"""How honest the errors of a training are, from its first labels to its last: picture and table.

    python benchmarks/calibration_plots.py results/bas/chgnet-300K [...] --output docs/figures

Each folder holds `run.toml` (its [crystal] and [expansion] are used), `labels.xyz.gz` in the order
in which the run learnt them, and `frames.xyz.gz`, independent labels (see
benchmarks/independent_frames.py). Models are fitted again to the first labels, as many as the run
had for its first model, and so on to the last; each is compared with the independent frames. A
picture per folder shows coverage and z-scores of the last model against the displacement of the
atoms, and the true force RMSE of all models beside their trajectory-averaged Bayesian error: the
average of max_i sigma_i over the frames. The table goes to the standard output.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import ase.io
import numpy as np
from ase import Atoms
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from anharm.configuration import load_configuration
from anharm.model import (
    BayesianModel,
    Crystal,
    StructurePredictor,
    Supercell,
    fit_structures,
    load_model,
)
from anharm.model.deformation import (
    checked_deformation,
    identify_strained_supercell,
    is_reference_cell,
)
from anharm.model.sites import assign_sites
from anharm.server.learner import build_expansion_of
from anharm.server.record import Record

FloatArray = NDArray[np.float64]
BINS = 6
INTERVALS = {0.68: 1.0, 0.95: 1.96}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A model on the independent frames.

    Attributes
    ----------
    labels : int
        That it was fitted to.
    bayesian_error : float
        max_i sigma_i, averaged over the frames, eV/Angstrom.
    errors, predictive : ndarray, shape (n_frames, n_atoms, 3)
        Of the forces: true ones, and predictive standard deviations, eV/Angstrom.
    """

    labels: int
    bayesian_error: float
    errors: FloatArray
    predictive: FloatArray

    @property
    def rmse(self) -> float:
        """Of force components, eV/Angstrom."""
        return float(np.sqrt(np.mean(self.errors**2)))

    @property
    def z(self) -> FloatArray:
        """True errors in units of their predictive standard deviations."""
        return self.errors / self.predictive

    def coverage(self, interval: float) -> float:
        """Fraction of force components within the predictive interval."""
        return float(np.mean(np.abs(self.z) < INTERVALS[interval]))


def compare(
    folder: Path, most: int, directory: Path | None
) -> tuple[list[Comparison], FloatArray, float]:
    """Comparisons of all models, displacements of the atoms of all frames, and the rms force."""
    frames = ase.io.read(folder / "frames.xyz.gz", ":", format="extxyz")
    found = []
    for size, model in models_of_run(directory, most) if directory else refits(folder, most):
        found.append(compare_model(StructurePredictor(model), size, frames))
    crystal = model.expansion.crystal
    displacements = np.array([displacement_of(frame, crystal) for frame in frames])
    rms = float(np.sqrt(np.mean([np.mean(frame.get_forces() ** 2) for frame in frames])))
    return found, displacements, rms


def refits(folder: Path, most: int) -> Iterator[tuple[int, BayesianModel]]:
    """Models of the first labels of a folder, as many as the initial ones, and so on to all."""
    labels = ase.io.read(folder / "labels.xyz.gz", ":", format="extxyz")
    run = load_configuration(folder / "run.toml")
    expansion = build_expansion_of(run, "fit", len(labels[0]), len(labels))
    first = sum(label.info["reason"].startswith("initial") for label in labels)
    for size in np.unique(np.linspace(first, len(labels), most).astype(int)):
        yield int(size), fit_structures(expansion, labels[:size])


def models_of_run(directory: Path, most: int) -> Iterator[tuple[int, BayesianModel]]:
    """The models of a run directory, evenly chosen."""
    with Record.open(directory, read_only=True) as record:
        models = record.models()
    for index in np.unique(np.linspace(0, len(models) - 1, most).astype(int)):
        yield len(models[index].labels), load_model(directory / models[index].path)


def compare_model(predictor: StructurePredictor, size: int, frames: list[Atoms]) -> Comparison:
    """One model on all frames."""
    answers = [predictor.predict(frame) for frame in frames]
    return Comparison(
        size,
        float(np.mean([answer["force_std"].max() for answer in answers])),
        np.array([a["forces"] - f.get_forces() for a, f in zip(answers, frames, strict=True)]),
        np.array([answer["force_std_predictive"] for answer in answers]),
    )


def displacement_of(atoms: Atoms, crystal: Crystal) -> FloatArray:
    """(n_atoms,) distances of the atoms from their sites, Angstrom."""
    cell = np.array(atoms.cell[:])
    supercell = Supercell(crystal, identify_strained_supercell(crystal, cell, len(atoms)))
    known = is_reference_cell(supercell, cell)
    deformation = None if known else checked_deformation(supercell, cell)
    sites = assign_sites(supercell, atoms.positions, atoms.numbers, None, deformation)
    moved = sites.to_user_order(sites.displacements(atoms.positions, deformation))
    return np.asarray(np.linalg.norm(moved, axis=1))


def correlations(models: list[Comparison]) -> tuple[float, float]:
    """Pearson's (of logarithms) and Spearman's, of Bayesian error and true RMSE over the models."""
    bayesian = [model.bayesian_error for model in models]
    true = [model.rmse for model in models]
    return float(pearsonr(np.log(bayesian), np.log(true))[0]), float(spearmanr(bayesian, true)[0])


def bins_of(displacements: FloatArray) -> list[NDArray[np.bool_]]:
    """Masks of equally many atoms each, by displacement."""
    edges = np.quantile(displacements, np.linspace(0, 1, BINS + 1))
    edges[-1] += 1e-9
    pairs = pairwise(edges)
    return [(displacements >= low) & (displacements < high) for low, high in pairs]


def draw_coverage(axes: Axes, last: Comparison, displacements: FloatArray) -> None:
    """Fractions within the intervals, by displacement."""
    masks = bins_of(displacements)
    centres = [displacements[mask].mean() for mask in masks]
    for index, (interval, width) in enumerate(INTERVALS.items()):
        found = [np.mean(np.abs(last.z[mask]) < width) for mask in masks]
        axes.axhline(interval, color=f"C{index}", linestyle=":")
        axes.plot(centres, found, "o-", color=f"C{index}", label=f"{interval:.0%} interval")
    axes.set(xlabel="displacement (Å)", ylabel="fraction inside", ylim=(0, 1.02))
    axes.legend(loc="lower left")


def draw_z(axes: Axes, last: Comparison, displacements: FloatArray) -> None:
    """z-scores against displacement, and their root mean square."""
    chosen = np.random.default_rng(0).permutation(last.z.size)[:1500]
    repeated = np.repeat(displacements[..., None], 3, axis=-1)
    axes.plot(repeated.ravel()[chosen], last.z.ravel()[chosen], ".", markersize=2, color="0.6")
    masks = bins_of(displacements)
    centres = [displacements[mask].mean() for mask in masks]
    found = [np.sqrt(np.mean(last.z[mask] ** 2)) for mask in masks]
    axes.plot(centres, found, "o-", color="C3", label="rms z")
    for height in (-1.96, 1, 1.96):
        axes.axhline(height, color="k", linewidth=0.5, linestyle=":")
    axes.set(xlabel="displacement (Å)", ylabel="z = error / predictive std", ylim=(-4, 4))
    axes.legend(loc="lower left")


def draw_learning(axes: Axes, models: list[Comparison]) -> None:
    """Bayesian error and true error against labels."""
    labels = [model.labels for model in models]
    axes.plot(labels, [m.rmse for m in models], "o-", label="force RMSE, true")
    axes.plot(labels, [m.bayesian_error for m in models], "s--", label="mean of max σ")
    axes.set(xlabel="labels", ylabel="eV/Å", yscale="log")
    axes.set_title(f"correlation of logarithms {correlations(models)[0]:.2f}", fontsize=9)
    axes.legend()


def draw(name: str, models: list[Comparison], displacements: FloatArray, path: Path) -> None:
    """Write the picture of one training."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    coverage, z, learning = figure.subplots(1, 3)
    draw_coverage(coverage, models[-1], displacements)
    draw_z(z, models[-1], displacements)
    draw_learning(learning, models)
    figure.suptitle(name)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Print the table, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("docs/figures"))
    parser.add_argument("--models", type=int, default=15, help="at most so many of each training")
    parser.add_argument("--run", type=Path, help="take the models of this run directory instead")
    words = parser.parse_args()
    words.output.mkdir(parents=True, exist_ok=True)
    print(
        "| training | frames | rms force | labels | RMSE first | RMSE last | 68 % | 95 % | rms z |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print_later = []
    for folder in words.folders:
        name = f"{folder.resolve().parent.name} {folder.resolve().name}"
        models, displacements, rms = compare(folder, words.models, words.run)
        last = models[-1]
        rms_z = np.sqrt(np.mean(last.z**2))
        numbers = f"{last.coverage(0.68):.3f} | {last.coverage(0.95):.3f} | {rms_z:.2f}"
        print(
            f"| {name} | {len(last.z)} | {rms:.3f} | {last.labels} | {models[0].rmse:.4f} | "
            f"{last.rmse:.4f} | {numbers} |",
            flush=True,
        )
        draw(
            name, models, displacements, words.output / f"calibration-{name.replace(' ', '-')}.png"
        )
        rows = [f"{m.labels}: {m.bayesian_error:.3f}, {m.rmse:.4f}" for m in models]
        pearson, spearman = correlations(models)
        print_later.append(
            f"{name}: correlation {pearson:.2f} (logarithms), {spearman:.2f} (ranks)"
        )
        print_later.append("  labels: mean of max sigma, RMSE (eV/A): " + "; ".join(rows))
    print("", *print_later, sep="\n")


if __name__ == "__main__":
    main()
