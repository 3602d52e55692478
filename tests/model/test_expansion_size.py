"""The size of an expansion is known before it is built."""

from __future__ import annotations

import time

import numpy as np
import pytest

from anharm.errors import ModelError
from anharm.model import build_expansion
from anharm.model.clusters import cliques
from anharm.model.expansion_size import (
    ExpansionSize,
    count_cliques,
    estimate_size,
    monomials_per_cluster,
)

LARGE = [
    ("boron arsenide", {2: 6.0, 3: 4.5, 4: 3.5}),
    ("magnesium oxide", {2: 6.0, 3: 4.5, 4: 3.5}),
    ("tin selenide", {2: 6.0, 3: 4.5, 4: 3.6, 5: 3.2, 6: 3.2}),
    ("triclinic", {2: 5.0, 3: 4.5, 4: {2: 4.5, 3: 3.4}}),
    ("gallium nitride", {2: 5.0, 3: 4.0, 4: 3.3}),
]


@pytest.mark.parametrize(
    ("name", "n_bodies", "cutoff"),
    [("silicon", 6, 5.0), ("magnesium", 5, 4.7), ("triclinic", 4, 4.6), ("polonium", 2, 9.0)],
)
def test_clusters_are_counted_without_listing_them(
    laboratory, name: str, n_bodies: int, cutoff: float
) -> None:
    crystal = laboratory.crystal(name)
    listed = [len(np.concatenate(list(cliques(crystal, n, cutoff)))) for n in range(1, n_bodies)]
    counts, complete = count_cliques(crystal, n_bodies, cutoff)
    assert complete
    assert counts[1:n_bodies] == listed


def test_monomials_of_all_clusters_of_three_atoms_are_those_of_nine_variables() -> None:
    """Order 4 in the displacements of three atoms: C(9 + 3, 4) monomials."""
    total = sum(
        n_clusters * monomials_per_cluster(4, n_bodies)
        for n_bodies, n_clusters in [(1, 3), (2, 3), (3, 1)]
    )
    assert total == 495


@pytest.mark.parametrize(("name", "cutoffs"), LARGE)
def test_parameters_are_estimated_before_anything_is_built(
    laboratory, name: str, cutoffs: dict
) -> None:
    crystal = laboratory.crystal(name)
    estimate = estimate_size(crystal, cutoffs)
    exact = ExpansionSize.of(build_expansion(crystal, cutoffs))
    assert estimate.is_complete
    assert exact.n_parameters > 250
    assert estimate.largest_order == exact.largest_order
    assert 0.75 < estimate.n_parameters / exact.n_parameters < 1.05
    assert 0.9 < sum(estimate.monomials.values()) / sum(exact.monomials.values()) < 1.5
    assert estimate.neighbours_per_site == pytest.approx(exact.neighbours_per_site)


@pytest.mark.parametrize(
    ("cutoffs", "smallest"), [({2: 6.0, 6: 6.0}, 3e5), ({6: 12.0}, 1e8), ({3: 50.0}, 1e6)]
)
def test_what_is_far_too_large_is_known_within_seconds(
    laboratory, cutoffs: dict, smallest: float
) -> None:
    started = time.monotonic()
    assert estimate_size(laboratory.crystal("tin selenide"), cutoffs).n_parameters > smallest
    assert time.monotonic() - started < 20  # 1 s on a machine that does nothing else


def test_impossible_cutoffs_are_refused_when_counting_too(laboratory) -> None:
    with pytest.raises(ModelError, match="positive"):
        estimate_size(laboratory.crystal("silicon"), {2: -3.0})
