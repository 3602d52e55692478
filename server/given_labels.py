"""Labels that a run begins with, from an earlier one: `training.initial_labels`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from anharm.errors import ConfigurationError, ModelError
from anharm.model import Trainer
from anharm.model.training import virial_of_stress
from anharm.server.learner import System
from anharm.server.record import Answer, Record
from anharm.server.record_schema import GIVEN
from anharm.structures import read_structures


def take_given_labels(
    record: Record,
    path: Path,
    symbols: list[str],
    system: System,
    maximum_displacement: float | None,
) -> int:
    """Commit the labels of a file to the record, unless they are there; return their number.

    Parameters
    ----------
    record : Record
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
        If the file, or one of its structures, cannot be used; nothing is committed then.
    """
    structures = read_structures(path)
    trainer = Trainer(system.expansion, maximum_displacement)
    answers = []
    for number, atoms in enumerate(structures, start=1):
        try:
            answers.append(_check(atoms, symbols, trainer))
        except ModelError as error:
            raise ConfigurationError(
                f"training.initial_labels: structure {number} of {path}: {error}"
            ) from error
    for atoms, answer in zip(structures, answers, strict=True):
        reason = f"{GIVEN} in {path.name}"
        request = record.request_for(atoms.positions, np.array(atoms.cell[:]), reason)
        if request.state != "labelled":
            record.add_label(request.id, answer)
    return len(structures)


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
