"""Precisions of priors and noises, and the iteration to those that improve no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_WORSE = 1.1  # the step after a leap, against the one before, when the leap is given up
_LONGEST_LEAP = 5.0  # of the logarithm of a precision, between two plain steps


@dataclass(frozen=True)
class Precisions:
    """Hyperparameters: prior precision of each group, noise precision of each kind."""

    prior: dict[int, float]
    noise: dict[str, float]

    def change(self, other: Precisions) -> float:
        """Largest relative change of any of them."""
        return max(
            *(abs(np.log(other.prior[g] / value)) for g, value in self.prior.items()),
            *(abs(np.log(other.noise[k] / value)) for k, value in self.noise.items()),
        )


def fixed_point(
    improve: Callable[[Precisions], Precisions],
    start: Precisions,
    tolerance: float,
    maximum_iterations: int,
) -> tuple[Precisions, int]:
    """Iterate until the precisions improve no more; also the number of steps.

    Two steps tell where the precisions head for, and the third starts from there, if that is
    nearer to the end: if the step that follows is smaller. Without leaps, the prior of an order
    that the labels do not determine creeps to its limit in hundreds of steps.
    """
    found = start
    iteration = 0
    while iteration < maximum_iterations:
        first = improve(found)
        if found.change(first) < tolerance:
            return first, iteration + 1
        second = improve(first)
        last = first.change(second)
        if last < tolerance:
            return second, iteration + 2
        leap = _extrapolated(found, first, second)
        found = improve(leap)
        iteration += 3
        after_leap = leap.change(found)
        if after_leap < tolerance:
            break
        if after_leap > _WORSE * last:
            found = second
    return found, iteration


def _extrapolated(before: Precisions, first: Precisions, second: Precisions) -> Precisions:
    """Where each precision heads for by its own last two steps (Aitken, on logarithms)."""
    x0, x1, x2 = (np.log([*p.prior.values(), *p.noise.values()]) for p in (before, first, second))
    step, last = x1 - x0, x2 - x1
    # Steps that shrink by a constant factor q add up to q / (1 - q) times the last one.
    ratio = np.divide(last, step, out=np.zeros_like(last), where=step != 0)
    ratio = np.clip(ratio, 0.0, 1.0 - 1e-6)
    rest = np.clip(last * ratio / (1 - ratio), -_LONGEST_LEAP, _LONGEST_LEAP)
    values = np.exp(x2 + rest).tolist()
    n_groups = len(before.prior)
    return Precisions(
        dict(zip(before.prior, values[:n_groups], strict=True)),
        dict(zip(before.noise, values[n_groups:], strict=True)),
    )
