"""Audits: steps that are labelled whatever their error, chosen at random but the same ever again.

They keep the errors honest, and teach: a step that the model does not know to be new is as good a
lesson as one that stands out. While endless labels are still expected to lower the true error by
more than `convergence_gain`, which training has to wait for in any case, audits are taken twice as
often: evenly so, since labels of neighbouring steps teach less than others.
"""

from functools import lru_cache
from hashlib import blake2b

from anharm.configuration import TrainingSection

WHILE_FEW = 2  # times as often as configured, while labels are few for what they determine


def audit_frequency(settings: TrainingSection, expected_gain: float) -> int:
    """Return how many times as often as configured audits are taken.

    Parameters
    ----------
    settings : TrainingSection
    expected_gain : float
        Share of the true error that endless labels would save; see
        `anharm.server.convergence.expected_gain`.
    """
    return WHILE_FEW if expected_gain >= settings.convergence_gain else 1


def is_audit_step(
    settings: TrainingSection,
    trajectory: str,
    step: int,
    beads: int = 1,
    expected_gain: float = 0.0,
) -> bool:
    """Whether a step is labelled whatever its error, the same at every replay.

    A hash of (seed, trajectory, step) stands for a random number in [0, 1), so that on
    average one bead in `audit_interval` steps is chosen, or two while endless labels are
    expected to gain much, and no state is needed. Those chosen at the lower frequency are among
    those of the higher one.
    """
    steps = range(step, step + 1)
    return first_audit(settings, trajectory, steps, beads, expected_gain) is not None


def first_audit(
    settings: TrainingSection,
    trajectory: str,
    steps: range,
    beads: int = 1,
    expected_gain: float = 0.0,
) -> int | None:
    """Return the first of some steps that `is_audit_step` is true of; None if there is none."""
    if settings.audit_interval == 0:
        return None
    seed, often = settings.seed, settings.audit_interval * beads
    below = audit_frequency(settings, expected_gain) << 64
    for step in steps:
        if _number_of_step(seed, trajectory, step) * often < below:
            return step
    return None


@lru_cache(maxsize=4096)  # each step is asked about several times, before it comes and when it does
def _number_of_step(seed: int, trajectory: str, step: int) -> int:
    """Return a 64-bit number that looks random."""
    key = f"{seed}/{step}/{trajectory}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
