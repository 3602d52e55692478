"""What a lattice client observed: consecutive evaluations by one model, checked, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anharm.model.crystal import FloatArray
from anharm.wire.messages import (
    DIGEST_BYTES,
    LARGEST_BATCH,
    BadMessage,
    Observation,
    Observations,
)

LARGEST_ERROR = 1e30  # eV/Angstrom; what single precision holds


@dataclass(frozen=True, eq=False)
class Observed:
    """Evaluations of consecutive sequence numbers.

    Attributes
    ----------
    sequence : int
        The client's own count of the first of them.
    model_version : int
    is_answered : bool
        Whether i-PI has their forces already.
    configurations : list of bytes
        Digests by which configurations that come again are known.
    values : (n, 4) float
        Largest, mean and rms force error (eV/Angstrom), energy (eV).
    errors : list of float
        The largest ones, to single precision, as the record keeps them.
    """

    sequence: int
    model_version: int
    is_answered: bool
    configurations: list[bytes]
    values: FloatArray
    errors: list[float]

    @classmethod
    def of(cls, message: Observation | Observations) -> Observed:
        """Those of a message.

        Raises
        ------
        BadMessage
            If sizes do not fit each other, there is none, or too many, or a number cannot be one.
        """
        digests, values = _arrays(message)
        count, rest = divmod(len(digests), DIGEST_BYTES)
        if rest or not 0 < count <= LARGEST_BATCH or values.size != 4 * count:
            raise BadMessage(
                f"observations with {len(digests)} bytes of digests and {values.size} numbers"
            )
        values = values.reshape(count, 4)
        if not np.isfinite(values).all():
            raise BadMessage("an observation holds numbers that are not finite")
        errors = values[:, :3]
        if not (errors.min() >= 0 and errors.max() < LARGEST_ERROR):
            raise BadMessage(f"force errors of {errors.min()} to {errors.max()} eV/A")
        starts = range(0, len(digests), DIGEST_BYTES)
        return cls(
            message.sequence,
            message.model_version,
            message.is_answered,
            [digests[start : start + DIGEST_BYTES] for start in starts],
            values,
            values[:, 0].astype(np.float32).tolist(),
        )

    def __len__(self) -> int:
        return len(self.errors)

    def part(self, start: int, end: int | None = None) -> Observed:
        """Those from one place to before another."""
        chosen = slice(start, end)
        return Observed(
            self.sequence + start,
            self.model_version,
            self.is_answered,
            self.configurations[chosen],
            self.values[chosen],
            self.errors[chosen],
        )


def _arrays(message: Observation | Observations) -> tuple[bytes, FloatArray]:
    """Digests, and numbers in a row."""
    if isinstance(message, Observations):
        if len(message.values) % 8:
            raise BadMessage(f"observations with {len(message.values)} bytes of numbers")
        return message.configurations, np.frombuffer(message.values, dtype="<f8")
    one = message
    numbers = (one.force_std_max, one.force_std_mean, one.force_std_rms, one.energy)
    return one.configuration, np.array(numbers)
