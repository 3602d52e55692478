"""What the i-PI protocol carries, in Angstrom and eV."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Configuration:
    """Positions of the atoms in a cell.

    Attributes
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows (Angstrom).
    positions : ndarray, shape (N, 3)
        Cartesian positions (Angstrom).
    """

    cell: np.ndarray
    positions: np.ndarray

    def is_equal(self, other: "Configuration") -> bool:
        """Tell whether the two are the same, number by number."""
        return np.array_equal(self.cell, other.cell) and np.array_equal(
            self.positions, other.positions
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a force field or a DFT code says about a configuration.

    Attributes
    ----------
    energy : float
        Potential energy (eV).
    forces : ndarray, shape (N, 3)
        Forces (eV/Angstrom).
    virial : ndarray, shape (3, 3)
        Minus the derivative of the energy by the strain (eV), not divided by the volume.
    extras : str
        Anything else; i-PI wants an empty string or a JSON object.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    extras: str = ""


@dataclass(frozen=True, eq=False)
class Evaluations:
    """Evaluations of several configurations of one system, as arrays.

    Attributes
    ----------
    energies : ndarray, shape (n,)
        eV.
    forces : ndarray, shape (n, N, 3)
        eV/Angstrom.
    virials : ndarray, shape (n, 3, 3)
        eV.
    extras : sequence of str
        One of each.
    """

    energies: np.ndarray
    forces: np.ndarray
    virials: np.ndarray
    extras: Sequence[str]

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> "Evaluations":
        """The arrays of single ones."""
        return cls(
            np.array([one.energy for one in evaluations]),
            np.array([one.forces for one in evaluations], dtype=np.float64),
            np.array([one.virial for one in evaluations], dtype=np.float64),
            [one.extras for one in evaluations],
        )

    @classmethod
    def joined(cls, parts: Sequence["Evaluations"]) -> "Evaluations":
        """All of several parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.energies for part in parts]),
            np.concatenate([part.forces for part in parts]),
            np.concatenate([part.virials for part in parts]),
            [text for part in parts for text in part.extras],
        )

    def __len__(self) -> int:
        return len(self.extras)

    def __getitem__(self, index: int) -> Evaluation:
        """One of them (views, not copies)."""
        return Evaluation(
            float(self.energies[index]), self.forces[index], self.virials[index], self.extras[index]
        )

    def __iter__(self) -> Iterator[Evaluation]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class Batch:
    """Configurations that i-PI sent in one message.

    i-PI fills up a batch by repeating its last structure, and does not say so. Trailing
    copies are therefore left out here; they are answered like the structure they repeat.
    Beads that stand at the same place (as all do at the very first step, often) look alike.

    Attributes
    ----------
    cells : ndarray, shape (n, 3, 3)
        Lattice vectors as rows (Angstrom).
    positions : ndarray, shape (n, N, 3)
        Cartesian positions (Angstrom).
    size : int
        Number of structures in the message, with the trailing copies; at least n.
    """

    cells: np.ndarray
    positions: np.ndarray
    size: int

    @property
    def configurations(self) -> list[Configuration]:
        """The n configurations one by one (views, not copies)."""
        return [
            Configuration(cell, positions)
            for cell, positions in zip(self.cells, self.positions, strict=True)
        ]
