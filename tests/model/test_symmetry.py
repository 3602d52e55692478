"""Forces follow the crystal through every operation of its space group."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.model import Crystal, StructurePredictor
from anharm.model.sites import assign_sites
from anharm.model.symmetry import find_space_group

NAMES = [
    "silicon", "magnesium oxide", "boron arsenide", "aluminium", "iron", "magnesium",
    "gallium nitride", "tin selenide", "selenium", "monoclinic",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_forces_and_errors_are_covariant_under_every_rotation_of_the_crystal(
    laboratory, name: str
) -> None:
    """Operations found by spglib on the ideal supercell act on a displaced one."""
    force_field = laboratory.force_field(name)
    predictor = StructurePredictor(force_field.model)
    ideal = force_field.supercell.to_atoms()
    symmetry = spglib.get_symmetry_dataset(
        (ideal.cell[:], ideal.get_scaled_positions(), ideal.numbers), symprec=1e-4
    )
    displaced = ideal.copy()
    displaced.rattle(0.05, seed=1)
    here = predictor.predict(displaced)
    lattice = ideal.cell[:]
    rotations, first = np.unique(symmetry.rotations, axis=0, return_index=True)
    assert len(rotations) > 3
    for rotation, translation in zip(rotations, symmetry.translations[first], strict=True):
        matrix = lattice.T @ rotation @ np.linalg.inv(lattice.T)
        moved = displaced.copy()
        moved.positions = displaced.positions @ matrix.T + translation @ lattice
        there = predictor.predict(moved)
        scale = np.abs(here["forces"]).max()
        np.testing.assert_allclose(there["forces"], here["forces"] @ matrix.T, atol=1e-9 * scale)
        assert there["energy"] == pytest.approx(here["energy"], rel=1e-10)
        # The error of a force vector turns with it; its length is the trace of the covariance.
        lengths = [np.linalg.norm(result["force_std"], axis=1) for result in (here, there)]
        np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-7)
        full = _tensor(here["stress"])
        np.testing.assert_allclose(
            _tensor(there["stress"]), matrix @ full @ matrix.T, atol=1e-9 * np.abs(full).max()
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["silicon", "magnesium oxide", "polonium", "magnesium", "selenium"]
)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=4, deadline=None)
def test_strained_crystals_follow_every_operation_too(laboratory, name: str, seed: int) -> None:
    """Strain, displacements and the order of the atoms are turned and shifted together."""
    force_field = laboratory.force_field(name)
    supercell, random = force_field.supercell, np.random.default_rng(seed)
    ideal = supercell.to_atoms()
    symmetry = spglib.get_symmetry_dataset(
        (ideal.cell[:], ideal.get_scaled_positions(), ideal.numbers), symprec=1e-4
    )
    chosen = random.integers(len(symmetry.rotations))
    lattice = supercell.lattice
    turn = lattice.T @ symmetry.rotations[chosen] @ np.linalg.inv(lattice.T)
    shift = symmetry.translations[chosen] @ lattice + random.uniform(-5, 5, 3)
    strain = np.eye(3) + random.uniform(-0.02, 0.02, (3, 3))
    turned_strain = turn @ strain @ turn.T
    u = random.normal(0, 0.05, (supercell.n_atoms, 3))
    permutation = random.permutation(supercell.n_atoms)
    moved = ((supercell.positions @ turn.T + shift) @ turned_strain.T + u @ turn.T)[permutation]

    def predict(deformation: np.ndarray, positions: np.ndarray, numbers: np.ndarray) -> tuple:
        sites = assign_sites(supercell, positions, numbers, None, deformation)
        displacements = sites.displacements(positions, deformation)[None]
        found = force_field.predict_strained(deformation, displacements, errors=False)
        return found.energies[0], sites.to_user_order(found.forces[0]), found.virials[0]

    numbers = supercell.numbers
    energy, forces, virial = predict(strain, supercell.positions @ strain.T + u, numbers)
    other_energy, other_forces, other_virial = predict(turned_strain, moved, numbers[permutation])
    scale = np.abs(forces).max()
    assert other_energy == pytest.approx(energy, rel=1e-9)
    np.testing.assert_allclose(other_forces, (forces @ turn.T)[permutation], atol=1e-8 * scale)
    np.testing.assert_allclose(
        other_virial, turn @ virial @ turn.T, atol=1e-8 * np.abs(virial).max()
    )


def _tensor(stress: np.ndarray) -> np.ndarray:
    tensor: np.ndarray = stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    return tensor


@pytest.mark.parametrize(
    ("name", "symbol", "n_operations"),
    [
        ("silicon", "Fd-3m", 48),
        ("magnesium oxide", "Fm-3m", 48),
        ("boron arsenide", "F-43m", 24),
        ("iron", "Im-3m", 48),
        ("magnesium", "P6_3/mmc", 24),
        ("gallium nitride", "P6_3mc", 12),
        ("tin selenide", "Pnma", 8),
        ("selenium", "P3_121", 6),
        ("monoclinic", "P2/m", 4),
        ("triclinic", "P1", 1),
    ],
)
def test_space_groups(laboratory, name: str, symbol: str, n_operations: int) -> None:
    _, group = find_space_group(laboratory.crystal(name))
    assert (group.symbol, group.n_operations) == (symbol, n_operations)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", [0.0, 2e-4])
def test_the_idealised_crystal_has_its_symmetry_to_rounding(
    laboratory, name: str, noise: float
) -> None:
    """Any origin, coordinates uncertain in the fourth decimal; the shape is kept."""
    random = np.random.default_rng(5)
    for _ in range(5):
        atoms = laboratory.atoms(name)
        atoms.translate(random.uniform(0, 1, 3) @ atoms.cell[:])
        atoms.positions += random.uniform(-noise, noise, atoms.positions.shape)
        given = Crystal.from_atoms(atoms)
        ideal, group = find_space_group(given, 2e-3)
        sites = [[0, 0, 0, s] for s in range(ideal.n_sites)]
        bodies = np.array([*sites, [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
        images = group.apply(bodies)
        expected = _distances(ideal, bodies)
        np.testing.assert_allclose(
            _distances(ideal, images), np.broadcast_to(expected, (len(images), *expected.shape)),
            atol=1e-12,
        )  # fmt: skip
        assert np.abs(_distances(given, bodies) - expected).max() < 10 * noise + 1e-12


def _distances(crystal: Crystal, bodies: np.ndarray) -> np.ndarray:
    fractional = bodies[..., :3] + crystal.fractional_positions[bodies[..., 3]]
    positions = fractional @ crystal.lattice
    between = positions[..., :, None, :] - positions[..., None, :, :]
    distances: np.ndarray = np.linalg.norm(between, axis=-1)
    return distances


def test_the_idealised_lattice_keeps_orientation_and_handedness() -> None:
    atoms = bulk("Mg", "hcp", a=3.2094, c=5.2108)
    mirror = atoms.copy()
    mirror.set_cell(atoms.cell[:] * [1, 1, -1], scale_atoms=True)
    for crystal in (Crystal.from_atoms(atoms), Crystal.from_atoms(mirror)):
        ideal, _ = find_space_group(crystal)
        np.testing.assert_allclose(ideal.lattice, crystal.lattice, atol=1e-3)
        assert np.linalg.det(ideal.lattice) * np.linalg.det(crystal.lattice) > 0
