"""The harmonic parts of a model's mean and of samples from its posterior, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import Supercell
from anharm.model.export.force_constants import dense_force_constants
from anharm.model.export.phonopy import supercell_order, to_phonopy


def posterior_samples(
    model: BayesianModel, n_samples: int, seed: int = 0
) -> Iterator[BayesianModel]:
    """Models drawn from the posterior: force fields of their own, with symmetry and sum rules."""
    factor = model.posterior.factor
    random = np.random.default_rng(seed)
    for _ in range(n_samples):
        parameters = model.posterior.mean + factor @ random.standard_normal(factor.shape[1])
        yield replace(model, posterior=replace(model.posterior, mean=parameters))


def harmonic_samples(
    model: BayesianModel, supercell: ArrayLike | None, n_samples: int, seed: int = 0
) -> Iterator[Any]:
    """One `phonopy.Phonopy` with the force constants of the mean, then those of each sample.

    It is the same object every time: use it before the next is asked for.

    Parameters
    ----------
    model : BayesianModel
    supercell : array_like of int, optional
        As for `to_phonopy`.
    n_samples, seed : int

    Raises
    ------
    ModelError
        See `to_phonopy`; or if there are fewer than 2 samples.
    """
    if n_samples < 2:
        raise ModelError(f"{n_samples} samples are too few for an interval: at least 2")
    phonon = to_phonopy(model, supercell)
    yield phonon
    chosen = Supercell(model.expansion.crystal, np.asarray(phonon.supercell_matrix).T)
    atoms = supercell_order(chosen, phonon.supercell)
    rows = np.asarray(phonon.primitive.p2s_map)
    for sample in posterior_samples(model, n_samples, seed):
        phonon.force_constants = dense_force_constants(sample, 2, chosen, atoms, rows)
        yield phonon
