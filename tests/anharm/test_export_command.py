"""`anharm export` from a model file to files that the receiving program reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from anharm.errors import ConfigurationError
from anharm.export_command import parse_supercell
from anharm.model import BayesianModel, Crystal, Posterior, build_expansion, save_model


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Harmonic aluminium with springs between neighbours, so that all phonons are stable."""
    expansion = build_expansion(Crystal.from_atoms(bulk("Al", "fcc", a=4.05)), {2: 3.0})
    n = expansion.n_parameters
    posterior = Posterior(np.ones(n), np.eye(n), {2: 1.0}, {"forces": 1.0}, {2: 1.0}, 0.0, 1, 1)
    path = tmp_path_factory.mktemp("model") / "model.h5"
    save_model(BayesianModel(expansion, posterior), path)
    return path


def anharm_export(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "anharm", "export", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_printed_line_reads_the_export(model_file: Path, tmp_path: Path) -> None:
    phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")
    folder = tmp_path / "export"
    done = anharm_export(
        model_file, "--format", "phonopy", "--output", folder, "--supercell", "3 3 4"
    )
    assert done.returncode == 0, done.stderr
    line = f'phonopy.load("{folder}/phonopy_params.yaml")'
    assert line in done.stdout
    phonon = eval(line, {"phonopy": phonopy})
    assert len(phonon.supercell) == 36
    assert phonon.force_constants.shape == (1, 36, 3, 3)


def test_a_mistake_is_one_message_and_an_exit_code(model_file: Path, tmp_path: Path) -> None:
    wish = ["--format", "phonopy", "--output", tmp_path]
    cases = [
        ([model_file, *wish, "--supercell", "2 2"], 2, "neither three nor nine integers"),
        ([model_file, *wish, "--supercell", "1 1 1"], 1, "use the supercell 3 3 3 or larger"),
        ([tmp_path / "none.h5", *wish], 1, "cannot read the model file"),
        ([model_file, "--format", "tdep", "--output", tmp_path], 2, "'tdep' is not one of"),
        ([model_file, "--format", "phono3py", "--output", tmp_path], 1, "order 3"),
    ]
    for words, code, message in cases:
        done = anharm_export(*words)
        assert done.returncode == code
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_supercells_are_three_multiples_or_nine_integers_row_by_row() -> None:
    assert parse_supercell("2 3 4").tolist() == [[2, 0, 0], [0, 3, 0], [0, 0, 4]]
    rows = parse_supercell("-2,2,2, 2,-2,2, 2,2,-1").tolist()
    assert rows == [[-2, 2, 2], [2, -2, 2], [2, 2, -1]]
    for wrong in ("", "2", "2 2 2.5", "a b c", "1 1 1 1", "1 0 0 0 1 0 1 1 0"):
        with pytest.raises(ConfigurationError):
            parse_supercell(wrong)
