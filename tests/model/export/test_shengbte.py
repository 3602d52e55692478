"""Files for ShengBTE, read back by rules taken from its documentation, not from our writer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import factorial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from anharm.errors import ModelError
from anharm.model import Crystal, ForceField, build_expansion
from anharm.model.export import export_model
from anharm.model.sites import assign_sites

SPARSE_FILES = {3: "FORCE_CONSTANTS_3RD", 4: "FORCE_CONSTANTS_4TH"}


@dataclass
class Block:
    """One tuple of atoms: atoms from zero, lattice vectors of all but the first, components."""

    atoms: list[int]
    vectors: np.ndarray
    tensor: np.ndarray


def read_sparse(path: Path, order: int) -> list[Block]:
    """FORCE_CONSTANTS_3RD and _4TH as list-directed Fortran input reads them: blanks aside."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    length = 1 + (order - 1) + 1 + 3**order
    n_blocks = int(lines.pop(0))
    assert len(lines) == n_blocks * length
    blocks = []
    for number in range(n_blocks):
        part = lines[number * length : (number + 1) * length]
        assert int(part[0]) == number + 1
        vectors = np.array([line.split() for line in part[1:order]], dtype=float)
        atoms = [int(word) - 1 for word in part[order].split()]
        tensor = np.full([3] * order, np.nan)
        for line in part[order + 1 :]:
            *axes, value = line.split()
            tensor[tuple(int(axis) - 1 for axis in axes)] = float(value)
        blocks.append(Block(atoms, vectors, tensor))
    return blocks


def read_second(path: Path, multiples: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Atom and cell of every index, as ShengBTE's first cell fastest, and dense constants."""
    words = path.read_text().split()
    n = int(words[0])
    table = np.array(words[2:], dtype=float).reshape(n * n, 11)
    assert np.array_equal(table[:, 0], np.repeat(np.arange(n) + 1, n))
    assert np.array_equal(table[:, 1], np.tile(np.arange(n) + 1, n))
    index = np.arange(n)
    places = []
    for count in multiples:
        places.append(index % count)
        index = index // count
    return np.column_stack([*places, index]), table[:, 2:].reshape(n, n, 3, 3)


def read_crystal(path: Path) -> tuple[Atoms, list[int]]:
    """The structure and the supercell of CONTROL."""
    text = path.read_text()

    def values(pattern: str) -> list[list[float]]:
        return [[float(word) for word in row.split()] for row in re.findall(pattern, text)]

    scale = 10 * values(r"lfactor=(\S+?),")[0][0]
    elements = re.findall(r'"(\w+)"', text)
    types = [int(number) for number in values(r"types=([\d ]+)")[0]]
    atoms = Atoms(
        [elements[number - 1] for number in types],
        cell=scale * np.array(values(r"lattvec\(:,\d\)=([^,]*)")),
        scaled_positions=values(r"positions\(:,\d+\)=([^,]*)"),
        pbc=True,
    )
    assert re.search(rf"natoms={len(atoms)}\b", text)
    assert re.search(rf"nelements={len(elements)}\b", text)
    return atoms, [int(number) for number in values(r"scell\(:\)=([\d ]+)")[0]]


@pytest.mark.parametrize(
    "name", ["silicon", "boron arsenide", "magnesium", "tin selenide", "triclinic", "monoclinic"]
)
def test_forces_of_the_files_are_those_of_our_force_field(
    laboratory, random_model, restrict, name: str, tmp_path: Path
) -> None:
    """Order by order, on every atom of one cell of a displaced crystal."""
    model = random_model(name)
    supercell = laboratory.fitting_supercell(model.expansion)
    multiples = np.diag(supercell.matrix).tolist()
    export_model(model, "shengbte", tmp_path, multiples)
    crystal, written_multiples = read_crystal(tmp_path / "CONTROL")
    assert written_multiples == multiples

    places, second = read_second(tmp_path / "FORCE_CONSTANTS_2ND", multiples)
    number = {tuple(place): index for index, place in enumerate(places.tolist())}
    cells = places[:, :3]
    positions = crystal.positions[places[:, 3]] + cells @ crystal.cell[:]
    sites = assign_sites(supercell, positions, crystal.numbers[places[:, 3]])
    displacements = 0.05 * np.random.default_rng(3).standard_normal((len(places), 3))
    displacements -= displacements.mean(axis=0)
    in_our_order = np.empty_like(displacements)
    in_our_order[sites.sites] = displacements

    found = {2: -np.einsum("iajb,jb->ia", second.transpose(0, 2, 1, 3), displacements)}
    for order, file in SPARSE_FILES.items():
        found[order] = np.zeros((len(crystal), 3))
        for block in read_sparse(tmp_path / file, order):
            shifts = np.round(block.vectors @ np.linalg.inv(crystal.cell[:])).astype(int)
            assert np.abs(shifts @ crystal.cell[:] - block.vectors).max() < 1e-9
            value = block.tensor
            for shift, atom in reversed(list(zip(shifts, block.atoms[1:], strict=True))):
                value = value @ displacements[number[(*np.mod(shift, multiples).tolist(), atom)]]
            found[order][block.atoms[0]] -= value / factorial(order - 1)

    home = np.flatnonzero(np.all(cells == 0, axis=1))
    for order, forces in found.items():
        field = ForceField(restrict(model, order), supercell)
        prediction = field.predict(in_our_order[None], errors=False, virial=False)
        expected = sites.to_user_order(prediction.forces[0])
        expected = expected if order == 2 else expected[home]
        assert np.abs(forces - expected).max() < 1e-8


@pytest.mark.parametrize("order", [3, 4])
def test_the_files_hold_the_force_constants_behind_the_labels(
    oracle, order: int, tmp_path: Path
) -> None:
    """Every tuple once, none missing, each with the tensor of the code that made the labels."""
    export_model(oracle.model, "shengbte", tmp_path)
    crystal, _ = read_crystal(tmp_path / "CONTROL")
    inverse = np.linalg.inv(oracle.ideal.cell[:])
    known, seen = oracle.tensors(order), set()
    scale = max(np.abs(tensor).max() for tensor in known.values())
    for block in read_sparse(tmp_path / SPARSE_FILES[order], order):
        vectors = np.vstack([np.zeros((1, 3)), block.vectors])
        difference = (crystal.positions[block.atoms] + vectors)[:, None] - oracle.ideal.positions
        difference = difference @ inverse
        distance = np.abs(difference - np.round(difference)).max(axis=-1)
        assert distance.min(axis=1).max() < 1e-6
        atoms = distance.argmin(axis=1)
        arrangement = np.argsort(atoms, kind="stable")
        expected = known[tuple(atoms[arrangement].tolist())]
        assert np.abs(block.tensor.transpose(arrangement) - expected).max() < 1e-6 * scale
        assert tuple(atoms.tolist()) not in seen
        seen.add(tuple(atoms.tolist()))
    firsts = {atoms[0] for atoms in seen}
    for cluster, tensor in known.items():
        if np.abs(tensor).max() > 1e-6 * scale:
            for first in firsts & set(cluster):
                assert any(a[0] == first and tuple(sorted(a)) == cluster for a in seen)


def test_another_code_reads_the_third_order(oracle, tmp_path: Path) -> None:
    shengbte = pytest.importorskip("hiphive.input_output.shengBTE", reason="needs hiphive")
    export_model(oracle.model, "shengbte", tmp_path)
    read = shengbte.read_shengBTE_fc3(
        str(tmp_path / SPARSE_FILES[3]), oracle.primitive, oracle.ideal
    )
    known = oracle.tensors(3)
    scale = max(np.abs(tensor).max() for tensor in known.values())
    for cluster, tensor in known.items():
        assert np.abs(read[cluster] - tensor).max() < 1e-6 * scale


def test_only_orders_that_the_model_holds_are_written(laboratory, tmp_path: Path) -> None:
    expansion = build_expansion(laboratory.crystal("silicon"), {2: 4.0, 3: 3.0})
    paths = export_model(laboratory.random_model(expansion), "shengbte", tmp_path)
    assert [path.name for path in paths] == [
        "CONTROL", "FORCE_CONSTANTS_2ND", "FORCE_CONSTANTS_3RD",
    ]  # fmt: skip


def test_what_shengbte_cannot_use_is_refused(laboratory, random_model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="three positive multiples"):
        export_model(
            random_model("silicon"), "shengbte", tmp_path, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]
        )
    with pytest.raises(ModelError, match="order 2: their cutoff is 4 Angstrom"):
        export_model(random_model("silicon"), "shengbte", tmp_path, [2, 2, 2])
    crystal = Crystal.from_atoms(laboratory.atoms("silicon"))
    harmonic = laboratory.random_model(build_expansion(crystal, {2: 3.0}))
    with pytest.raises(ModelError, match="no force constants of order 3"):
        export_model(harmonic, "shengbte", tmp_path)
