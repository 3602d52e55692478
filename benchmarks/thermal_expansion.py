"""Lattice constants of a run at constant pressure, beside those of the reference potential itself.

    python benchmarks/thermal_expansion.py [--run DIRECTORY] [--stress-run DIRECTORY]
                                           [--reference-steps 250000]

`anharm run inputs/changing-cells/npt.toml` (and nst.toml) is what the runs come from; without
--run both are made first. The reference is the same Tersoff potential in LAMMPS (`lmp`), whose
energy, forces and stress are first compared with those that the run learnt from. Errors of means
are those of 20 blocks. The first fifth of each trajectory is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.io import read
from ase.io.lammpsdata import write_lammps_data
from ase.units import bar

from anharm.clients.calculators import SILICON, make_calculator

INPUTS = Path(__file__).parents[1] / "inputs" / "changing-cells"
TEMPERATURES = (100, 300, 600)
STRESS = 1.0  # GPa along x, of nst.xml
EQUILIBRATION = 0.2  # of a trajectory, in which most of the training happens, too
N_BLOCKS = 20
POTENTIAL = "pair_style tersoff\npair_coeff * * silicon.tersoff Si\n"
LENGTHS = ("lx", "ly", "lz")


@dataclass(frozen=True)
class Mean:
    """An average over a trajectory and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """Average, with the error of block averages."""
        blocks = np.array([block.mean() for block in np.array_split(values, N_BLOCKS)])
        return cls(float(values.mean()), float(blocks.std(ddof=1) / np.sqrt(N_BLOCKS)))

    def minus(self, other: Mean) -> Mean:
        """Difference of two independent averages."""
        return Mean(self.value - other.value, float(np.hypot(self.error, other.error)))

    def times(self, factor: float) -> Mean:
        """The same in another unit."""
        return Mean(self.value * factor, self.error * abs(factor))


class Lammps:
    """The reference potential in LAMMPS, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        s = SILICON
        (folder / "silicon.tersoff").write_text(
            f"Si Si Si {s.m} {s.gamma} {s.lambda3} {s.c} {s.d} {s.h} {s.n} {s.beta} {s.lambda2} "
            f"{s.B} {s.R} {s.D} {s.lambda1} {s.A}\n"
        )

    def check(self, atoms: Atoms) -> None:
        """Compare with the calculator that gave the labels; refuse what differs."""
        write_lammps_data(self._folder / "once.data", atoms, specorder=["Si"], masses=True)
        self._run(
            "units metal\natom_modify map array sort 0 0\nread_data once.data\n"
            + POTENTIAL
            + "thermo_style custom pe pxx pyy pzz\nthermo_modify format float %.14g\n"
            "dump d all custom 1 once.forces fx fy fz\n"
            "dump_modify d format float %.12f sort id\nrun 0\n"
        )
        forces = Prism(atoms.cell[:]).vector_to_ase(
            np.loadtxt(self._folder / "once.forces", skiprows=9)
        )
        lines = (self._folder / "log").read_text().splitlines()
        words = lines[[line.strip().startswith("PotEng") for line in lines].index(True) + 1].split()
        energy, *pressures = map(float, words)
        atoms.calc = make_calculator("tersoff-silicon")
        pressure = -np.trace(atoms.get_stress(voigt=False)) / 3
        differences = (
            abs(energy - atoms.get_potential_energy()),
            np.abs(forces - atoms.get_forces()).max(),
            abs(np.mean(pressures) * bar - pressure) / abs(pressure),
        )
        print(
            "LAMMPS against the reference of the labels: energy {:.1e} eV, forces {:.1e} eV/A, "
            "pressure {:.1e} (relative)".format(*differences)
        )
        if max(differences) > 1e-5:
            sys.exit("these are two different potentials")

    def dynamics(self, atoms: Atoms, temperature: float, steps: int, pressure: str) -> np.ndarray:
        """(n, 3) edges of the cell, Angstrom, every tenth step of 2 fs."""
        write_lammps_data(
            self._folder / "start.data", atoms, specorder=["Si"], masses=True, force_skew=True
        )
        variables = "".join(f"variable {name} equal {name}\n" for name in LENGTHS)
        names = " ".join(f"v_{name}" for name in LENGTHS)
        self._run(
            "units metal\nread_data start.data\n" + POTENTIAL + "neighbor 1.0 bin\n"
            f"velocity all create {2 * temperature} 4711 mom yes dist gaussian\ntimestep 0.002\n"
            f"fix 1 all nph {pressure}\n"
            f"fix 2 all langevin {temperature} {temperature} 0.2 31415 zero yes\n"
            f"run 5000\n{variables}fix 3 all ave/time 1 10 10 {names} file lengths\nrun {steps}\n"
        )
        return np.loadtxt(self._folder / "lengths")[:, 1:]

    def _run(self, text: str) -> None:
        (self._folder / "in").write_text(text)
        command = ["lmp", "-in", "in", "-log", "log", "-screen", "none"]
        subprocess.run(command, cwd=self._folder, check=True)


def cells_of(path: Path) -> np.ndarray:
    """(n, 6) h_xx, h_yy, h_zz, h_xy, h_xz, h_yz that i-PI wrote, Angstrom, after equilibration."""
    values = np.loadtxt(path)
    return values[int(EQUILIBRATION * len(values)) :, 7:13]


def table_of_expansion(run: Path, lammps: Lammps, ideal: Atoms, steps: int) -> None:
    """Lattice constants by temperature, and the expansion between them."""
    print(
        "\n| K | anharm, Angstrom | reference, Angstrom | difference | of errors | largest strain |"
    )
    print("|---|---|---|---|---|---|")
    edge = ideal.cell[0, 0]
    ours, theirs = {}, {}
    for temperature in TEMPERATURES:
        cells = cells_of(run / f"{temperature}K_silicon.out")
        ours[temperature] = Mean.of(cells[:, 0] / 2)
        lengths = lammps.dynamics(ideal, temperature, steps, "iso 0 0 0.5")
        theirs[temperature] = Mean.of(lengths[:, 0] / 2)
        difference = ours[temperature].minus(theirs[temperature])
        strain = np.abs(cells[:, :3] / edge - 1).max()
        print(
            f"| {temperature} | {shown(ours[temperature])} | {shown(theirs[temperature])} | "
            f"{difference.value:+.5f} | {difference.value / difference.error:+.1f} | {strain:.2%} |"
        )
    for first, last in pairwise(TEMPERATURES):
        factor = 1e6 / theirs[first].value / (last - first)
        found = [one[last].minus(one[first]).times(factor) for one in (ours, theirs)]
        print(
            f"expansion {first} to {last} K, 1e-6/K: anharm {shown(found[0], 2)}, "
            f"reference {shown(found[1], 2)}"
        )


def table_of_stress(run: Path, lammps: Lammps, ideal: Atoms, steps: int) -> None:
    """Mean edges of the cell under uniaxial stress."""
    targets = {"x": STRESS * 1e4, "y": 0, "z": 0, "xy": 0, "xz": 0, "yz": 0}  # bar
    pressures = " ".join(f"{axis} {value} {value} 0.5" for axis, value in targets.items())
    lengths = lammps.dynamics(ideal, 300, steps, pressures)
    cells = cells_of(run / "silicon.out")
    edge = ideal.cell[0, 0]
    print(
        f"\n{STRESS:g} GPa along x at 300 K: edges of the cell relative to {edge:.3f} Angstrom, %"
    )
    print("\n| edge | anharm | reference |")
    print("|---|---|---|")
    for axis in range(3):
        found = [Mean.of(100 * (one[:, axis] / edge - 1)) for one in (cells, lengths)]
        print(f"| {'xyz'[axis]} | {shown(found[0], 3)} | {shown(found[1], 3)} |")
    shears = [Mean.of(100 * cells[:, column] / edge) for column in (3, 4, 5)]
    print("shears of anharm's cell, %:", ", ".join(shown(shear, 3) for shear in shears))


def shown(mean: Mean, digits: int = 5) -> str:
    """Value and error."""
    return f"{mean.value:.{digits}f} ± {mean.error:.{digits}f}"


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run directory of npt.toml")
    parser.add_argument("--stress-run", type=Path, help="run directory of nst.toml")
    parser.add_argument("--reference-steps", type=int, default=250_000)
    arguments = parser.parse_args()
    chosen = {"npt": arguments.run, "nst": arguments.stress_run}
    if not any(chosen.values()):
        for name in chosen:
            command = [sys.executable, "-m", "anharm", "run", str(INPUTS / f"{name}.toml")]
            subprocess.run(command, check=True)
            chosen[name] = INPUTS / "runs" / name
    ideal = read(INPUTS / "primitive.xyz")
    edge = 4 * ideal.cell[0, 1]
    atoms = read(INPUTS / "init.xyz")
    atoms.set_cell([edge] * 3)
    atoms.pbc = True
    with tempfile.TemporaryDirectory() as folder:
        lammps = Lammps(Path(folder))
        displaced = atoms.copy()
        displaced.rattle(0.1, seed=1)
        displaced.set_cell(0.99 * displaced.cell[:], scale_atoms=True)
        lammps.check(displaced)
        if chosen["npt"]:
            table_of_expansion(chosen["npt"], lammps, atoms, arguments.reference_steps)
        if chosen["nst"]:
            table_of_stress(chosen["nst"], lammps, atoms, arguments.reference_steps)


if __name__ == "__main__":
    main()
