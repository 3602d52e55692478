"""`anharm phonons`: bands and density of states of a model file, drawn or as tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anharm.export_command import parse_supercell
from anharm.files import PICTURES, TABLE, check_output, saving
from anharm.model import BayesianModel, load_model
from anharm.model.crystal import IntArray
from anharm.model.export.bands import PhononBands, frequencies_at, phonon_bands
from anharm.model.export.density_of_states import DensityOfStates, densities_of, density_of_states
from anharm.model.export.other_phonons import load_phonopy, translate_wave_vectors
from anharm.model.export.phonopy import to_phonopy
from anharm.options import check_probability, parse_mesh
from anharm.phonons_figure import OtherPhonons, draw

_UNSTABLE = -0.05  # THz; acoustic modes at the zone centre are zero to rounding only


@dataclass(frozen=True)
class PhononsRequest:
    """What `anharm phonons` is asked for, as the command line says it.

    Attributes
    ----------
    supercell, path : str, optional
        As for `anharm export`; special points.
    n_samples : int
        Drawn from the posterior.
    probability : float
        Of the credible interval.
    density : bool
        Whether to find the density of states.
    mesh : str
        A length in Angstrom or three divisions.
    compare : Path, optional
        A phonopy yaml file of the same crystal.
    """

    supercell: str | None = None
    path: str | None = None
    n_samples: int = 100
    probability: float = 0.95
    density: bool = True
    mesh: str = "50"
    compare: Path | None = None


def phonons(model_file: Path, output: Path, request: PhononsRequest) -> str:
    """Write bands and density of states to a picture or .csv tables, and return a summary.

    Raises
    ------
    ConfigurationError
        If the output's name, the supercell, the mesh or the probability cannot be used.
    ModelError
        If the model cannot be read or has no phonons (see `phonon_bands`), or those to compare
        with cannot be read or are of another crystal.
    RunFailed
        If the output cannot be written.
    """
    check_output(output, (*PICTURES, TABLE))
    check_probability(request.probability)
    supercell = parse_supercell(request.supercell) if request.supercell is not None else None
    mesh = parse_mesh(request.mesh)
    model = load_model(model_file)
    bands = phonon_bands(model, supercell, request.path, n_samples=request.n_samples)
    density = None
    if request.density:
        ends = float(bands.samples.min()), float(bands.samples.max())
        density = density_of_states(model, ends, mesh, supercell, request.n_samples)
    other = _other(model, supercell, bands, density, mesh, request.compare)
    written = [output]
    with saving(output):
        if output.suffix == TABLE:
            _write_bands(bands, request.probability, output)
            if density is not None:
                written.append(output.with_stem(output.stem + "_dos"))
                _write_density(density, request.probability, written[-1])
        else:
            draw(bands, request.probability, density, other).savefig(output)
    lines = [_summary(bands, request.probability)]
    if other is not None:
        lines.append(_comparison(bands, request.probability, other))
    return "\n".join([*lines, f"written to {' and '.join(map(str, written))}"])


def _other(
    model: BayesianModel,
    supercell: IntArray | None,
    bands: PhononBands,
    density: DensityOfStates | None,
    mesh: Any,
    file: Path | None,
) -> OtherPhonons | None:
    """Phonons of a phonopy file at the model's wave vectors."""
    if file is None:
        return None
    other = load_phonopy(file)
    places = translate_wave_vectors(bands.wave_vectors, to_phonopy(model, supercell), other)
    densities = None if density is None else densities_of(other, density.frequencies, mesh)
    return OtherPhonons(file.name, frequencies_at(other, places), densities)


def _write_bands(bands: PhononBands, probability: float, output: Path) -> None:
    lower, upper = bands.interval(probability)
    n_bands = bands.frequencies.shape[1]
    columns = np.stack([bands.frequencies, lower, upper], axis=-1).reshape(len(lower), -1)
    names = [
        f"{kind}_{band}" for band in range(1, n_bands + 1) for kind in ("mean", "lower", "upper")
    ]
    header = ",".join(["distance", "q1", "q2", "q3", *names])
    rows = np.column_stack([bands.distances, bands.wave_vectors, columns])
    np.savetxt(output, rows, fmt="%.8f", delimiter=",", header=header, comments="")


def _write_density(density: DensityOfStates, probability: float, output: Path) -> None:
    rows = np.column_stack([density.frequencies, density.densities, *density.interval(probability)])
    header = "frequency,mean,lower,upper"
    np.savetxt(output, rows, fmt="%.8f", delimiter=",", header=header, comments="")


def _summary(bands: PhononBands, probability: float) -> str:
    lower, upper = bands.interval(probability)
    point, band = np.unravel_index(np.argmax(upper - lower), lower.shape)
    unstable = (bands.samples.min(axis=(1, 2)) < _UNSTABLE).mean()
    return "\n".join(
        [
            f"frequencies from {bands.frequencies.min():.3f} to {bands.frequencies.max():.3f} THz",
            f"widest {100 * probability:g} % interval: {lower[point, band]:.3f} to "
            f"{upper[point, band]:.3f} THz, band {band + 1} at q = "
            + " ".join(f"{q:.3f}" for q in bands.wave_vectors[point]),
            f"{100 * unstable:.0f} % of the samples have an imaginary frequency on this path",
        ]
    )


def _comparison(bands: PhononBands, probability: float, other: OtherPhonons) -> str:
    difference = bands.frequencies - other.frequencies
    point, band = np.unravel_index(np.argmax(np.abs(difference)), difference.shape)
    lower, upper = bands.interval(probability)
    inside = np.mean((lower <= other.frequencies) & (other.frequencies <= upper))
    where = " ".join(f"{q:.3f}" for q in bands.wave_vectors[point])
    return (
        f"against {other.name} along the path: rms difference "
        f"{np.sqrt(np.mean(difference**2)):.3f} THz, largest "
        f"{difference[point, band]:+.3f} THz (band {band + 1} at q = {where}); "
        f"{100 * inside:.0f} % of its frequencies lie within the interval"
    )
