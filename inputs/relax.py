"""Relax a crystal with the reference of a run: its primitive.xyz, and where its dynamics starts.

    python inputs/relax.py inputs/bas/run.toml inputs/bas/start.xyz

Cell and positions are relaxed, the space group kept, with the calculator of
[reference.calculator]. Written are crystal.primitive and, beside it, init.xyz: the supercell in
i-PI's own format (CELL(H): lattice vectors as columns, row by row). Both replace what was there.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from ase.units import GPa

from anharm.clients.calculators import make_calculator

LARGEST_FORCE = 1e-3  # eV/Angstrom, and eV per strain; what single precision allows
STEPS = 500


def relax(start: Atoms, calculator: Any) -> Atoms:
    """The start, relaxed in cell and positions under its own space group."""
    atoms = start.copy()
    atoms.calc = calculator
    atoms.set_constraint(FixSymmetry(atoms, symprec=1e-3))
    if not BFGS(FrechetCellFilter(atoms)).run(fmax=LARGEST_FORCE, steps=STEPS):
        sys.exit(f"not relaxed to {LARGEST_FORCE} eV/A within {STEPS} steps")
    return atoms


def write_ipi_xyz(path: Path, atoms: Atoms) -> None:
    """Write positions and cell as i-PI's `<file mode='xyz'>` reads them."""
    cell = " ".join(f"{value:.8f}" for value in atoms.cell.array.T.ravel())
    lines = [f"{len(atoms)}", f"# CELL(H): {cell} positions{{angstrom}} cell{{angstrom}}"]
    pairs = zip(atoms.symbols, atoms.positions, strict=True)
    lines += [f"{symbol} {x:.8f} {y:.8f} {z:.8f}" for symbol, (x, y, z) in pairs]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Relax, say what came out, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run.toml with a [reference.calculator]")
    parser.add_argument("start", type=Path, help="structure to start from, any format of ASE")
    words = parser.parse_args()
    table = tomllib.loads(words.run.read_text())  # its files need not exist yet
    chosen = table["reference"]["calculator"]
    atoms = relax(
        read(words.start),
        make_calculator(chosen["name"], chosen.get("parameters"), words.run.parent),
    )
    lengths = ", ".join(f"{value:.4f}" for value in atoms.cell.cellpar())
    pressure = -atoms.get_stress()[:3].mean() / GPa
    print(f"cell: {lengths} (Angstrom, degrees); {atoms.get_potential_energy():.5f} eV", end="; ")
    print(f"{pressure:.4f} GPa")
    lattice = atoms.cell.array.round(8) + 0.0  # no -0.0
    bare = Atoms(atoms.numbers, atoms.positions, cell=lattice, pbc=True)
    supercell = np.array(table["crystal"]["supercell"])
    matrix = supercell if supercell.ndim == 2 else np.diag(supercell)
    primitive = words.run.parent / table["crystal"]["primitive"]
    write(primitive, bare, format="extxyz")
    write_ipi_xyz(primitive.with_name("init.xyz"), make_supercell(bare, matrix))


if __name__ == "__main__":
    main()
