"""`anharm labels`: the table, the numbers behind it, and the file."""

import json

import ase.io
import numpy as np
import pytest
from click.testing import CliRunner

from anharm.command_line import cli
from anharm.errors import ConfigurationError
from anharm.server.decision import Decision
from anharm.server.record import Answer, Prediction, Record

CELL = 4.0 * np.eye(3)


@pytest.fixture
def directory(tmp_path):
    """A run with an initial label, one of each kind of decision, a bad answer and an open one."""
    random = np.random.default_rng(0)
    decisions = [
        None,
        Decision("a", 12, 1, "label", "trajectory-average", 0.05, 0.03, 0.01, 11),
        Decision("b", 40, 2, "label", "audit", 0.01, None, 0.02, 30),
    ]
    with Record.open(tmp_path, create=True, metadata={"symbols": "Si C"}) as record:
        for number, decision in enumerate(decisions):
            request = record.request_for(random.normal(size=(2, 3)), CELL, "why", decision)
            answer = Answer(-1.0 - number, np.zeros((2, 3)), np.eye(3), client="one", seconds=2.5)
            prediction = None if decision is None else Prediction(-1.0, 0.125, number)
            record.add_label(request.id, answer, prediction=prediction)
        request = record.request_for(random.normal(size=(2, 3)), CELL, "why")
        record.add_label(request.id, answer, accepted=False, reasons=["nonsense"])
    return tmp_path


def run(*words):
    return CliRunner().invoke(cli, ["labels", *map(str, words)], catch_exceptions=False).output


def test_the_numbers_say_why_each_label_was_taken(directory):
    found = json.loads(run(directory, "--json"))
    assert found["quarantined"] == 1 and found["pending"] == 1
    initial, average, audit = found["labels"]
    assert initial["rule"] == "initial" and initial["step"] is None and initial["value"] is None
    assert initial["force_rmse"] is None
    assert average == {
        "number": 2,
        "trajectory": "a",
        "step": 12,
        "rule": "trajectory-average",
        "value": 0.05,
        "threshold": 0.03,
        "mean": 0.01,
        "model_version": 1,
        "force_rmse": 0.125,
        "foretold_by": 1,
        "client": "one",
        "seconds": 2.5,
    }
    assert (audit["trajectory"], audit["step"], audit["threshold"]) == ("b", 40, None)


def test_the_table_has_a_line_per_label(directory):
    lines = run(directory).splitlines()
    (line,) = [line.split() for line in lines if "trajectory-average" in line]
    assert line == [
        "2",
        "a",
        "12",
        "trajectory-average",
        "0.05",
        "0.03",
        "1",
        "0.125",
        "2.50",
        "one",
    ]
    assert any("audit" in line for line in lines)
    assert "1 answers of the reference are in quarantine" in lines
    assert "1 labels were asked for and have not come" in lines


def test_the_labels_are_written_for_other_programs(directory, tmp_path):
    output = run(directory, "--xyz", tmp_path / "labels.xyz")
    assert f"3 labels written to {tmp_path / 'labels.xyz'}" in output
    frames = ase.io.read(tmp_path / "labels.xyz", index=":")
    assert [frame.get_potential_energy() for frame in frames] == [-1.0, -2.0, -3.0]
    assert frames[0].get_chemical_symbols() == ["Si", "C"]
    np.testing.assert_allclose(frames[0].get_stress(voigt=False), -np.eye(3) / 64)


def test_a_record_that_does_not_know_its_species_says_so(tmp_path):
    Record.open(tmp_path, create=True).close()
    with pytest.raises(ConfigurationError, match="species"):
        run(tmp_path, "--xyz", tmp_path / "labels.xyz")
