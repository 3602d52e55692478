"""Every atom finds its site, however the user lists, shifts, or wraps the atoms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.errors import ModelError
from anharm.model import Crystal, Supercell
from anharm.model.sites import assign_sites, default_maximum_displacement

SUPERCELLS = {
    "silicon": [[-2, 2, 2], [2, -2, 2], [2, 2, -2]],
    "gallium nitride": [[2, 0, 0], [0, 2, 0], [0, 0, 2]],
    "polonium": [[2, 1, 0], [0, 2, 0], [-1, 0, 3]],
    "tin selenide": [[1, 0, 0], [0, 2, 0], [0, 0, 2]],
    "triclinic": [[1, 1, 0], [-1, 2, 0], [0, 0, 2]],
    "monoclinic": [[2, 0, 0], [0, -2, 0], [0, 0, 1]],
    "aluminium": [[3, 0, 0], [0, 3, 0], [0, 0, 3]],
}
SHIFTS = st.tuples(*[st.floats(-30, 30)] * 3)


def supercell_of(laboratory, name: str) -> Supercell:
    return Supercell(laboratory.crystal(name), np.array(SUPERCELLS[name]))


@pytest.mark.parametrize("name", SUPERCELLS)
@given(shift=SHIFTS, seed=st.integers(0, 2**31), wrapped=st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_order_shift_and_wrapping_give_the_same_displacements(
    laboratory, name: str, shift: tuple[float, float, float], seed: int, wrapped: bool
) -> None:
    supercell = supercell_of(laboratory, name)
    random = np.random.default_rng(seed)
    u = random.normal(0, 0.05, (supercell.n_atoms, 3))
    u -= u.mean(axis=0)
    permutation = random.permutation(supercell.n_atoms)
    positions = (supercell.positions + u + shift)[permutation]
    if wrapped:
        fractional = positions @ np.linalg.inv(supercell.lattice)
        positions = (fractional - np.floor(fractional)) @ supercell.lattice
    assignment = assign_sites(supercell, positions, supercell.numbers[permutation])
    found = assignment.displacements(positions)
    # A shift may put the atoms on other, equivalent sites; each atom keeps its displacement.
    np.testing.assert_allclose(assignment.to_user_order(found), u[permutation], atol=1e-9)
    assert sorted(assignment.sites) == list(range(supercell.n_atoms))
    np.testing.assert_array_equal(
        supercell.numbers[assignment.sites], supercell.numbers[permutation]
    )


@pytest.mark.parametrize("name", SUPERCELLS)
@given(drift=SHIFTS, jumps=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_a_drifting_and_wrapping_crystal_keeps_its_displacements(
    laboratory, name: str, drift: tuple[float, float, float], jumps: int
) -> None:
    """Atoms cross the cell's boundary one by one while the crystal drifts."""
    supercell = supercell_of(laboratory, name)
    random = np.random.default_rng(jumps)
    u = random.normal(0, 0.1, (supercell.n_atoms, 3))
    assignment = assign_sites(supercell, supercell.positions + u, supercell.numbers)
    crossed = random.integers(-2, 3, (supercell.n_atoms, 3)) @ supercell.lattice
    found = assignment.displacements(supercell.positions + u + crossed + drift)
    np.testing.assert_allclose(found, u - u.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize(
    "matrix", [[[1, 0, 0], [4, 1, 0], [0, 0, 1]], [[5, 2, 0], [2, 1, 0], [3, 0, 1]]]
)
@pytest.mark.parametrize("name", ["silicon", "gallium nitride", "triclinic"])
def test_skewed_primitive_vectors_change_nothing(laboratory, name: str, matrix: list) -> None:
    atoms = laboratory.atoms(name)
    skewed = atoms.copy()
    skewed.set_cell(np.array(matrix) @ atoms.cell[:])
    skewed.wrap()
    plain, crystal = Crystal.from_atoms(atoms), Crystal.from_atoms(skewed)
    supercell = Supercell(crystal, 2 * np.eye(3, dtype=np.int64))
    assert default_maximum_displacement(supercell) == pytest.approx(
        default_maximum_displacement(Supercell(plain, np.eye(3, dtype=np.int64)))
    )
    assert supercell.half_width == pytest.approx(
        Supercell(plain, 2 * np.eye(3, dtype=np.int64)).half_width
    )
    random = np.random.default_rng(0)
    u = random.normal(0, 0.1, (supercell.n_atoms, 3))
    positions = supercell.positions + u + random.uniform(-9, 9, 3)
    assignment = assign_sites(supercell, positions, supercell.numbers)
    found = assignment.to_user_order(assignment.displacements(positions))
    np.testing.assert_allclose(found, u - u.mean(axis=0), atol=1e-9)


def test_a_batch_of_configurations_is_treated_one_by_one(laboratory) -> None:
    supercell = supercell_of(laboratory, "silicon")
    random = np.random.default_rng(0)
    beads = supercell.positions + random.normal(0, 0.1, (5, supercell.n_atoms, 3))
    assignment = assign_sites(supercell, beads[0], supercell.numbers)
    together = assignment.displacements(beads)
    for bead, displacements in zip(beads, together, strict=True):
        np.testing.assert_allclose(assignment.displacements(bead), displacements, atol=1e-12)


def test_the_default_limit_is_half_the_neighbour_distance(laboratory) -> None:
    for name, distance in [("silicon", 5.43 * np.sqrt(3) / 4), ("polonium", 3.35)]:
        supercell = supercell_of(laboratory, name)
        assert default_maximum_displacement(supercell) == pytest.approx(distance / 2)


def test_an_atom_that_left_its_site_is_named_with_its_distance(laboratory) -> None:
    supercell = supercell_of(laboratory, "silicon")
    assignment = assign_sites(supercell, supercell.positions, supercell.numbers)
    positions = supercell.positions.copy()
    positions[17, 1] += 1.4
    with pytest.raises(ModelError, match=r"atom 17 \(Si\) is 1\.378 Angstrom .* 1\.176"):
        assignment.displacements(positions)
    with pytest.raises(ModelError, match="atom 17"):
        assign_sites(supercell, positions, supercell.numbers)


@given(far=st.floats(0.65, 5.0), direction=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_no_far_atom_is_ever_wrapped_into_place(laboratory, far: float, direction: int) -> None:
    """Beyond the limit there is an error, never a guess."""
    supercell = supercell_of(laboratory, "silicon")
    vector = np.random.default_rng(direction).normal(size=3)
    positions = supercell.positions.copy()
    positions[5] += far * vector / np.linalg.norm(vector)
    assignment = assign_sites(
        supercell, supercell.positions, supercell.numbers, maximum_displacement=0.6
    )
    with pytest.raises(ModelError, match="atom 5"):
        assignment.displacements(positions)


def test_a_chosen_limit_replaces_the_default(laboratory) -> None:
    supercell = supercell_of(laboratory, "silicon")
    positions = supercell.positions.copy()
    positions[3, 0] += 0.5
    assign_sites(supercell, positions, supercell.numbers)
    with pytest.raises(ModelError, match=r"0\.300 Angstrom"):
        assign_sites(supercell, positions, supercell.numbers, maximum_displacement=0.3)


def test_wrong_counts_and_species_are_refused(laboratory) -> None:
    supercell = supercell_of(laboratory, "gallium nitride")
    positions, numbers = supercell.positions, supercell.numbers
    with pytest.raises(ModelError, match=r"31 atoms .* 32"):
        assign_sites(supercell, positions[:-1], numbers[:-1])
    with pytest.raises(ModelError, match=r"Al.*Ga"):
        assign_sites(supercell, positions, np.where(np.arange(32) == 0, 13, numbers))
    swapped = numbers.copy()
    swapped[[0, 31]] = swapped[[31, 0]]
    with pytest.raises(ModelError, match="sits on a site of"):
        assign_sites(supercell, positions, swapped)
    assignment = assign_sites(supercell, positions, numbers)
    with pytest.raises(ModelError, match=r"31 atoms .* 32"):
        assignment.displacements(positions[:-1])


def test_two_atoms_on_one_site_are_refused(laboratory) -> None:
    supercell = supercell_of(laboratory, "silicon")
    positions = supercell.positions.copy()
    positions[4] = positions[9] + 0.05
    with pytest.raises(ModelError, match="atoms 4 and 9 are nearest to the same site"):
        assign_sites(supercell, positions, supercell.numbers)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_numbers_are_refused(laboratory, bad: float) -> None:
    supercell = supercell_of(laboratory, "silicon")
    assignment = assign_sites(supercell, supercell.positions, supercell.numbers)
    positions = supercell.positions.copy()
    positions[23, 2] = bad
    with pytest.raises(ModelError, match="atom 23"):
        assign_sites(supercell, positions, supercell.numbers)
    with pytest.raises(ModelError, match="atom 23"):
        assignment.displacements(positions)
    for beads in ([supercell.positions, positions], [positions, supercell.positions]):
        with pytest.raises(ModelError, match="atom 23"):
            assignment.displacements(np.stack(beads))


def test_the_bead_that_left_its_sites_is_found_among_others(laboratory) -> None:
    supercell = supercell_of(laboratory, "silicon")
    assignment = assign_sites(supercell, supercell.positions, supercell.numbers)
    beads = np.stack([supercell.positions] * 3)
    beads[1, 7] += 1.5
    with pytest.raises(ModelError, match="atom 7 "):
        assignment.displacements(beads)
