"""Order 2 over a whole supercell: what the supercell knows, no more and no less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.errors import ModelError
from anharm.model import (
    Crystal,
    ForceField,
    LatticeSum,
    Supercell,
    build_expansion,
    fit_structures,
    load_model,
    save_model,
)
from anharm.model.expansion_size import ExpansionSize, estimate_size
from anharm.model.export import export_model, to_phonopy
from anharm.model.normal_modes import hessian
from anharm.model.supercell_range import shortest_lengths

CONVENTIONAL = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
CASES = [
    ("silicon", [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]),
    ("silicon", [3, 3, 3]),
    ("aluminium", [4, 4, 4]),
    ("magnesium oxide", [2, 2, 2]),
    ("magnesium", [3, 3, 2]),
    ("gallium nitride", [2, 2, 2]),
    ("tin selenide", [1, 2, 2]),
    ("monoclinic", [2, 3, 2]),
    ("triclinic", [2, 2, 2]),
]


def whole(crystal: Crystal, supercell: Any, cutoffs: dict[int, float] | None = None) -> Any:
    """The expansion of all pairs of a supercell."""
    return build_expansion(crystal, {2: "supercell", **(cutoffs or {})}, supercell=supercell)


@pytest.mark.parametrize(("name", "supercell"), CASES)
def test_there_are_as_many_parameters_as_symfc_finds_for_the_supercell(
    laboratory, name: str, supercell: list
) -> None:
    symfc = pytest.importorskip("symfc", reason="symfc is not installed")
    expansion = whole(laboratory.crystal(name), supercell)
    cell = expansion.second_order_supercell
    atoms = symfc.utils.utils.SymfcAtoms(
        cell=cell.lattice,
        scaled_positions=cell.positions @ np.linalg.inv(cell.lattice),
        numbers=cell.numbers,
    )
    independent = symfc.basis_sets.FCBasisSetO2(atoms).run()
    assert expansion.n_parameters == independent.basis_set.shape[1]


@pytest.mark.parametrize("supercell", [[2, 2, 2], CONVENTIONAL, [2, 2, 3]])
def test_force_constants_of_a_potential_longer_than_the_cell_are_those_of_phonopy(
    supercell: list,
) -> None:
    """Lennard-Jones with neighbours beyond the cell's boundary, by finite displacements."""
    phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")
    crystal = Crystal.from_atoms(bulk("Ar", "fcc", a=5.3))
    model = fit_structures(whole(crystal, supercell), _labels(crystal, supercell, 12))
    ours = to_phonopy(model)
    theirs = phonopy.Phonopy(
        ours.unitcell, supercell_matrix=ours.supercell_matrix, primitive_matrix=np.eye(3)
    )
    theirs.generate_displacements(distance=1e-4, is_plusminus=True)
    theirs.forces = np.array(
        [
            _forces(Atoms(c.symbols, positions=c.positions, cell=c.cell, pbc=True))
            for c in theirs.supercells_with_displacements
        ]
    )
    theirs.produce_force_constants()
    theirs.symmetrize_force_constants()
    rows = ours.primitive.p2s_map
    difference = ours.force_constants - theirs.force_constants[rows]
    if supercell != [2, 2, 3]:  # lower symmetry than the crystal: see below
        assert np.abs(difference).max() < 2e-5 * np.abs(theirs.force_constants).max()
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3))
    found = [p.run_qpoints(points).frequencies for p in (ours, theirs)]
    assert np.abs(found[0] - found[1]).max() < (1e-3 if supercell != [2, 2, 3] else 0.02)


def _forces(atoms: Atoms) -> np.ndarray:
    calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)
    return np.asarray(calculator.get_forces(atoms))


def _labels(crystal: Crystal, supercell: Any, number: int) -> list[Atoms]:
    """Small displacements, in pairs, so that odd orders of what they leave out cancel."""
    matrix = np.diag(supercell) if np.ndim(supercell) == 1 else np.array(supercell)
    ideal = Supercell(crystal, matrix).to_atoms()
    random, found = np.random.default_rng(1), []
    for _ in range(number):
        moved = random.normal(0, 2e-4, ideal.positions.shape)
        for sign in (1, -1):
            atoms = ideal.copy()
            atoms.positions += sign * moved
            atoms.calc = SinglePointCalculator(atoms, forces=_forces(atoms))
            found.append(atoms)
    return found


@pytest.mark.parametrize(("name", "supercell"), [CASES[0], CASES[5], CASES[6], CASES[8]])
def test_exported_force_constants_are_the_second_derivatives_of_the_energy(
    laboratory, name: str, supercell: list
) -> None:
    model = laboratory.random_model(whole(laboratory.crystal(name), supercell))
    phonon = to_phonopy(model)
    cell = model.expansion.second_order_supercell
    expected = hessian(ForceField(model, cell)).reshape(cell.n_atoms, 3, cell.n_atoms, 3)
    order = _places(cell, phonon.supercell)
    rows = phonon.primitive.p2s_map
    expected = expected.transpose(0, 2, 1, 3)[np.ix_(order[rows], order)]
    assert np.abs(phonon.force_constants - expected).max() < 1e-7 * np.abs(expected).max()


def _places(cell: Supercell, theirs: Any) -> np.ndarray:
    """The atom of a supercell that each atom of phonopy's is."""
    difference = (theirs.positions[:, None] - cell.positions) @ np.linalg.inv(cell.lattice)
    difference -= np.round(difference)
    return np.asarray(np.abs(difference).max(axis=2).argmin(axis=1))


@pytest.mark.parametrize(("name", "supercell"), [CASES[1], CASES[6]])
def test_in_a_multiple_of_the_supercell_repeated_displacements_feel_the_same_forces(
    laboratory, name: str, supercell: list
) -> None:
    expansion = whole(laboratory.crystal(name), supercell, {3: 3.0})
    model = laboratory.random_model(expansion)
    small = Supercell(expansion.crystal, np.diag(supercell))
    large = Supercell(expansion.crystal, np.diag([2, 1, 1]) @ small.matrix)
    u = laboratory.random_displacements(small, 0.1, 3)
    repeated = np.zeros((large.n_atoms, 3))
    site, cell = np.divmod(np.arange(large.n_atoms), large.n_cells)
    repeated = u[site * small.n_cells + small.cell_index(large.cells[cell])]
    forces = ForceField(model, small).predict(u[None]).forces[0]
    found = ForceField(model, large).predict(repeated[None])
    again = forces[site * small.n_cells + small.cell_index(large.cells[cell])]
    assert np.abs(found.forces[0] - again).max() < 1e-10 * np.abs(forces).max()


@pytest.mark.parametrize(("name", "supercell"), [CASES[2], CASES[5], CASES[8]])
def test_forces_and_virial_are_derivatives_of_the_energy_in_strained_cells(
    laboratory, name: str, supercell: list
) -> None:
    expansion = whole(laboratory.crystal(name), supercell)
    force_field = ForceField(laboratory.random_model(expansion), expansion.second_order_supercell)
    u = laboratory.random_displacements(force_field.supercell, 0.1, 1)
    deformation = laboratory.random_deformation(1)
    direction = np.random.default_rng(2).normal(size=u.shape)

    def energy(step: float) -> float:
        batch = (u + step * direction)[None]
        found = force_field.predict_strained(deformation, batch, errors=False, virial=False)
        return float(found.energies[0])

    found = force_field.predict_strained(deformation, u[None], errors=False)
    slope = laboratory.slope(energy)
    assert -np.sum(found.forces[0] * direction) == pytest.approx(slope, rel=1e-7)


def test_force_errors_are_those_of_the_design_rows(laboratory) -> None:
    expansion = whole(laboratory.crystal("gallium nitride"), [2, 2, 2])
    model = laboratory.random_model(expansion)
    force_field = ForceField(model, expansion.second_order_supercell)
    u = laboratory.random_displacements(force_field.supercell, 0.1, 1)
    rows = LatticeSum(expansion, force_field.supercell).force_rows(u)
    expected = np.linalg.norm(rows @ model.posterior.factor, axis=1).reshape(-1, 3)
    assert np.allclose(force_field.predict(u[None]).force_std[0], expected, rtol=1e-5)


def test_a_supercell_that_cannot_hold_all_pairs_is_refused(laboratory) -> None:
    model = laboratory.random_model(whole(laboratory.crystal("magnesium"), [3, 3, 2]))
    for small in ([2, 3, 2], [2, 2, 2]):
        with pytest.raises(ModelError, match="shorter ways between some of them"):
            ForceField(model, Supercell(model.expansion.crystal, np.diag(small)))
    with pytest.raises(ModelError, match="use that one, 3 3 2, or a multiple"):
        to_phonopy(model, [2, 2, 2])
    ForceField(model, Supercell(model.expansion.crystal, np.diag([4, 4, 3])))


def test_the_word_stands_for_order_two_alone_and_needs_a_supercell(laboratory) -> None:
    crystal = laboratory.crystal("silicon")
    with pytest.raises(ModelError, match=r"order 3 has the cutoff 'supercell'; give Angstrom"):
        build_expansion(crystal, {2: "supercell", 3: "supercell"}, supercell=[2, 2, 2])
    with pytest.raises(ModelError, match=r"needs a supercell; give crystal\.supercell"):
        build_expansion(crystal, {2: "supercell"})


def test_a_model_file_keeps_the_supercell(laboratory, tmp_path: Path) -> None:
    model = laboratory.random_model(whole(laboratory.crystal("magnesium oxide"), CONVENTIONAL))
    save_model(model, tmp_path / "model.h5")
    loaded = load_model(tmp_path / "model.h5")
    assert np.array_equal(loaded.expansion.second_order_cell, CONVENTIONAL)
    assert loaded.expansion.is_same(model.expansion)
    export_model(loaded, "phonopy", tmp_path)


def test_shengbte_gets_three_multiples_where_the_supercell_has_none(
    laboratory, tmp_path: Path
) -> None:
    expansion = whole(laboratory.crystal("magnesium oxide"), CONVENTIONAL, {3: 2.5})
    export_model(laboratory.random_model(expansion), "shengbte", tmp_path)
    assert "scell(:)=2 2 2" in (tmp_path / "CONTROL").read_text()


@pytest.mark.parametrize(("name", "supercell"), CASES)
def test_the_estimate_of_the_size_is_close(laboratory, name: str, supercell: list) -> None:
    crystal = laboratory.crystal(name)
    size = estimate_size(crystal, {2: "supercell"}, supercell=supercell)
    exact = ExpansionSize.of(whole(crystal, supercell))
    assert 1 <= size.monomials[2] / exact.monomials[2] <= 2  # symmetry forbids some
    assert 0.4 * exact.n_parameters <= size.n_parameters <= 1.5 * exact.n_parameters


@given(
    lattice=st.lists(st.floats(-4, 4), min_size=9, max_size=9),
    vector=st.lists(st.floats(-9, 9), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_no_image_is_shorter_than_the_shortest(lattice: list[float], vector: list[float]) -> None:
    cell = np.array(lattice).reshape(3, 3) + 5 * np.eye(3)
    if abs(np.linalg.det(cell)) < 20:
        return
    crystal = Crystal.from_atoms(Atoms("Ar", cell=cell, pbc=True))
    grid = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    supercell = Supercell(crystal, np.eye(3, dtype=np.int64))
    found = shortest_lengths(np.array(vector), supercell)
    lengths = np.linalg.norm(np.array(vector) + grid @ supercell.reduced_lattice, axis=1)
    assert found <= lengths.min() + 1e-9
