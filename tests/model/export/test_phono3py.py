"""phono3py reads what is written for it, and it gives our forces to third order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from anharm.errors import ModelError
from anharm.model import Crystal, ForceField, Supercell, build_expansion
from anharm.model.crystal import identify_supercell
from anharm.model.export import export_model, to_phono3py
from anharm.model.sites import assign_sites

phono3py = pytest.importorskip("phono3py", reason="phono3py is not installed")

SKEWED = [[3, 1, 0], [0, 3, 0], [-1, 0, 3]]


def forces_of_arrays(phonon: Any, displacements: np.ndarray) -> np.ndarray:
    """Forces on the atoms of the primitive cell from the arrays that phono3py holds."""
    second = np.einsum("ijab,jb->ia", phonon.fc2, displacements)
    third = np.einsum("ijkabc,jb,kc->ia", phonon.fc3, displacements, displacements)
    return -second - third / 2


@pytest.mark.parametrize(
    ("name", "supercell"),
    [
        ("silicon", [3, 3, 3]),
        ("boron arsenide", [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]),
        ("magnesium", [4, 4, 2]),
        ("tin selenide", [1, 2, 2]),
        ("triclinic", SKEWED),
        ("monoclinic", [3, 3, 3]),
    ],
)
def test_forces_of_the_arrays_read_back_are_those_of_our_force_field(
    random_model, restrict, name: str, supercell: list, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = random_model(name)
    export_model(model, "phono3py", tmp_path, supercell)
    monkeypatch.chdir(tmp_path)
    phonon = phono3py.load("phono3py_params.yaml")

    crystal = model.expansion.crystal
    ours = Supercell(crystal, identify_supercell(crystal, phonon.supercell.cell))
    sites = assign_sites(ours, phonon.supercell.positions, phonon.supercell.numbers)
    displacements = 0.05 * np.random.default_rng(2).standard_normal((ours.n_atoms, 3))
    displacements -= displacements.mean(axis=0)
    in_our_order = np.empty_like(displacements)
    in_our_order[sites.sites] = displacements
    force_field = ForceField(restrict(model, 2, 3), ours)
    prediction = force_field.predict(in_our_order[None], errors=False, virial=False)
    expected = sites.to_user_order(prediction.forces[0])[phonon.primitive.p2s_map]
    assert np.abs(expected).max() > 0.01
    assert np.abs(forces_of_arrays(phonon, displacements) - expected).max() < 1e-8


@pytest.mark.parametrize("name", ["boron arsenide", "monoclinic", "tin selenide"])
def test_phono3py_finds_nothing_to_symmetrise(random_model, name: str) -> None:
    phonon = to_phono3py(random_model(name))
    second, third = phonon.fc2.copy(), phonon.fc3.copy()
    phonon.symmetrize_fc2(use_symfc_projector=True)
    phonon.symmetrize_fc3(use_symfc_projector=True)
    assert np.abs(third.sum(axis=1)).max() < 1e-9
    assert np.abs(third.sum(axis=2)).max() < 1e-9
    assert np.abs(phonon.fc2 - second).max() < 1e-9
    assert np.abs(phonon.fc3 - third).max() < 1e-9


def test_the_force_constants_behind_the_labels_are_written(oracle, tmp_path: Path) -> None:
    """Compact third order against the tensors of the code that made the labels."""
    phonon = to_phono3py(oracle.model, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
    order = match(phonon.supercell, oracle.ideal)
    known = np.zeros((64, 64, 64, 3, 3, 3))
    for cluster, tensor in oracle.tensors(3).items():
        for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            known[tuple(cluster[axis] for axis in axes)] = tensor.transpose(axes)
    first = order[phonon.primitive.p2s_map]
    known = known[np.ix_(first, order, order)]
    assert np.abs(phonon.fc3 - known).max() < 1e-6 * np.abs(known).max()


def match(cell: Any, atoms: Any) -> np.ndarray:
    """The atom of `atoms` that stands at each place of a `PhonopyAtoms` of the same cell."""
    inverse = np.linalg.inv(atoms.cell[:])
    difference = (cell.positions[:, None] - atoms.positions[None]) @ inverse
    difference -= np.round(difference)
    distances = np.linalg.norm(difference @ atoms.cell[:], axis=-1)
    assert distances.min(axis=1).max() < 1e-6
    return distances.argmin(axis=1)


def test_the_command_of_phono3py_runs_on_the_folder_as_it_is(random_model, tmp_path: Path) -> None:
    export_model(random_model("boron arsenide"), "phono3py", tmp_path)
    program = Path(sys.executable).parent / "phono3py-load"
    command = [program, "phono3py_params.yaml", "--mesh", "2", "2", "2", "--br", "--ts", "300"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300, stdout=subprocess.DEVNULL)
    with h5py.File(tmp_path / "kappa-m222.hdf5") as result:
        assert np.isfinite(result["kappa"][()]).all()


def test_a_missing_order_and_a_small_supercell_are_named(laboratory, tmp_path: Path) -> None:
    harmonic = build_expansion(laboratory.crystal("silicon"), {2: 3.0})
    with pytest.raises(ModelError, match="no force constants of order 3"):
        export_model(laboratory.random_model(harmonic), "phono3py", tmp_path)
    crystal = Crystal.from_atoms(laboratory.atoms("silicon"))
    long_third = laboratory.random_model(build_expansion(crystal, {2: 3.0, 3: {2: 5.0, 3: 3.0}}))
    with pytest.raises(ModelError, match=r"order 3: their cutoff is 5 Angstrom.*3 3 3"):
        export_model(long_third, "phono3py", tmp_path, [2, 2, 2])
