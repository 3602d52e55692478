"""Labels as a file that other programs read."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io
from ase.calculators.singlepoint import SinglePointCalculator

from anharm.server.record_database import translated
from anharm.server.record_schema import Label


def write_extended_xyz(path: str | Path, labels: Iterable[Label], symbols: Sequence[str]) -> int:
    """Write labels as extended XYZ and return their number.

    Energy, forces and (where there is a virial) stress have ASE's standard keys. The
    file is written under another name and then takes the place of an older one.
    """
    path = Path(path)
    frames = [_as_atoms(label, symbols) for label in labels]
    unfinished = path.with_name(path.name + ".new")
    with translated(path):
        ase.io.write(unfinished, frames, format="extxyz")
        os.replace(unfinished, path)
    return len(frames)


def _as_atoms(label: Label, symbols: Sequence[str]) -> ase.Atoms:
    request, answer = label.request, label.answer
    atoms = ase.Atoms(symbols, positions=request.positions, cell=request.cell, pbc=True)
    results: dict[str, Any] = {"energy": answer.energy, "forces": answer.forces}
    if answer.virial is not None:
        # ASE's stress is dE/dstrain per volume, the virial is -dE/dstrain.
        results["stress"] = -answer.virial / atoms.get_volume()
    atoms.calc = SinglePointCalculator(atoms, **results)
    notes = {"reason": request.reason, "program": answer.program}
    # ASE writes an empty text as `key=`, and its reader then takes the next entry for the value.
    atoms.info.update(label=label.id, **{key: text for key, text in notes.items() if text})
    return atoms
