"""The thresholds that the Bayesian error of a step is compared with.

`trajectory-average`: a factor times the average error of the trajectory's last steps.

`fixed`: a value that never changes (VASP: ML_ICRITERIA = 0).

`adaptive-history` is the rule of VASP's on-the-fly learning with ML_ICRITERIA = 1, read from
its documentation. After each refit the error of the configuration that was just learnt is
evaluated again and enters a history of the last `history_refits` (ML_MHIS) such errors. Once
the history is full, every further entry sets

    threshold (ML_CTIFOR) = (1 + history_margin (ML_CX)) x mean of the history,

provided that the history's scatter lies below `history_scatter` (ML_CSIG) and its slope below
`history_slope` (ML_CSLOPE), both relative to the mean; otherwise the threshold stays. Until
then it is the initial value. An error above `critical_factor` (ML_CDOUB) times the threshold
takes a label at once, also within the minimum interval (ML_NMDINT).

What differs from VASP: scatter is the standard deviation, and slope that of the least-squares
line in units of the mean per refit (VASP's documentation leaves both open); every label is
followed by its refit (ML_MCONF_NEW = 1); while a label is on its way, which VASP does not
know, the critical threshold waits for it; and a trajectory that did not take the label itself,
or does not wait for it, contributes the error of its first step with the new model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from anharm.configuration import TrainingSection

INITIAL_THRESHOLD = 0.002  # eV/Angstrom, VASP's default of ML_CTIFOR


@dataclass(frozen=True)
class AdaptiveHistory:
    """What the rule "adaptive-history" remembers of a trajectory.

    Attributes
    ----------
    errors : tuple of float
        Errors after the last refits, oldest first, eV/Angstrom.
    adapted : float or None
        The threshold as last updated (eV/Angstrom); None before the first update.
    """

    errors: tuple[float, ...] = ()
    adapted: float | None = None

    def threshold(self, settings: TrainingSection) -> float:
        """Return the threshold in force, eV/Angstrom."""
        if self.adapted is not None:
            return self.adapted
        return settings.threshold if settings.threshold is not None else INITIAL_THRESHOLD

    def after_refit(self, error: float, settings: TrainingSection) -> "AdaptiveHistory":
        """Return the history with the error after a further refit, its threshold updated."""
        length = settings.history_refits
        errors = (*self.errors, error)[-length:]
        history = replace(self, errors=errors)
        if len(errors) < length:
            return history
        mean = sum(errors) / length
        adapted = (1 + settings.history_margin) * mean
        if not (isfinite(adapted) and adapted > 0):
            return history
        relative = np.array(errors) / mean
        slope = float(np.polyfit(np.arange(length), relative, 1)[0])
        if relative.std() < settings.history_scatter and abs(slope) < settings.history_slope:
            return replace(history, adapted=adapted)
        return history

    def as_dict(self) -> dict[str, Any]:
        """Return the history as plain numbers and lists, exactly."""
        return {"errors": list(self.errors), "adapted": self.adapted}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "AdaptiveHistory":
        """Return the history that `as_dict` wrote."""
        return cls(tuple(content.get("errors", ())), content.get("adapted"))


def threshold_of(
    settings: TrainingSection, adaptive: AdaptiveHistory, mean: float | None, count: int
) -> float | None:
    """Return the threshold of the selected rule, eV/Angstrom.

    Parameters
    ----------
    settings : TrainingSection
    adaptive : AdaptiveHistory
    mean : float or None
        Average error of the trajectory's last steps, eV/Angstrom.
    count : int
        Number of errors in that average.

    Returns
    -------
    float or None
        None where the average does not hold `minimum_interval` errors yet.
    """
    if settings.rule == "fixed":
        return settings.threshold
    if settings.rule == "adaptive-history":
        return adaptive.threshold(settings)
    if mean is None or count < settings.minimum_interval:
        return None
    return settings.factor * mean
