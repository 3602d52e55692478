"""Is training over when anharm says so? True errors then, and after twice as many labels.

    python benchmarks/convergence_check.py [--runs 3] [--folder FOLDER]

Each run is inputs/si with another seed of i-PI: it stops when training has converged by the
criteria of run.toml, and is then resumed with these switched off until it has twice as many
labels. Both models are compared with the reference on configurations that no run has seen: those
of a dynamics of the reference itself (300 K, Langevin, another seed).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from anharm.clients.calculators import make_calculator
from anharm.model import StructurePredictor, load_model
from anharm.server.engine_input import read_engine_input
from anharm.server.record import Record

INPUTS = Path(__file__).parents[1] / "inputs" / "si"
TOTAL_STEPS = 200_000
NEVER = "quiet_steps = 1000000000\nconvergence_refits = 1000\n"


def prepare(folder: Path, seed: int) -> Path:
    """The silicon inputs with a seed and sockets of their own; returns run.toml."""
    folder.mkdir(parents=True)
    for name in ("run.toml", "input.xml", "init.xyz", "primitive.xyz"):
        shutil.copy(INPUTS / name, folder)
    xml = (folder / "input.xml").read_text()
    xml = re.sub(r"<seed>.*?</seed>", f"<seed> {seed} </seed>", xml)
    xml = re.sub(r"(<total_steps>).*?<", rf"\1 {TOTAL_STEPS} <", xml)
    xml = xml.replace("<address> anharm-silicon <", f"<address> check-{os.getpid()}-{seed} <")
    (folder / "input.xml").write_text(xml)
    run_file = folder / "run.toml"
    text = run_file.read_text()
    run_file.write_text(text.replace("[run]\n", "[run]\nstop_when_converged = true\n"))
    return run_file


def command(run_file: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start `anharm run`."""
    log = (run_file.parent / "run.log").open("ab")
    words = [sys.executable, "-m", "anharm", "run", str(run_file), *flags]
    return subprocess.Popen(words, stdout=log, stderr=log)


def train_until_converged(run_file: Path) -> None:
    """Run until training is declared converged."""
    if command(run_file).wait() != 0:
        sys.exit(f"the run failed, see {run_file.parent / 'run.log'}")


def train_on(run_file: Path, directory: Path, n_labels: int) -> None:
    """Resume the run without its criteria, until it has so many labels."""
    text = run_file.read_text().replace("stop_when_converged = true\n", "")
    run_file.write_text(text.replace("[training]\n", f"[training]\n{NEVER}"))
    process = command(run_file, "--resume")
    while process.poll() is None:
        time.sleep(0.5)
        with Record.open(directory, read_only=True) as record:
            if max(len(model.labels) for model in record.models()) >= n_labels:
                process.send_signal(signal.SIGTERM)
                process.wait()


def fresh_configurations(start: Atoms, seed: int, n_frames: int) -> list[Atoms]:
    """Configurations of the reference's own dynamics, 40 fs apart, with its forces."""
    random = np.random.default_rng(seed)
    atoms = start.copy()
    atoms.calc = make_calculator("tersoff-silicon")
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=random)  # half becomes potential
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=random
    )
    dynamics.run(500)
    frames = []
    for _ in range(n_frames):
        dynamics.run(20)
        frame = atoms.copy()
        frame.arrays["true_forces"] = atoms.get_forces()
        frames.append(frame)
    return frames


def force_rmse(model_file: Path, frames: list[Atoms]) -> float:
    """Against the reference, eV/Angstrom."""
    predictor = StructurePredictor(load_model(model_file))
    differences = [predictor.predict(f)["forces"] - f.arrays["true_forces"] for f in frames]
    return float(np.sqrt(np.mean(np.square(differences))))


def check(folder: Path, seed: int, frames: list[Atoms]) -> tuple[float, float]:
    """One run; prints its line and returns both errors."""
    run_file = prepare(folder, seed)
    directory = folder / "runs" / "silicon"
    train_until_converged(run_file)
    with Record.open(directory, read_only=True) as record:
        declared = record.models()[-1]
        known = record.metadata()
    train_on(run_file, directory, 2 * len(declared.labels))
    with Record.open(directory, read_only=True) as record:
        later = next(m for m in record.models() if len(m.labels) >= 2 * len(declared.labels))
    at, after = (force_rmse(directory / model.path, frames) for model in (declared, later))
    print(
        f"{seed:6d} {known['converged_step']:>8s} {len(declared.labels):8d} {at:14.5f} "
        f"{len(later.labels):8d} {after:14.5f} {at / after - 1:+8.1%}",
        flush=True,
    )
    return at, after


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs, each with another seed")
    parser.add_argument("--frames", type=int, default=30, help="fresh configurations")
    parser.add_argument("--folder", type=Path, help="where to run; a temporary folder by default")
    words = parser.parse_args()
    folder = words.folder or Path(tempfile.mkdtemp(prefix="convergence-"))
    start = read_engine_input(INPUTS / "input.xml").structure
    frames = fresh_configurations(start, 2026, words.frames)
    rms = np.sqrt(np.mean([np.mean(f.arrays["true_forces"] ** 2) for f in frames]))
    print(f"{len(frames)} fresh configurations, rms force {rms:.3f} eV/A; runs in {folder}")
    print("  seed declared   labels  RMSE (eV/A)    labels    RMSE (eV/A)  excess")
    print("        at step  then     then              twice    then", flush=True)
    found = [check(folder / str(seed), seed, frames) for seed in range(1, words.runs + 1)]
    excess = [at / after - 1 for at, after in found]
    print(f"largest excess of the error at the declared point: {max(excess):+.1%}")


if __name__ == "__main__":
    main()
