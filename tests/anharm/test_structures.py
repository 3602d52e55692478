"""Structure files are read through ASE, with errors that name the file."""

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.units import Bohr

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


def test_a_trajectory_of_ipi_is_read_with_its_cell_and_units(tmp_path: Path) -> None:
    path = tmp_path / "run.pos_0.xyz"
    comment = (
        "# CELL(abcABC): 6 6 6 90 90 90 Step: {} Bead: 0 positions{{atomic_unit}} cell{{angstrom}}"
    )
    path.write_text("".join(f"1\n{comment.format(s)}\nSi {s}.0 0.0 0.0\n" for s in range(3)))
    frames = read_structures(path)
    assert [atoms.positions[0, 0] for atoms in frames] == pytest.approx([0, Bohr, 2 * Bohr])
    assert frames[0].cell.cellpar() == pytest.approx([6, 6, 6, 90, 90, 90])
    assert read_structure(path).positions[0, 0] == pytest.approx(2 * Bohr)


def test_a_trajectory_of_ipi_with_an_unknown_element_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.pos_0.xyz"
    path.write_text("1\n# CELL(abcABC): 6 6 6 90 90 90\nXy 0.0 0.0 0.0\n")
    with pytest.raises(ConfigurationError, match=r"run\.pos_0\.xyz"):
        read_structures(path)
