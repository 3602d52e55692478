"""Clusters of the infinite crystal: cliques of atoms, and their orbits under the space group.

Atoms are (cell, cell, cell, site). The order of atoms by cell, then site, is unchanged by lattice
translations, so a set of atoms has one canonical form: sorted, with its first atom in the home
cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell
from anharm.model.symmetry import SpaceGroup

SHELL_TOLERANCE = 1e-6  # Angstrom; one shell of neighbours is never split by rounding
_CELL_RANGE = 1 << 9  # codes below stay within 63 bits for cells within +-256 and 2^32 sites


def encode(bodies: IntArray, n_sites: int) -> IntArray:
    """Integer codes of atoms (..., 4), whose order is that of the atoms."""
    cells = bodies[..., :3] + _CELL_RANGE // 2
    code = (cells[..., 0] * _CELL_RANGE + cells[..., 1]) * _CELL_RANGE + cells[..., 2]
    return np.asarray(code * n_sites + bodies[..., 3], dtype=np.int64)


def canonical(bodies: IntArray, n_sites: int) -> tuple[IntArray, IntArray]:
    """Sort the atoms of each cluster and move its first one into the home cell.

    Parameters
    ----------
    bodies : (..., k, 4) int

    Returns
    -------
    bodies : (..., k, 4) int
        Canonical clusters.
    order : (..., k) int
        `order[..., i]` is the position that canonical atom i had before.
    """
    order = np.argsort(encode(bodies, n_sites), axis=-1, kind="stable")
    moved = np.take_along_axis(bodies, order[..., None], axis=-2)
    moved[..., :3] -= moved[..., :1, :3].copy()
    return moved, order


def cluster_keys(bodies: IntArray, n_sites: int) -> list[bytes]:
    """One hashable key per cluster of (n, k, 4) canonical clusters."""
    codes = np.ascontiguousarray(encode(bodies, n_sites))
    return [row.tobytes() for row in codes]


@dataclass(frozen=True)
class ClusterOrbit:
    """The clusters of k distinct atoms that symmetry makes equal to one representative.

    Parameters
    ----------
    bodies : (k, 4) int
        The representative, canonical.
    diameter : float
        Largest pair distance, Angstrom.
    images : (n_images, k, 4) int
        One canonical cluster per primitive cell for each member, the representative first;
        atom i is the image of atom i of the representative (so not sorted).
    image_operations : (n_images,) int
        The operation that maps the representative to each image.
    stabiliser_operations, stabiliser_permutations : (n_stabiliser,), (n_stabiliser, k) int
        Operations that map the representative onto itself; atom i goes to position
        `stabiliser_permutations[h, i]`.
    """

    bodies: IntArray
    diameter: float
    images: IntArray
    image_operations: IntArray
    stabiliser_operations: IntArray
    stabiliser_permutations: IntArray

    @property
    def n_bodies(self) -> int:
        """Number of distinct atoms."""
        return len(self.bodies)


def within(distances: FloatArray, cutoff: float) -> NDArray[np.bool_]:
    """Whether distances lie below a cutoff; a shell at the cutoff itself lies outside, whole."""
    return np.asarray(distances < cutoff - SHELL_TOLERANCE)


def neighbours(crystal: Crystal, cutoff: float) -> list[IntArray]:
    """Atoms closer than the cutoff to each site of the home cell, the site itself left out.

    Returns
    -------
    list of (n, 4) int
        One array per site, in the order of atoms.
    """
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    reach = np.ceil(cutoff / heights).astype(int) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    cells = grid.reshape(-1, 3)
    found = []
    for site in range(crystal.n_sites):
        offsets = crystal.fractional_positions - crystal.fractional_positions[site]
        vectors = (cells[:, None] + offsets[None]) @ crystal.lattice
        distances = np.linalg.norm(vectors, axis=-1)
        cell_index, sites = np.nonzero(within(distances, cutoff) & (distances > 1e-6))
        found.append(np.column_stack([cells[cell_index], sites]).astype(np.int64))
    return found


def largest_fitting_cutoff(supercell: Supercell, radius: float) -> float:
    """The largest cutoff with which no pair of atoms is in range twice, Angstrom.

    Two neighbours of a site that are images of one supercell atom, or a neighbour that is an image
    of the site itself, must not both lie within the cutoff.

    Parameters
    ----------
    supercell : Supercell
    radius : float
        How far to look, Angstrom; inf is returned if every pair within it is unique.
    """
    crystal = supercell.crystal
    limit = np.inf
    for site, around in enumerate(neighbours(crystal, radius)):
        atoms = around[:, 3] * supercell.n_cells + supercell.cell_index(around[:, :3])
        own = site * supercell.n_cells + supercell.cell_index(np.zeros(3, dtype=np.int64))
        origin = crystal.fractional_positions[site]
        vectors = around[:, :3] + crystal.fractional_positions[around[:, 3]] - origin
        distances = np.linalg.norm(vectors @ crystal.lattice, axis=1)
        order = np.argsort(distances, kind="stable")
        _, first = np.unique(atoms[order], return_index=True)
        repeated = np.ones(len(order), dtype=bool)
        repeated[first] = False
        repeated |= atoms[order] == own
        if repeated.any():
            limit = min(limit, float(distances[order][repeated].min()))
    return limit


def cliques(crystal: Crystal, n_bodies: int, cutoff: float) -> Iterator[IntArray]:
    """Clusters of distinct atoms, all pairs closer than the cutoff, one per translation class.

    Yields
    ------
    (n, n_bodies, 4) int
        Canonical clusters that begin at one site of the home cell.
    """
    n_sites = crystal.n_sites
    for site, around in enumerate(neighbours(crystal, cutoff)):
        first = np.array([[0, 0, 0, site]], dtype=np.int64)
        later = around[encode(around, n_sites) > encode(first, n_sites)]
        later = later[np.argsort(encode(later, n_sites))]
        positions = (later[:, :3] + crystal.fractional_positions[later[:, 3]]) @ crystal.lattice
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        adjacent = np.triu(within(distance, cutoff), 1)
        members = np.zeros((1, 0), dtype=np.int64)
        allowed = np.ones((1, len(later)), dtype=bool)
        for _ in range(n_bodies - 1):
            parent, added = np.nonzero(allowed)
            members = np.column_stack([members[parent], added])
            allowed = allowed[parent] & adjacent[added]
        starts = np.broadcast_to(first, (len(members), 1, 4))
        yield np.concatenate([starts, later[members]], axis=1)


def diameters(crystal: Crystal, clusters: IntArray) -> FloatArray:
    """Largest pair distance of each cluster (n, k, 4), Angstrom."""
    fractional = clusters[..., :3] + crystal.fractional_positions[clusters[..., 3]]
    positions = fractional @ crystal.lattice
    largest = np.zeros(len(clusters))
    for i in range(clusters.shape[1]):
        for j in range(i):
            distance = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
            np.maximum(largest, distance, out=largest)
    return largest


def find_orbits(
    crystal: Crystal, group: SpaceGroup, n_bodies: int, cutoff: float
) -> list[ClusterOrbit]:
    """Orbits of all clusters of `n_bodies` distinct atoms with diameter below the cutoff."""
    clusters = np.concatenate(list(cliques(crystal, n_bodies, cutoff)))
    sizes = diameters(crystal, clusters)
    keys = cluster_keys(clusters, crystal.n_sites)
    seen: set[bytes] = set()
    orbits = []
    for index in np.argsort(np.round(sizes, 6), kind="stable"):
        if keys[index] in seen:
            continue
        orbit = _orbit_of(clusters[index], float(sizes[index]), group, crystal.n_sites)
        sorted_images, _ = canonical(orbit.images, crystal.n_sites)
        seen.update(cluster_keys(sorted_images, crystal.n_sites))
        orbits.append(orbit)
    return orbits


def _orbit_of(bodies: IntArray, diameter: float, group: SpaceGroup, n_sites: int) -> ClusterOrbit:
    """All images of a canonical cluster, and the operations that leave it where it is."""
    raw = group.apply(bodies)
    sorted_images, order = canonical(raw, n_sites)
    first_cell = np.take_along_axis(raw, order[:, :1, None], axis=1)[..., :3]
    raw[..., :3] -= first_cell
    codes = encode(sorted_images, n_sites)
    own = np.all(codes == encode(bodies, n_sites), axis=1)
    _, first = np.unique(codes, axis=0, return_index=True)
    identity = int(np.flatnonzero(own)[0])
    others = np.sort(first[~own[first]])
    chosen = np.concatenate([[identity], others])
    stabiliser = np.flatnonzero(own)
    return ClusterOrbit(
        bodies=bodies,
        diameter=diameter,
        images=raw[chosen],
        image_operations=chosen,
        stabiliser_operations=stabiliser,
        stabiliser_permutations=np.argsort(order[stabiliser], axis=1),
    )
