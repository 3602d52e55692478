"""Strains of the configurations that a run begins with, where i-PI will change the cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anharm.configuration import RunConfiguration
from anharm.model.crystal import FloatArray
from anharm.server.engine_runs import EngineRun

DEFAULT_INITIAL_STRAIN = 0.02  # with a barostat: a GPa or two, or a thousand kelvin


def initial_strain(configuration: RunConfiguration, runs: Sequence[EngineRun]) -> float:
    """What run.toml says, or else a strain for runs whose i-PI has a barostat."""
    chosen = configuration.training.initial_strain
    if chosen is not None:
        return chosen
    return DEFAULT_INITIAL_STRAIN if any(run.engine.changes_cell for run in runs) else 0.0


def initial_deformations(number: int, strain: float, seed: int) -> list[FloatArray]:
    """No strain first, then random symmetric ones, each followed by its opposite.

    Parameters
    ----------
    number : int
    strain : float
        The largest component of each but the first, by size.
    seed : int
        The same seed gives the same strains, so that a resumed run repeats no label.

    Returns
    -------
    list of (3, 3) float
        F = 1 + strain.
    """
    random = np.random.default_rng([seed, 1])
    found = [np.eye(3)]
    while len(found) < number:
        values = random.uniform(-1, 1, (3, 3))
        direction = values + values.T
        direction *= strain / np.abs(direction).max()
        found += [np.eye(3) + direction, np.eye(3) - direction]
    return found[:number]
