"""The i-PI input, run.toml and the DFT input must describe one crystal."""

from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.io import write

from anharm.configuration import load_configuration
from anharm.errors import ConfigurationError
from anharm.server.engine_consistency import check_consistency, read_dft_input
from anharm.server.engine_input import EngineInput, read_engine_input
from anharm.structures import read_structure

SILICON = Path(__file__).parents[2] / "inputs" / "si"


def crystal() -> ase.Atoms:
    return bulk("BAs", "zincblende", a=4.7, cubic=True)


def engine_of(structure: ase.Atoms) -> EngineInput:
    return replace(read_engine_input(SILICON / "input.xml"), structure=structure)


def sorted_by_species(atoms: ase.Atoms) -> ase.Atoms:
    return atoms[np.argsort(atoms.get_chemical_symbols(), kind="stable")]


def test_the_silicon_input_is_consistent() -> None:
    configuration = load_configuration(SILICON / "run.toml").crystal
    supercell = make_supercell(read_structure(configuration.primitive), configuration.supercell)
    check_consistency(read_engine_input(SILICON / "input.xml"), supercell)


def test_run_toml_may_list_the_atoms_in_another_order() -> None:
    check_consistency(engine_of(crystal()), sorted_by_species(crystal()), crystal())


def test_the_dft_input_may_not() -> None:
    with pytest.raises(ConfigurationError, match=r"atom 1 is B in .* and As in .* same order"):
        check_consistency(engine_of(crystal()), crystal(), sorted_by_species(crystal()))


def test_another_number_of_atoms_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"has 8 atoms.*has 16") as caught:
        check_consistency(engine_of(crystal()), crystal().repeat((2, 1, 1)))
    assert "4 As, 4 B" in str(caught.value)


def test_other_species_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"4 As, 4 B.*4 B, 4 P"):
        check_consistency(engine_of(crystal()), bulk("BP", "zincblende", a=4.7, cubic=True))


def test_another_cell_is_named_with_its_difference() -> None:
    other = crystal()
    other.set_cell(other.cell * 1.001, scale_atoms=True)
    with pytest.raises(ConfigurationError, match=r"up to 0\.0047 Angstrom.*\[4\.7, 0\.0"):
        check_consistency(engine_of(crystal()), other)


def test_bohr_taken_for_angstrom_is_recognised() -> None:
    small = crystal()
    small.set_cell(small.cell * 0.529177, scale_atoms=True)
    with pytest.raises(ConfigurationError, match=r"read in Bohr.*positions\{angstrom\}"):
        check_consistency(engine_of(small), crystal())


def test_a_rotated_cell_is_recognised() -> None:
    turned = crystal()
    turned.rotate(30, "z", rotate_cell=True)
    with pytest.raises(ConfigurationError, match="orientation does not"):
        check_consistency(engine_of(crystal()), turned)


def test_all_differences_are_listed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_consistency(engine_of(crystal()), crystal().repeat(2), crystal().repeat(2))
    assert len(str(caught.value).splitlines()) == 4


def test_the_input_of_pw_is_read(tmp_path: Path) -> None:
    write(
        tmp_path / "pw.in",
        crystal(),
        format="espresso-in",
        pseudopotentials={"B": "B.upf", "As": "As.upf"},
        input_data={"system": {"ecutwfc": 20.0}},
    )
    atoms = read_dft_input(tmp_path / "pw.in", "espresso-in")
    check_consistency(engine_of(crystal()), crystal(), atoms)


def test_an_input_that_ase_cannot_read_comes_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "in.code").write_text("pair_style tersoff\n")
    with pytest.raises(ConfigurationError, match=r"input_format(.|\n)*reference\.files"):
        read_dft_input(tmp_path / "in.code")
