"""The committee's error bar on an observable, against runs that the members drive themselves.

    python benchmarks/committee_error_bar.py [--steps 20000] [--direct 6]

The example inputs/errors-in-output/production: the mean squared displacement of silicon at 300 K
from one displaced DFT label. One run of the model gives the mean under every member by reweighting
(i-pi-committee-reweight); some members, pair by pair, drive runs of their own. All runs share the
seed.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import anharm.clients
from anharm.configuration import load_configuration
from anharm.model import ForceField, Supercell, fit_structures, save_model
from anharm.server.learner import build_expansion_of
from anharm.structures import read_structures

FOLDER = Path(__file__).parents[1] / "inputs" / "errors-in-output" / "production"
PROGRAMS = Path(sys.executable).parent
SHIM = Path(anharm.clients.__file__).with_name("ipi_pes.py")
MEMBERS = 16


def squared_displacements(folder: Path, model: str, extras: str, steps: int) -> np.ndarray:
    """Of every frame of a run that a model file drives inside i-PI."""
    direct = (
        f"<ffdirect name='anharm'><pes> custom </pes><pes_path> {SHIM} </pes_path>"
        f"<parameters> {{ model: {model}, extras: {extras} }} </parameters></ffdirect>"
    )
    text = (FOLDER / "input.xml").read_text()
    text = re.sub(r"<ffsocket.*?</ffsocket>", lambda _: direct, text, flags=re.DOTALL)
    text = text.replace("<total_steps> 20000", f"<total_steps> {steps}")
    text = re.sub(r" *<trajectory filename='force_std_max'.*\n", "", text)
    if extras == "none":
        text = re.sub(r" *<trajectory filename='committee_pot'.*\n", "", text)
    (folder / "input.xml").write_text(text)
    run(folder, PROGRAMS / "i-pi", "input.xml")
    said = run(
        folder, sys.executable, FOLDER / "mean_square_displacement.py", "silicon.pos_0.xyz",
        FOLDER / "init.xyz",
    )  # fmt: skip
    (folder / "msd.dat").write_text(said)
    return np.array(said.split(), dtype=float)


def run(folder: Path, *command: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--direct", type=int, default=6, help="members that drive a run")
    arguments = parser.parse_args()
    configuration = load_configuration(FOLDER / "fit.toml")
    labels = read_structures(FOLDER / "labels.xyz")
    expansion = build_expansion_of(configuration, "fit", len(labels[0]), len(labels))
    model = fit_structures(expansion, labels)
    supercell = Supercell(expansion.crystal, np.array(configuration.crystal.supercell))
    committee = ForceField(model, supercell).committee(MEMBERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "init.xyz").write_text((FOLDER / "init.xyz").read_text())
        save_model(model, folder / "model.h5")
        extras = f"committee_pot, committee: {MEMBERS}"
        squared_displacements(folder, "model.h5", extras, arguments.steps)
        said = run(
            folder, PROGRAMS / "i-pi-committee-reweight", "silicon.committee_pot_0", "msd.dat",
            "--input", "input.xml",
        )  # fmt: skip
        mean, error, *reweighted = map(float, said.splitlines()[-1].split())
        print(f"mean squared displacement {mean:.5f} +- {error:.5f} Angstrom^2")
        print("member  reweighted  its own run")
        pairs = []
        for index in range(arguments.direct):
            save_model(committee.member(index), folder / "member.h5")
            own = squared_displacements(folder, "member.h5", "none", arguments.steps).mean()
            pairs.append((reweighted[index], own))
            print(f"{index:6d}  {reweighted[index]:10.5f}  {own:11.5f}", flush=True)
    values = np.array(pairs)
    print(f"spread  {values[:, 0].std():10.5f}  {values[:, 1].std():11.5f}")
    print(f"correlation {np.corrcoef(values.T)[0, 1]:.3f}")


if __name__ == "__main__":
    main()
