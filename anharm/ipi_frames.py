"""Configurations in the xyz files that i-PI writes and reads.

i-PI keeps the cell and the units in the comment line, where ASE does not look for them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ipi.utils.io import read_file
from ipi.utils.units import unit_to_user

from anharm.errors import ConfigurationError

_LONGEST_HEADER = 10_000  # characters
_COMMENT = re.compile(rb"CELL[\[({](abcABC|abc|H|GENH)[\])}]")


def is_of_ipi(path: Path) -> bool:
    """Whether the second line of a file is a comment of i-PI's kind."""
    try:
        with path.open("rb") as file:
            file.readline(_LONGEST_HEADER)
            return bool(_COMMENT.search(file.readline(_LONGEST_HEADER)))
    except OSError:
        return False  # the other reader says what is wrong


def frame_texts(file: io.TextIOBase | io.TextIOWrapper) -> Iterator[list[str]]:
    """The lines of each complete configuration; a last one that is being written is left out."""
    while header := file.readline():
        if not header.strip().isdigit():
            return
        lines = list(islice(file, int(header) + 1))
        if len(lines) < int(header) + 1 or not lines[-1].endswith("\n"):
            return
        yield [header, *lines]


def read_frame(path: Path, lines: list[str]) -> Atoms:
    """One configuration, positions and cell in Angstrom, whatever units its comment gives.

    Raises
    ------
    ConfigurationError
        If i-PI's own reader cannot read it.
    """
    try:
        read = read_file("xyz", io.StringIO("".join(lines)))
        lattice = unit_to_user("length", "angstrom", np.array(read["cell"].h, dtype=float).T)
        positions = unit_to_user("length", "angstrom", np.array(read["atoms"].q, dtype=float))
        names = [str(name) for name in read["atoms"].names]
        return Atoms(names, positions=positions.reshape(-1, 3), cell=lattice, pbc=True)
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigurationError(f"i-PI's reader cannot read {path}: {error}") from error


def read_frames(path: Path) -> list[Atoms]:
    """Every complete configuration of a file; see `read_frame`."""
    with path.open() as file:
        return [read_frame(path, lines) for lines in frame_texts(file)]
