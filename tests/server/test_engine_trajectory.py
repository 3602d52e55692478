"""Trajectories that i-PI writes are read in any of its units, finished or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from ipi.engine.atoms import Atoms
from ipi.engine.cell import Cell
from ipi.utils.io import print_file
from ipi.utils.units import unit_to_internal

from anharm.errors import ConfigurationError
from anharm.server.engine_trajectory import read_trajectory

SILICON = bulk("Si", cubic=True)


def positions(step: int) -> np.ndarray:
    return SILICON.positions + 0.01 * step


def write_as_engine(path: Path, n_frames: int, units: str, cell_units: str) -> None:
    """What i-PI's <trajectory> writes."""
    angstrom = unit_to_internal("length", "angstrom", 1.0)
    with path.open("w") as file:
        for step in range(n_frames):
            atoms = Atoms(len(SILICON))
            atoms.names[:] = SILICON.symbols
            atoms.q[:] = positions(step).ravel() * angstrom
            cell = Cell(SILICON.cell.array.T * angstrom)
            print_file("xyz", atoms, cell, file, "", "positions", "length", units, cell_units)


@pytest.mark.parametrize("units", ["angstrom", "atomic_unit"])
def test_units_are_those_of_the_comment_line(units: str, tmp_path: Path) -> None:
    write_as_engine(tmp_path / "a.pos_0.xyz", 3, units, "atomic_unit")
    found = read_trajectory(tmp_path / "a.pos_0.xyz", 10)
    assert (found.name, found.n_available, len(found.frames)) == ("a.pos_0.xyz", 3, 3)
    for step, atoms in enumerate(found.frames):
        np.testing.assert_allclose(atoms.positions, positions(step), atol=1e-4)
        np.testing.assert_allclose(atoms.cell.array, SILICON.cell.array, atol=1e-4)
        assert (atoms.numbers == 14).all()


def test_a_long_trajectory_is_thinned_evenly_and_an_unfinished_frame_left_out(tmp_path) -> None:
    path = tmp_path / "a.pos_0.xyz"
    write_as_engine(path, 101, "angstrom", "angstrom")
    path.write_text(path.read_text()[:-20])
    found = read_trajectory(path, 5)
    assert found.n_available == 100
    steps = [round((atoms.positions[0, 0] - SILICON.positions[0, 0]) / 0.01)
             for atoms in found.frames]  # fmt: skip
    assert steps == [0, 25, 50, 74, 99]


def test_any_file_that_ase_reads_is_thinned_alike(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [SILICON] * 9, format="extxyz")
    assert len(read_trajectory(tmp_path / "a.xyz", 4).frames) == 4


def test_an_empty_trajectory_is_named(tmp_path: Path) -> None:
    write_as_engine(tmp_path / "a.pos_0.xyz", 1, "angstrom", "angstrom")
    text = (tmp_path / "a.pos_0.xyz").read_text()
    (tmp_path / "a.pos_0.xyz").write_text(text[: len(text) // 2])
    with pytest.raises(ConfigurationError, match="no complete configuration"):
        read_trajectory(tmp_path / "a.pos_0.xyz", 4)
