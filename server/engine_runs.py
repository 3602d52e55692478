"""The i-PI runs of one training: one or several inputs, each with one or several sockets.

Every socket is a trajectory with a name, a lattice client (or several), and an average error of
its own; all share the broker and the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anharm.configuration import RunConfiguration
from anharm.errors import ConfigurationError
from anharm.model.sites import assign_sites
from anharm.server.engine_input import EngineInput, read_engine_input
from anharm.server.learner import System
from anharm.wire.driver_protocol import Configuration

ONLY_TRAJECTORY = "trajectory"
_TAKEN_NAMES = ("logs", "models")


@dataclass(frozen=True)
class Trajectory:
    """A socket of i-PI, under the name by which its errors are averaged."""

    name: str
    address: str


@dataclass(frozen=True, eq=False)
class EngineRun:
    """One i-PI.

    Attributes
    ----------
    name : str
        Empty if it is the only one.
    engine : EngineInput
        As its first socket sees it.
    trajectories : tuple of Trajectory
    """

    name: str
    engine: EngineInput
    trajectories: tuple[Trajectory, ...]

    def folder(self, directory: Path) -> Path:
        """Where it runs: the run directory, or a folder of its own there if there are several."""
        return directory / self.name

    @property
    def label(self) -> str:
        """Its name for logs."""
        return f"i-pi-{self.name}" if self.name else "i-pi"


def read_engine_runs(configuration: RunConfiguration) -> tuple[EngineRun, ...]:
    """Read all i-PI inputs of run.toml.

    Raises
    ------
    ConfigurationError
        If one cannot be used, or names collide.
    """
    configuration.require("engine")
    section = configuration.engine
    assert section is not None
    names = [path.stem for path in section.input] if len(section.input) > 1 else [""]
    for name, number in Counter(names).items():
        if number > 1 or name in _TAKEN_NAMES or name.startswith("reference-"):
            raise ConfigurationError(
                f"{configuration.path}: engine.input lists a file named {name!r}"
                f"{' more than once' if number > 1 else ''}: names without their suffix become "
                "folders of the run directory and names of trajectories, so rename it"
            )
    return tuple(
        _read(path, name, section.forcefield)
        for path, name in zip(section.input, names, strict=True)
    )


def _read(path: Path, name: str, forcefields: tuple[str, ...] | None) -> EngineRun:
    engines = [read_engine_input(path, forcefield) for forcefield in forcefields or (None,)]
    if len(engines) == 1:
        trajectories = [name or ONLY_TRAJECTORY]
    else:
        trajectories = [f"{name}-{e.forcefield}" if name else e.forcefield for e in engines]
    return EngineRun(
        name,
        engines[0],
        tuple(
            Trajectory(trajectory, engine.address)
            for trajectory, engine in zip(trajectories, engines, strict=True)
        ),
    )


def address_of(runs: Sequence[EngineRun], trajectory: str | None) -> tuple[str, str]:
    """Return the name and the address of a trajectory; the only one may have any name.

    Raises
    ------
    ConfigurationError
        If there are several and none of this name.
    """
    known = {t.name: t.address for run in runs for t in run.trajectories}
    if len(known) == 1:
        (name,) = known
        return trajectory or name, known[name]
    if trajectory is None or trajectory not in known:
        seen = "which is missing" if trajectory is None else f"and {trajectory!r} is none of them"
        raise ConfigurationError(
            f"run.toml has the trajectories {', '.join(known)}: a lattice client needs one of them "
            f"as --trajectory, {seen}"
        )
    return trajectory, known[trajectory]


def ideal_configuration(runs: Sequence[EngineRun], system: System) -> Configuration:
    """The ideal supercell with its atoms in the order of the i-PI inputs.

    Raises
    ------
    ConfigurationError
        If the inputs differ in that order: labels and reference clients know one only.
    """
    first = _ideal(runs[0].engine, system)
    for run in runs[1:]:
        other = _ideal(run.engine, system)
        if first.positions.shape != other.positions.shape or not np.allclose(
            first.positions, other.positions, atol=1e-6
        ):
            raise ConfigurationError(
                f"{run.engine.path} has its atoms in another order than {runs[0].engine.path}: "
                "labels and reference clients need the same order, so sort one like the other"
            )
    return first


def _ideal(engine: EngineInput, system: System) -> Configuration:
    atoms = engine.structure
    assignment = assign_sites(system.supercell, atoms.positions, np.array(atoms.numbers))
    return Configuration(
        np.array(atoms.cell[:]), system.supercell.positions[assignment.sites].copy()
    )
