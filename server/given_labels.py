"""Labels that a run begins with, from an earlier one: `training.initial_labels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from anharm.errors import ConfigurationError, ModelError
from anharm.model import Trainer
from anharm.model.crystal import FloatArray
from anharm.model.training import virial_of_stress
from anharm.server.learner import System
from anharm.server.record import Answer, Record
from anharm.server.record_schema import GIVEN
from anharm.structures import read_structures


@dataclass(frozen=True, eq=False)
class GivenLabel:
    """A configuration (Angstrom, rows are lattice vectors) with its label, and where it is from."""

    positions: FloatArray
    cell: FloatArray
    answer: Answer
    reason: str


def read_given_labels(
    path: Path, symbols: list[str], system: System, maximum_displacement: float | None
) -> list[GivenLabel]:
    """Read the labels of a file, and check that the model can learn them.

    Parameters
    ----------
    path : Path
        Extended XYZ with energy and forces, and stress if there is one, as `anharm labels --xyz`
        writes it.
    symbols : list of str
        Of the atoms, in the order of the i-PI input.
    system : System
    maximum_displacement : float or None
        Angstrom.

    Raises
    ------
    ConfigurationError
        If the file, or one of its structures, cannot be used.
    """
    trainer = Trainer(system.expansion, maximum_displacement)
    labels = []
    for number, atoms in enumerate(read_structures(path), start=1):
        try:
            answer = _check(atoms, symbols, trainer)
        except ModelError as error:
            raise ConfigurationError(
                f"training.initial_labels: structure {number} of {path}: {error}"
            ) from error
        reason = f"{GIVEN} in {path.name}"
        labels.append(GivenLabel(atoms.positions, np.array(atoms.cell[:]), answer, reason))
    return labels


def commit_given_labels(record: Record, labels: Sequence[GivenLabel]) -> None:
    """Commit labels to the record, unless they are there."""
    for label in labels:
        request = record.request_for(label.positions, label.cell, label.reason)
        if request.state != "labelled":
            record.add_label(request.id, label.answer)


def _check(atoms: Atoms, symbols: list[str], trainer: Trainer) -> Answer:
    """The answer of one structure, which a trainer would accept."""
    results = atoms.calc.results if atoms.calc is not None else {}
    if not {"forces", "energy"} <= results.keys():
        raise ModelError("it has no energy or no forces, so it is no label")
    if atoms.get_chemical_symbols() != symbols:
        raise ModelError(
            f"its atoms ({atoms.get_chemical_formula()}, beginning with {atoms.symbols[:3]}) are "
            "not those of the i-PI input in their order"
        )
    forces, energy = np.array(results["forces"], dtype=float), float(results["energy"])
    virial = virial_of_stress(results.get("stress"), atoms.get_volume())
    trainer.add(np.array(atoms.cell[:]), atoms.positions, forces, energy, virial=virial)
    program = str(atoms.info.get("program", ""))
    return Answer(energy, forces, virial, client=GIVEN, program=program)
