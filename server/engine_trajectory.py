"""Trajectories in files: those that i-PI wrote, and any that ASE reads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ipi.utils.io import read_file
from ipi.utils.units import unit_to_user

from anharm.errors import ConfigurationError
from anharm.server.replay import Trajectory, evenly
from anharm.structures import read_structures

_LONGEST_HEADER = 10_000  # characters


def read_trajectory(path: Path, largest: int) -> Trajectory:
    """Read a file of configurations, at most so many of them, evenly chosen.

    Parameters
    ----------
    path : Path
        i-PI's own xyz with the cell and the units in the comment line, or what ASE reads.
    largest : int

    Raises
    ------
    ConfigurationError
        If the file is missing or cannot be read.
    """
    if not _is_of_engine(path):
        structures = read_structures(path)
        chosen = evenly(len(structures), largest)
        return Trajectory(path.name, [structures[i] for i in chosen], len(structures))
    with path.open() as file:
        n_frames = sum(1 for _ in _blocks(file))
    chosen = evenly(n_frames, largest)
    with path.open() as file:
        wanted = set(chosen)
        frames = [_frame(path, b) for n, b in enumerate(_blocks(file)) if n in wanted]
    if not frames:
        raise ConfigurationError(f"{path} holds no complete configuration yet")
    return Trajectory(path.name, frames, n_frames)


def _is_of_engine(path: Path) -> bool:
    """Whether the second line is a comment of i-PI's kind."""
    try:
        with path.open("rb") as file:
            file.readline(_LONGEST_HEADER)
            return b"CELL" in file.readline(_LONGEST_HEADER)
    except OSError:
        return False  # the other reader says what is wrong


def _blocks(file: io.TextIOBase | io.TextIOWrapper) -> Iterator[list[str]]:
    """The lines of each complete configuration; a last one that is being written is left out."""
    while header := file.readline():
        if not header.strip().isdigit():
            return
        lines = list(islice(file, int(header) + 1))
        if len(lines) < int(header) + 1 or not lines[-1].endswith("\n"):
            return
        yield [header, *lines]


def _frame(path: Path, lines: list[str]) -> Atoms:
    try:
        read = read_file("xyz", io.StringIO("".join(lines)))
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigurationError(f"i-PI's reader cannot read {path}: {error}") from error
    lattice = unit_to_user("length", "angstrom", np.array(read["cell"].h, dtype=float).T)
    positions = unit_to_user("length", "angstrom", np.array(read["atoms"].q, dtype=float))
    names = [str(name) for name in read["atoms"].names]
    return Atoms(names, positions=positions.reshape(-1, 3), cell=lattice, pbc=True)
