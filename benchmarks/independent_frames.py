"""Configurations with labels that a run has never seen, to test its models on.

    python benchmarks/independent_frames.py inputs/bas/run.toml frames.xyz
    python benchmarks/independent_frames.py inputs/bas/run-qe64.toml frames.xyz --from-run 6

The first is molecular dynamics of the reference itself (ASE calculators; Langevin, temperature and
time step of the i-PI input, another seed). Where the reference is a DFT code that is too slow for
that, `--from-run N` takes N configurations from the second half of the run's own trajectory, evenly
spaced, and has the code of run.toml compute them through its i-PI socket. Frames are written one by
one, and those that are in the file already are not computed again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.calculators.socketio import SocketIOCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

from anharm.clients.calculators import make_calculator
from anharm.configuration import RunConfiguration, load_configuration
from anharm.server.engine_input import EngineInput, read_engine_input

SEED = 2026
FRICTION = 0.01 / units.fs
EQUILIBRATION = 250  # steps


def dynamics(run: RunConfiguration, engine: EngineInput, n: int, stride: int) -> Iterator[Atoms]:
    """Molecular dynamics of the reference from the ideal crystal, every `stride` steps."""
    chosen = run.reference.calculator
    random = np.random.default_rng(SEED)
    atoms = engine.structure.copy()
    atoms.calc = make_calculator(chosen.name, chosen.parameters, run.path.parent)
    # Half of the kinetic energy becomes potential energy.
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * engine.temperature, rng=random)
    Stationary(atoms)
    engine_step = Langevin(
        atoms,
        engine.timestep * units.fs,
        temperature_K=engine.temperature,
        friction=FRICTION,
        rng=random,
    )
    engine_step.run(EQUILIBRATION)
    for _ in range(n):
        engine_step.run(stride)
        yield labelled(atoms)


def labelled(atoms: Atoms) -> Atoms:
    """A copy with the results of its calculator."""
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces")}
    frame.calc = SinglePointCalculator(
        frame, **results, stress=atoms.calc.get_property("stress", atoms)
    )
    return frame


def of_the_run(run: RunConfiguration, engine: EngineInput, n: int, done: int) -> Iterator[Atoms]:
    """Configurations of the run's own trajectory with labels of its DFT code, but the first."""
    (path,) = Path(run.run.directory).glob(f"{engine.output_prefix}.pos_0.xyz")
    frames = ase.io.read(path, ":", format="xyz")
    chosen = np.linspace(len(frames) // 2, len(frames) - 1, n).astype(int)
    atoms = engine.structure.copy()
    with dft_code(run) as calculator:
        atoms.calc = calculator
        for index in chosen[done:]:
            atoms.positions = frames[index].positions
            yield labelled(atoms)


@contextmanager
def dft_code(run: RunConfiguration) -> Iterator[Any]:
    """The code of [reference], in a folder beside the run's own, as an ASE calculator."""
    folder = Path(run.run.directory) / "independent-frames"
    folder.mkdir(exist_ok=True)
    for file in (run.reference.input, *run.reference.files):
        shutil.copy(file, folder)
    name = str(run.reference.address).removeprefix("unix:")
    with SocketIOCalculator(unixsocket=name) as calculator, (folder / "log").open("ab") as log:
        words = shlex.split(run.reference.command[0])
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
        yield calculator
    process.wait()


def main() -> None:
    """Write the frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run.toml")
    parser.add_argument("output", type=Path, help="extended XYZ, appended to")
    parser.add_argument("--frames", type=int, default=20, help="configurations of the dynamics")
    parser.add_argument("--stride", type=int, default=20, help="steps between them")
    parser.add_argument("--from-run", type=int, metavar="N", help="of the run's trajectory instead")
    words = parser.parse_args()
    run = load_configuration(words.run)
    engine = read_engine_input(run.engine.input[0])
    done = len(ase.io.read(words.output, ":")) if words.output.exists() else 0
    if words.from_run:
        found = of_the_run(run, engine, words.from_run, done)
    else:
        words.output.unlink(missing_ok=True)
        found = dynamics(run, engine, words.frames, words.stride)
    for frame in found:
        ase.io.write(words.output, frame, format="extxyz", append=True)
    print(f"{len(ase.io.read(words.output, ':'))} frames in {words.output}")


if __name__ == "__main__":
    main()
