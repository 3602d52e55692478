"""phonopy reads what is written for it, and finds the phonons of our own forces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from anharm.errors import ModelError
from anharm.model import BayesianModel, Crystal, LatticeCalculator, build_expansion
from anharm.model.export import export_model, to_phonopy

phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")

BODY_CENTRED = [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]
SKEWED = [[3, 1, 0], [0, 3, 0], [-1, 0, 3]]
WAVE_VECTORS = np.random.default_rng(1).uniform(-0.5, 0.5, (6, 3))


def frequencies(phonon: Any) -> np.ndarray:
    """(n_wave_vectors, n_bands) THz."""
    return phonon.run_qpoints(WAVE_VECTORS).frequencies


def finite_differences(model: BayesianModel, like: Any) -> Any:
    """phonopy's own displacements and force constants, with the forces of our calculator."""
    phonon = phonopy.Phonopy(
        like.unitcell,
        supercell_matrix=like.supercell_matrix,
        primitive_matrix=like.primitive_matrix,
    )
    phonon.generate_displacements(distance=3e-4, is_plusminus=True)
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = Atoms(cell.symbols, positions=cell.positions, cell=cell.cell, pbc=True)
        atoms.calc = LatticeCalculator(model)
        forces.append(atoms.get_forces())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants()
    return phonon


@pytest.mark.parametrize(
    ("name", "supercell"),
    [
        ("boron arsenide", [4, 4, 4]),
        ("boron arsenide", BODY_CENTRED),
        ("aluminium", [[4, 0, 0], [1, 4, 0], [0, 0, 4]]),
        ("magnesium", [3, 3, 2]),
        ("tin selenide", [1, 2, 2]),
        ("triclinic", [3, 3, 3]),
        ("triclinic", SKEWED),
    ],
)
def test_frequencies_are_those_of_finite_differences_of_our_forces(
    random_model, name: str, supercell: list, tmp_path: Path
) -> None:
    model = random_model(name)
    export_model(model, "phonopy", tmp_path, supercell)
    phonon = phonopy.load(tmp_path / "phonopy_params.yaml")
    difference = frequencies(phonon) - frequencies(finite_differences(model, phonon))
    assert np.abs(difference).max() < 1e-4


def test_a_model_fitted_to_forces_has_the_phonons_of_the_force_constants_behind_them(
    oracle, tmp_path: Path
) -> None:
    export_model(oracle.model, "phonopy", tmp_path)
    written = phonopy.load(tmp_path / "phonopy_params.yaml")
    known = phonopy.Phonopy(
        phonopy.structure.atoms.PhonopyAtoms(
            symbols=oracle.ideal.get_chemical_symbols(),
            cell=oracle.ideal.cell[:],
            positions=oracle.ideal.positions,
            masses=oracle.ideal.get_masses(),
        ),
        supercell_matrix=np.eye(3),
        primitive_matrix=np.linalg.inv(oracle.ideal.cell[:].T) @ oracle.primitive.cell[:].T,
    )
    dense = np.zeros((64, 64, 3, 3))
    for (first, second), tensor in oracle.tensors(2).items():
        dense[first, second], dense[second, first] = tensor, tensor.T
    known.force_constants = dense
    assert np.allclose(known.primitive.cell, written.primitive.cell)
    assert np.abs(frequencies(written) - frequencies(known)).max() < 1e-4


@pytest.mark.parametrize("name", ["boron arsenide", "tin selenide", "triclinic", "monoclinic"])
def test_phonopy_finds_nothing_to_symmetrise(random_model, name: str) -> None:
    phonon = to_phonopy(random_model(name))
    before = phonon.force_constants.copy()
    drift = before.sum(axis=1)
    phonon.symmetrize_force_constants(use_symfc_projector=True)
    assert np.abs(drift).max() < 1e-10
    assert np.abs(phonon.force_constants - before).max() < 1e-9


def test_every_file_holds_the_same_force_constants(
    random_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = export_model(random_model("gallium nitride"), "phonopy", tmp_path, SKEWED)
    assert sorted(path.name for path in paths) == sorted(p.name for p in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    reference = phonopy.load("phonopy_params.yaml").force_constants
    for name in ("FORCE_CONSTANTS", "force_constants.hdf5"):
        loaded = phonopy.load(
            unitcell_filename="POSCAR",
            supercell_matrix=np.transpose(SKEWED),
            primitive_matrix="P",
            force_constants_filename=name,
        )
        assert np.abs(loaded.force_constants - reference).max() < 1e-12


def test_the_supercell_is_written_in_the_order_of_its_force_constants(
    random_model, tmp_path: Path
) -> None:
    """Forces on SPOSCAR's atoms are minus FORCE_CONSTANTS times their displacements."""
    model = random_model("triclinic")
    export_model(model, "phonopy", tmp_path, [3, 3, 3])
    atoms = read(tmp_path / "SPOSCAR", format="vasp")
    force_constants = phonopy.file_IO.parse_FORCE_CONSTANTS(tmp_path / "FORCE_CONSTANTS")
    displacements = 1e-6 * np.random.default_rng(0).standard_normal((len(atoms), 3))
    atoms.positions += displacements
    atoms.calc = LatticeCalculator(model)
    harmonic = -np.einsum("iajb,jb->ia", force_constants.transpose(0, 2, 1, 3), displacements)
    assert np.abs(atoms.get_forces() - harmonic).max() < 1e-8


def test_a_larger_supercell_changes_no_phonon(random_model) -> None:
    model = random_model("boron arsenide")
    small = to_phonopy(model)
    large = to_phonopy(model, [5, 4, 6])
    assert len(small.supercell) < len(large.supercell)
    assert np.abs(frequencies(small) - frequencies(large)).max() < 1e-6


def test_a_conventional_cell_has_the_phonons_of_its_primitive_cell(laboratory) -> None:
    cubic = Atoms(
        "Al4",
        scaled_positions=[(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)],
        cell=[4.05] * 3,
        pbc=True,
    )
    expansion = build_expansion(Crystal.from_atoms(cubic), {2: 4.2})
    phonon = to_phonopy(laboratory.random_model(expansion))
    assert len(phonon.primitive) == 1
    assert frequencies(phonon).shape == (len(WAVE_VECTORS), 3)


def test_a_supercell_that_is_too_small_is_refused_with_one_that_is_not(
    random_model, tmp_path: Path
) -> None:
    model = random_model("silicon")
    with pytest.raises(
        ModelError,
        match=r"order 2: their cutoff is 4 Angstrom.*fits is 3\.839 Angstrom.*3 3 3",
    ):
        export_model(model, "phonopy", tmp_path, [2, 2, 2])
    assert not list(tmp_path.iterdir())
    export_model(model, "phonopy", tmp_path, [3, 3, 3])


def test_a_model_without_the_second_order_is_refused(laboratory, tmp_path: Path) -> None:
    expansion = build_expansion(laboratory.crystal("silicon"), {3: 3.0, 4: 2.6})
    with pytest.raises(ModelError, match=r"no force constants of order 2 \(it holds order 3, 4\)"):
        export_model(laboratory.random_model(expansion), "phonopy", tmp_path)


def test_without_phonopy_the_remedy_is_named_and_shengbte_is_still_written(
    random_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(ModelError, match=r"pip install 'anharm\[phonons\]'"):
        export_model(random_model("silicon"), "phonopy", tmp_path)
    export_model(random_model("silicon"), "shengbte", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(random_model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot write into .*file"):
        export_model(random_model("silicon"), "phonopy", tmp_path / "file")


def test_an_unknown_format_is_named(random_model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown format 'tdep'; choose one of phonopy, phono3py"):
        export_model(random_model("silicon"), "tdep", tmp_path)
