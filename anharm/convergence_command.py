"""`anharm convergence`: the error of every model version on the same configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from anharm.errors import ConfigurationError, RunFailed
from anharm.server.convergence import Convergence, Refit, assess_convergence
from anharm.server.engine_trajectory import read_trajectory
from anharm.server.error_history import ErrorHistory
from anharm.server.record import Prediction, Record
from anharm.server.replay import ReplayedVersion, Trajectory, recorded_trajectories, replay
from anharm.server.run_directory import run_settings


@dataclass(frozen=True, eq=False)
class ConvergenceCurve:
    """What `anharm convergence` found.

    Attributes
    ----------
    trajectories : list of Trajectory
    versions : list of ReplayedVersion
    determined : dict of float
        Parameters that the labels of each version determine.
    driving : dict of float
        Average error that each version had while it drove the dynamics, eV/Angstrom.
    label_rmse : dict of float
        Force RMSE of the labels that each version foretold before they were learnt, eV/Angstrom.
    plateaus : dict of Convergence
        By trajectory, judged by the criterion of the run for a plateau.
    declared : str
        Why training was declared converged during the run; empty if it was not.
    declared_step : int or None
    """

    trajectories: list[Trajectory]
    versions: list[ReplayedVersion]
    determined: dict[int, float]
    driving: dict[int, float]
    label_rmse: dict[int, float]
    plateaus: dict[str, Convergence]
    declared: str
    declared_step: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for --json."""
        return {
            "configurations": {
                t.name: {"used": len(t.frames), "available": t.n_available}
                for t in self.trajectories
            },
            "models": [
                {
                    "version": v.version,
                    "labels": v.labels,
                    "determined_parameters": self.determined[v.version],
                    "average_error": {name: v.average(name) for name in v.errors},
                    "largest_error": {name: float(e.max()) for name, e in v.errors.items()},
                    "average_error_while_driving": self.driving.get(v.version),
                    "label_force_rmse": self.label_rmse.get(v.version),
                }
                for v in self.versions
            ],
            "plateau": {
                name: {"reached": found.converged, "reason": found.reason}
                for name, found in self.plateaus.items()
            },
            "declared": self.declared,
            "declared_step": self.declared_step,
        }


def find_convergence(
    directory: Path, files: Sequence[Path] = (), largest: int = 200, show_progress: bool = False
) -> ConvergenceCurve:
    """Replay a run's configurations, or those of files, under every model version.

    Parameters
    ----------
    directory : Path
        The run directory.
    files : sequence of Path
        Configurations to use instead of those that the record keeps.
    largest : int
        Configurations per trajectory.
    show_progress : bool
        On the terminal's stderr.

    Raises
    ------
    AnharmError
        If there is no record, no model or no configuration, or one cannot be used.
    """
    with Record.open(directory, read_only=True) as record:
        known = record.metadata()
        models = record.models()
        trajectories = (
            [read_trajectory(path, largest) for path in files]
            if files
            else recorded_trajectories(record, largest)
        )
        history = ErrorHistory.from_record(record)
        label_rmse = _label_rmse(label.prediction for label in record.labels())
    settings = run_settings(directory, known)
    _check(directory, len(models), trajectories)
    with _progress(len(models), show_progress) as advance:
        versions = replay(directory, models, trajectories, settings.maximum_displacement, advance)
    determined = {model.version: model.determined_parameters for model in models}
    return ConvergenceCurve(
        trajectories=trajectories,
        versions=versions,
        determined=determined,
        driving={v: history.sums[v] / history.counts[v] for v in history.counts},
        label_rmse=label_rmse,
        plateaus={
            t.name: assess_convergence(
                [Refit(v.labels, 0, v.average(t.name), determined[v.version]) for v in versions],
                0,
                settings.training,
            )
            for t in trajectories
        },
        declared=known.get("converged", ""),
        declared_step=int(known["converged_step"]) if "converged_step" in known else None,
    )


def _label_rmse(predictions: Iterable[Prediction | None]) -> dict[int, float]:
    """Force RMSE of the labels that each model version foretold, eV/Angstrom."""
    by_version: dict[int, list[float]] = {}
    for prediction in predictions:
        if prediction is not None:
            by_version.setdefault(prediction.model_version, []).append(prediction.force_rmse)
    return {v: float(np.sqrt(np.mean(np.square(r)))) for v, r in by_version.items()}


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[], None]]:
    """A bar on the terminal's stderr, and what advances it."""
    with Progress(console=Console(stderr=True), transient=True, disable=not is_shown) as bar:
        task = bar.add_task("model versions", total=total)
        yield lambda: bar.advance(task)


def _check(directory: Path, n_models: int, trajectories: Sequence[Trajectory]) -> None:
    if not n_models:
        raise RunFailed(f"the run in {directory} has no model yet: let it learn its first labels")
    if not trajectories:
        raise RunFailed(
            f"the record in {directory} keeps no configuration of a trajectory: let i-PI make its "
            "first steps, or give a file with --configurations"
        )
    names = [t.name for t in trajectories]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"--configurations: two files have the same name ({', '.join(names)}); rename one"
        )


def print_convergence(curve: ConvergenceCurve, console: Console) -> None:
    """The curve as a table, with what it means."""
    table = Table(title="average Bayesian error max_i sigma_i (eV/A)")
    for title in ("model", "labels", "determined", *(t.name for t in curve.trajectories)):
        table.add_column(title, justify="right")
    table.add_column("while it drove", justify="right")
    table.add_column("labels foretold, force RMSE", justify="right")
    for version in curve.versions:
        averages = [
            f"{version.average(t.name):.4g} ± {version.errors[t.name].std():.2g}"
            for t in curve.trajectories
        ]
        table.add_row(
            str(version.version),
            str(version.labels),
            f"{curve.determined[version.version]:.1f}",
            *averages,
            _number(curve.driving.get(version.version)),
            _number(curve.label_rmse.get(version.version)),
        )
    console.print(table)
    for t in curve.trajectories:
        console.print(
            f"{t.name}: {len(t.frames)} of {t.n_available} configurations; ± is their spread. "
            f"{curve.plateaus[t.name].reason}",
            markup=False,
        )
    if curve.declared:
        said = f"Declared converged during the run, at step {curve.declared_step}: {curve.declared}"
    else:
        said = "The run has not declared convergence."
    console.print(said, markup=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def draw(curve: ConvergenceCurve) -> Figure:
    """The average error against the number of labels, with the spread over configurations."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    plot_convergence(figure.subplots(), curve)
    return figure


def plot_convergence(axes: Axes, curve: ConvergenceCurve) -> None:
    """Draw the curve into a figure."""
    labels = [version.labels for version in curve.versions]
    for trajectory in curve.trajectories:
        errors = [version.errors[trajectory.name] for version in curve.versions]
        (line,) = axes.plot(labels, [e.mean() for e in errors], "o-", label=trajectory.name)
        lower, upper = np.transpose([np.percentile(e, [16, 84]) for e in errors])
        axes.fill_between(labels, lower, upper, color=line.get_color(), alpha=0.2, lw=0)
    driving = [(v.labels, curve.driving[v.version]) for v in curve.versions
               if v.version in curve.driving]  # fmt: skip
    if driving:
        axes.plot(*np.transpose(driving), "k+", label="while it drove the dynamics")
    axes.set_yscale("log")
    axes.set_xlabel("labels")
    axes.set_ylabel("largest force error of a step, averaged (eV/Å)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
