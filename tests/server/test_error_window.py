"""The window of the last errors: what is in it, its mean, and its cost."""

import time
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from anharm.server.error_window import ErrorWindow

errors = st.floats(min_value=0, max_value=1e30)


def direct_mean(values: list[float]) -> float | None:
    return float(sum(map(Fraction, values)) / len(values)) if values else None


@given(st.lists(errors, max_size=60), st.integers(1, 20))
def test_content_and_mean_are_those_of_the_last_errors(values, most):
    windows = [ErrorWindow()]
    for error in values:
        windows.append(windows[-1].appended(error, most))
    for count, window in enumerate(windows):
        expected = values[max(0, count - most) : count]
        assert list(window) == expected
        assert window.mean == direct_mean(expected)


@given(st.lists(errors, min_size=1, max_size=30), st.data())
def test_changes_leave_other_windows_alone(values, data):
    """An older window goes on in two ways, and one error is replaced or left out."""
    window = ErrorWindow(values)
    index = data.draw(st.integers(0, len(values) - 1))
    first, second = window.appended(1.0, 100), window.appended(2.0, 100)
    replaced, shortened = window.replaced(index, 3.0), window.without(index)
    assert list(first) == [*values, 1.0] and list(second) == [*values, 2.0]
    assert list(replaced) == [*values[:index], 3.0, *values[index + 1 :]]
    assert list(shortened) == values[:index] + values[index + 1 :]
    for changed in (window, first, second, replaced, shortened):
        assert changed.mean == direct_mean(list(changed))
    assert list(window) == values


def test_the_mean_forgets_what_was_enormous():
    """A running sum in floating point would be left with the rounding errors of the large one."""
    window = ErrorWindow()
    for error in [1e30, *[0.01] * 10]:
        window = window.appended(error, 10)
    assert window.mean == 0.01


def seconds_per_step(most: int) -> float:
    """Seconds for another error and its mean, of a full window."""
    window = ErrorWindow([0.01] * most)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(1000):
            window = window.appended(0.02, most)
            assert window.mean is not None
        best = min(best, time.perf_counter() - start)
    return best / 1000


def test_a_hundredfold_window_does_not_cost_more():
    assert seconds_per_step(100_000) < 5 * seconds_per_step(1000)
