"""The error of every stored model version along trajectories that are known already.

Errors follow from positions alone, so that models made later, or earlier, than a configuration
can be compared on it without any reference calculation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from anharm.errors import ConfigurationError, ModelError
from anharm.model import BayesianModel, Crystal, ForceField, Supercell, load_model
from anharm.model.crystal import FloatArray
from anharm.model.deformation import MAXIMUM_STRAIN, identify_strained_supercell
from anharm.model.sites import assign_sites
from anharm.server.record import ModelVersion, Record, SampledConfiguration

_BATCH_BYTES = 1 << 26  # of design rows that are held at once


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Configurations to replay.

    Attributes
    ----------
    name : str
    frames : list of ase.Atoms
        With the species "X" where only the record's order of atoms is known.
    n_available : int
        Configurations that they were chosen from.
    """

    name: str
    frames: list[Atoms]
    n_available: int


@dataclass(frozen=True, eq=False)
class ReplayedVersion:
    """One model version on all trajectories.

    Attributes
    ----------
    version, labels : int
        The model version and the number of labels that it was fitted to.
    errors : dict of ndarray, shape (n_frames,)
        max_i sigma_i of every frame by trajectory, eV/Angstrom.
    """

    version: int
    labels: int
    errors: dict[str, FloatArray]

    def average(self, trajectory: str) -> float:
        """Trajectory-averaged Bayesian error, eV/Angstrom."""
        return float(self.errors[trajectory].mean())


def evenly(n_available: int, largest: int) -> list[int]:
    """Return at most so many indices, spread evenly over all."""
    if n_available <= largest:
        return list(range(n_available))
    return np.linspace(0, n_available - 1, largest).round().astype(int).tolist()


def recorded_trajectories(record: Record, largest: int) -> list[Trajectory]:
    """Return the trajectories whose configurations the record keeps."""
    found: dict[str, list[SampledConfiguration]] = {}
    for configuration in record.configurations():
        found.setdefault(configuration.trajectory, []).append(configuration)
    return [
        Trajectory(
            name,
            [_as_atoms(kept[index]) for index in evenly(len(kept), largest)],
            len(kept),
        )
        for name, kept in found.items()
    ]


def _as_atoms(configuration: SampledConfiguration) -> Atoms:
    positions = configuration.positions
    return Atoms("X" * len(positions), positions=positions, cell=configuration.cell, pbc=True)


def replay(
    directory: Path,
    models: Sequence[ModelVersion],
    trajectories: Sequence[Trajectory],
    maximum_displacement: float | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[ReplayedVersion]:
    """Evaluate the errors of every model version on every frame.

    Parameters
    ----------
    directory : Path
        The run directory.
    models : sequence of ModelVersion
    trajectories : sequence of Trajectory
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    advance : callable
        Called when a model version is done.

    Raises
    ------
    ConfigurationError
        If a frame is no configuration of the models' crystal.
    ModelError
        If a model file cannot be read.
    """
    replayer: _Replayer | None = None
    found = []
    for version in models:
        model = load_model(directory / version.path)
        if replayer is None:
            replayer = _Replayer(model, trajectories, maximum_displacement)
        errors = {t.name: replayer.errors(model, t.name) for t in trajectories}
        found.append(ReplayedVersion(version.version, len(version.labels), errors))
        advance()
    return found


class _Replayer:
    """Frames as displacements, so that only the posterior changes from model to model."""

    def __init__(
        self,
        model: BayesianModel,
        trajectories: Sequence[Trajectory],
        maximum_displacement: float | None,
    ) -> None:
        crystal = model.expansion.crystal
        self._fields: dict[bytes, ForceField] = {}
        self._model = model
        # By trajectory: pairs of the supercell's key and displacements of one frame.
        self._frames: dict[str, list[tuple[bytes, FloatArray]]] = {}
        for trajectory in trajectories:
            frames = self._frames.setdefault(trajectory.name, [])
            for number, atoms in enumerate(trajectory.frames):
                try:
                    frames.append(self._displacements(crystal, atoms, maximum_displacement))
                except ModelError as error:
                    raise ConfigurationError(
                        f"{trajectory.name}, configuration {number}: {error}"
                    ) from error

    def _displacements(
        self, crystal: Crystal, atoms: Atoms, maximum_displacement: float | None
    ) -> tuple[bytes, FloatArray]:
        cell = np.array(atoms.cell[:])
        matrix = identify_strained_supercell(crystal, cell, len(atoms))
        key = matrix.tobytes()
        if key not in self._fields:
            self._fields[key] = ForceField(
                self._model, Supercell(crystal, matrix), maximum_strain=MAXIMUM_STRAIN
            )
        field = self._fields[key]
        deformation = field.deformation(cell)
        numbers = atoms.numbers if atoms.numbers.any() else None
        assignment = assign_sites(
            field.supercell, atoms.positions, numbers, maximum_displacement, deformation
        )
        return key, assignment.displacements(atoms.positions, deformation)

    def errors(self, model: BayesianModel, trajectory: str) -> FloatArray:
        """max_i sigma_i of each frame, as the lattice client computes it, eV/Angstrom."""
        frames = self._frames[trajectory]
        errors = np.empty(len(frames))
        for key, field in self._fields.items():
            if field.model is not model:
                field.use(model)
            chosen = [index for index, (other, _) in enumerate(frames) if other == key]
            for batch in _batches(chosen, field):
                std = field.force_std(np.stack([frames[i][1] for i in batch]), exact=False)
                errors[batch] = std.max(axis=(1, 2))
        return errors


def _batches(chosen: list[int], field: ForceField) -> Iterator[list[int]]:
    """Portions whose design rows fit into a bounded amount of memory."""
    rows = 3 * field.supercell.n_atoms
    size = max(1, _BATCH_BYTES // (8 * rows * field.model.expansion.n_parameters))
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]
