"""Rotational invariance of second order, from the force constants and from springs."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from ase.neighborlist import neighbor_list
from scipy.linalg import null_space
from scipy.spatial.transform import Rotation

from anharm.errors import ModelError
from anharm.model import BayesianModel, Crystal, Expansion, LatticeSum, Supercell, build_expansion

CUTOFFS = {
    "silicon": 6.0,
    "magnesium oxide": 4.5,
    "iron": 4.5,
    "magnesium": 4.7,
    "gallium nitride": 4.0,
    "tin selenide": 4.0,
    "triclinic": 4.5,
    "monoclinic": 4.1,
}


def with_rotations(atoms: Atoms, cutoff: float) -> Expansion:
    return build_expansion(Crystal.from_atoms(atoms), {2: cutoff}, rotational_sum_rules=True)


def violations(laboratory, model: BayesianModel) -> tuple[float, float]:
    """Largest relative violation of the Born-Huang and of the Huang conditions.

    From the force constants of all pairs alone, in units of the largest term of each sum.
    """
    crystal = model.expansion.crystal
    moments = np.zeros((crystal.n_sites, 3, 3, 3))
    elastic = np.zeros((3, 3, 3, 3))
    largest_moment = largest_elastic = 0.0
    for (first, second), tensor in laboratory.permuted_tensors(*model.force_constants(2)):
        cells = second[:3] - first[:3]
        fractional = crystal.fractional_positions[[first[3], second[3]]]
        vector = (cells + fractional[1] - fractional[0]) @ crystal.lattice
        moment = np.einsum("ij,k->ijk", tensor, vector)
        square = np.einsum("ijk,l->ijkl", moment, vector)
        moments[first[3]] += moment
        elastic += square
        largest_moment = max(largest_moment, np.abs(moment).max())
        largest_elastic = max(largest_elastic, np.abs(square).max())
    turned = np.abs(moments - moments.swapaxes(2, 3)).max()
    bent = np.abs(elastic - elastic.transpose(2, 3, 0, 1)).max()
    return float(turned / largest_moment), float(bent / largest_elastic)


@pytest.mark.parametrize("name", CUTOFFS)
def test_force_constants_obey_the_born_huang_and_huang_conditions(laboratory, name: str) -> None:
    expansion = with_rotations(laboratory.atoms(name), CUTOFFS[name])
    assert expansion.n_parameters > 0
    assert max(violations(laboratory, laboratory.random_model(expansion))) < 1e-10


@pytest.mark.parametrize("name", ["gallium nitride", "tin selenide", "triclinic", "monoclinic"])
def test_without_them_force_constants_break_the_conditions(laboratory, name: str) -> None:
    expansion = build_expansion(laboratory.crystal(name), {2: CUTOFFS[name]})
    assert min(violations(laboratory, laboratory.random_model(expansion))) > 1e-3


@pytest.mark.parametrize("name", CUTOFFS)
def test_they_remove_parameters_of_second_order_only(laboratory, name: str) -> None:
    cutoffs = {2: CUTOFFS[name], 3: 3.0}
    free = build_expansion(laboratory.crystal(name), cutoffs)
    bound = build_expansion(laboratory.crystal(name), cutoffs, rotational_sum_rules=True)
    assert bound.unconstrained_per_order == free.unconstrained_per_order
    assert bound.parameters_per_order[3] == free.parameters_per_order[3]
    assert bound.parameters_per_order[2] <= free.parameters_per_order[2]
    gram = laboratory.gram_in_expected_sizes(bound)
    np.testing.assert_allclose(gram, np.eye(bound.n_parameters), atol=1e-9)


def test_a_crystal_without_symmetry_loses_nine_parameters_per_site_and_fifteen(laboratory) -> None:
    crystal = laboratory.crystal("triclinic")
    free = build_expansion(crystal, {2: 5.5})
    bound = build_expansion(crystal, {2: 5.5}, rotational_sum_rules=True)
    assert free.n_parameters - bound.n_parameters == 9 * crystal.n_sites + 15


def test_silicon_obeys_them_by_symmetry(laboratory) -> None:
    assert with_rotations(laboratory.atoms("silicon"), 8.35).parameters_per_order == {2: 37}


def test_a_hexagonal_close_packed_metal_loses_one(laboratory) -> None:
    """The Huang condition [xx,zz] = [zz,xx]; its sites are too symmetric for Born and Huang."""
    crystal = laboratory.crystal("magnesium")
    free = build_expansion(crystal, {2: 4.7}).n_parameters
    assert with_rotations(laboratory.atoms("magnesium"), 4.7).n_parameters == free - 1


@pytest.mark.parametrize(("deviation", "lost"), [(0.0, 0), (2e-3, 1), (1e-4, 1)])
def test_an_almost_cubic_crystal_is_told_from_a_cubic_one(deviation: float, lost: int) -> None:
    """The condition [xx,zz] = [zz,xx] is empty in the cubic limit only."""
    a, c = 3.35, 3.35 * (1 + deviation)
    crystal = Crystal.from_atoms(Atoms("Po", cell=[a, a, c], pbc=True))
    free = build_expansion(crystal, {2: 5.0}, 1e-5).n_parameters
    bound = build_expansion(crystal, {2: 5.0}, 1e-5, rotational_sum_rules=True).n_parameters
    assert free - bound == lost


class Springs:
    """Harmonic springs under tension between all pairs within a cutoff of a crystal.

    Tensions are random, and balanced so that no atom feels a force and the stress is isotropic.
    """

    def __init__(self, supercell: Supercell, cutoff: float, balanced: bool = True) -> None:
        primitive = supercell.crystal.to_atoms()
        pairs = self._pairs(primitive, cutoff)
        kinds = self._kinds(primitive, pairs)
        names, kind_of = np.unique(kinds, axis=0, return_inverse=True)
        kind_of = kind_of.ravel()
        first, vectors = pairs[0], pairs[2]
        conditions = np.zeros((3 * len(primitive) + 9, len(names)))
        for kind, atom, vector in zip(kind_of, first, vectors, strict=True):
            conditions[3 * atom : 3 * atom + 3, kind] += vector
            stress = np.outer(vector, vector)
            conditions[-9:, kind] += (stress - np.eye(3) * np.trace(stress) / 3).ravel()
        random = np.random.default_rng(4)
        tension = random.normal(0, 0.3, len(names))
        if balanced:
            balances = null_space(conditions, rcond=1e-9)
            assert balances.shape[1] > 0
            tension = balances @ random.normal(0, 0.5, balances.shape[1])
        stiffness = random.uniform(1, 5, len(names))
        atoms = supercell.to_atoms()
        self.first, self.second, vectors = self._pairs(atoms, cutoff)
        own = self._kinds(atoms, (self.first, self.second, vectors))
        lookup = {tuple(key): index for index, key in enumerate(names.tolist())}
        kind_of = np.array([lookup[tuple(key)] for key in own.tolist()])
        along = np.einsum("pi,pj->pij", vectors, vectors)
        along /= np.sum(vectors**2, axis=1)[:, None, None]
        across = np.eye(3) - along
        self.blocks = stiffness[kind_of, None, None] * along + tension[kind_of, None, None] * across

    @staticmethod
    def _pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray, np.ndarray] = neighbor_list("ijD", atoms, cutoff)
        return found

    @staticmethod
    def _kinds(atoms: Atoms, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Springs of one length between the same elements are alike."""
        first, second, vectors = pairs
        elements = np.sort(atoms.numbers[np.column_stack([first, second])], axis=1)
        lengths = np.round(1e4 * np.linalg.norm(vectors, axis=1)).astype(int)
        return np.column_stack([elements, lengths])

    def forces(self, u: np.ndarray) -> np.ndarray:
        pulls = np.einsum("pij,pj->pi", self.blocks, u[self.second] - u[self.first])
        forces = np.zeros_like(u)
        np.add.at(forces, self.first, pulls)
        return forces


def relative_residual(expansion: Expansion, supercell: Supercell, springs: Springs) -> float:
    """What the best parameters leave of the forces of two random configurations."""
    lattice_sum = LatticeSum(expansion, supercell)
    random = np.random.default_rng(1)
    u = random.normal(0, 0.1, (2, supercell.n_atoms, 3))
    u -= u.mean(axis=1, keepdims=True)
    rows = np.vstack([lattice_sum.force_rows(one) for one in u])
    forces = np.concatenate([springs.forces(one).ravel() for one in u])
    found = np.linalg.lstsq(rows, forces, rcond=None)[0]
    return float(np.abs(rows @ found - forces).max() / np.abs(forces).max())


@pytest.mark.parametrize(
    ("name", "cutoff"),
    [("magnesium", 4.7), ("gallium nitride", 4.0), ("tin selenide", 5.0), ("triclinic", 4.5)],
)
def test_springs_without_force_under_pressure_are_fitted_exactly(
    laboratory, name: str, cutoff: float
) -> None:
    expansion = with_rotations(laboratory.atoms(name), cutoff)
    supercell = laboratory.fitting_supercell(expansion)
    springs = Springs(supercell, cutoff)
    assert relative_residual(expansion, supercell, springs) < 1e-10


@pytest.mark.parametrize("name", ["gallium nitride", "tin selenide", "triclinic"])
def test_springs_that_pull_on_the_sites_break_them(laboratory, name: str) -> None:
    bound = with_rotations(laboratory.atoms(name), CUTOFFS[name])
    free = build_expansion(laboratory.crystal(name), {2: CUTOFFS[name]})
    supercell = laboratory.fitting_supercell(bound)
    springs = Springs(supercell, CUTOFFS[name], balanced=False)
    assert relative_residual(free, supercell, springs) < 1e-10
    assert relative_residual(bound, supercell, springs) > 1e-3


@pytest.mark.parametrize("name", ["gallium nitride", "tin selenide", "triclinic"])
def test_a_rotated_crystal_has_the_rotated_model(laboratory, name: str) -> None:
    """The best fit to any forces turns with the crystal."""
    atoms = laboratory.atoms(name)
    turned = atoms.copy()
    turn = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    turned.set_cell(atoms.cell[:] @ turn.T, scale_atoms=True)
    fits = []
    for one, rotation in ((atoms, np.eye(3)), (turned, turn)):
        expansion = with_rotations(one, CUTOFFS[name])
        supercell = laboratory.fitting_supercell(expansion)
        random = np.random.default_rng(6)
        u, forces = random.normal(0, 0.1, (2, supercell.n_atoms, 3))
        rows = LatticeSum(expansion, supercell).force_rows(u @ rotation.T)
        found = np.linalg.lstsq(rows, (forces @ rotation.T).ravel(), rcond=1e-10)[0]
        fits.append((rows @ found).reshape(-1, 3) @ rotation)
    np.testing.assert_allclose(fits[1], fits[0], atol=1e-9)


def test_a_multiple_cell_has_the_parameters_of_the_primitive_cell(laboratory) -> None:
    atoms = laboratory.atoms("gallium nitride")
    multiple = make_supercell(atoms, [[1, -1, 0], [1, 2, 0], [0, 0, 1]])
    expected = with_rotations(atoms, 4.0).n_parameters
    assert with_rotations(multiple, 4.0).n_parameters == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["magnesium", "gallium nitride", "tin selenide", "triclinic"])
def test_the_number_of_conditions_agrees_with_hiphive(laboratory, name: str) -> None:
    hiphive = pytest.importorskip("hiphive", reason="an independent code, to compare with")
    rotations = pytest.importorskip("hiphive.core.rotational_constraints")
    atoms, cutoff = laboratory.atoms(name), CUTOFFS[name]
    conditions = rotations.get_rotational_constraint_matrix(hiphive.ClusterSpace(atoms, [cutoff]))
    free = build_expansion(Crystal.from_atoms(atoms), {2: cutoff})
    lost = free.n_parameters - with_rotations(atoms, cutoff).n_parameters
    assert lost == np.linalg.matrix_rank(conditions, tol=1e-6 * np.abs(conditions).max())


def test_they_are_refused_where_they_say_nothing_or_something_wrong(laboratory) -> None:
    crystal = laboratory.crystal("tin selenide")
    with pytest.raises(ModelError, match=r"order 2, which expansion\.cutoffs does not name"):
        build_expansion(crystal, {3: 3.0}, rotational_sum_rules=True)
    with pytest.raises(ModelError, match="choose one of them"):
        build_expansion(crystal, {2: 3.6}, rotational_sum_rules=True, first_order=True)
