"""How many parameters a crystal has, whoever describes it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from anharm.errors import ModelError
from anharm.model import Crystal, Expansion, Supercell, build_expansion
from anharm.model.clusters import largest_fitting_cutoff

SILICON = {2: 6.0, 3: 4.5, 4: 3.5}
UNIMODULAR = [
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]],
    [[1, 2, -1], [0, 1, 3], [0, 0, 1]],
    [[2, 1, 0], [1, 1, 0], [0, 0, -1]],
    [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    [[1, 0, 0], [5, 1, 0], [0, -4, 1]],
]
MODERATE = {
    "silicon": {2: 5.0, 3: 4.0, 4: 2.6},
    "magnesium oxide": {2: 4.5, 3: 3.1, 4: 2.2},
    "iron": {2: 4.5, 3: 3.0, 4: 2.6},
    "magnesium": {2: 4.6, 3: 3.25},
    "gallium nitride": {2: 3.3, 3: 3.25, 4: 2.1},
    "tin selenide": {2: 4.0, 3: 3.0},
    "monoclinic": {2: 4.0, 3: 3.0},
    "triclinic": {2: 4.5, 3: 3.4},
}


def counts(atoms: Atoms, cutoffs: dict, tolerance: float = 1e-3) -> tuple[dict, dict]:
    """Number of parameters per order, before and after the translational sum rules."""
    expansion = build_expansion(Crystal.from_atoms(atoms), cutoffs, tolerance)
    return expansion.unconstrained_per_order, expansion.parameters_per_order


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize(
    ("structure", "cutoffs", "before", "after"),
    [
        (("Si", "diamond", 5.43), SILICON, [17, 36, 14], [16, 27, 4]),
        (("MgO", "rocksalt", 4.21), SILICON, [35, 116, 263], [33, 101, 148]),
    ],
)
def test_published_counts_from_primitive_and_conventional_cells(
    structure: tuple, cutoffs: dict, before: list[int], after: list[int], cubic: bool
) -> None:
    name, lattice, a = structure
    atoms = bulk(name, lattice, a=a, cubic=cubic)
    unconstrained, free = counts(atoms, cutoffs)
    assert list(unconstrained.values()) == before
    assert list(free.values()) == after


def test_silicon_to_sixth_order_with_first_neighbours_beyond_second_order() -> None:
    _, free = counts(bulk("Si", "diamond", a=5.43), {2: 8.35, 3: 3.5, 4: 3.5, 5: 3.5, 6: 3.5})
    assert free == {2: 37, 3: 3, 4: 4, 5: 5, 6: 7}


@pytest.mark.parametrize("name", MODERATE)
def test_counts_are_independent_of_origin_orientation_and_atom_order(laboratory, name: str) -> None:
    atoms = laboratory.atoms(name)
    expected = counts(atoms, MODERATE[name])
    random = np.random.default_rng(7)
    for seed in range(3):
        other = atoms[random.permutation(len(atoms))]
        other.translate(random.uniform(-9, 9, 3))
        if seed:
            other.wrap()
        rotation = Rotation.random(rng=random).as_matrix()
        other.set_cell(other.cell[:] @ rotation.T, scale_atoms=True)
        assert counts(other, MODERATE[name]) == expected


@pytest.mark.parametrize("name", ["silicon", "gallium nitride", "tin selenide", "triclinic"])
@pytest.mark.parametrize("matrix", UNIMODULAR)
def test_counts_are_independent_of_the_choice_of_primitive_vectors(
    laboratory, name: str, matrix: list
) -> None:
    atoms = laboratory.atoms(name)
    other = atoms.copy()
    other.set_cell(np.array(matrix) @ atoms.cell[:])
    other.wrap()
    assert counts(other, MODERATE[name]) == counts(atoms, MODERATE[name])


@pytest.mark.parametrize("name", ["silicon", "magnesium", "triclinic"])
def test_counts_are_those_of_the_mirror_image(laboratory, name: str) -> None:
    """An inverted crystal has a left-handed lattice."""
    atoms = laboratory.atoms(name)
    mirror = atoms.copy()
    mirror.set_cell(atoms.cell[:] * [1, 1, -1], scale_atoms=True)
    assert np.linalg.det(mirror.cell[:]) < 0
    assert counts(mirror, MODERATE[name]) == counts(atoms, MODERATE[name])


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("iron", [[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
        ("magnesium", [[2, 0, 0], [0, 2, 0], [0, 0, 1]]),
        ("gallium nitride", [[1, -1, 0], [1, 2, 0], [0, 0, 1]]),
        ("monoclinic", [[1, 0, 1], [0, 2, 0], [0, 0, 1]]),
        ("triclinic", [[1, 0, 0], [0, 1, 0], [1, 0, 2]]),
    ],
)
def test_a_multiple_cell_has_the_parameters_of_the_primitive_cell(
    laboratory, name: str, matrix: list
) -> None:
    atoms = laboratory.atoms(name)
    multiple = make_supercell(atoms, matrix)
    assert len(multiple) > len(atoms)
    assert counts(multiple, MODERATE[name]) == counts(atoms, MODERATE[name])


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("magnesium", [[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("gallium nitride", [[1, 0, 0], [1, 2, 0], [0, 0, 1]]),
        ("silicon", [[1, 0, 0], [0, 1, 0], [0, 0, 2]]),
    ],
)
def test_a_multiple_cell_that_hides_symmetry_is_refused(
    laboratory, name: str, matrix: list
) -> None:
    """Its rotations do not map it onto itself; counting on would find too many parameters."""
    multiple = Crystal.from_atoms(make_supercell(laboratory.atoms(name), matrix))
    n_sites = laboratory.crystal(name).n_sites
    with pytest.raises(ModelError, match=f"hides symmetry .* primitive cell of {n_sites} atoms"):
        build_expansion(multiple, MODERATE[name])


@pytest.mark.parametrize("name", ["magnesium", "gallium nitride", "silicon", "tin selenide"])
def test_rounded_coordinates_keep_the_symmetry(laboratory, name: str) -> None:
    """Files give 0.3333 for a third and four decimals of the lattice."""
    atoms = laboratory.atoms(name)
    rounded = atoms.copy()
    rounded.set_cell(np.round(atoms.cell[:], 4), scale_atoms=True)
    rounded.set_scaled_positions(np.round(atoms.get_scaled_positions(), 4))
    assert counts(rounded, MODERATE[name]) == counts(atoms, MODERATE[name])


def test_coordinates_just_below_one_are_those_just_above_zero() -> None:
    atoms = bulk("Si", "diamond", a=5.43)
    near_one = atoms.copy()
    near_one.set_scaled_positions([[1 - 1e-9, 1e-9, 0.99999999], [0.25, 0.25, 0.25]])
    assert counts(near_one, SILICON) == counts(atoms, SILICON)


@pytest.mark.parametrize("name", ["silicon", "magnesium oxide", "magnesium", "polonium"])
@given(seed=st.integers(0, 10**6), shell=st.integers(0, 2))
@settings(max_examples=4, deadline=None)
def test_a_cutoff_on_a_shell_excludes_the_whole_shell(
    laboratory, name: str, seed: int, shell: int
) -> None:
    """Distances equal by symmetry differ in the last digit; none of them may slip through."""
    atoms = laboratory.atoms(name)
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    atoms.set_cell(atoms.cell[:] @ rotation.T, scale_atoms=True)
    distances = atoms.repeat(4).get_all_distances()[0]
    shells = np.unique(np.round(distances, 6))[1:]
    exact = distances[np.abs(distances - shells[shell]) < 1e-5]
    on_the_shell = {
        str(counts(atoms, {2: 3.4, 3: float(cutoff)})) for cutoff in (exact.min(), exact.max())
    }
    just_below = str(counts(atoms, {2: 3.4, 3: float(shells[shell]) - 1e-3}))
    assert on_the_shell == {just_below}


def test_body_dependent_cutoffs_drop_the_larger_clusters_only() -> None:
    atoms = bulk("Si", "diamond", a=5.43)
    everything = counts(atoms, {4: 4.0})[0][4]
    assert counts(atoms, {4: {2: 4.0, 3: 4.0, 4: 4.0}})[0][4] == everything
    fewer = [counts(atoms, {4: {2: 4.0, 3: three, 4: four}})[0][4]
             for three, four in [(4.0, 2.5), (2.5, 2.5), (0.0, 0.0)]]  # fmt: skip
    assert everything > fewer[0] > fewer[1] >= fewer[2]
    assert counts(atoms, {4: {2: 4.0, 3: 2.5}}) == counts(atoms, {4: {2: 4.0, 3: 2.5, 4: 2.5}})


def test_pairs_of_a_cubic_lattice_have_the_parameters_of_the_textbook() -> None:
    """Simple cubic: first neighbours have a bond-stretching and a bond-bending constant."""
    unconstrained, free = counts(bulk("Po", "sc", a=3.35), {2: 3.4})
    assert unconstrained == {2: 3}
    assert free == {2: 2}


def test_a_crystal_without_symmetry_keeps_every_component(laboratory) -> None:
    """P1: nine components for every pair of atoms and six for every site."""
    crystal = laboratory.crystal("triclinic")
    n_pairs = len(neighbor_list("i", crystal.to_atoms(), 3.5)) // 2
    expansion = build_expansion(crystal, {2: 3.5})
    assert n_pairs > 4
    assert expansion.unconstrained_per_order[2] == 9 * n_pairs + 6 * crystal.n_sites


def test_an_order_that_symmetry_forbids_has_no_parameters_and_breaks_nothing(laboratory) -> None:
    expansion = build_expansion(laboratory.crystal("polonium"), {2: 4.0, 3: 1.0})
    assert expansion.parameters_per_order == {2: 2, 3: 0}
    assert expansion.orders == (2, 3)
    assert expansion.parameter_orders.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("cutoffs", "word"),
    [
        ({}, "empty"),
        ({1: 3.0}, "order 1"),
        ({7: 3.0}, "order 7"),
        ({2: -1.0}, "positive"),
        ({2: 0.0}, "positive"),
        ({2: float("nan")}, "positive"),
        ({2: float("inf")}, "positive"),
        ({3: {3: 2.0}}, "2 up to at most 3"),
        ({3: {2: 2.0, 3: 3.0}}, "grow"),
        ({2: {}}, "2 up to at most 2"),
        ({2: {2: 3.0, 3: 3.0}}, "2 up to at most 2"),
        ({2: 1.0}, "enlarge"),
    ],
)
def test_impossible_cutoffs_are_refused(laboratory, cutoffs: dict, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        build_expansion(laboratory.crystal("silicon"), cutoffs)


@pytest.mark.parametrize("name", ["silicon", "tin selenide"])
def test_a_cutoff_that_wraps_is_refused_with_the_largest_one_that_fits(
    laboratory, name: str
) -> None:
    crystal = laboratory.crystal(name)
    supercell = Supercell(crystal, np.diag([2, 2, 2]))
    fits = largest_fitting_cutoff(supercell, 3 * supercell.half_width)
    assert supercell.half_width <= fits + 1e-6
    largest = np.floor(fits * 1000) / 1000
    with pytest.raises(ModelError, match=f"order 2 .* {largest:g} Angstrom"):
        build_expansion(crystal, {2: largest + 0.01, 3: 2.9}).check_supercell(supercell)
    build_expansion(crystal, {2: largest, 3: 2.9}).check_supercell(supercell)


@given(st.floats(2.0, 8.0))
@settings(deadline=None, max_examples=20)
def test_pairs_within_a_fitting_cutoff_are_in_range_once(laboratory, cutoff: float) -> None:
    crystal = laboratory.crystal("silicon")
    supercell = Supercell(crystal, np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))
    atoms = supercell.to_atoms()
    first, second = neighbor_list("ij", atoms, cutoff)
    pairs = np.column_stack([first, second])
    unique = len(np.unique(pairs, axis=0)) == len(pairs) and not np.any(first == second)
    assert unique == (cutoff < largest_fitting_cutoff(supercell, 9.0) + 1e-6)


def test_a_cutoff_of_exactly_half_the_supercell_fits() -> None:
    """Clusters lie strictly below the cutoff, so none meets its own image."""
    crystal = Crystal.from_atoms(bulk("Po", "sc", a=3.351))
    supercell = Supercell(crystal, np.diag([3, 3, 3]))
    expansion = build_expansion(crystal, {2: 3 * 3.351 / 2})
    expansion.check_supercell(supercell)


HIPHIVE_CASES = [
    ("silicon", {2: 4.5, 3: 3.9, 4: 2.6, 5: 2.6, 6: 2.6}),
    ("magnesium oxide", {2: 4.5, 3: 3.1, 4: 2.2, 5: 2.2}),
    ("polonium", {2: 5.0, 3: 3.4, 4: 3.4}),
    ("selenium", {2: 4.5, 3: 3.6, 4: 2.5}),
    ("boron arsenide", {2: 5.0, 3: 3.6, 4: 2.3}),
    ("aluminium", {2: 5.0, 3: 4.2, 4: 3.0}),
    ("iron", {2: 4.5, 3: 3.0, 4: 2.9}),
    ("magnesium", {2: 4.7, 3: 3.3, 4: 3.25}),
    ("gallium nitride", {2: 3.3, 3: 3.25, 4: 2.1}),
    ("tin selenide", {2: 4.0, 3: 3.0, 4: 2.8}),
    ("monoclinic", {2: 4.2, 3: 3.0, 4: 2.2}),
    ("triclinic", {2: 3.6, 3: 3.35}),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "cutoffs"), HIPHIVE_CASES)
def test_counts_agree_with_hiphive(laboratory, name: str, cutoffs: dict) -> None:
    hiphive = pytest.importorskip("hiphive", reason="an independent code, to compare with")
    atoms = laboratory.atoms(name)
    space = hiphive.ClusterSpace(atoms, list(cutoffs.values()))
    unconstrained, free = counts(atoms, cutoffs)
    constrained = [space.get_n_dofs_by_order(order) for order in cutoffs]
    assert list(free.values()) == constrained
    eigentensors = [
        sum(len(orbit.eigentensors) for orbit in space.orbits if orbit.order == order)
        for order in cutoffs
    ]
    assert list(unconstrained.values()) == eigentensors


@pytest.mark.parametrize("name", ["silicon", "gallium nitride", "tin selenide"])
def test_equal_parameters_mean_force_constants_that_fall_with_distance(laboratory, name) -> None:
    expansion: Expansion = laboratory.expansion(name)
    gram = laboratory.gram_in_expected_sizes(expansion)
    np.testing.assert_allclose(gram, np.eye(expansion.n_parameters), atol=1e-9)
