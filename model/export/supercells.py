"""Which supercell to write force constants for, and whether they fit into it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.clusters import SHELL_TOLERANCE, largest_fitting_cutoff
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell, as_supercell_matrix
from anharm.model.expansion import Expansion
from anharm.model.supercell_range import holds_pairs

SAME_LATTICE = 0.02  # relative difference of lattice vectors of the same crystal


def choose_supercell(
    expansion: Expansion, orders: tuple[int, ...], supercell: ArrayLike | None
) -> Supercell:
    """The wished supercell if the force constants of some orders fit, or the smallest that does.

    Parameters
    ----------
    expansion : Expansion
    orders : tuple of int
        Orders that are written for this supercell.
    supercell : array_like of int, optional
        Three multiples or a 3x3 matrix whose rows are the new vectors in units of the model's
        lattice vectors; by default the smallest that three multiples give, or the one whose
        pairs the second order holds.

    Raises
    ------
    ModelError
        If a cluster would meet its own image; names the largest cutoff that fits and the smallest
        supercell that would do.
    """
    crystal, whole = expansion.crystal, expansion.second_order_supercell
    chosen = None if supercell is None else Supercell(crystal, as_supercell_matrix(supercell))
    if whole is not None and 2 in orders:
        chosen = chosen or whole
        if not holds_pairs(whole, chosen):
            multiples = " ".join(map(str, multiples_of(whole)))
            raise ModelError(
                f"the supercell {chosen.matrix.tolist()} does not hold the second order of the "
                f"model, which is that of the supercell {whole.matrix.tolist()}; use that one, "
                f"{multiples}, or a multiple of them"
            )
        orders = tuple(order for order in orders if order != 2)
        if not orders:
            return chosen
    largest = {order: max(expansion.cutoffs[order].values()) for order in orders}
    needed = max(largest.values())
    if chosen is None:
        return Supercell(crystal, np.diag(smallest_multiples(crystal, needed)))
    fits = largest_fitting_cutoff(chosen, needed) + SHELL_TOLERANCE
    if needed > fits:
        order = next(order for order in orders if largest[order] == needed)
        multiples = " ".join(map(str, smallest_multiples(crystal, needed)))
        raise ModelError(
            f"the supercell {chosen.matrix.tolist()} is too small for the force constants of "
            f"order {order}: their cutoff is {needed:g} Angstrom, and the largest that fits is "
            f"{np.floor(fits * 1000) / 1000:g} Angstrom; use the supercell {multiples} or larger"
        )
    return chosen


def smallest_multiples(crystal: Crystal, cutoff: float) -> IntArray:
    """(3,) multiples of the lattice vectors: the fewest cells in which a cutoff fits."""
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    # With these, every supercell vector is twice the cutoff, so the search ends.
    sufficient = np.ceil(2 * cutoff / heights).astype(int)
    candidates = product(*(range(1, n + 1) for n in sufficient))
    for multiples in sorted(candidates, key=lambda n: (n[0] * n[1] * n[2], sum(n))):
        supercell = Supercell(crystal, np.diag(multiples).astype(np.int64))
        shortest = 2 * supercell.half_width
        if shortest > cutoff - SHELL_TOLERANCE and (
            largest_fitting_cutoff(supercell, cutoff) + SHELL_TOLERANCE >= cutoff
        ):
            return np.array(multiples, dtype=np.int64)
    return sufficient.astype(np.int64)


def multiples_of(supercell: Supercell) -> IntArray:
    """(3,) the fewest multiples of the crystal's vectors that are a multiple of a supercell."""
    adjugate, determinant = supercell.exact_inverse
    multiples = abs(determinant) // np.gcd(np.gcd.reduce(adjugate, axis=1), determinant)
    return np.asarray(np.abs(multiples), dtype=np.int64)


def same_primitive_cell(ours: Any, theirs: Any, what: str) -> FloatArray:
    """(3, 3) integers M of ours = M @ theirs, rows, for `PhonopyAtoms` of the same crystal.

    Raises
    ------
    ModelError
        If the other is another crystal, or the same one in another orientation; says `what` it is.
    """
    lattice, other = np.asarray(ours.cell), np.asarray(theirs.cell)
    matrix: FloatArray = np.round(lattice @ np.linalg.inv(other))
    same_lattice = (
        round(abs(np.linalg.det(matrix))) == 1
        and np.abs(matrix @ other - lattice).max() < SAME_LATTICE * np.abs(lattice).max()
    )
    if not same_lattice or sorted(ours.numbers) != sorted(theirs.numbers):
        raise ModelError(
            f"{what}: this is another crystal; its primitive cell is "
            f"{np.round(other, 3).tolist()} Angstrom of {' '.join(theirs.symbols)}, the model's "
            f"{np.round(lattice, 3).tolist()} of {' '.join(ours.symbols)}; both must have the same "
            "lattice in the same orientation"
        )
    return matrix
