"""How large an expansion would be, from counts of clusters, before any of it is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import comb, prod

import numpy as np
from numpy.typing import ArrayLike

from anharm.model.clusters import encode, neighbours, within
from anharm.model.crystal import Crystal, IntArray
from anharm.model.cutoffs import Cutoffs, normalise_cutoffs, whole_supercell
from anharm.model.expansion import Expansion
from anharm.model.supercell_range import count_shortest_pairs
from anharm.model.symmetry import find_space_group
from anharm.model.symmetry_basis import compositions

_LARGEST_COUNT = 1_000_000  # clusters looked at; an expansion with more fits into no machine
_LARGEST_PAIR_TABLE = 10_000_000  # pairs of neighbours; likewise for order 3 and above


@dataclass(frozen=True)
class ExpansionSize:
    """How much an expansion holds, per cell of its crystal.

    Attributes
    ----------
    n_sites : int
        Atoms in the cell.
    neighbours_per_site : float
        Atoms within the largest cutoff of a site.
    monomials, unconstrained, parameters : dict
        Order -> number of monomials, of symmetry-allowed parameters, and of those that the sum
        rules leave.
    is_complete : bool
        Whether counting came to its end; otherwise all numbers are lower bounds.
    """

    n_sites: int
    neighbours_per_site: float
    monomials: dict[int, int]
    unconstrained: dict[int, int]
    parameters: dict[int, int]
    is_complete: bool = True

    @property
    def n_parameters(self) -> int:
        """Parameters of all orders."""
        return sum(self.parameters.values())

    @property
    def largest_order(self) -> int:
        """The order with most parameters."""
        return max(self.parameters, key=lambda order: self.parameters[order])

    @classmethod
    def of(cls, expansion: Expansion) -> ExpansionSize:
        """The exact size of an expansion that has been built."""
        orders = expansion.monomials.orders
        around = neighbours(expansion.crystal, expansion.surroundings)
        return cls(
            expansion.crystal.n_sites,
            float(np.mean([len(atoms) for atoms in around])),
            {order: int(np.sum(orders == order)) for order in expansion.orders},
            dict(expansion.unconstrained_per_order),
            dict(expansion.parameters_per_order),
        )


def estimate_size(
    crystal: Crystal,
    cutoffs: Cutoffs,
    symmetry_tolerance: float = 1e-3,
    supercell: ArrayLike | None = None,
) -> ExpansionSize:
    """Estimate the size of an expansion in well under a second.

    A polynomial of order n is unchanged by a rigid translation if its three derivatives with
    respect to one vanish. If the derivatives of polynomials on the clusters, of those, and so on
    are independent otherwise (an exact Koszul complex), T_n - 3 T_(n-1) + 3 T_(n-2) - T_(n-3)
    combinations of the T_n monomials survive; symmetry leaves about one in as many as there are
    operations. That misses clusters that lie on symmetry elements, so it is 5 to 20 per cent too
    low for hundreds of parameters, less for thousands, and up to half for a few dozen.

    Parameters are those of `build_expansion`.

    Raises
    ------
    ModelError
        For cutoffs or crystals that cannot be used.
    """
    ideal, group = find_space_group(crystal, symmetry_tolerance)
    whole = whole_supercell(ideal, cutoffs, supercell)
    by_order = normalise_cutoffs(cutoffs, whole)
    widest: dict[float, int] = {}
    for by_bodies in by_order.values():
        for n_bodies, cutoff in by_bodies.items():
            if cutoff:
                widest[cutoff] = max(widest.get(cutoff, 2), n_bodies)
    counts, is_complete = {}, True
    for cutoff, n_bodies in widest.items():
        counts[cutoff], complete = count_cliques(ideal, n_bodies, cutoff)
        is_complete &= complete
    if whole is not None:
        counts[by_order[2][2]] = [1, ideal.n_sites, count_shortest_pairs(whole)]

    def monomials(order: int, by_bodies: dict[int, float]) -> int:
        if order < 1:
            return 1 if order == 0 else 0
        total = ideal.n_sites * monomials_per_cluster(order, 1)
        for n_bodies in range(2, order + 1):
            if cutoff := by_bodies[n_bodies]:
                total += counts[cutoff][n_bodies] * monomials_per_cluster(order, n_bodies)
        return total

    found: dict[str, dict[int, int]] = {"monomials": {}, "unconstrained": {}, "parameters": {}}
    for order, by_bodies in by_order.items():
        total, *lower = (monomials(order - fewer, by_bodies) for fewer in range(4))
        invariant = total - 3 * lower[0] + 3 * lower[1] - lower[2] if is_complete else total
        found["monomials"][order] = total
        found["unconstrained"][order] = round(total / group.n_operations)
        found["parameters"][order] = max(round(invariant / group.n_operations), 1)
    n_pairs = counts[max(counts)][2]
    return ExpansionSize(
        ideal.n_sites, 2 * n_pairs / ideal.n_sites, **found, is_complete=is_complete
    )


@cache
def monomials_per_cluster(order: int, n_bodies: int) -> int:
    """Monomials of an order in the displacements of so many atoms, in which each occurs."""
    return sum(prod(comb(m + 2, 2) for m in parts) for parts in compositions(order, n_bodies))


def count_cliques(
    crystal: Crystal, n_bodies: int, cutoff: float, largest: int = _LARGEST_COUNT
) -> tuple[list[int], bool]:
    """Count the clusters of 0, 1, ..., `n_bodies` atoms per cell, without listing them.

    Returns
    -------
    counts : list of int
    complete : bool
        False if counting stopped because more than `largest` clusters had been looked at.
    """
    counts = [0] * (n_bodies + 1)
    looked_at = n_pairs = 0
    for site, around in enumerate(neighbours(crystal, cutoff)):
        counts[1] += 1
        n_pairs += (len(around) // 2) ** 2
        if n_bodies > 2 and n_pairs > _LARGEST_PAIR_TABLE:
            counts[2] += len(around) // 2
            counts[3] += n_pairs // 8  # about one in four of them is close enough
            return counts, False
        masks = _later_neighbours(crystal, site, around, cutoff, n_bodies > 2)
        # Sets of atoms are bits of an integer: those that may join a cluster of so many atoms.
        waiting = [((1 << len(masks)) - 1, 1)]
        while waiting:
            allowed, size = waiting.pop()
            counts[size + 1] += allowed.bit_count()
            if size + 1 == n_bodies:
                continue
            looked_at += allowed.bit_count()
            if looked_at > largest:
                return counts, False
            rest = allowed
            while rest:
                lowest = rest & -rest
                rest ^= lowest
                if joined := allowed & masks[lowest.bit_length() - 1]:
                    waiting.append((joined, size + 1))
    return counts, True


def _later_neighbours(
    crystal: Crystal, site: int, around: IntArray, cutoff: float, pairs: bool
) -> list[int]:
    """For each neighbour that comes after the site, the later ones within the cutoff, as bits."""
    own = encode(np.array([0, 0, 0, site]), crystal.n_sites)
    codes = encode(around, crystal.n_sites)
    later = around[np.argsort(codes)][np.searchsorted(np.sort(codes), own) :]
    if not pairs:
        return [0] * len(later)
    positions = (later[:, :3] + crystal.fractional_positions[later[:, 3]]) @ crystal.lattice
    masks = []
    for index, position in enumerate(positions):
        near = within(np.linalg.norm(positions - position, axis=1), cutoff)
        near[: index + 1] = False
        masks.append(int.from_bytes(np.packbits(near, bitorder="little").tobytes(), "little"))
    return masks
