"""Symmetry-allowed parameters of one order, and what they mean on every cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from anharm.model.clusters import ClusterOrbit, canonical, encode
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.symmetric_tensors import (
    Multiplicities,
    invariant_tensors,
    permute_atoms,
    rotate,
    symmetric_powers,
)
from anharm.model.symmetry import SpaceGroup

# Force constants fall with the distance between atoms: by learning curves and by their evidence,
# equal priors at all distances are far off in silicon, BAs and SnSe. Powers 4 to 6 of pairs differ
# little (which only whole supercells tell), and so do 6 to 10 of higher orders.
DECAY_OF_PAIRS = 5
DECAY = 8


@dataclass(frozen=True)
class ClusterTensor:
    """The tensor of one cluster as a linear function of the parameters of its orbit.

    Parameters
    ----------
    bodies : (k, 4) int
        Distinct atoms, canonical.
    multiplicities : tuple of int
        How often each atom occurs; they sum to the order.
    columns : slice
        The orbit's parameters among those of the order.
    tensors : (d, p) sparse float
        Coordinates in the orthonormal monomial basis, one column per parameter.
    """

    bodies: IntArray
    multiplicities: Multiplicities
    columns: slice
    tensors: csr_array


@dataclass
class SymmetryBasis:
    """All clusters of one order, one per translation class, before the sum rules.

    Attributes
    ----------
    order : int
    n_parameters : int
        Number of symmetry-allowed parameters.
    diameters : list of float
        Largest distance in the clusters of each of them, Angstrom.
    clusters : dict
        From (codes of the atoms, multiplicities) to the cluster's tensor.
    """

    order: int
    n_parameters: int = 0
    diameters: list[float] = field(default_factory=list)
    clusters: dict[tuple[bytes, Multiplicities], ClusterTensor] = field(default_factory=dict)

    @property
    def expected_sizes(self) -> FloatArray:
        """(n_parameters,) how large each is expected to be, 1 for the nearest atoms.

        (nearest / diameter)^power; atoms on their own count as the nearest.
        """
        power = DECAY_OF_PAIRS if self.order == 2 else DECAY
        diameters = np.array(self.diameters)
        apart = diameters > 0
        sizes = np.ones(len(diameters))
        if apart.any():
            sizes[apart] = (diameters[apart].min() / diameters[apart]) ** power
        return sizes


def compositions(total: int, parts: int) -> list[Multiplicities]:
    """All ways to write `total` as an ordered sum of `parts` positive integers."""
    if parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(total - parts + 1, 0, -1)
        for rest in compositions(total - first, parts - 1)
    ]


def multiplicity_orbits(
    orbit: ClusterOrbit, order: int
) -> list[dict[Multiplicities, tuple[int, ...]]]:
    """Group the multiplicities of one order on a cluster by its stabiliser.

    Returns
    -------
    list of dict
        Per group, from each member to the positions (in `orbit.stabiliser_operations`) of the
        operations that map the group's first member to it.
    """
    remaining = compositions(order, orbit.n_bodies)
    groups = []
    while remaining:
        first = np.array(remaining[0])
        group: dict[Multiplicities, list[int]] = {}
        for index, permutation in enumerate(orbit.stabiliser_permutations):
            image = np.empty_like(first)
            image[permutation] = first
            group.setdefault(tuple(int(m) for m in image), []).append(index)
        remaining = [m for m in remaining if m not in group]
        groups.append({member: tuple(found) for member, found in group.items()})
    return groups


def build_symmetry_basis(
    order: int,
    orbits: list[ClusterOrbit],
    group: SpaceGroup,
    n_sites: int,
    powers: Mapping[int, FloatArray] | list[FloatArray] | None = None,
) -> SymmetryBasis:
    """Find the symmetry-allowed tensors of one order on all given cluster orbits."""
    rotations = (
        list(powers)
        if isinstance(powers, list)
        else symmetric_powers(group.cartesian_rotations, order)
    )
    basis = SymmetryBasis(order)
    for orbit in orbits:
        for members in multiplicity_orbits(orbit, order):
            _add_orbit(basis, orbit, members, rotations, n_sites)
    return basis


def _add_orbit(
    basis: SymmetryBasis,
    orbit: ClusterOrbit,
    members: dict[Multiplicities, tuple[int, ...]],
    powers: list[FloatArray],
    n_sites: int,
) -> None:
    multiplicities = next(iter(members))
    own = list(members[multiplicities])
    operations = orbit.stabiliser_operations[own]
    tensors = invariant_tensors(
        multiplicities,
        [power[operations] for power in powers],
        orbit.stabiliser_permutations[own],
    )
    if not tensors.shape[1]:
        return
    columns = slice(basis.n_parameters, basis.n_parameters + tensors.shape[1])
    basis.n_parameters = columns.stop
    basis.diameters += [orbit.diameter] * tensors.shape[1]
    for found in members.values():
        stabiliser = found[0]
        turn = orbit.stabiliser_operations[stabiliser]
        turned = rotate(tensors, multiplicities, [power[turn] for power in powers])
        permutation = orbit.stabiliser_permutations[stabiliser]
        for image, operation in zip(orbit.images, orbit.image_operations, strict=True):
            moved = rotate(turned, multiplicities, [power[operation] for power in powers])
            bodies, atom_order = canonical(image[permutation], n_sites)
            image_multiplicities = tuple(multiplicities[i] for i in atom_order)
            moved = permute_atoms(moved, multiplicities, atom_order)
            moved[np.abs(moved) < 1e-11] = 0
            key = (encode(bodies, n_sites).tobytes(), image_multiplicities)
            basis.clusters[key] = ClusterTensor(
                bodies, image_multiplicities, columns, csr_array(moved)
            )
