"""The properties that i-PI wrote during a run: names and units from the head of its file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from anharm.model.crystal import FloatArray

_COLUMN = re.compile(
    r"#\s*(?:column|cols\.)\s+(\d+)(?:-\d+)?\s*-->\s*([^\s:{(]+)[^\s:{]*(?:\{([^}]*)\})?"
)
LARGEST_ROWS = 50_000


@dataclass(frozen=True, eq=False)
class EngineProperties:
    """Columns of one property file of i-PI.

    Attributes
    ----------
    name : str
        Of the file, relative to the run directory.
    columns : dict of ndarray, shape (n,)
        By the name of the property, the first component of those that have several.
    units : dict of str
        By name; "" where i-PI prints its own atomic units.
    """

    name: str
    columns: dict[str, FloatArray]
    units: dict[str, str]


def read_properties(
    directory: Path, engine_inputs: Sequence[str], wanted: Sequence[str]
) -> list[EngineProperties]:
    """Read the property files of i-PI in a run directory that hold a wanted property.

    Parameters
    ----------
    directory : Path
    engine_inputs : sequence of str
        i-PI's inputs, relative to it.
    wanted : sequence of str
        Names of properties; the step is read with them.

    Returns
    -------
    list of EngineProperties
        Of each file that has the step and any of them, thinned to `LARGEST_ROWS`; none where
        i-PI ran elsewhere or wrote none.
    """
    found = []
    for path in [path for name in engine_inputs for path in _property_files(directory / name)]:
        columns, units = _head(path)
        chosen = {name: columns[name] for name in ("step", *wanted) if name in columns}
        if "step" not in chosen or len(chosen) < 2:
            continue
        table = _rows(path, list(chosen.values()))
        found.append(
            EngineProperties(
                str(path.relative_to(directory)),
                {name: table[:, index] for index, name in enumerate(chosen)},
                {name: units[name] for name in chosen},
            )
        )
    return found


def _property_files(engine_input: Path) -> list[Path]:
    """Files of <properties>; those of several systems have a prefix of the system's."""
    if not engine_input.is_file():
        return []
    try:
        root = ElementTree.parse(engine_input).getroot()
    except ElementTree.ParseError:
        return []  # i-PI itself has said what is wrong with it
    directory = engine_input.parent
    output = root.find("output")
    if output is None:
        return sorted(directory.glob("i-pi.md"))
    prefix = output.get("prefix", "i-pi").strip()
    names = {element.get("filename", "out").strip() for element in output.findall("properties")}
    start = f"{prefix}." if prefix else ""
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_file()
        and path.name.startswith(start)
        and any(path.name[len(start) :] == name or path.name.endswith(f"_{name}") for name in names)
    )


def _head(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Columns, counted from 0, and units by the name of the property."""
    columns: dict[str, int] = {}
    units: dict[str, str] = {}
    with path.open(errors="replace") as file:
        for line in islice(file, 1000):
            if not line.startswith("#"):
                break
            if match := _COLUMN.match(line):
                columns.setdefault(match[2], int(match[1]) - 1)
                units.setdefault(match[2], match[3] or "")
    return columns, units


def _rows(path: Path, columns: list[int]) -> FloatArray:
    """The columns of evenly chosen lines; an unfinished last line is left out."""
    with path.open(errors="replace") as file:
        n_lines = sum(1 for line in file if not line.startswith("#"))
    every = max(1, -(-n_lines // LARGEST_ROWS))
    rows = []
    with path.open(errors="replace") as file:
        for line in islice((line for line in file if not line.startswith("#")), 0, None, every):
            words = line.split()
            try:
                rows.append([float(words[column]) for column in columns])
            except (IndexError, ValueError):
                continue
    return np.array(rows, dtype=float).reshape(-1, len(columns))
