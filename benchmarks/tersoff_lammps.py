"""The Tersoff potential that labels come from, in LAMMPS: the reference's own dynamics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data
from ase.units import bar

from anharm.clients.calculators import SILICON, make_calculator

_POTENTIAL = "pair_style tersoff\npair_coeff * * silicon.tersoff Si\n"
_LENGTHS = ("lx", "ly", "lz")


class Lammps:
    """The reference potential in LAMMPS (`lmp`), in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        s = SILICON
        (folder / "silicon.tersoff").write_text(
            f"Si Si Si {s.m} {s.gamma} {s.lambda3} {s.c} {s.d} {s.h} {s.n} {s.beta} {s.lambda2} "
            f"{s.B} {s.R} {s.D} {s.lambda1} {s.A}\n"
        )

    def check(self, atoms: Atoms) -> None:
        """Compare with the calculator that gives the labels; refuse what differs."""
        write_lammps_data(self._folder / "once.data", atoms, specorder=["Si"], masses=True)
        self._run(
            "units metal\natom_modify map array sort 0 0\nread_data once.data\n"
            + _POTENTIAL
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
            "pressure {:.1e} (relative)".format(*differences),
            flush=True,
        )
        if max(differences) > 1e-5:
            sys.exit("these are two different potentials")

    def edges(self, atoms: Atoms, temperature: float, steps: int, barostat: str) -> np.ndarray:
        """(n, 3) edges of the cell in a run with a barostat, Angstrom, every tenth step of 2 fs."""
        variables = "".join(f"variable {name} equal {name}\n" for name in _LENGTHS)
        names = " ".join(f"v_{name}" for name in _LENGTHS)
        self._dynamics(
            atoms,
            temperature,
            f"nph {barostat}",
            f"{variables}fix 3 all ave/time 1 10 10 {names} file lengths\nrun {steps}\n",
        )
        return np.loadtxt(self._folder / "lengths")[:, 1:]

    def frames(
        self, atoms: Atoms, temperature: float, number: int, barostat: str | None = None
    ) -> list[Atoms]:
        """Configurations 1 ps apart, in the atoms' own cell or with a barostat."""
        motion = "nve" if barostat is None else f"nph {barostat}"
        self._dynamics(
            atoms,
            temperature,
            motion,
            "dump d all custom 500 frames id type xu yu zu\n"
            f"dump_modify d format float %.12f sort id first no\nrun {500 * number}\n",
        )
        found = []
        for text in (self._folder / "frames").read_text().split("ITEM: TIMESTEP\n")[-number:]:
            lines = text.splitlines()
            bounds = np.array([line.split()[:2] for line in lines[4:7]], dtype=float)
            frame = atoms.copy()
            frame.set_cell(bounds[:, 1] - bounds[:, 0])
            positions = np.array([line.split()[2:5] for line in lines[8:]], dtype=float)
            frame.positions = positions - bounds[:, 0]
            found.append(frame)
        return found

    def serve(self, atoms: Atoms, address: str) -> subprocess.Popen[bytes]:
        """LAMMPS as the driver of an i-PI that listens on this Unix socket."""
        write_lammps_data(
            self._folder / "start.data", atoms, specorder=["Si"], masses=True, force_skew=True
        )
        (self._folder / "serve").write_text(
            "units metal\natom_modify map array sort 0 0\nread_data start.data\n"
            + _POTENTIAL
            + f"neighbor 2.0 bin\nfix 1 all ipi {address} 1 unix\nrun 1000000000\n"
        )
        command = ["lmp", "-in", "serve", "-log", "log", "-screen", "none"]
        return subprocess.Popen(command, cwd=self._folder)

    def _dynamics(self, atoms: Atoms, temperature: float, motion: str, then: str) -> None:
        """Steps of 2 fs with a Langevin thermostat, after 10 ps of equilibration."""
        write_lammps_data(
            self._folder / "start.data", atoms, specorder=["Si"], masses=True,
            force_skew=" xy " in motion,
        )  # fmt: skip
        self._run(
            "units metal\natom_modify map array sort 0 0\nread_data start.data\n"
            + _POTENTIAL
            + "neighbor 1.0 bin\n"
            f"velocity all create {2 * temperature} 4711 mom yes dist gaussian\ntimestep 0.002\n"
            f"fix 1 all {motion}\n"
            f"fix 2 all langevin {temperature} {temperature} 0.2 31415 zero yes\n"
            f"run 5000\n{then}"
        )

    def _run(self, text: str) -> None:
        (self._folder / "in").write_text(text)
        command = ["lmp", "-in", "in", "-log", "log", "-screen", "none"]
        subprocess.run(command, cwd=self._folder, check=True)
