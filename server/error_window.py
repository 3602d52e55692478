"""The errors of a trajectory's last steps and their mean, at a cost that no window makes larger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

# Every float is an integer times 2**-1074.
_BITS = 1074


class ErrorWindow(Sequence[float]):
    """Immutable sequence of errors (eV/Angstrom), oldest first, which knows its mean.

    The sum is kept as an integer, exactly: it neither drifts, however many errors come and go, nor
    depends on where a run was interrupted and its sum begun anew.

    Windows that follow each other share one list, which only ever grows at its end; the errors
    that have left the window are cleared away when they are as many as those in it.

    Parameters
    ----------
    errors : iterable of float
        Finite.
    """

    __slots__ = ("_shared", "_start", "_stop", "_sum")

    def __init__(self, errors: Iterable[float] = ()) -> None:
        self._shared = [float(error) for error in errors]
        self._start, self._stop = 0, len(self._shared)
        self._sum = sum(map(_exact, self._shared))

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> list[float]: ...

    def __getitem__(self, index: int | slice) -> float | list[float]:
        if isinstance(index, slice):
            return self._shared[self._start : self._stop][index]
        return self._shared[range(self._start, self._stop)[index]]

    @property
    def mean(self) -> float | None:
        """Mean of the errors, correctly rounded; None without any."""
        count = self._stop - self._start
        return self._sum / (count << _BITS) if count else None

    def least_mean(self, more: int, most: int) -> float:
        """Return what no mean falls below while up to `more` errors, none negative, are added.

        The window then holds at most `most`, and its last error may change or be left out.
        """
        gone = max(0, len(self) + more - most)
        if gone >= len(self) - 1:
            return 0.0
        leaving = self._shared[self._start : self._start + gone]
        kept = self._sum - sum(map(_exact, [*leaving, self._shared[self._stop - 1]]))
        return kept / (min(len(self) + more, most) << _BITS)

    def appended(self, error: float, most: int) -> ErrorWindow:
        """Return the window with another error, and without the oldest beyond `most`."""
        return self.extended([error], most)

    def extended(self, errors: Sequence[float], most: int) -> ErrorWindow:
        """Return the window with further errors, and without the oldest beyond `most`."""
        shared, start, stop = self._shared, self._start, self._stop
        if len(shared) > stop or start > max(stop - start, 1):
            # The list goes on with another window, or holds too much that is past.
            shared = shared[start:stop]
            start, stop = 0, len(shared)
        shared += errors
        total = self._sum + sum(map(_exact, errors))
        return _window(shared, start, stop + len(errors), total).last(most)

    def last(self, most: int) -> ErrorWindow:
        """Return the window of the last errors, at most so many."""
        start = self._stop - most
        if start <= self._start:
            return self
        gone = sum(map(_exact, self._shared[self._start : start]))
        return _window(self._shared, start, self._stop, self._sum - gone)

    def with_last(self, error: float) -> ErrorWindow:
        """Return the window with another error in the place of the last one."""
        return self.without_last().appended(error, len(self))

    def without_last(self) -> ErrorWindow:
        """Return the window without its last error."""
        stop = self._stop - 1
        return _window(self._shared, self._start, stop, self._sum - _exact(self._shared[stop]))

    def without(self, index: int) -> ErrorWindow:
        """Return the window without one of its errors, counted from the oldest."""
        errors = list(self)
        del errors[index]
        return ErrorWindow(errors)

    def replaced(self, index: int, error: float) -> ErrorWindow:
        """Return the window with another error in the place of one."""
        errors = list(self)
        errors[index] = error
        return ErrorWindow(errors)


def _window(shared: list[float], start: int, stop: int, total: int) -> ErrorWindow:
    """A part of a list whose sum is known."""
    window = ErrorWindow.__new__(ErrorWindow)
    window._shared, window._start, window._stop, window._sum = shared, start, stop, total
    return window


def _exact(error: float) -> int:
    """A finite float in units of 2**-1074."""
    numerator, denominator = error.as_integer_ratio()
    return numerator << (_BITS + 1 - denominator.bit_length())
