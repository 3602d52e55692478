"""A run directory with real labels and models, made without any process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner

from anharm.clients.calculators import make_calculator
from anharm.command_line import cli
from anharm.configuration import load_configuration
from anharm.errors import AnharmError
from anharm.server.decision import Decision
from anharm.server.learner import Learner, build_system
from anharm.server.record import Answer, Observations, Record, SampledConfiguration
from anharm.wire.driver_protocol import Configuration, Evaluation

ENGINE_INPUT = Path(__file__).parents[2] / "inputs" / "si" / "input.xml"

RUN_FILE = """
[crystal]
primitive = "primitive.xyz"
supercell = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]

[expansion]
cutoffs = { 2 = 2.5, 3 = 2.5 }

[engine]
input = "input.xml"

[training]
initial_configurations = 1
convergence_refits = 2

[run]
directory = "run"
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def anharm(*words: object) -> Ended:
    """Run a command in this process; its errors become exit codes as in `main`."""
    result = CliRunner().invoke(cli, list(map(str, words)))
    if isinstance(result.exception, AnharmError):
        return Ended(result.exception.exit_code, result.stdout, str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


@dataclass
class MadeRun:
    """A run of silicon, 8 atoms, that a test fills as it likes."""

    directory: Path
    record: Record
    learner: Learner
    atoms: Atoms
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def displaced(self, size: float = 0.08) -> Atoms:
        """A configuration of thermal size."""
        atoms = self.atoms.copy()
        atoms.positions += self.random.normal(0, size, (len(atoms), 3))
        return atoms

    def learn(self, step: int | None = None, trajectory: str = "trajectory") -> None:
        """One more label, as the broker would take it, and a new model version."""
        atoms = self.displaced()
        atoms.calc = make_calculator("tersoff-silicon")
        forces, energy = atoms.get_forces(), atoms.get_potential_energy()
        configuration = Configuration(atoms.cell.array, atoms.positions)
        decision = step and Decision(
            trajectory, step, self.learner.version, "label", "trajectory-average", 0.3, 0.2, 0.1, 50
        )
        request = self.record.request_for(
            atoms.positions, atoms.cell.array, "why", decision or None
        )
        self.record.start_attempt(request.id)
        evaluation = Evaluation(energy, forces, np.zeros((3, 3)), "")
        label = self.record.add_label(
            request.id,
            Answer(energy, forces, client="client 1 (process 7)", seconds=0.5),
            prediction=self.learner.predict(configuration, evaluation),
        )
        self.learner.learn(label)
        self.learner.refit()

    def walk(self, n_steps: int, first_step: int = 0, trajectory: str = "trajectory") -> None:
        """Steps of a trajectory with the current model, every tenth of them in the sample."""
        errors = self.random.uniform(0.1, 0.2, n_steps)
        self.record.add_observations(
            Observations(
                trajectory,
                first_step,
                errors,
                errors / 3,
                errors / 2,
                self.random.normal(-37, 0.1, n_steps),
                np.full(n_steps, self.learner.version),
            )
        )
        for step in range(first_step, first_step + n_steps, 10):
            atoms = self.displaced()
            self.record.add_configuration(
                SampledConfiguration(trajectory, step, atoms.positions, atoms.cell.array)
            )


@pytest.fixture
def command() -> Callable[..., Ended]:
    """`anharm WORDS`, without a process of its own."""
    return anharm


@pytest.fixture
def made_run(tmp_path: Path) -> MadeRun:
    """A run without labels yet."""
    primitive = bulk("Si", "diamond", a=5.432)
    write(tmp_path / "primitive.xyz", primitive, format="extxyz")
    (tmp_path / "run.toml").write_text(RUN_FILE)
    shutil.copy(ENGINE_INPUT, tmp_path)
    configuration = load_configuration(tmp_path / "run.toml")
    directory = configuration.run.directory
    record = Record.open(directory, create=True, metadata={"configuration": configuration.text})
    shutil.copy(ENGINE_INPUT, directory)
    learner = Learner(build_system(configuration), record, directory)
    return MadeRun(directory, record, learner, bulk("Si", "diamond", a=5.432, cubic=True))
