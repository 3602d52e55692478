"""Strains of initial configurations: symmetric, in opposite pairs, of a size that is known."""

import numpy as np
import pytest

from anharm.server.initial_strains import initial_deformations


@pytest.mark.parametrize("number", [1, 2, 6])
def test_strains_come_in_opposite_pairs(number):
    found = initial_deformations(number, 0.02, seed=3)
    assert len(found) == number
    np.testing.assert_array_equal(found[0], np.eye(3))
    for one in found[1:]:
        np.testing.assert_array_equal(one, one.T)
        assert np.abs(one - np.eye(3)).max() == pytest.approx(0.02)
    for first, second in zip(found[1::2], found[2::2], strict=False):
        np.testing.assert_allclose(first + second, 2 * np.eye(3), atol=1e-15)
    again = initial_deformations(number + 2, 0.02, seed=3)
    np.testing.assert_array_equal(again[:number], found)
    np.testing.assert_array_equal(initial_deformations(2, 0.0, seed=3), [np.eye(3)] * 2)
