"""What i-PI asks a lattice client about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anharm.clients.evaluator import Placed
from anharm.model.crystal import FloatArray
from anharm.wire.digests import digests_of

TOGETHER = 8  # configurations that are evaluated at a time
LARGEST_MESSAGE = 64  # configurations that are observed at a time
STEP_LIMIT = 0.1  # Angstrom: no atom, or end of a cell vector, moves further in a step


@dataclass(frozen=True)
class Asked:
    """Configurations of one cell: a step of one system, or the beads of a batch.

    Attributes
    ----------
    cell : (3, 3) float
    positions : (n_configurations, n_atoms, 3) float
        Angstrom, as i-PI gave them.
    placed : Placed
    """

    cell: FloatArray
    positions: FloatArray
    placed: Placed

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ranges(self) -> list[slice]:
        """Of the configurations that are evaluated together."""
        return [slice(i, i + TOGETHER) for i in range(0, len(self), TOGETHER)]

    @property
    def parts(self) -> list[Asked]:
        """The configurations that are evaluated together."""
        if len(self) <= TOGETHER:
            return [self]
        return [Asked(self.cell, self.positions[part], self.placed[part]) for part in self.ranges]

    @property
    def digests(self) -> bytes:
        """By which configurations that come again are known."""
        return digests_of(self.cell, self.positions)

    def is_near(self, other: Asked) -> bool:
        """Whether this can be the step of dynamics after another one."""
        ours, others = self.placed.displacements, other.placed.displacements
        if ours.shape != others.shape or np.abs(self.cell - other.cell).max() >= STEP_LIMIT:
            return False
        return bool(np.abs(ours - others).max() < STEP_LIMIT)
