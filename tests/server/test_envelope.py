"""Series are thinned without losing what stands out, and averaged as the decisions did."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anharm.configuration import TrainingSection
from anharm.server.decision import ObservedStep, TrajectoryState, decide
from anharm.server.envelope import envelope, trailing_mean

SERIES = arrays(float, st.integers(1, 300), elements=st.floats(-10, 10))


@given(SERIES, st.integers(1, 40))
def test_extremes_survive_and_bins_hold_the_mean(values, largest):
    thin = envelope(np.arange(len(values)), values, largest)
    assert len(thin.mean) == min(len(values), largest)
    assert thin.highest.max() == values.max() and thin.lowest.min() == values.min()
    assert (thin.lowest <= thin.mean + 1e-9).all() and (thin.mean <= thin.highest + 1e-9).all()
    assert (np.diff(thin.position) > 0).all()
    if len(values) % len(thin.mean) == 0:
        np.testing.assert_allclose(thin.mean.mean(), values.mean(), atol=1e-9)


def test_what_is_not_finite_is_left_out_and_an_empty_bin_is_empty():
    thin = envelope(np.arange(6), np.array([np.nan, 1.0, 3.0, np.inf, np.nan, np.nan]), 3)
    assert thin.highest[:2].tolist() == [1.0, 3.0] and thin.lowest[:2].tolist() == [1.0, 3.0]
    assert np.isnan([thin.mean[2], thin.lowest[2], thin.highest[2]]).all()
    assert len(envelope(np.empty(0), np.empty(0), 5).mean) == 0


@given(arrays(float, st.integers(1, 120), elements=st.floats(0, 1)), st.integers(1, 50))
def test_the_threshold_drawn_is_the_one_that_decided(errors, window):
    settings = TrainingSection(window=window, minimum_interval=0, audit_interval=0)
    drawn = settings.factor * trailing_mean(errors, window)
    state = TrajectoryState("a")
    for step, error in enumerate(errors):
        state, decision = decide(state, ObservedStep(step, float(error), 1, 1), settings)
        if decision.threshold is not None:
            np.testing.assert_allclose(drawn[step], decision.threshold, atol=1e-9)
