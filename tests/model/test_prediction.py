"""Predictions for `ase.Atoms`, and the ASE calculator."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from anharm.errors import ModelError
from anharm.model import LatticeCalculator, StructurePredictor

NAMES = ["silicon", "gallium nitride", "triclinic"]


def displaced(laboratory, name: str, seed: int = 0) -> Atoms:
    atoms: Atoms = laboratory.force_field(name).supercell.to_atoms()
    atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("name", NAMES)
def test_answers_come_in_the_order_of_the_question(laboratory, name: str) -> None:
    predictor = StructurePredictor(laboratory.force_field(name).model)
    atoms = displaced(laboratory, name)
    expected = predictor.predict(atoms)
    random = np.random.default_rng(1)
    for _ in range(3):
        order = random.permutation(len(atoms))
        other = atoms[order]
        other.translate(random.uniform(-20, 20, 3))
        other.wrap()
        result = predictor.predict(other)
        scale = np.abs(expected["forces"]).max()
        np.testing.assert_allclose(
            result["forces"], expected["forces"][order], rtol=0, atol=1e-9 * scale
        )
        np.testing.assert_allclose(
            result["force_std"], expected["force_std"][order], rtol=1e-7, atol=1e-9 * scale
        )
        assert result["energy"] == pytest.approx(expected["energy"], rel=1e-9)
        np.testing.assert_allclose(
            result["stress"], expected["stress"], atol=1e-9 * np.abs(expected["stress"]).max()
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_predictor_is_the_force_field(laboratory, name: str) -> None:
    force_field = laboratory.force_field(name)
    atoms = displaced(laboratory, name)
    u = atoms.positions - force_field.supercell.positions
    direct = force_field.predict((u - u.mean(axis=0))[None])
    result = StructurePredictor(force_field.model).predict(atoms)
    np.testing.assert_allclose(result["forces"], direct.forces[0], atol=1e-10)
    np.testing.assert_allclose(result["force_std"], direct.force_std[0], atol=1e-10)
    stress = -full_3x3_to_voigt_6_stress(direct.virials[0]) / atoms.get_volume()
    np.testing.assert_allclose(result["stress"], stress, atol=1e-12)


def test_the_calculator_gives_what_the_predictor_gives(laboratory) -> None:
    model = laboratory.force_field("silicon").model
    atoms = displaced(laboratory, "silicon")
    expected = StructurePredictor(model).predict(atoms)
    atoms.calc = LatticeCalculator(model)
    np.testing.assert_array_equal(atoms.get_forces(), expected["forces"])
    np.testing.assert_array_equal(atoms.get_stress(), expected["stress"])
    np.testing.assert_array_equal(atoms.calc.results["force_std"], expected["force_std"])
    assert atoms.get_potential_energy() == expected["energy"]


def test_the_calculator_answers_for_where_the_atoms_are_now(laboratory) -> None:
    model = laboratory.force_field("silicon").model
    atoms = displaced(laboratory, "silicon")
    atoms.calc = LatticeCalculator(model)
    before = atoms.get_forces().copy()
    atoms.positions[0] += 0.05
    moved = StructurePredictor(model).predict(atoms)["forces"]
    np.testing.assert_array_equal(atoms.get_forces(), moved)
    assert np.abs(atoms.get_forces() - before).max() > 1e-3


def test_structures_of_another_crystal_are_refused(laboratory) -> None:
    predictor = StructurePredictor(laboratory.force_field("silicon").model)
    atoms = displaced(laboratory, "silicon")
    germanium = atoms.copy()
    germanium.symbols[:] = "Ge"
    with pytest.raises(ModelError, match=r"Ge.*Si"):
        predictor.predict(germanium)
    strained = atoms.copy()
    strained.set_cell(atoms.cell[:] * 1.06, scale_atoms=True)
    with pytest.raises(ModelError, match="not a supercell"):
        predictor.predict(strained)
    melted = atoms.copy()
    melted.rattle(1.0, seed=0)
    with pytest.raises(ModelError):
        predictor.predict(melted)
    vacancy = atoms[1:]
    with pytest.raises(ModelError, match=r"53 atoms .* 54"):
        predictor.predict(vacancy)
    with pytest.raises(ModelError, match="cell"):
        predictor.predict(Atoms("Si"))
    with pytest.raises(ModelError):
        predictor.predict(Atoms())
