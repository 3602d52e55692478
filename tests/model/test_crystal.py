"""Cells, supercells, and the exact arithmetic between them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anharm.errors import ModelError
from anharm.model import Crystal, Supercell
from anharm.model.crystal import as_supercell_matrix, identify_supercell

MATRICES = st.lists(st.integers(-4, 4), min_size=9, max_size=9).map(
    lambda numbers: np.array(numbers).reshape(3, 3)
)


@given(matrix=MATRICES, seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_cells_modulo_the_supercell_are_numbered_once_and_exactly(
    laboratory, matrix: np.ndarray, seed: int
) -> None:
    """Any integer matrix: skewed, left-handed, non-diagonal."""
    volume = abs(round(np.linalg.det(matrix)))
    assume(0 < volume <= 60)
    supercell = Supercell(laboratory.crystal("triclinic"), matrix)
    assert supercell.n_cells == len(supercell.cells) == volume
    np.testing.assert_array_equal(supercell.cell_index(supercell.cells), np.arange(volume))
    random = np.random.default_rng(seed)
    far = random.integers(-1000, 1000, (20, 3))
    moved = supercell.cells[random.integers(0, volume, 20)]
    np.testing.assert_array_equal(
        supercell.cell_index(moved + far @ matrix), supercell.cell_index(moved)
    )


@given(matrix=MATRICES)
@settings(max_examples=30, deadline=None)
def test_a_supercell_is_recognised_from_its_cell(laboratory, matrix: np.ndarray) -> None:
    assume(0 < abs(round(np.linalg.det(matrix))) <= 60)
    for name in ("silicon", "triclinic"):
        crystal = laboratory.crystal(name)
        cell = matrix @ crystal.lattice
        np.testing.assert_array_equal(identify_supercell(crystal, cell), matrix)
        np.testing.assert_array_equal(identify_supercell(crystal, cell * 1.0005), matrix)


def test_the_half_width_is_half_the_shortest_vector_of_a_skewed_supercell(laboratory) -> None:
    """The rows (7, 2) and (24, 7) span the same plane lattice as (1, 0) and (0, 1)."""
    crystal = laboratory.crystal("polonium")
    supercell = Supercell(crystal, np.array([[7, 2, 0], [24, 7, 0], [0, 0, 3]]))
    assert supercell.half_width == pytest.approx(3.35 / 2)


def test_supercell_atoms_are_those_of_the_repeated_crystal(laboratory) -> None:
    matrix = np.array([[2, 1, 0], [0, 1, -1], [-1, 0, 2]])
    atoms = laboratory.atoms("gallium nitride")
    supercell = Supercell(Crystal.from_atoms(atoms), matrix)
    ours, theirs = supercell.to_atoms(), make_supercell(atoms, matrix)
    assert sorted(ours.symbols) == sorted(theirs.symbols)
    difference = ours.positions[:, None] - theirs.positions[None]
    fractional = difference @ np.linalg.inv(supercell.lattice)
    distance = np.linalg.norm((fractional - np.round(fractional)) @ supercell.lattice, axis=-1)
    assert distance.min(axis=1).max() < 1e-9
    np.testing.assert_array_equal(theirs.numbers[np.argmin(distance, axis=1)], supercell.numbers)


@pytest.mark.parametrize(
    ("given_matrix", "expected"),
    [
        ([2, 2, 3], [[2, 0, 0], [0, 2, 0], [0, 0, 3]]),
        ([2.0, -1.0, 1.0], [[2, 0, 0], [0, -1, 0], [0, 0, 1]]),
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0]], [[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
    ],
)
def test_supercells_may_be_given_as_multiples_or_as_a_matrix(given_matrix, expected) -> None:
    assert as_supercell_matrix(given_matrix).tolist() == expected


@pytest.mark.parametrize(
    "bad",
    [
        [1.5, 2, 2], [0, 2, 2], [2, 2], [[1, 1, 0], [2, 2, 0], [0, 0, 1]], [np.nan, 1, 1],
        [np.inf, 1, 1], [[1, 2], [3]], "abc", None, 3, [],
    ],
)  # fmt: skip
def test_supercells_that_are_none_are_refused(bad) -> None:
    with pytest.raises(ModelError, match="supercell"):
        as_supercell_matrix(bad)


@pytest.mark.parametrize(
    "cell",
    [
        np.eye(3) * 5.43 * 1.5,
        np.eye(3) * 5.6,
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        np.full((3, 3), np.inf),
        np.eye(3) * 1e30,
        np.array([[0, 2.715, 2.715], [0, 5.43, 5.43], [2.715, 2.715, 0]]),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_cells_that_are_no_supercell_are_refused(laboratory, cell: np.ndarray) -> None:
    with pytest.raises(ModelError, match="cell"):
        identify_supercell(laboratory.crystal("silicon"), cell)


def test_a_rotated_cell_is_refused_with_the_advice_to_keep_the_orientation(laboratory) -> None:
    crystal = laboratory.crystal("silicon")
    cosine, sine = np.cos(0.3), np.sin(0.3)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    with pytest.raises(ModelError, match="orientation"):
        identify_supercell(crystal, 2 * crystal.lattice @ rotation.T)


def test_crystals_that_are_none_are_refused(laboratory) -> None:
    with pytest.raises(ModelError, match="no three-dimensional cell"):
        Crystal.from_atoms(Atoms("Si"))
    with pytest.raises(ModelError, match="no atoms"):
        Crystal.from_atoms(Atoms(cell=np.eye(3), pbc=True))
    twice = Atoms("Si2", scaled_positions=[[0, 0, 0], [0, 0, 0.999]], cell=np.eye(3) * 4, pbc=True)
    with pytest.raises(ModelError, match=r"atoms 0 and 1 .* 0\.004"):
        Crystal.from_atoms(twice)
    for attribute in ("positions", "cell"):
        atoms = laboratory.atoms("silicon")
        getattr(atoms, attribute)[0, 0] = np.nan
        with pytest.raises(ModelError, match="finite"):
            Crystal.from_atoms(atoms)


def test_two_atoms_that_meet_across_a_skewed_cell_are_found() -> None:
    cell = np.array([[4.0, 0, 0], [40.0, 4.0, 0], [0, 0, 4.0]])
    atoms = Atoms("Si2", positions=[[0, 0, 0], [0, 3.9, 0]], cell=cell, pbc=True)
    with pytest.raises(ModelError, match=r"0\.100 Angstrom"):
        Crystal.from_atoms(atoms)
