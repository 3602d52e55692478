"""Structure files of any format that ASE reads, and i-PI's own, with errors that name the file."""

from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import numpy.typing as npt

from anharm.errors import ConfigurationError
from anharm.ipi_frames import is_of_ipi, read_frames

SMALLEST_VOLUME = 1e-3  # Angstrom^3 per cell; below it there is no lattice
LARGEST_NUMBER = 1e12  # Angstrom, eV, eV/Angstrom, eV/Angstrom^3


def read_structure(path: str | Path, file_format: str | None = None) -> ase.Atoms:
    """Read the only structure, or the last one, of a file.

    Parameters
    ----------
    path : str or Path
        The file.
    file_format : str, optional
        ASE's name of its format, where the file's name does not tell it.

    Returns
    -------
    ase.Atoms
        Periodic in three dimensions; positions and cell in Angstrom.

    Raises
    ------
    ConfigurationError
        If the file is missing, cannot be read, or holds no atoms or no cell.
    """
    return _read(Path(path), -1, file_format)[0]


def read_structures(path: str | Path, file_format: str | None = None) -> list[ase.Atoms]:
    """Read every structure of a file; see `read_structure`."""
    return _read(Path(path), slice(None), file_format)


def read_species(path: str | Path) -> npt.NDArray[np.int64]:
    """Read the atomic numbers of a structure, in its order of atoms; it needs no cell.

    Raises
    ------
    ConfigurationError
        If the file is missing or ASE cannot read it.
    """
    atoms = _content(Path(path), -1, None)
    return np.array(atoms.numbers, dtype=np.int64)


def _content(path: Path, index: int | slice, file_format: str | None) -> Any:
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ConfigurationError(f"the structure file {path} {what}")
    try:
        return ase.io.read(path, index=index, format=file_format)
    except Exception as error:  # the readers of ASE raise almost any kind of exception
        reason = str(error) or type(error).__name__
        as_format = f" as the format {file_format!r}" if file_format else ""
        raise ConfigurationError(
            f"ASE cannot read a structure from {path}{as_format}: {reason}"
        ) from error


def _read(path: Path, index: int | slice, file_format: str | None) -> list[ase.Atoms]:
    if file_format is None and is_of_ipi(path):
        frames = read_frames(path)
        structures = frames[index] if isinstance(index, slice) else frames[-1:]
    else:
        content = _content(path, index, file_format)
        structures = content if isinstance(content, list) else [content]
    if not structures:
        raise ConfigurationError(f"{path} holds no complete structure")
    for number, atoms in enumerate(structures):
        _check(atoms, f"{path}" if len(structures) == 1 else f"{path}, structure {number}")
        atoms.pbc = True
    return structures


def _check(atoms: ase.Atoms, where: str) -> None:
    if len(atoms) == 0:
        raise ConfigurationError(f"{where} holds no atoms")
    if not np.isfinite(atoms.cell.array).all():
        raise ConfigurationError(
            f"{where} has lattice vectors {atoms.cell.array.tolist()} that are not finite numbers"
        )
    if abs(atoms.cell.volume) < SMALLEST_VOLUME:
        raise ConfigurationError(
            f"{where} has no three-dimensional cell (its lattice vectors in Angstrom are "
            f"{atoms.cell.array.tolist()}); a crystal needs one: use a format that stores it, "
            'such as CIF, POSCAR or extended XYZ with Lattice="..."'
        )
    for name, values in {"position": atoms.positions, **_known_results(atoms)}.items():
        _check_numbers(name, np.asarray(values, dtype=float), where)


def _known_results(atoms: ase.Atoms) -> dict[str, Any]:
    """Labels that the file gives."""
    known = atoms.calc.results if atoms.calc is not None else {}
    names = {"energy": "energy", "force": "forces", "stress": "stress"}
    return {name: known[key] for name, key in names.items() if key in known}


def _check_numbers(name: str, values: npt.NDArray[np.float64], where: str) -> None:
    """Refuse numbers that are not finite, or that no calculation of a crystal gives."""
    wrong = np.argwhere(~(np.abs(values) < LARGEST_NUMBER))
    if len(wrong):
        of_atom = f" of atom {wrong[0][0]}" if values.ndim == 2 and name != "stress" else ""
        value = values[tuple(wrong[0])]
        raise ConfigurationError(
            f"{where}: the {name}{of_atom} is {value}, which is no sensible number of Angstrom "
            "and eV; correct the file, or leave this structure out"
        )
