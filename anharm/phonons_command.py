"""`anharm phonons`: phonon bands of a model file with credible intervals, drawn or as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from anharm.errors import ConfigurationError, RunFailed
from anharm.export_command import parse_supercell
from anharm.model import load_model
from anharm.model.export.bands import PhononBands, phonon_bands

_PICTURES = (".pdf", ".png", ".svg")


def phonons(
    model_file: Path,
    output: Path,
    supercell: str | None = None,
    path: str | None = None,
    n_samples: int = 100,
    probability: float = 0.95,
) -> str:
    """Write the bands to a picture or a .csv table, and return a summary.

    Raises
    ------
    ConfigurationError
        If the output's suffix, the supercell or the probability cannot be used.
    ModelError
        If the model cannot be read or has no phonons; see `phonon_bands`.
    RunFailed
        If the output cannot be written.
    """
    if output.suffix not in (*_PICTURES, ".csv"):
        raise ConfigurationError(
            f"--output {output}: end its name in {', '.join(_PICTURES)} for a picture, or .csv "
            "for a table"
        )
    if not 0 < probability < 1:
        raise ConfigurationError(f"--probability {probability} must lie between 0 and 1")
    matrix = parse_supercell(supercell) if supercell is not None else None
    bands = phonon_bands(load_model(model_file), matrix, path, n_samples=n_samples)
    try:
        if output.suffix == ".csv":
            _write_table(bands, probability, output)
        else:
            draw(bands, probability).savefig(output)
    except OSError as error:
        raise RunFailed(f"cannot write {output}: {error.strerror or error}") from error
    return _summary(bands, probability) + f"\nwritten to {output}"


def draw(bands: PhononBands, probability: float) -> Figure:
    """Lines for the mean model, shades for the credible interval."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    lower, upper = bands.interval(probability)
    for band, frequencies in enumerate(bands.frequencies.T):
        axes.fill_between(
            bands.distances, lower[:, band], upper[:, band], color="tab:blue", alpha=0.3, lw=0
        )
        axes.plot(bands.distances, frequencies, color="black", lw=0.8)
    places = sorted({place for place, _ in bands.labels})
    names = ["|".join(n for p, n in bands.labels if p == place) for place in places]
    axes.set_xticks(places, [name.replace("G", "Γ") for name in names])
    for place in places:
        axes.axvline(place, color="grey", lw=0.5)
    axes.axhline(0, color="grey", lw=0.5)
    axes.set_xlim(bands.distances[0], bands.distances[-1])
    axes.set_ylabel("frequency (THz)")
    axes.set_title(f"mean and {100 * probability:g} % credible interval", fontsize="medium")
    return figure


def _write_table(bands: PhononBands, probability: float, output: Path) -> None:
    lower, upper = bands.interval(probability)
    n_bands = bands.frequencies.shape[1]
    columns = np.stack([bands.frequencies, lower, upper], axis=-1).reshape(len(lower), -1)
    names = [
        f"{kind}_{band}" for band in range(1, n_bands + 1) for kind in ("mean", "lower", "upper")
    ]
    header = ",".join(["distance", "q1", "q2", "q3", *names])
    rows = np.column_stack([bands.distances, bands.wave_vectors, columns])
    np.savetxt(output, rows, fmt="%.8f", delimiter=",", header=header, comments="")


def _summary(bands: PhononBands, probability: float) -> str:
    lower, upper = bands.interval(probability)
    point, band = np.unravel_index(np.argmax(upper - lower), lower.shape)
    # Acoustic modes at the zone centre are zero to rounding; a real instability is not that small.
    unstable = (bands.samples.min(axis=(1, 2)) < -0.05).mean()
    return "\n".join(
        [
            f"frequencies from {bands.frequencies.min():.3f} to {bands.frequencies.max():.3f} THz",
            f"widest {100 * probability:g} % interval: {lower[point, band]:.3f} to "
            f"{upper[point, band]:.3f} THz, band {band + 1} at q = "
            + " ".join(f"{q:.3f}" for q in bands.wave_vectors[point]),
            f"{100 * unstable:.0f} % of the samples have an imaginary frequency on this path",
        ]
    )
