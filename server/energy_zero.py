"""Whose energies are learnt, where several codes label for one model.

Every code counts energies from a zero of its own (other pseudopotentials, other core electrons),
and has a pressure of its own. A model has one of each: those of the code that labelled first.
The forces of all codes are learnt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from anharm.server.record_schema import Label

SAME_ZERO = 1.0
"""Energies of one crystal from one zero differ by less (eV per atom): 0.4 eV at 3000 K."""


@dataclass(frozen=True)
class EnergyZero:
    """The code whose energies and virials are learnt.

    Attributes
    ----------
    program : str
        Its program's name; empty where it is not known.
    energy_per_atom : float
        Of its first label, eV.
    """

    program: str
    energy_per_atom: float

    @classmethod
    def of(cls, label: Label) -> EnergyZero:
        """The zero that a first label sets."""
        return cls(label.answer.program, _energy_per_atom(label))

    def is_of(self, label: Label) -> bool:
        """Whether a label counts its energy from this zero."""
        other = label.answer.program
        if self.program and other and self.program != other:
            return False
        return abs(_energy_per_atom(label) - self.energy_per_atom) < SAME_ZERO

    def warning(self, label: Label) -> str:
        """What to tell the user of a label from another zero."""
        return (
            f"label {label.id} comes from {label.answer.program or label.answer.client} with "
            f"{_energy_per_atom(label):.4f} eV per atom, the first one from "
            f"{self.program or 'another client'} with {self.energy_per_atom:.4f}: these are two "
            "codes or two set-ups. Energies and virials are learnt from the first alone, forces "
            "from both. Forces of two codes differ, and the model learns their mixture; use one "
            "code with one input for results that matter"
        )


def _energy_per_atom(label: Label) -> float:
    return label.answer.energy / len(label.answer.forces)


def count_programs(labels: Iterable[Label]) -> dict[str, int]:
    """Number of labels by program, the first one first; "unknown" where it is not known."""
    numbers: dict[str, int] = {}
    for label in labels:
        program = label.answer.program or "unknown"
        numbers[program] = numbers.get(program, 0) + 1
    return numbers
