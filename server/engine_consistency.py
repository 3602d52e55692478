"""Whether the i-PI input, run.toml and the DFT input describe one crystal.

The sockets carry positions and a cell and no species, so nothing but this check stands
between a different order of atoms and labels that are silently wrong.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ase
import numpy as np

from anharm.errors import ConfigurationError
from anharm.server.engine_input import EngineInput
from anharm.structures import read_structure

CELL_TOLERANCE = 1e-3  # Angstrom, per component of the lattice vectors
BOHR_IN_ANGSTROM = 0.529177


def read_dft_input(path: str | Path, file_format: str | None = None) -> ase.Atoms:
    """Read the structure of a DFT code's input file through ASE.

    Raises
    ------
    ConfigurationError
        If ASE cannot read it, with what to do about it.
    """
    try:
        return read_structure(path, file_format)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"reference.input: {error}\nName its format as reference.input_format (for example "
            '"espresso-in", "abinit-in", "lammps-data"; `ase info --formats` lists all). If ASE '
            "cannot read this code's input, list the file under reference.files instead, where "
            "it is copied and not checked."
        ) from error


def check_consistency(
    engine_input: EngineInput,
    supercell: ase.Atoms,
    dft_atoms: ase.Atoms | None = None,
    tolerance: float = CELL_TOLERANCE,
) -> None:
    """Compare the structures of the i-PI input, run.toml and the DFT input.

    Parameters
    ----------
    engine_input : EngineInput
    supercell : ase.Atoms
        The ideal supercell of run.toml, its atoms in any order.
    dft_atoms : ase.Atoms, optional
        The DFT input's structure, whose atoms need the order of the i-PI input.
    tolerance : float
        Allowed difference per component of the lattice vectors, Angstrom.

    Raises
    ------
    ConfigurationError
        One error that lists every difference.
    """
    structure = engine_input.structure
    engine = f"the i-PI input {engine_input.path}"
    crystal = "the supercell of run.toml ([crystal])"
    problems = [
        *_species_problems(engine, structure, crystal, supercell),
        *_cell_problems(engine, structure, crystal, supercell, tolerance),
    ]
    if dft_atoms is not None:
        dft = "the DFT input (reference.input)"
        problems += _species_problems(engine, structure, dft, dft_atoms)
        if not problems:
            problems += _order_problems(engine, structure, dft, dft_atoms)
        problems += _cell_problems(engine, structure, dft, dft_atoms, tolerance)
    if problems:
        raise ConfigurationError("\n".join(problems))


def _species_problems(
    first: str, atoms: ase.Atoms, second: str, others: ase.Atoms
) -> Sequence[str]:
    counts = [dict(Counter(a.get_chemical_symbols())) for a in (atoms, others)]
    if counts[0] == counts[1]:
        return []
    return [
        f"{first} has {len(atoms)} atoms ({_formula(counts[0])}), {second} has {len(others)} "
        f"({_formula(counts[1])}): they must be the same supercell"
    ]


def _formula(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {symbol}" for symbol, number in sorted(counts.items()))


def _order_problems(first: str, atoms: ase.Atoms, second: str, others: ase.Atoms) -> Sequence[str]:
    pairs = zip(atoms.get_chemical_symbols(), others.get_chemical_symbols(), strict=True)
    for number, (here, there) in enumerate(pairs, start=1):
        if here != there:
            return [
                f"atom {number} is {here} in {first} and {there} in {second}: the socket sends "
                "positions without species, so both must list the atoms in the same order"
            ]
    return []


def _cell_problems(
    first: str, atoms: ase.Atoms, second: str, others: ase.Atoms, tolerance: float
) -> Sequence[str]:
    here, there = atoms.cell.array, others.cell.array
    difference = np.abs(here - there).max()
    if difference <= tolerance:
        return []
    hint = "make the cells equal"
    ratios = atoms.cell.lengths() / others.cell.lengths()
    if np.allclose(ratios, BOHR_IN_ANGSTROM, rtol=1e-3):
        hint = (
            "the first is the second read in Bohr: write positions{angstrom} cell{angstrom} in "
            "the comment line of the xyz file"
        )
    elif np.abs(atoms.cell.cellpar() - others.cell.cellpar()).max() <= 10 * tolerance:
        hint = (
            "lengths and angles agree but the orientation does not: i-PI keeps the first lattice "
            "vector along x and the second in the xy plane, so orient the others like that"
        )
    return [
        f"the lattice vectors differ by up to {difference:.4g} Angstrom (tolerance {tolerance:g}): "
        f"{np.round(here, 4).tolist()} in {first}, {np.round(there, 4).tolist()} in {second}; "
        f"{hint}"
    ]
