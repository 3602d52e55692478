"""How well mixed dynamics conserves energy, and how many DFT calculations it needs: the table of
docs/mixing.md.

    python benchmarks/mixing_drift.py [--folder FOLDER] [--scale 1.0] [--cases NAME ...]
                                      [--stand-in] [--learn] [--only-table]

Silicon, 8 atoms, pw.x (inputs/mixing/silicon), NVE from the same velocities. All cases are i-PI
runs of one `anharm run`, so that they have the same frozen model and share pw.x. `--scale`
multiplies the lengths of all runs; `--only-table` reads what an earlier call left in the folder.
With `--stand-in` the Tersoff potential takes the place of DFT, in 64 atoms (inputs/si), where the
model reaches beyond nearest neighbours. With `--learn` the model learns what is harvested at once.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np

from anharm.server.engine_properties import read_properties
from anharm.server.record import Record

INPUTS = Path(__file__).parents[1] / "inputs" / "mixing"
SILICON = INPUTS.parent / "si"
MILLI = 1000.0
MTS = (
    "<force forcefield='anharm'> <mts_weights> [ -1, 1 ] </mts_weights> </force>"
    "<force forcefield='dft'> <mts_weights> [ 1, 0 ] </mts_weights> </force>"
)
CONTRACTION = (
    "<force forcefield='anharm'/>"
    "<force forcefield='dft' nbeads='{n}'/>"
    "<force forcefield='anharm' nbeads='{n}' weight='-1.0'/>"
)
BOTH = (
    "<force forcefield='anharm'> <mts_weights> [ 0, 1 ] </mts_weights> </force>"
    "<force forcefield='dft' nbeads='{n}'> <mts_weights> [ 1, 0 ] </mts_weights> </force>"
    "<force forcefield='anharm' nbeads='{n}' weight='-1.0'>"
    " <mts_weights> [ 1, 0 ] </mts_weights> </force>"
)
SUM = "<force forcefield='anharm' weight='{model}'/><force forcefield='dft' weight='{dft}'/>"


@dataclass(frozen=True)
class Case:
    """One dynamics: beads, (outer) time step (fs), inner steps, length (ps), and its forces."""

    what: str
    forces: str
    timestep: float
    picoseconds: float
    inner: int = 1
    beads: int = 1

    @property
    def n_steps(self) -> int:
        """Outer steps at a scale of 1."""
        return round(1000 * self.picoseconds / self.timestep)


MODEL, DFT = SUM.format(model=1, dft=0), SUM.format(model=0, dft=1)
CASES = {
    "model-2": Case("model alone, 2 fs", MODEL, 2, 2.0),
    "model-8": Case("model alone, 8 fs", MODEL, 8, 2.0),
    "dft-2": Case("DFT alone, 2 fs", DFT, 2, 0.3),
    "dft-4": Case("DFT alone, 4 fs", DFT, 4, 0.4),
    "dft-8": Case("DFT alone, 8 fs", DFT, 8, 0.8),
    "mts-4": Case("DFT every 4 fs, model every 1 fs", MTS, 4, 0.4, inner=4),
    "mts-8": Case("DFT every 8 fs, model every 1 fs", MTS, 8, 0.8, inner=8),
    "mts-12": Case("DFT every 12 fs, model every 1 fs", MTS, 12, 0.84, inner=12),
    "mts-16": Case("DFT every 16 fs, model every 1 fs", MTS, 16, 0.8, inner=16),
    "rpc-8-2": Case("8 beads, DFT on 2, 1 fs", CONTRACTION.format(n=2), 1, 0.05, beads=8),
    "rpc-8-1": Case("8 beads, DFT on 1, 1 fs", CONTRACTION.format(n=1), 1, 0.06, beads=8),
    "rpc-8-1-mts-4": Case(
        "8 beads, DFT on 1 every 4 fs, model every 1 fs",
        BOTH.format(n=1),
        4,
        0.3,
        inner=4,
        beads=8,
    ),
    "sum-2": Case("half model, half DFT, 2 fs", SUM.format(model=0.5, dft=0.5), 2, 0.2),
}


def write_input(case: Case, name: str, folder: Path, scale: float) -> Path:
    """The i-PI input of one case, made from that of inputs/mixing/multiple-time-stepping."""
    xml = (INPUTS / "multiple-time-stepping" / "input.xml").read_text()
    steps = max(10, round(case.n_steps * scale))
    properties = "step, time{picosecond}, conserved{electronvolt}, temperature{kelvin}"
    if case.forces == DFT:
        properties += ", pot_component_raw(0)"  # or i-PI would not ask the model for anything
    forces = f"<forces>{case.forces}</forces>"
    nmts = f"<nmts> [ 1, {case.inner} ] </nmts>" if "mts_weights" in case.forces else ""
    for pattern, new in (
        (r"(<properties[^>]*>)[^<]*<", rf"\1 [ {properties} ] <"),
        (r"<total_steps>[^<]*<", f"<total_steps> {steps} <"),
        (r"<timestep ([^>]*)>[^<]*<", rf"<timestep \1> {case.timestep} <"),
        (r"<nmts>.*</nmts>", nmts),
        (r"(?s)<forces>.*</forces>", forces),
        (r"nbeads='1'>\s*<file", f"nbeads='{case.beads}'> <file"),
        (r"(<velocities[^>]*>)[^<]*<", rf"\1 {600 if case.beads == 1 else 300} <"),
        (r"<latency>[^<]*<", "<latency> 1e-2 <"),  # many i-PI that poll would take DFT's time
        (r"anharm-mixing-mts", f"drift-{os.getpid()}-{name}"),
    ):
        xml, count = re.subn(pattern, new, xml)
        if not count:
            sys.exit(f"{pattern} is not in the input any more")
    path = folder / f"{name}.xml"
    path.write_text(xml)
    return path


def run(names: list[str], folder: Path, scale: float, stand_in: bool, learn: bool) -> None:
    """All cases in one `anharm run`."""
    inputs = [write_input(CASES[name], name, folder, scale).name for name in names]
    text = (INPUTS / "multiple-time-stepping" / "run.toml").read_text()
    text = text.replace('"input.xml"', str(inputs).replace("'", '"')).replace("../silicon/", "")
    text = text.replace("anharm-mixing-mts", f"drift-{os.getpid()}")
    text = re.sub(r'directory = ".*"', 'directory = "run"', text)
    if learn:
        text = text.replace('harvest = "keep"', 'harvest = "learn"')
    if stand_in:
        files = [SILICON / "primitive.xyz", SILICON / "init.xyz"]
        model = (SILICON / "run.toml").read_text()
        for key in ("supercell", "cutoffs"):
            line = next(line for line in model.splitlines() if line.startswith(key))
            text = re.sub(rf"(?m)^{key} = .*$", line, text)
        calculator = '[reference.calculator]\nname = "tersoff-silicon"\n\n[run]'
        text = re.sub(r"(?s)\[reference\].*\[run\]", calculator, text)
    else:
        names_of_files = "silicon/primitive.xyz", "silicon/pw.in", "multiple-time-stepping/init.xyz"
        files = [INPUTS / name for name in names_of_files]
    for file in files:
        shutil.copy(file, folder)
    (folder / "run.toml").write_text(text)
    words = [sys.executable, "-m", "anharm", "run", str(folder / "run.toml")]
    if subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"the run in {folder} failed")


def table(names: list[str], folder: Path) -> None:
    """Print one line per case."""
    with Record.open(folder / "run", read_only=True) as record:
        calls = Counter(request.reason.split()[-1] for request in record.requests())
        n_initial = sum(label.request.reason.startswith("initial") for label in record.labels())
        rmse = [label.prediction.force_rmse for label in record.labels() if label.prediction]
        n_atoms = len(record.request(1).positions)
        rms = [np.sqrt(np.mean(label.answer.forces**2)) for label in record.labels()]
    print(
        f"model from {n_initial} labels; its force RMSE on all that was harvested "
        f"{np.sqrt(np.mean(np.square(rmse))):.3f} eV/A, rms force "
        f"{np.sqrt(np.mean(np.square(rms))):.3f} eV/A\n"
    )
    heads = "dynamics", "length, ps", "DFT calls", "per ps", "rms, meV/atom", "drift, meV/atom/ps"
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in names:
        case = CASES[name]
        (found,) = read_properties(folder / "run", [f"{name}/{name}.xml"], ["time", "conserved"])
        time, energy = found.columns["time"], found.columns["conserved"] / n_atoms * MILLI
        drift, error, rms_deviation = fit_line(time, energy)
        n_calls = calls[f"{name}-dft"]
        print(
            f"| {case.what} | {time[-1]:.2f} | {n_calls} | {n_calls / time[-1]:.0f} | "
            f"{rms_deviation:.3f} | {drift:+.3f} ± {error:.3f} |"
        )


def fit_line(time: np.ndarray, energy: np.ndarray) -> tuple[float, float, float]:
    """Slope, its standard error by blocks of a tenth, and the rms deviation from the line."""
    slope, offset = np.polyfit(time, energy, 1)
    residual = energy - offset - slope * time
    blocks = np.array([block.mean() for block in np.array_split(residual, 10)])
    centres = np.array([block.mean() for block in np.array_split(time - time.mean(), 10)])
    error = np.sqrt(np.sum(blocks**2) / 8 / np.sum(centres**2))
    return float(slope), float(error), float(residual.std())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--only-table", action="store_true")
    words = parser.parse_args()
    folder = words.folder or Path(tempfile.mkdtemp(prefix="mixing-drift-"))
    if not words.only_table:
        folder.mkdir(parents=True, exist_ok=True)
        run(words.cases, folder, words.scale, words.stand_in, words.learn)
    table(words.cases, folder)


if __name__ == "__main__":
    main()
