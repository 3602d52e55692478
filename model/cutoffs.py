"""Cutoffs per order and number of bodies: spelt out, and held against the supercell."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.clusters import SHELL_TOLERANCE, largest_fitting_cutoff
from anharm.model.crystal import Crystal, Supercell, as_supercell_matrix
from anharm.model.supercell_range import holds_pairs, longest_pair

Cutoffs = Mapping[int, float | Mapping[int, float] | str]
WHOLE = "supercell"  # instead of a cutoff of order 2


def whole_supercell(
    crystal: Crystal, cutoffs: Cutoffs, supercell: ArrayLike | None
) -> Supercell | None:
    """The supercell whose pairs order 2 is to hold; None if it has a cutoff.

    Raises
    ------
    ModelError
        If the supercell is needed and not given.
    """
    if cutoffs.get(2) != WHOLE:
        return None
    if supercell is None:
        raise ModelError(
            f'expansion.cutoffs: order 2 = "{WHOLE}" needs a supercell; give crystal.supercell'
        )
    return Supercell(crystal, as_supercell_matrix(supercell))


def normalise_cutoffs(
    cutoffs: Cutoffs, whole: Supercell | None = None
) -> dict[int, dict[int, float]]:
    """Spell out the cutoff for every number of bodies of every order.

    A number means the same cutoff for all bodies. In a table, a number of bodies that is not
    listed takes the value of the next smaller one that is. `whole` is the supercell of "supercell".

    Raises
    ------
    ModelError
        For orders outside 2..6, non-positive cutoffs, or cutoffs that grow with the bodies.
    """
    if not cutoffs:
        raise ModelError("expansion.cutoffs is empty; give at least order 2, e.g. { 2 = 5.0 }")
    result: dict[int, dict[int, float]] = {}
    for order in sorted(cutoffs):
        value = cutoffs[order]
        if isinstance(value, str):
            value = _range_of_whole(order, value, whole)
        if not 2 <= order <= 6:
            hint = "; forces at the sites are expansion.first_order" if order == 1 else ""
            raise ModelError(f"expansion.cutoffs: order {order} is outside the orders 2 to 6{hint}")
        table = dict(value) if isinstance(value, Mapping) else {2: float(value)}
        if not table or min(table) > 2 or max(table) > order or min(table) < 2:
            raise ModelError(
                f"expansion.cutoffs: order {order} must list cutoffs for 2 up to at most "
                f"{order} bodies, beginning with 2; got bodies {sorted(table)}"
            )
        by_bodies: dict[int, float] = {}
        for n_bodies in range(2, order + 1):
            by_bodies[n_bodies] = float(table.get(n_bodies, by_bodies.get(n_bodies - 1, 0.0)))
        values = list(by_bodies.values())
        if values[0] <= 0 or min(values) < 0 or not np.isfinite(values).all():
            raise ModelError(
                f"expansion.cutoffs: order {order} has the cutoffs {values} Angstrom; cutoffs "
                "must be positive"
            )
        if any(b > a for a, b in pairwise(values)):
            raise ModelError(
                f"expansion.cutoffs: order {order} has cutoffs {values} Angstrom that grow with "
                "the number of bodies; they must not"
            )
        result[order] = by_bodies
    return result


def _range_of_whole(order: int, value: str, whole: Supercell | None) -> float:
    """What a word instead of a cutoff means, Angstrom."""
    if order != 2 or value != WHOLE or whole is None:
        raise ModelError(
            f"expansion.cutoffs: order {order} has the cutoff {value!r}; give Angstrom (order 2 "
            f'may have "{WHOLE}": all pairs of atoms of crystal.supercell)'
        )
    return longest_pair(whole)


def check_cutoffs_fit(
    supercell: Supercell,
    by_order: Mapping[int, Mapping[int, float]],
    whole: Supercell | None = None,
) -> None:
    """Refuse cutoffs with which a cluster would meet its own periodic image.

    Parameters
    ----------
    supercell : Supercell
    by_order : mapping
        Order -> {number of bodies: cutoff in Angstrom}.
    whole : Supercell, optional
        Whose pairs the second order holds, whatever its cutoff.

    Raises
    ------
    ModelError
        Naming every such cutoff and the largest one that fits.
    """
    if whole is not None:
        by_order = {order: by_bodies for order, by_bodies in by_order.items() if order != 2}
        if not holds_pairs(whole, supercell):
            raise ModelError(
                "the second order holds all pairs of atoms of the supercell "
                f"{whole.matrix.tolist()}, and the supercell {supercell.matrix.tolist()} has "
                "shorter ways between some of them; use that supercell, or a multiple of it"
            )
        if not by_order:
            return
    largest = max(max(by_bodies.values()) for by_bodies in by_order.values())
    fits = largest_fitting_cutoff(supercell, largest) + SHELL_TOLERANCE
    if largest <= fits:
        return
    wrapping = [
        f"{cutoff:g} Angstrom of order {order}" + _for_bodies(by_bodies, cutoff)
        for order, by_bodies in by_order.items()
        for cutoff in dict.fromkeys(by_bodies.values())
        if cutoff > fits
    ]
    raise ModelError(
        f"expansion.cutoffs: the cutoff{'s' * (len(wrapping) > 1)} {', '.join(wrapping)} "
        f"reach{'es' * (len(wrapping) == 1)} around the supercell; the largest cutoff that fits "
        f"into this supercell is {np.floor(fits * 1000) / 1000:g} Angstrom "
        "(or enlarge crystal.supercell)"
    )


def _for_bodies(by_bodies: Mapping[int, float], cutoff: float) -> str:
    """The numbers of bodies that a cutoff is for, if others have another."""
    bodies = [str(n) for n, value in by_bodies.items() if value == cutoff]
    return f" ({' and '.join(bodies)} bodies)" if len(bodies) < len(by_bodies) else ""
