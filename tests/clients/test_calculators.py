"""The built-in reference is Tersoff's silicon, and any other calculator can be named."""

import numpy as np
import pytest
from ase.build import bulk

from anharm.clients.calculators import SILICON, make_calculator
from anharm.errors import ConfigurationError


def silicon(a: float = 5.432):
    atoms = bulk("Si", a=a, cubic=True)
    atoms.calc = make_calculator("tersoff-silicon")
    return atoms


@pytest.fixture(scope="module")
def displaced():
    atoms = bulk("Si", a=5.5, cubic=True) * (2, 1, 1)
    atoms.rattle(0.15, seed=2)
    atoms.calc = make_calculator("tersoff-silicon")
    return atoms


def test_cohesive_energy_and_lattice_constant_are_the_published_ones():
    assert silicon().get_potential_energy() / 8 == pytest.approx(-4.63, abs=0.005)
    assert np.abs(silicon().get_stress()).max() < 1e-4
    energies = [silicon(a).get_potential_energy() for a in (5.40, 5.432, 5.46)]
    assert energies[1] < min(energies[0], energies[2])


def test_bulk_modulus_is_the_published_one():
    strain = 2e-3
    pressures = [-silicon(5.432 * (1 + s)).get_stress()[:3].mean() for s in (-strain, strain)]
    bulk_modulus = (pressures[0] - pressures[1]) / (6 * strain) * 160.2177  # GPa
    assert bulk_modulus == pytest.approx(98, abs=2)


def test_forces_are_the_derivatives_of_the_energy(displaced):
    forces = displaced.get_forces()
    for atom, axis in [(0, 0), (5, 1), (13, 2)]:
        energies = []
        for step in (1e-4, -1e-4):
            moved = displaced.copy()
            moved.positions[atom, axis] += step
            moved.calc = displaced.calc
            energies.append(moved.get_potential_energy())
        assert forces[atom, axis] == pytest.approx((energies[1] - energies[0]) / 2e-4, abs=1e-5)


def test_the_stress_is_the_derivative_of_the_energy_by_the_strain(displaced):
    stress = displaced.get_stress(voigt=False)
    for row, column in [(0, 0), (1, 2), (0, 1)]:
        energies = []
        for step in (1e-4, -1e-4):
            deformation = np.eye(3)
            deformation[row, column] += step / 2
            deformation[column, row] += step / 2
            strained = displaced.copy()
            strained.set_cell(displaced.cell @ deformation, scale_atoms=True)
            strained.calc = displaced.calc
            energies.append(strained.get_potential_energy())
        derivative = (energies[0] - energies[1]) / 2e-4 / displaced.get_volume()
        assert stress[row, column] == pytest.approx(derivative, abs=1e-6)


def test_no_neighbour_crosses_the_cutoff_in_the_crystal():
    """First neighbours are inside the smooth part, second ones far beyond it."""
    first, second = 5.432 * np.sqrt(3) / 4, 5.432 / np.sqrt(2)
    assert first + 0.3 < SILICON.R - SILICON.D
    assert second - 0.8 > SILICON.R + SILICON.D


def test_any_calculator_of_a_module_can_be_named():
    calculator = make_calculator("ase.calculators.lj:LennardJones", {"sigma": 2.5})
    assert calculator.parameters["sigma"] == 2.5


def test_a_module_beside_the_input_file_is_found(tmp_path):
    module = "from ase.calculators.emt import EMT\ndef copper(): return EMT()\n"
    (tmp_path / "our_reference.py").write_text(module)
    assert make_calculator("our_reference:copper", folder=tmp_path).name == "emt"


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("tersoff", {}, '"tersoff-silicon"'),
        ("tersoff-silicon", {"A": 1.0}, "takes no parameters"),
        ("no_such_module:thing", {}, "cannot be imported"),
        ("ase.calculators.emt:EAT", {}, "has no EAT"),
        ("ase.build:bulk", {"nme": "Si"}, "cannot be made with the parameters"),
        ("ase.build:bulk", {"name": "Si"}, "no ASE calculator"),
    ],
)
def test_a_calculator_that_cannot_be_had_is_explained(name, parameters, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_calculator(name, parameters)
    assert repr(name) in str(caught.value)
