"""Cells near the reference: where their sites are, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from anharm.errors import ModelError
from anharm.model import StructurePredictor
from anharm.model.deformation import identify_strained_supercell
from anharm.model.sites import assign_sites


def test_displacements_are_counted_from_the_strained_sites(laboratory) -> None:
    supercell = laboratory.force_field("tin selenide").supercell
    deformation, u = (
        laboratory.random_deformation(4, 0.04),
        laboratory.random_displacements(supercell, 0.05, 4),
    )
    order = np.random.default_rng(0).permutation(supercell.n_atoms)
    positions = (supercell.positions @ deformation.T + u)[order] + [1.0, 20.0, -3.0]
    numbers = supercell.numbers[order]
    assignment = assign_sites(supercell, positions, numbers, deformation=deformation)
    np.testing.assert_array_equal(supercell.numbers[assignment.sites], numbers)
    found = assignment.displacements(positions, deformation)
    distances = np.linalg.norm(assignment.to_user_order(found) - u[order], axis=1)
    assert distances.max() < 1e-10


def test_the_number_of_atoms_tells_a_strained_supercell_from_a_larger_one(laboratory) -> None:
    crystal = laboratory.crystal("silicon")
    matrix = np.diag([14, 14, 14])
    cell = 0.955 * matrix @ crystal.lattice
    found = identify_strained_supercell(crystal, cell, 2 * 14**3)
    np.testing.assert_array_equal(found, matrix)


def test_too_large_a_strain_is_refused_with_a_remedy(laboratory) -> None:
    force_field = laboratory.force_field("silicon")
    atoms = force_field.supercell.to_atoms()
    atoms.set_cell(1.06 * atoms.cell[:], scale_atoms=True)
    with pytest.raises(ModelError, match=r"not a supercell.*strained by at most 0\.05"):
        StructurePredictor(force_field.model).predict(atoms)
    with pytest.raises(ModelError, match=r"strained by up to 0\.060"):
        force_field.deformation(np.array(atoms.cell[:]))
