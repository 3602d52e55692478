"""Digests of configurations, by which one that is evaluated again is known."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from anharm.wire.messages import DIGEST_BYTES

_HALF = np.uint64(32)


def digests_of(cell: NDArray[np.float64], positions: NDArray[np.float64]) -> bytes:
    """DIGEST_BYTES of each configuration of a cell, one after the other.

    They are equal, but for an accident, only where the numbers are; no more is asked of them than
    to tell whether a trajectory goes on with the configuration at which it stopped. Each is a sum
    of products with fixed odd numbers, modulo 2^64.

    Parameters
    ----------
    cell : (3, 3) float
    positions : (n_configurations, n_atoms, 3) float
    """
    rows = _integers(positions).reshape(len(positions), -1)
    factors = _factors(9 + rows.shape[1])
    digests = rows @ factors[9:] + _integers(cell).ravel() @ factors[:9]
    return digests.astype(f"<u{DIGEST_BYTES}").tobytes()


def _integers(numbers: NDArray[np.float64]) -> NDArray[np.uint64]:
    """The bits of each number, the upper half of them let into the lower one.

    A product's lower bits are of its factor's lower bits alone, which are zero in round numbers.
    """
    bits = np.ascontiguousarray(numbers, dtype=np.float64).view(np.uint64)
    return bits ^ (bits >> _HALF)


@lru_cache(maxsize=4)
def _factors(count: int) -> NDArray[np.uint64]:
    return np.random.PCG64(0).random_raw(count) | np.uint64(1)
