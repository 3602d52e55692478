"""Lattice constants of models at constant pressure, beside those of the reference potential itself.

    python benchmarks/thermal_expansion.py [npt nst pi-npt] [--steps 50000]
                            [--path-integral-steps 20000] [--reference-steps 250000]

Each of the inputs `inputs/changing-cells/*.toml` is run, and its last model then drives the same
i-PI input for `--steps` more steps, inside i-PI's process: with one Hamiltonian, and for longer
than the training took. Directories of runs that exist are used as they are. The reference is the
same Tersoff potential in LAMMPS (`lmp`), whose energy, forces and stress are first compared with
those that the runs learnt from. With a
stress, codes differ in the cell that it refers to: there LAMMPS gives the forces for the same i-PI
input (`fix ipi`). Errors of means are those of 20 blocks; the first tenth is left out.

Path integrals have no reference of their own here. What quantum nuclei add to the lattice constant
is compared with the quasi-harmonic value for as many beads, from frequencies and Grueneisen
parameters of the reference: the sum over modes of gamma (E - kT) / (3 B V).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from strained_cells import (
    MATRIX,
    bulk_modulus,
    grueneisen_parameters,
    lagrangian_stress,
)
from tersoff_lammps import Lammps

import anharm.clients
from anharm.clients.calculators import make_calculator
from anharm.model import Crystal, Supercell

INPUTS = Path(__file__).parents[1] / "inputs" / "changing-cells"
TEMPERATURES = (100, 300, 600)
STRESS = 1.0  # GPa along x, of nst.xml
BEADS, QUANTUM_TEMPERATURE = 8, 300  # of pi-npt.xml
NPT = "iso 0 0 0.5"  # LAMMPS, with nph
EQUILIBRATION = 0.1  # of a trajectory
N_BLOCKS = 20


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


def trained_model(name: str) -> Path:
    """The last model of a run, which is made if it is missing."""
    directory = INPUTS / "runs" / name
    if not directory.exists():
        command = [sys.executable, "-m", "anharm", "run", str(INPUTS / f"{name}.toml")]
        subprocess.run(command, check=True)
    return max((directory / "models").glob("model-*.h5"))


def production(name: str, steps: int) -> Path:
    """Directory of more steps of an i-PI input, with the last model of its run inside i-PI."""
    model = trained_model(name)
    directory = INPUTS / "runs" / f"{name}-production-{steps}"
    if directory.exists():
        return directory
    root = shortened(name, steps)
    socket = root.find("ffsocket")
    assert socket is not None
    socket.tag = "ffdirect"
    socket.attrib = {"name": socket.attrib["name"]}
    for child in list(socket):
        socket.remove(child)
    path = Path(anharm.clients.__file__).with_name("ipi_pes.py")
    for tag, text in (
        ("pes", "custom"),
        ("pes_path", str(path)),
        ("parameters", f"{{ model: {model}, extras: none }}"),
    ):
        ElementTree.SubElement(socket, tag).text = text
    finish(started_engine(directory, root))
    return directory


def reference_production(name: str, steps: int, lammps: Lammps, ideal: Atoms) -> Path:
    """The same, with LAMMPS as i-PI's driver."""
    directory = INPUTS / "runs" / f"{name}-reference-{steps}"
    if directory.exists():
        return directory
    root, address = shortened(name, steps), f"tersoff-{name}-{os.getpid()}"
    socket = root.find("ffsocket/address")
    assert socket is not None
    socket.text = address
    engine = started_engine(directory, root)
    while not Path(f"/tmp/ipi_{address}").exists() and engine.poll() is None:
        time.sleep(0.5)
    driver = lammps.serve(ideal, address)
    finish(engine)
    driver.terminate()
    return directory


def shortened(name: str, steps: int) -> ElementTree.Element:
    """An i-PI input with so many steps, without trajectories."""
    root = ElementTree.parse(INPUTS / f"{name}.xml").getroot()
    total, output = root.find("total_steps"), root.find("output")
    assert total is not None and output is not None
    for trajectory in output.findall("trajectory"):
        output.remove(trajectory)
    total.text = str(steps)
    return root


def started_engine(directory: Path, root: ElementTree.Element) -> subprocess.Popen[bytes]:
    """An i-PI in a directory of its own."""
    directory.mkdir()
    ElementTree.ElementTree(root).write(directory / "input.xml")
    (directory / "init.xyz").write_bytes((INPUTS / "init.xyz").read_bytes())
    with (directory / "log").open("w") as log:
        command = [str(Path(sys.executable).with_name("i-pi")), "input.xml"]
        return subprocess.Popen(command, cwd=directory, stdout=log)


def finish(engine: subprocess.Popen[bytes]) -> None:
    """Wait for an i-PI; stop where it failed."""
    if engine.wait() != 0:
        sys.exit(f"i-PI failed: {engine.args!r}; see its log in {INPUTS / 'runs'}")


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
        theirs[temperature] = Mean.of(lammps.edges(ideal, temperature, steps, NPT)[:, 0] / 2)
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
            f"reference {shown(found[1], 2)}",
            flush=True,
        )


def table_of_stress(run: Path, reference: Path, lammps: Lammps, ideal: Atoms, steps: int) -> None:
    """Strain of the cell under uniaxial stress, and what elasticity expects."""
    edge = lammps.edges(ideal, 300, steps, NPT).mean()
    cells, stressed = (cells_of(path / "silicon.out") for path in (run, reference))
    stress = lagrangian_stress(ideal, make_calculator("tersoff-silicon"))
    stiffness = (stress(np.eye(6)[0] * 1e-3) - stress(np.eye(6)[0] * -1e-3)) / 2e-3
    c11, c12 = stiffness[:2]
    along = -STRESS * (c11 + c12) / ((c11 - c12) * (c11 + 2 * c12))
    expected = [100 * along, *[-100 * along * c12 / (c11 + c12)] * 2]
    print(
        f"\n{STRESS:g} GPa along x at 300 K: edges of the cell relative to those of the "
        "reference without stress, %"
    )
    print("\n| edge | anharm | reference | elastic constants at 0 K |")
    print("|---|---|---|---|")
    for axis in range(3):
        found = [Mean.of(100 * (one[:, axis] / edge - 1)) for one in (cells, stressed)]
        print(
            f"| {'xyz'[axis]} | {shown(found[0], 3)} | {shown(found[1], 3)} | "
            f"{expected[axis]:+.3f} |"
        )
    for name, one in (("anharm", cells), ("reference", stressed)):
        shears = [Mean.of(100 * one[:, column] / edge) for column in (3, 4, 5)]
        print(f"shears of {name}, %:", ", ".join(shown(shear, 3) for shear in shears), flush=True)


def table_of_quantum_expansion(quantum: Path, classical: Path, ideal: Atoms) -> None:
    """What quantum nuclei add to the lattice constant, and what quasi-harmonic theory expects."""
    found = [
        Mean.of(cells_of(path)[:, 0] / 2)
        for path in (quantum / "silicon.out", classical / f"{QUANTUM_TEMPERATURE}K_silicon.out")
    ]
    reference = make_calculator("tersoff-silicon")
    squares, gammas = grueneisen_parameters(ideal, reference)
    modulus = bulk_modulus(lagrangian_stress(ideal, reference)) * units.GPa
    mass, hbar = ideal.get_masses()[0], units._hbar * units.J * units.s
    thermal = units.kB * QUANTUM_TEMPERATURE
    ring = 2 * BEADS * thermal * np.sin(np.pi * np.arange(BEADS) / BEADS)
    quanta = hbar * np.sqrt(squares / mass)
    energies = thermal * np.sum(quanta[:, None] ** 2 / (quanta[:, None] ** 2 + ring**2), axis=1)
    strain = np.sum(gammas * (energies - thermal)) / (3 * modulus * ideal.get_volume())
    print(f"\nLattice constant at {QUANTUM_TEMPERATURE} K, Angstrom: {BEADS} beads", end=" ")
    print(f"{shown(found[0])}, classical {shown(found[1])},", end=" ")
    print(f"difference {shown(found[0].minus(found[1]))}, quasi-harmonic", end=" ")
    print(f"{strain * ideal.cell[0, 0] / 2:.5f}")


def shown(mean: Mean, digits: int = 5) -> str:
    """Value and error."""
    return f"{mean.value:.{digits}f} ± {mean.error:.{digits}f}"


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = ("npt", "nst", "pi-npt")
    parser.add_argument("kinds", nargs="*", help="of " + ", ".join(kinds))
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--path-integral-steps", type=int, default=20_000)
    parser.add_argument("--reference-steps", type=int, default=250_000)
    arguments = parser.parse_args()
    chosen = arguments.kinds or kinds
    ideal = Supercell(Crystal.from_atoms(read(INPUTS / "primitive.xyz")), MATRIX).to_atoms()
    with tempfile.TemporaryDirectory() as folder:
        lammps = Lammps(Path(folder))
        displaced = ideal.copy()
        displaced.rattle(0.1, seed=1)
        displaced.set_cell(0.99 * displaced.cell[:], scale_atoms=True)
        lammps.check(displaced)
        steps = {**dict.fromkeys(kinds, arguments.steps), "pi-npt": arguments.path_integral_steps}
        runs = {kind: production(kind, steps[kind]) for kind in kinds if kind in chosen}
        if "npt" in runs:
            table_of_expansion(runs["npt"], lammps, ideal, arguments.reference_steps)
        if "nst" in runs:
            reference = reference_production("nst", arguments.steps, lammps, ideal)
            table_of_stress(runs["nst"], reference, lammps, ideal, arguments.reference_steps)
    if {"npt", "pi-npt"} <= runs.keys():
        table_of_quantum_expansion(runs["pi-npt"], runs["npt"], ideal)


if __name__ == "__main__":
    main()
