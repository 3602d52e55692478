"""What cannot be the answer of a DFT code is sorted out; real answers pass."""

import numpy as np
import pytest

from anharm.server.label_checks import check_label, has_virial
from anharm.wire.driver_protocol import Configuration, Evaluation

CELL = 5.4 * np.eye(3)
POSITIONS = np.random.default_rng(3).uniform(0, 5.4, (8, 3))
IDEAL = Configuration(CELL, POSITIONS)
MOVED = Configuration(CELL, POSITIONS + np.random.default_rng(4).normal(0, 0.05, (8, 3)))


def sound(**changes) -> Evaluation:
    forces = np.random.default_rng(5).normal(0, 1, (8, 3))
    label = {
        "energy": -860.0,
        "forces": forces - forces.mean(axis=0),
        "virial": np.diag([1.0, 1.2, 0.9]),
        "extras": "",
    }
    return Evaluation(**{**label, **changes})


def reasons(**changes) -> str:
    return "; ".join(check_label(MOVED, sound(**changes), ideal=IDEAL))


def test_a_sound_label_passes():
    assert check_label(MOVED, sound(), ideal=IDEAL) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(value):
    forces = sound().forces.copy()
    forces[3, 1] = value
    assert "not a finite number" in reasons(forces=forces)
    assert "not a finite number" in reasons(energy=value)
    assert "not finite" in reasons(virial=np.full((3, 3), value))


def test_forces_for_another_number_of_atoms():
    assert "shape (7, 3)" in reasons(forces=sound().forces[:7])


def test_forces_that_do_not_add_up_to_zero():
    assert "0.5 eV/A per atom" in reasons(forces=sound().forces + np.array([0.0, 0.0, 0.5]))


def test_the_small_net_force_of_a_plane_wave_code_passes():
    assert reasons(forces=sound().forces + np.array([0.01, 0.0, 0.0])) == ""


def test_a_force_between_atoms_on_top_of_each_other_names_the_atom():
    forces = sound().forces.copy()
    forces[2, 0] += 5000
    forces[6, 0] -= 5000
    assert "atom 2" in reasons(forces=forces) or "atom 6" in reasons(forces=forces)


def test_absurd_energies_and_virials():
    assert "energy" in reasons(energy=-1e9)
    assert "per atom" in reasons(virial=1e4 * np.eye(3))


def test_a_virial_with_a_torque():
    assert "not symmetric" in reasons(virial=np.triu(np.ones((3, 3))))


def test_forces_that_vanish_only_where_they_may():
    nothing = sound(forces=np.zeros((8, 3)))
    assert check_label(IDEAL, nothing, ideal=IDEAL) == []
    assert "exactly zero" in "; ".join(check_label(MOVED, nothing, ideal=IDEAL))


def test_a_code_that_admits_failure_is_believed():
    assert "not converged" in reasons(extras='{"converged": false}')
    assert reasons(extras='{"converged": true}') == ""
    assert reasons(extras="SCF took 12 steps") == ""


def test_a_virial_of_zeros_was_not_computed():
    assert has_virial(sound())
    assert not has_virial(sound(virial=np.zeros((3, 3))))
