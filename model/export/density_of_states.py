"""Phonon density of states with credible intervals, from samples of the posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray
from anharm.model.export.harmonic_samples import harmonic_samples

_N_FREQUENCIES = 301
_MARGIN = 0.03  # of the range of frequencies, beyond its ends


@dataclass(frozen=True)
class DensityOfStates:
    """Density of states of the posterior's mean and of samples from it.

    Attributes
    ----------
    frequencies : (n_frequencies,) float
        THz; imaginary ones are negative.
    densities : (n_frequencies,) float
        Of the mean model, states per THz and primitive cell: the integral is the number of bands.
    samples : (n_samples, n_frequencies) float
        Of models drawn from the posterior.
    """

    frequencies: FloatArray
    densities: FloatArray
    samples: FloatArray

    def interval(self, probability: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Central credible interval at each frequency, states per THz and primitive cell."""
        tail = (1 - probability) / 2
        lower, upper = np.quantile(self.samples, [tail, 1 - tail], axis=0)
        return lower, upper


def density_of_states(
    model: BayesianModel,
    frequency_range: tuple[float, float],
    mesh: ArrayLike | float = 50.0,
    supercell: ArrayLike | None = None,
    n_samples: int = 100,
    seed: int = 0,
) -> DensityOfStates:
    """Density of states of a model and of samples from its posterior.

    Parameters
    ----------
    model : BayesianModel
    frequency_range : (float, float)
        THz, such as the ends of the bands.
    mesh : (3,) int or float
        Divisions of the reciprocal vectors, or a length in Angstrom: about this many divided by
        the lattice constant.
    supercell : array_like of int, optional
        As for `to_phonopy`; the density does not depend on it.
    n_samples, seed : int
        As for `phonon_bands`.

    Raises
    ------
    ModelError
        See `to_phonopy`; or if the mesh is no mesh.
    """
    divisions = check_mesh(mesh)
    low, high = frequency_range
    margin = _MARGIN * (high - low)
    frequencies = np.linspace(low - margin, high + margin, _N_FREQUENCIES)
    densities = np.array(
        [
            densities_of(phonon, frequencies, divisions)
            for phonon in harmonic_samples(model, supercell, n_samples, seed)
        ]
    )
    return DensityOfStates(frequencies, densities[0], densities[1:])


def check_mesh(mesh: ArrayLike | float) -> Any:
    """A mesh as phonopy wants it.

    Raises
    ------
    ModelError
        If it is neither three positive integers nor one positive length.
    """
    values = np.asarray(mesh)
    if values.shape == () and values > 0:
        return float(values)
    if values.shape == (3,) and values.dtype.kind == "i" and (values > 0).all():
        return values.tolist()
    raise ModelError(f"the mesh {mesh!r} is neither three positive integers nor one length")


def densities_of(phonon: Any, frequencies: FloatArray, mesh: Any) -> FloatArray:
    """(n_frequencies,) density of states of a `phonopy.Phonopy`, by linear tetrahedra.

    Parameters
    ----------
    phonon : phonopy.Phonopy
        With force constants.
    frequencies : (n_frequencies,) float
        THz, evenly spaced.
    mesh : list of int or float
        From `check_mesh`.
    """
    step = frequencies[1] - frequencies[0]
    phonon.run_mesh(mesh, is_gamma_center=True)  # a shifted one may lack the symmetry
    found = phonon.run_total_dos(
        freq_min=frequencies[0], freq_max=frequencies[-1] + step / 2, freq_pitch=step
    )
    densities: FloatArray = np.array(found.dos)[: len(frequencies)]
    return densities
