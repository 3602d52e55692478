"""Long series made short without losing what stands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anharm.model.crystal import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Envelope:
    """A series in bins of consecutive entries, as arrays of one length.

    Attributes
    ----------
    position : ndarray
        Mean abscissa of each bin.
    lowest, mean, highest : ndarray
        Of the values in each bin; not a number where none of them is finite.
    """

    position: FloatArray
    lowest: FloatArray
    mean: FloatArray
    highest: FloatArray


def envelope(positions: FloatArray | IntArray, values: FloatArray, largest: int) -> Envelope:
    """Reduce a series to at most so many bins of (nearly) equal numbers of entries.

    Parameters
    ----------
    positions, values : ndarray, shape (n,)
        Values that are not finite are left out.
    largest : int
        Number of bins.
    """
    n = len(values)
    if n == 0:
        nothing = np.empty(0)
        return Envelope(nothing, nothing, nothing, nothing)
    starts = np.unique(np.linspace(0, n, min(n, largest), endpoint=False).astype(int))
    counts = np.diff(np.append(starts, n))
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values)
    n_finite = np.add.reduceat(finite.astype(float), starts)
    n_finite[n_finite == 0] = np.nan
    highest = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    lowest = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    is_empty = np.isnan(n_finite)
    return Envelope(
        position=np.add.reduceat(np.asarray(positions, dtype=float), starts) / counts,
        lowest=np.where(is_empty, np.nan, lowest),
        mean=np.add.reduceat(np.where(finite, values, 0.0), starts) / n_finite,
        highest=np.where(is_empty, np.nan, highest),
    )


def trailing_mean(values: FloatArray, window: int) -> FloatArray:
    """Mean of the entries before each one, at most `window` of them; not a number for the first.

    This is the trajectory average that each step of a run was compared with.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(len(values))
    begins = np.maximum(0, ends - window)
    counts = np.where(ends > 0, ends - begins, np.nan)
    means: FloatArray = (sums[ends] - sums[begins]) / counts
    return means
