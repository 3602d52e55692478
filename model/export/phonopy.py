"""Second-order force constants for phonopy."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_masses
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell
from anharm.model.export.force_constants import dense_force_constants, require_orders
from anharm.model.export.supercells import choose_supercell
from anharm.model.sites import assign_sites

if TYPE_CHECKING:
    import phonopy


def to_phonopy(model: BayesianModel, supercell: ArrayLike | None = None) -> phonopy.Phonopy:
    """A model's harmonic part as a `phonopy.Phonopy`, force constants set.

    Parameters
    ----------
    model : BayesianModel
    supercell : array_like of int, optional
        Three multiples or a 3x3 matrix whose rows are the new vectors (phonopy's own matrix is
        its transpose); by default the smallest that the cutoff fits into.

    Raises
    ------
    ModelError
        If order 2 is missing, the supercell is too small, or phonopy is not installed.
    """
    require_orders(model, (2,), "phonopy")
    phonopy = require_package("phonopy")
    chosen = choose_supercell(model.expansion, (2,), supercell)
    phonon = phonopy.Phonopy(
        unit_cell(chosen.crystal),
        supercell_matrix=chosen.matrix.T,
        primitive_matrix=primitive_matrix(chosen.crystal),
    )
    atoms = supercell_order(chosen, phonon.supercell)
    rows = np.asarray(phonon.primitive.p2s_map)
    phonon.force_constants = dense_force_constants(model, 2, chosen, atoms, rows)
    return phonon


def write_phonopy(
    model: BayesianModel, directory: Path, supercell: ArrayLike | None = None
) -> list[Path]:
    """Write phonopy_params.yaml, FORCE_CONSTANTS, force_constants.hdf5, POSCAR and SPOSCAR.

    `phonopy.load("phonopy_params.yaml")` needs only the first; it holds the cells and the force
    constants. FORCE_CONSTANTS has all pairs of supercell atoms, force_constants.hdf5 those whose
    first atom is in the primitive cell; both in eV/Angstrom^2.

    Raises
    ------
    ModelError
        See `to_phonopy`.
    OSError
        If a file cannot be written.
    """
    phonon = to_phonopy(model, supercell)
    from phonopy.file_IO import write_force_constants_to_hdf5

    names = ("phonopy_params.yaml", "FORCE_CONSTANTS", "force_constants.hdf5")
    paths = [directory / name for name in names]
    phonon.save(paths[0], settings={"force_constants": True})
    chosen = Supercell(model.expansion.crystal, np.asarray(phonon.supercell_matrix).T)
    atoms = supercell_order(chosen, phonon.supercell)
    full = dense_force_constants(model, 2, chosen, atoms, np.arange(chosen.n_atoms))
    write_force_constants_text(full, paths[1])
    rows = np.asarray(phonon.primitive.p2s_map)
    write_force_constants_to_hdf5(
        full[rows], filename=str(paths[2]), p2s_map=rows, physical_unit="eV/angstrom^2"
    )
    return [*paths, *write_cells(phonon.unitcell, phonon.supercell, directory)]


def require_package(name: str) -> Any:
    """Import phonopy or phono3py, which are installed on request.

    Raises
    ------
    ModelError
        Saying how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(
            f"{name} is not installed, and this export uses it to build the supercell: "
            "pip install 'anharm[phonons]'"
        ) from error


def unit_cell(crystal: Crystal) -> Any:
    """The crystal as `PhonopyAtoms`, with the masses of ASE: phonopy lacks some elements."""
    from phonopy.structure.atoms import PhonopyAtoms

    return PhonopyAtoms(
        numbers=crystal.numbers,
        cell=crystal.lattice,
        scaled_positions=crystal.fractional_positions,
        masses=atomic_masses[crystal.numbers],
    )


def primitive_matrix(crystal: Crystal) -> FloatArray:
    """(3, 3) phonopy's primitive matrix: the model's own cell, unless a smaller one exists."""
    from phonopy.structure.cells import get_primitive, guess_primitive_matrix

    cell = unit_cell(crystal)
    guess: FloatArray = np.asarray(guess_primitive_matrix(cell))
    smaller = len(get_primitive(cell, guess)) < crystal.n_sites
    return guess if smaller else np.eye(3)


def supercell_order(supercell: Supercell, cell: Any) -> IntArray:
    """(n_atoms,) the supercell atom that each atom of a `PhonopyAtoms` supercell is."""
    return assign_sites(supercell, cell.positions, np.asarray(cell.numbers)).sites


def write_cells(unitcell: Any, supercell: Any, directory: Path) -> list[Path]:
    """Write POSCAR and SPOSCAR, atoms in phonopy's order."""
    from phonopy.interface.vasp import write_vasp

    paths = [directory / "POSCAR", directory / "SPOSCAR"]
    with warnings.catch_warnings():
        # phonopy warns of species that come twice in the list; the order is kept on purpose.
        warnings.simplefilter("ignore", UserWarning)
        for path, cell in zip(paths, (unitcell, supercell), strict=True):
            write_vasp(path, cell)
    return paths


def write_force_constants_text(force_constants: FloatArray, path: Path) -> None:
    """Write (n_atoms, n_atoms, 3, 3) force constants, eV/Angstrom^2, as phonopy's text format."""
    n_atoms = len(force_constants)
    with path.open("w") as file:
        file.write(f"{n_atoms:4d} {n_atoms:4d}\n")
        for first, second in np.ndindex(n_atoms, n_atoms):
            file.write(f"{first + 1} {second + 1}\n")
            for row in force_constants[first, second]:
                file.write("{:22.15f}{:22.15f}{:22.15f}\n".format(*row))
