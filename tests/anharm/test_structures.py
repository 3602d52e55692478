"""Structure files are read through ASE, with errors that name the file."""

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from anharm.errors import ConfigurationError
from anharm.structures import read_structure, read_structures


def test_all_structures_of_a_file_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "two.xyz", [bulk("Si"), bulk("Ge")], format="extxyz")
    symbols = [str(atoms.symbols) for atoms in read_structures(tmp_path / "two.xyz")]
    assert symbols == ["Si2", "Ge2"]


def test_a_crystal_is_periodic(tmp_path: Path) -> None:
    write(tmp_path / "POSCAR", bulk("Si"))
    assert read_structure(tmp_path / "POSCAR").pbc.all()


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.cif does not exist"):
        read_structure(tmp_path / "absent.cif")


@pytest.mark.parametrize("name", ["broken.xyz", "broken.cif", "POSCAR", "broken.unknown"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not a structure\n")
    with pytest.raises(ConfigurationError, match=name):
        read_structure(tmp_path / name)


def test_a_molecule_without_a_cell_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "molecule.xyz", Atoms("H2", [(0, 0, 0), (0, 0, 0.74)]))
    with pytest.raises(ConfigurationError, match="no three-dimensional cell"):
        read_structure(tmp_path / "molecule.xyz")


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    write(tmp_path / "POSCAR", bulk("Si"))
    with pytest.raises(ConfigurationError, match="no-such-format"):
        read_structure(tmp_path / "POSCAR", "no-such-format")
