"""Observations are used only if every number can be one."""

from dataclasses import replace

import numpy as np
import pytest

from anharm.server.observed import Observed
from anharm.wire.messages import BadMessage, Observation, Observations

VALUES = np.array([[0.3, 0.1, 0.2, -5.0], [0.4, 0.2, 0.3, -6.0], [0.5, 0.3, 0.4, -7.0]])
MESSAGE = Observations.of("client", 7, 2, True, b"one    1two    2three  3", VALUES)
ALONE = Observation("client", 9, b"three  3", 2, True, 0.5, 0.3, 0.4, -7.0)


def test_one_of_many_is_what_comes_alone():
    together, alone = Observed.of(MESSAGE), Observed.of(ALONE)
    assert len(together) == 3 and len(alone) == 1
    last = together.part(2)
    assert (last.sequence, last.configurations) == (alone.sequence, alone.configurations)
    assert last.errors == alone.errors == [float(np.float32(0.5))], "as the record keeps them"
    np.testing.assert_array_equal(last.values, alone.values)


@pytest.mark.parametrize(("place", "number"), [(0, -0.1), (1, np.inf), (2, 1e31), (3, np.nan)])
def test_a_number_that_cannot_be_one_is_refused(place, number):
    values = VALUES.copy()
    values[1, place] = number
    with pytest.raises(BadMessage):
        Observed.of(replace(MESSAGE, values=values.tobytes()))
    names = ("force_std_max", "force_std_mean", "force_std_rms", "energy")
    with pytest.raises(BadMessage):
        Observed.of(replace(ALONE, **{names[place]: float(number)}))


@pytest.mark.parametrize(
    "change",
    [
        {"configurations": b""},
        {"configurations": bytes(23)},
        {"configurations": bytes(16)},
        {"values": VALUES.tobytes()[:-1]},
        {"values": VALUES.tobytes()[:-8]},
        {"configurations": b"", "values": b""},
        {"configurations": bytes(8 * 4097), "values": bytes(32 * 4097)},
    ],
)
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(BadMessage, match="bytes"):
        Observed.of(replace(MESSAGE, **change))
