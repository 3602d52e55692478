"""Real DFT at a real size: minutes, so left out unless asked for with `pytest -m long`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anharm.server.record import Record

INPUTS = Path(__file__).parents[2] / "inputs" / "si"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_silicon_of_64_atoms_is_trained_on_quantum_espresso(require_program, tmp_path):
    require_program("pw.x")
    shutil.copytree(INPUTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    for path in (tmp_path / "run-qe64.toml", tmp_path / "qe64" / "input.xml"):
        text = path.read_text()
        for name in ("anharm-pwx64", "anharm-silicon-qe64"):
            text = text.replace(name, f"{name}-{os.getpid()}")
        path.write_text(text)
    command = [sys.executable, "-m", "anharm", "run", str(tmp_path / "run-qe64.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=3500)
    assert ended.returncode == 0, ended.stderr
    with Record.open(tmp_path / "runs" / "silicon-qe64", read_only=True) as record:
        labels = list(record.labels())
    learnt = [label for label in labels if label.prediction is not None]
    assert len(learnt) >= 3
    rms_force = np.sqrt(np.mean([np.mean(label.answer.forces**2) for label in learnt]))
    last = learnt[-1]
    assert last.prediction.force_rmse < 0.15 * rms_force
    print(ended.stdout)  # noqa: T201
