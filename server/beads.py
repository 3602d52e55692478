"""What one step of a ring polymer is, and which error it has.

A step of path-integral dynamics evaluates every bead once; i-PI waits for all of them before it
goes on. It says neither which bead nor which step a configuration belongs to, so that a step is as
many evaluations in a row as there are beads, whichever client made them. (Where several beads
stand at one place, as at the very first step, a message of many beads may hold fewer evaluations;
what is then counted as one step ends in the next one, and still has every bead once.)

The error of a step is the largest of its beads, or their mean. It is known as far as the beads
have been heard of: a bead that stands out is labelled at once, since i-PI waits for its forces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anharm.model.crystal import FloatArray

Reduction = Literal["max", "mean"]


@dataclass(frozen=True)
class BeadCounts:
    """Evaluations of a step by trajectory; the only trajectory may go by any name."""

    by_trajectory: Mapping[str, int]

    @property
    def largest(self) -> int:
        """The most of any trajectory."""
        return max(self.by_trajectory.values(), default=1)

    def of(self, trajectory: str) -> int:
        """Evaluations of a step of one trajectory."""
        count = self.by_trajectory.get(trajectory)
        return self.largest if count is None else count

    def as_metadata(self) -> dict[str, str]:
        """As the record keeps them."""
        return {"beads": json.dumps(dict(self.by_trajectory))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> BeadCounts:
        """Those of a record; one each, where it is of a time that did not know better."""
        return cls({name: int(n) for name, n in json.loads(metadata.get("beads", "{}")).items()})


def reduced(errors: Sequence[float], reduction: Reduction) -> float:
    """The error of a step from those of its beads so far, eV/Angstrom."""
    return max(errors) if reduction == "max" else float(np.mean(errors))


def errors_of_steps(errors: FloatArray, end: int, beads: int, reduction: Reduction) -> FloatArray:
    """Errors of the steps that a run of evaluations makes.

    Parameters
    ----------
    errors : (n,) float
        Of the evaluations before number `end`, oldest first, eV/Angstrom.
    end : int
        Evaluations of the trajectory so far.
    beads : int
        Evaluations of a step.

    Returns
    -------
    (n_steps,) float
        Without a first step of which beads are missing; the last one may be incomplete.
    """
    errors = errors[-(end - len(errors)) % beads :]
    n_whole = len(errors) // beads
    whole = errors[: n_whole * beads].reshape(n_whole, beads)
    rest = errors[n_whole * beads :]
    found = whole.max(axis=1) if reduction == "max" else whole.mean(axis=1)
    return np.append(found, [reduced(rest.tolist(), reduction)] if len(rest) else [])
