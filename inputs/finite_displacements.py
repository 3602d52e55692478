"""Phonons of the reference of a run by finite displacements, to compare those of a model with.

    python inputs/finite_displacements.py inputs/guide/run.toml phonopy_params.yaml

phonopy displaces the atoms of the run's supercell by 0.01 Angstrom; the forces are those of the
calculator in [reference.calculator]. `anharm phonons --compare` reads what is written.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import numpy as np
from ase import Atoms
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from anharm.clients.calculators import make_calculator
from anharm.structures import read_structure

DISPLACEMENT = 0.01  # Angstrom


def main() -> None:
    """Displace, calculate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run.toml with a [reference.calculator]")
    parser.add_argument("output", type=Path, help="phonopy's yaml file")
    words = parser.parse_args()
    table = tomllib.loads(words.run.read_text())
    crystal, chosen = table["crystal"], table["reference"]["calculator"]
    cell = read_structure(words.run.parent / crystal["primitive"])
    calculator = make_calculator(chosen["name"], chosen.get("parameters"), words.run.parent)
    unit_cell = PhonopyAtoms(
        numbers=cell.numbers, cell=cell.cell.array, scaled_positions=cell.get_scaled_positions()
    )
    # phonopy's columns are the rows of run.toml.
    matrix = np.array(crystal["supercell"]).T
    phonon = Phonopy(unit_cell, supercell_matrix=matrix, primitive_matrix="auto")
    phonon.generate_displacements(distance=DISPLACEMENT)
    phonon.forces = [
        forces_of(displaced, calculator) for displaced in phonon.supercells_with_displacements
    ]
    phonon.produce_force_constants()
    phonon.save(words.output, settings={"force_constants": True})


def forces_of(displaced: PhonopyAtoms, calculator: object) -> object:
    """(N, 3) forces, eV/Angstrom."""
    atoms = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True)
    atoms.calc = calculator
    return atoms.get_forces()


if __name__ == "__main__":
    main()
