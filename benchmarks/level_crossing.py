"""Why some frames of silicon have twice the error of others: levels cross at the Gamma point.

    python benchmarks/level_crossing.py [--frames 8 9 10 12]

Needs pw.x and the pseudopotential Si.pz-vbc.UPF. For frames of tests/data/held_out (displacements
of 0.1 Angstrom): the gap at the Gamma point, the only k-point of these labels; the force RMSE of a
model that was trained on all other frames; the correlation of its error with what the forces
change by when the two electrons of the highest occupied level move to the next; and the RMSE that
remains when that change, times the best factor, is taken into account. Where the levels have
crossed, the model, which goes on smoothly from small displacements, gives the forces of the state
that is now excited.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from ase import Atoms, units
from ase.io import read
from calibration import CASES, DATA, expansion_of
from numpy.typing import NDArray

from anharm.model import StructurePredictor, fit_structures

N_OCCUPIED = 128  # of 64 atoms with four electrons each
PSEUDOPOTENTIALS = "/usr/share/espresso/pseudo"
FORCE_UNIT = units.Rydberg / units.Bohr
FloatArray = NDArray[np.float64]


def pw_input(atoms: Atoms, excited: bool) -> str:
    """Input of pw.x as for the labels; with two electrons a level higher, if excited."""
    occupations = [2.0] * N_OCCUPIED + [0.0] * 4
    if excited:
        occupations[N_OCCUPIED - 1], occupations[N_OCCUPIED] = 0.0, 2.0
    cell = "\n".join(" ".join(f"{x:.10f}" for x in vector) for vector in atoms.cell[:])
    positions = "\n".join("Si " + " ".join(f"{x:.10f}" for x in r) for r in atoms.positions)
    rows = (occupations[n : n + 10] for n in range(0, len(occupations), 10))
    text = "\n".join(" ".join(f"{x:.1f}" for x in row) for row in rows)
    return f"""&CONTROL
  calculation='scf', pseudo_dir='{PSEUDOPOTENTIALS}', tprnfor=.true., disk_io='none'
/
&SYSTEM
  ibrav=0, nat={len(atoms)}, ntyp=1, ecutwfc=20, nosym=.true., nbnd={len(occupations)}
  {"occupations='from_input'" if excited else ""}
/
&ELECTRONS
  conv_thr=1e-6, mixing_beta=0.4
/
ATOMIC_SPECIES
Si 28.085 Si.pz-vbc.UPF
CELL_PARAMETERS angstrom
{cell}
ATOMIC_POSITIONS angstrom
{positions}
K_POINTS gamma
{"OCCUPATIONS" + chr(10) + text if excited else ""}
"""


def run_pw(atoms: Atoms, excited: bool) -> tuple[FloatArray, str]:
    """Forces, eV/Angstrom, and what pw.x printed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pw.in").write_text(pw_input(atoms, excited))
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        done = subprocess.run(
            ["pw.x", "-in", "pw.in"], cwd=folder, env=os.environ | root,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    if "convergence has been achieved" not in done.stdout:
        raise SystemExit("pw.x did not reach self-consistency")
    lines = re.findall(r"atom +\d+ type +\d+ +force = +(\S+) +(\S+) +(\S+)", done.stdout)
    return np.array(lines[: len(atoms)], dtype=float) * FORCE_UNIT, done.stdout


def gap_of(printed: str) -> float:
    """Difference of the highest occupied and the lowest unoccupied level, eV."""
    found = re.search(r"highest occupied, lowest unoccupied level \(ev\): +(\S+) +(\S+)", printed)
    if found is None:
        raise SystemExit("pw.x printed no levels")
    return float(found[2]) - float(found[1])


def row_of(index: int) -> str:
    """Table row of one held-out frame."""
    stem = CASES["Si"][0]
    held_out = read(DATA / "held_out" / f"{stem}.xyz", index=":")
    atoms = held_out.pop(index)
    known = read(DATA / f"{stem}.xyz", index="1:") + held_out
    predictor = StructurePredictor(fit_structures(expansion_of("Si"), known))
    error = predictor.predict(atoms)["forces"] - atoms.get_forces()
    ground, printed = run_pw(atoms, excited=False)
    change = run_pw(atoms, excited=True)[0] - ground
    product = float(np.sum(error * change))
    factor = product / float(np.sum(change**2))
    cosine = product / float(np.linalg.norm(error) * np.linalg.norm(change))
    rest = error - factor * change
    rmse, remaining = (float(np.sqrt(np.mean(x**2))) for x in (error, rest))
    return f"| {index} | {gap_of(printed):.3f} | {rmse:.3f} | {cosine:.2f} | {remaining:.3f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 9, 10, 12])
    words = parser.parse_args()
    print("| held-out frame | gap (eV) | force RMSE (eV/A) | correlation | RMSE without it |")
    print("|---|---|---|---|---|")
    for index in words.frames:
        print(row_of(index), flush=True)


if __name__ == "__main__":
    main()
