"""Configurations have the same digest only if they are the same."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anharm.wire.digests import digests_of
from anharm.wire.messages import DIGEST_BYTES

CELL = 10.86 * np.eye(3)
IDEAL = np.stack(np.meshgrid(*[np.arange(4) * 2.715] * 3), axis=-1).reshape(-1, 3)


def test_each_of_a_batch_has_the_digest_that_it_has_alone():
    positions = IDEAL + np.random.default_rng(0).normal(0, 0.1, (5, *IDEAL.shape))
    together = digests_of(CELL, positions)
    assert len(together) == 5 * DIGEST_BYTES
    assert together == b"".join(digests_of(CELL, one[None]) for one in positions)
    assert len({together[i : i + DIGEST_BYTES] for i in range(0, 40, DIGEST_BYTES)}) == 5


@given(place=st.integers(0, IDEAL.size - 1), bit=st.integers(0, 63))
def test_one_bit_of_one_coordinate_is_noticed(place, bit):
    moved = IDEAL.copy()
    moved.reshape(-1).view(np.uint64)[place] ^= np.uint64(1 << bit)
    assert digests_of(CELL, moved[None]) != digests_of(CELL, IDEAL[None])


@given(
    scale=st.sampled_from([1.0, 0.25, 2.0**20]),
    moves=st.lists(
        st.tuples(st.integers(0, IDEAL.size - 1), st.sampled_from([-1.0, -0.5, 0.5, 1.0])),
        min_size=1,
        max_size=6,
        unique_by=lambda move: move[0],
    ),
)
def test_round_numbers_in_other_places_are_other_configurations(scale, moves):
    """Their bits differ in few places, which are all in the upper half."""
    moved = np.zeros(IDEAL.shape)
    for place, by in moves:
        moved.reshape(-1)[place] = scale * by
    assert digests_of(CELL, moved[None]) != digests_of(CELL, np.zeros((1, *IDEAL.shape)))


def test_exchanged_atoms_and_another_cell_are_noticed():
    known = digests_of(CELL, IDEAL[None])
    assert digests_of(CELL, IDEAL[None, ::-1]) != known
    assert digests_of(1.001 * CELL, IDEAL[None]) != known
    assert digests_of(CELL.copy(), IDEAL[None].copy()) == known
