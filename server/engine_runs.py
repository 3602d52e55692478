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

from anharm.configuration import EngineSection, RunConfiguration
from anharm.errors import ConfigurationError
from anharm.extras import EXTRAS, ExtrasChoice
from anharm.model.sites import assign_sites
from anharm.server.beads import BeadCounts
from anharm.server.engine_extras import extras_wanted
from anharm.server.engine_input import EngineInput, read_engine_input
from anharm.server.learner import System
from anharm.wire.driver_protocol import Configuration

ONLY_TRAJECTORY = "trajectory"
_TAKEN_NAMES = ("logs", "models")


@dataclass(frozen=True)
class Trajectory:
    """A socket of i-PI, under the name by which its errors are averaged.

    `beads` are the evaluations that a step takes.
    """

    name: str
    address: str
    beads: int = 1


@dataclass(frozen=True)
class RelayedSocket:
    """A socket of i-PI that is served with the reference's forces.

    Attributes
    ----------
    name : str
        Of the force field.
    engine : str
        The name of its i-PI, empty if it is the only one.
    address : str
    concurrency : int
        Configurations that i-PI may ask for at the same time.
    """

    name: str
    engine: str
    address: str
    concurrency: int

    @property
    def label(self) -> str:
        """Its name for logs and for `anharm relay`."""
        return f"{self.engine}-{self.name}" if self.engine else self.name


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
    extras : tuple of str
        What i-PI writes of the extras that lattice clients can send.
    relayed : tuple of RelayedSocket
    """

    name: str
    engine: EngineInput
    trajectories: tuple[Trajectory, ...]
    extras: tuple[str, ...] = ()
    relayed: tuple[RelayedSocket, ...] = ()

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
    runs = tuple(
        _read(path, name, section) for path, name in zip(section.input, names, strict=True)
    )
    extras_sent(configuration, runs)
    return runs


def extras_sent(configuration: RunConfiguration, runs: Sequence[EngineRun]) -> ExtrasChoice:
    """Return what lattice clients send: `client.extras`, or else what any i-PI input writes.

    Raises
    ------
    ConfigurationError
        If a committee is asked for of which nothing is sent.
    """
    section = configuration.client
    wanted = {name for run in runs for name in run.extras}
    names = section.extras if section.extras is not None else [n for n in EXTRAS if n in wanted]
    return ExtrasChoice.of(names, section.committee)


def _read(path: Path, name: str, section: EngineSection) -> EngineRun:
    engines = [
        read_engine_input(path, forcefield, section.reference_forcefield)
        for forcefield in section.forcefield or (None,)
    ]
    if len(engines) == 1:
        trajectories = [name or ONLY_TRAJECTORY]
    else:
        trajectories = [f"{name}-{e.forcefield}" if name else e.forcefield for e in engines]
    return EngineRun(
        name,
        engines[0],
        tuple(
            Trajectory(trajectory, engine.address, engine.evaluations_per_step)
            for trajectory, engine in zip(trajectories, engines, strict=True)
        ),
        extras_wanted(path),
        tuple(_relayed(path, name, other, engines[0]) for other in section.reference_forcefield),
    )


def _relayed(path: Path, name: str, forcefield: str, ours: EngineInput) -> RelayedSocket:
    """A socket for the reference's forces, which must be for the same atoms as the model."""
    other = read_engine_input(path, forcefield)
    symbols, expected = (e.structure.get_chemical_symbols() for e in (other, ours))
    if symbols != expected:
        raise ConfigurationError(
            f"{path}: the system that uses <ffsocket name='{forcefield}'> "
            f"(engine.reference_forcefield) has {other.structure.get_chemical_formula()}, and that "
            f"of <ffsocket name='{ours.forcefield}'> {ours.structure.get_chemical_formula()}: "
            "reference clients are for one system, with one order of atoms"
        )
    return RelayedSocket(forcefield, name, other.address, other.concurrency)


def relayed_socket(runs: Sequence[EngineRun], label: str | None) -> RelayedSocket:
    """Return the socket that a relay serves; the only one needs no name.

    Raises
    ------
    ConfigurationError
        If there is none, or none of this name, or there are several and no name is given.
    """
    known = {relayed.label: relayed for run in runs for relayed in run.relayed}
    if not known:
        raise ConfigurationError(
            "run.toml has no engine.reference_forcefield, the name of the <ffsocket> that a relay "
            "serves with the reference's forces"
        )
    if label is None and len(known) == 1:
        return next(iter(known.values()))
    if label is None or label not in known:
        seen = "which is missing" if label is None else f"and {label!r} is none of them"
        raise ConfigurationError(
            f"run.toml has {', '.join(known)} for relays to serve: one needs a --forcefield, {seen}"
        )
    return known[label]


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


def bead_counts(runs: Sequence[EngineRun]) -> BeadCounts:
    """Return the evaluations that a step of each trajectory takes."""
    return BeadCounts({t.name: t.beads for run in runs for t in run.trajectories})


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
