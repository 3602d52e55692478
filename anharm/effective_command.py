"""`anharm effective-phonons`: harmonic phonons fitted to thermal forces, beside those at rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from anharm.errors import ConfigurationError, RunFailed
from anharm.files import PICTURES, check_output, naming, saving
from anharm.model import BayesianModel, load_model, save_model
from anharm.model.crystal import FloatArray
from anharm.model.effective import EffectiveHarmonic, effective_expansion, fit_effective
from anharm.model.export.bands import PhononBands, phonon_bands
from anharm.model.export.density_of_states import DensityOfStates, density_of_states
from anharm.options import check_probability, parse_mesh
from anharm.phonons_figure import band_axes, finish_band_axes, finish_density_axes
from anharm.structures import read_structures

AT_REST = "at rest"
_ACOUSTIC = 3


@dataclass(frozen=True)
class EffectiveRequest:
    """What `anharm effective-phonons` is asked for, as the command line says it.

    Attributes
    ----------
    from_model : bool
        Take the model's forces instead of those in the files.
    path : str, optional
        Special points.
    n_samples : int
    probability : float
        Of the intervals.
    density : bool
    mesh : str
        As for `anharm phonons`.
    save : Path, optional
        Folder for the effective models.
    """

    from_model: bool = False
    path: str | None = None
    n_samples: int = 100
    probability: float = 0.95
    density: bool = True
    mesh: str = "50"
    save: Path | None = None


@dataclass(frozen=True)
class Phonons:
    """Phonons of one ensemble; of the model itself where `fit` is None."""

    fit: EffectiveHarmonic | None
    bands: PhononBands
    density: DensityOfStates | None


def find_effective(
    model_file: Path, files: Sequence[Path], output: Path, request: EffectiveRequest
) -> dict[str, Phonons]:
    """Phonons at rest and of every file of configurations, drawn into `output`.

    Raises
    ------
    ConfigurationError
        If a file cannot be read or an option not be used.
    ModelError
        Naming the file whose structures cannot be used.
    RunFailed
        If something cannot be written.
    """
    check_output(output, PICTURES)
    check_probability(request.probability)
    mesh = parse_mesh(request.mesh)
    names = [file.stem for file in files]
    if len(set(names)) < len(names) or AT_REST in names:
        raise ConfigurationError(f"the files {', '.join(names)} must have different names")
    model = load_model(model_file)
    fits = {file.stem: _fit(model, file, request.from_model) for file in files}
    if request.save is not None:
        _save(fits, request.save)
    models = {AT_REST: model, **{name: fit.model for name, fit in fits.items()}}
    bands = {
        name: phonon_bands(one, None, request.path, n_samples=request.n_samples)
        for name, one in models.items()
    }
    ends = (
        min(float(one.samples.min()) for one in bands.values()),
        max(float(one.samples.max()) for one in bands.values()),
    )
    densities = {
        name: density_of_states(one, ends, mesh, None, request.n_samples)
        for name, one in models.items()
        if request.density
    }
    found = {name: Phonons(fits.get(name), bands[name], densities.get(name)) for name in models}
    with saving(output):
        draw(found, request.probability).savefig(output)
    return found


def _fit(model: BayesianModel, file: Path, from_model: bool) -> EffectiveHarmonic:
    source = model if from_model else None
    structures = read_structures(file)
    with naming(file):
        return fit_effective(effective_expansion(model), structures, source, file.name)


def _save(fits: Mapping[str, EffectiveHarmonic], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(f"cannot make the folder {folder}: {error.strerror or error}") from error
    for name, fit in fits.items():
        save_model(fit.model, folder / f"{name}.h5")


def lowest_optical(bands: PhononBands, probability: float) -> tuple[float, float, float] | None:
    """Lowest optical frequency at the zone centre and its interval, THz; None off the path."""
    centre = np.flatnonzero(np.abs(bands.wave_vectors).max(axis=1) < 1e-9)
    if not len(centre) or bands.frequencies.shape[1] <= _ACOUSTIC:
        return None

    def optical(frequencies: FloatArray) -> Any:
        """Without the three modes closest to zero, which at the centre are the acoustic ones."""
        order = np.argsort(np.abs(frequencies), axis=-1)[..., _ACOUSTIC:]
        return np.take_along_axis(frequencies, order, axis=-1).min(axis=-1)

    tail = (1 - probability) / 2
    lower, upper = np.quantile(optical(bands.samples[:, centre[0]]), [tail, 1 - tail])
    return float(optical(bands.frequencies[centre[0]])), float(lower), float(upper)


def as_dict(found: Mapping[str, Phonons], probability: float) -> dict[str, Any]:
    """Plain numbers, for --json."""
    return {name: _plain(one, probability) for name, one in found.items()}


def _plain(one: Phonons, probability: float) -> dict[str, Any]:
    bands = one.bands
    lower, upper = bands.interval(probability)
    plain: dict[str, Any] = {"special_points": []}
    for place, name in bands.labels:
        point = int(np.argmin(np.abs(bands.distances - place)))
        plain["special_points"].append(
            {
                "name": name,
                "frequencies": bands.frequencies[point].tolist(),
                "lower": lower[point].tolist(),
                "upper": upper[point].tolist(),
            }
        )
    if one.fit is not None:
        plain["configurations"] = one.fit.n_configurations
        plain["rms_force"] = one.fit.rms_force
        plain["left"] = one.fit.left
    return plain


def print_effective(found: Mapping[str, Phonons], probability: float, console: Console) -> None:
    """One row per ensemble."""
    table = Table(title="effective phonons, THz", title_justify="left")
    interval = f"{100 * probability:g} %"
    for heading in ("", "frames", "rms F", "left", "lowest", "highest",
                    f"lowest optical at Γ, {interval}"):  # fmt: skip
        table.add_column(heading)
    for name, one in found.items():
        fit, bands = one.fit, one.bands
        optical = lowest_optical(bands, probability)
        table.add_row(
            name,
            "-" if fit is None else str(fit.n_configurations),
            "-" if fit is None else f"{fit.rms_force:.3f}",
            "-" if fit is None else f"{fit.left:.3f}",
            f"{bands.frequencies.min():.3f}",
            f"{bands.frequencies.max():.3f}",
            "-" if optical is None else "{:.3f} [{:.3f}, {:.3f}]".format(*optical),
        )
    console.print(table)
    console.print(
        "rms F in eV/Angstrom; left: rms(F - effective harmonic forces) / rms(F)", style="dim"
    )


def draw(found: Mapping[str, Phonons], probability: float) -> Figure:
    """All bands in one picture, one colour per ensemble, and the densities beside them."""
    with_density = all(one.density is not None for one in found.values())
    figure = Figure(figsize=(8.0 if with_density else 6.5, 4.5), layout="constrained")
    axes, beside = band_axes(figure, with_density)
    for number, (name, one) in enumerate(found.items()):
        colour = "black" if one.fit is None else f"C{number - 1}"
        bands = one.bands
        lower, upper = bands.interval(probability)
        for band in range(bands.frequencies.shape[1]):
            if one.fit is not None:
                axes.fill_between(
                    bands.distances, lower[:, band], upper[:, band], color=colour, alpha=0.2, lw=0
                )
            axes.plot(
                bands.distances,
                bands.frequencies[:, band],
                color=colour,
                lw=0.7,
                label=name if band == 0 else None,
            )
        if one.density is not None and beside is not None:
            beside.plot(one.density.densities, one.density.frequencies, color=colour, lw=0.8)
    finish_band_axes(axes, next(iter(found.values())).bands)
    if beside is not None:
        finish_density_axes(beside)
    figure.legend(loc="outside upper center", ncols=len(found), frameon=False)
    return figure
