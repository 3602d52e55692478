"""Labels of an earlier run are committed once, or the file is refused."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from anharm.clients.calculators import make_calculator
from anharm.configuration import load_configuration
from anharm.errors import ConfigurationError
from anharm.server.given_labels import commit_given_labels, read_given_labels
from anharm.server.learner import Learner, build_system
from anharm.server.record import Record

RUN = """
[crystal]
primitive = "primitive.xyz"
supercell = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
[expansion]
cutoffs = { 2 = 2.6 }
"""
PRIMITIVE = """2
Lattice="0 2.7 2.7 2.7 0 2.7 2.7 2.7 0" Properties=species:S:1:pos:R:3 pbc="T T T"
Si 0 0 0
Si 1.35 1.35 1.35
"""
SYMBOLS = ["Si"] * 8


@pytest.fixture
def system(tmp_path):
    (tmp_path / "primitive.xyz").write_text(PRIMITIVE)
    (tmp_path / "run.toml").write_text(RUN)
    return build_system(load_configuration(tmp_path / "run.toml"))


@pytest.fixture
def record(tmp_path):
    with Record.open(tmp_path / "run", create=True) as record:
        yield record


def labelled(system, displacement=0.05, n=3):
    frames = []
    for seed in range(n):
        atoms = system.supercell.to_atoms()
        atoms.rattle(displacement, seed=seed)
        atoms.calc = make_calculator("tersoff-silicon")
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results, stress=np.full(6, 0.01))
        atoms.info["program"] = "pw.x"
        frames.append(atoms)
    return frames


def test_they_are_learnt_and_cost_nothing_and_are_taken_once(system, record, tmp_path):
    frames = labelled(system)
    ase.io.write(tmp_path / "labels.xyz", frames)
    for _ in range(2):
        given = read_given_labels(tmp_path / "labels.xyz", SYMBOLS, system, None)
        commit_given_labels(record, given)
    labels = list(record.labels())
    assert [label.request.origin for label in labels] == ["given"] * 3
    assert {label.answer.program for label in labels} == {"pw.x"}
    for label, atoms in zip(labels, frames, strict=True):
        np.testing.assert_allclose(label.answer.forces, atoms.get_forces(), atol=1e-7)
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        np.testing.assert_allclose(label.answer.virial, virial, atol=1e-6)
    learner = Learner(system, record, tmp_path / "run")
    assert (learner.n_labels, learner.n_paid) == (3, 0)
    assert learner.refit().n_labels == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda atoms: setattr(atoms, "calc", None), "no energy or no forces"),
        (lambda atoms: atoms.symbols.__setitem__(0, "Ge"), "are not those of the i-PI input"),
        (lambda atoms: atoms.positions.__setitem__(0, atoms.positions[0] + 1.3), "the same site"),
    ],
)
def test_a_file_with_one_that_cannot_be_used_is_refused(system, record, tmp_path, change, expected):
    frames = labelled(system)
    results = dict(frames[1].calc.results)
    frames[1].calc = None
    change(frames[1])
    if expected != "no energy or no forces":
        frames[1].calc = SinglePointCalculator(frames[1], **results)
    ase.io.write(tmp_path / "labels.xyz", frames)
    with pytest.raises(ConfigurationError) as caught:
        read_given_labels(tmp_path / "labels.xyz", SYMBOLS, system, None)
    assert "structure 2 of" in str(caught.value) and expected in str(caught.value)
