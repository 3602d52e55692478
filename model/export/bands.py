"""Phonon bands with credible intervals, from samples of the posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.cell import Cell
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray
from anharm.model.export.harmonic_samples import harmonic_samples


@dataclass(frozen=True)
class PhononBands:
    """Frequencies along a path, of the posterior's mean and of samples from it.

    Attributes
    ----------
    wave_vectors : (n_points, 3) float
        In units of the reciprocal vectors of the primitive cell.
    distances : (n_points,) float
        Along the path, 1/Angstrom.
    labels : list of (float, str)
        Distance and name of the special points.
    frequencies : (n_points, n_bands) float
        Of the mean model, THz, ascending; imaginary ones are negative.
    samples : (n_samples, n_points, n_bands) float
        Of models drawn from the posterior, THz.
    """

    wave_vectors: FloatArray
    distances: FloatArray
    labels: list[tuple[float, str]]
    frequencies: FloatArray
    samples: FloatArray

    def interval(self, probability: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Central credible interval of the n-th lowest frequency at each point, THz.

        Returns
        -------
        lower, upper : (n_points, n_bands) float
        """
        tail = (1 - probability) / 2
        lower, upper = np.quantile(self.samples, [tail, 1 - tail], axis=0)
        return lower, upper


def phonon_bands(
    model: BayesianModel,
    supercell: ArrayLike | None = None,
    path: str | None = None,
    n_points: int = 200,
    n_samples: int = 100,
    seed: int = 0,
) -> PhononBands:
    """Bands of a model and of samples from its posterior.

    A sample of the posterior is a force field of its own, sum rules and symmetry included, so the
    acoustic modes at the zone centre are zero in each.

    Parameters
    ----------
    model : BayesianModel
    supercell : array_like of int, optional
        As for `to_phonopy`; the bands do not depend on it.
    path : str, optional
        Special points by ASE's names for the Bravais lattice, such as "GXWKGL" or "GX,KGL"; the
        lattice's standard path by default.
    n_points, n_samples : int
        Number of wave vectors and of samples.
    seed : int
        Of the random numbers.

    Raises
    ------
    ModelError
        See `to_phonopy`; or if the path is not one of the lattice, or a number is too small.
    """
    if n_points < 2:
        raise ModelError(f"{n_points} points are too few for a path: at least 2")
    phonons = harmonic_samples(model, supercell, n_samples, seed)
    phonon = next(phonons)
    band_path = _band_path(phonon.primitive.cell, path, n_points)
    distances, places, names = band_path.get_linear_kpoint_axis()
    mean = frequencies_at(phonon, band_path.kpts)
    samples = np.array([frequencies_at(sample, band_path.kpts) for sample in phonons])
    labels = list(zip(places.tolist(), names, strict=True))
    return PhononBands(band_path.kpts, distances, labels, mean, samples)


def _band_path(lattice: FloatArray, path: str | None, n_points: int) -> Any:
    try:
        return Cell(np.array(lattice)).bandpath(path, npoints=n_points)
    except (KeyError, ValueError, RuntimeError) as error:
        standard = Cell(np.array(lattice)).bandpath()
        known = ", ".join(sorted(standard.special_points))
        raise ModelError(
            f"there is no path {path!r} in the Brillouin zone of this lattice ({error}); its "
            f"special points are {known}, its standard path is {standard.path}"
        ) from error


def frequencies_at(phonon: Any, wave_vectors: FloatArray) -> FloatArray:
    """(n_points, n_bands) frequencies of a `phonopy.Phonopy`, THz, imaginary ones negative."""
    return np.array(phonon.run_qpoints(wave_vectors).frequencies)
