"""Estimated memory against what processes really use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from anharm.model import Crystal
from anharm.model.expansion_size import ExpansionSize, estimate_size
from anharm.model.memory import estimate_memory

# Not getrusage, whose peak a process inherits from the one that started it.
PEAK = """
from pathlib import Path
lines = Path("/proc/self/status").read_text().splitlines()
print(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
"""
CONSTRUCTION = """
from ase.build import bulk
from anharm.model import Crystal, build_expansion
crystal = Crystal.from_atoms(bulk("BAs", "zincblende", a=4.777))
build_expansion(crystal, {2: 4.7, 3: 3.5, 4: 3.5, 5: 3.5, 6: 3.5})
"""
REFIT = """
import numpy as np
from anharm.model import SufficientStatistics, maximise_evidence
random = np.random.default_rng(0)
rows = random.standard_normal((2000, 1200))
statistics = dict.fromkeys(("forces", "energies", "virials"), SufficientStatistics.empty(1200))
for part in np.split(rows, 20):
    targets = part @ np.ones(1200) + random.standard_normal(len(part))
    for kind, n in (("forces", len(part)), ("energies", 1), ("virials", 6)):
        statistics[kind] = statistics[kind].add(part[:n], targets[:n])
maximise_evidence(statistics, np.full(1200, 2))
"""


def peak(program: str) -> int:
    """Largest resident set of a Python process, bytes."""
    command = [sys.executable, "-c", program + PEAK]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
    return int(done.stdout)


def test_the_estimate_of_a_construction_is_that_of_the_process(laboratory) -> None:
    crystal: Crystal = laboratory.crystal("boron arsenide")
    size = estimate_size(crystal, {2: 4.7, 3: 3.5, 4: 3.5, 5: 3.5, 6: 3.5})
    memory = estimate_memory(size, 64, 1)
    assert memory.construction > 100e6
    estimate = memory.process + memory.construction
    assert estimate / 1.5 < peak(CONSTRUCTION) < 1.5 * estimate


def test_the_estimate_of_a_refit_is_that_of_the_process() -> None:
    size = ExpansionSize(1, 0.0, {2: 0}, {2: 0}, {2: 1200})
    memory = estimate_memory(size, 1, 1)
    estimate = memory.process + memory.statistics + memory.refit
    rows = 8 * 2000 * 1200
    assert memory.refit > 80e6
    assert estimate / 1.5 < peak(REFIT) - rows < 1.5 * estimate


def test_memory_grows_with_the_square_of_the_parameters_whatever_the_labels() -> None:
    def memory(n_parameters: int, n_labels: int) -> int:
        size = ExpansionSize(1, 10.0, {2: 1}, {2: 1}, {2: n_parameters})
        return estimate_memory(size, 100, n_labels).run

    assert memory(40_000, 1) / memory(20_000, 1) == pytest.approx(4, rel=0.1)
    few, many, very_many = (memory(20_000, n) for n in (100, 10_000, 1_000_000))
    assert few == many == very_many
