"""Second order over a whole supercell: every pair of its atoms, along the shortest way.

The forces in a supercell tell the sum of the force constants of an atom and all images of another,
and no cutoff need be chosen where this sum is given to the shortest image. Images that are equally
far share it equally, as phonopy has it: they lie on the surface of the Wigner-Seitz cell of the
supercell's lattice (K. Parlinski, Z. Q. Li and Y. Kawazoe, Phys. Rev. Lett. 78, 4063 (1997)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from anharm.model.clusters import ClusterOrbit, canonical, encode, neighbours
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell
from anharm.model.sum_rules import distinct_rows
from anharm.model.symmetry_basis import SymmetryBasis

_EQUAL = 1e-5  # Angstrom; images whose distances differ by less are equally far
_TRANSPOSED = np.arange(9).reshape(3, 3).T.ravel()
_SHIFTS = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)


def longest_pair(supercell: Supercell) -> float:
    """A length that no shortest way between two atoms of the supercell reaches, Angstrom."""
    crystal = supercell.crystal
    vectors = supercell.positions[None] - crystal.positions[:, None]
    return float(shortest_lengths(vectors, supercell).max()) + 10 * _EQUAL


def shortest_lengths(vectors: FloatArray, supercell: Supercell) -> FloatArray:
    """Lengths (...) of the shortest images of (..., 3) vectors in a supercell, Angstrom."""
    lengths: FloatArray = np.linalg.norm(_images(vectors, supercell), axis=-1)
    return lengths.min(axis=-1)


def are_shortest(pairs: IntArray, supercell: Supercell) -> NDArray[np.bool_]:
    """Whether no image of the second atom is nearer to the first, for pairs (..., 2, 4)."""
    vectors = _vectors(pairs, supercell.crystal)
    lengths = np.linalg.norm(vectors, axis=-1)
    return np.asarray(lengths <= shortest_lengths(vectors, supercell) + _EQUAL)


def shortest_pairs(orbits: list[ClusterOrbit], supercell: Supercell) -> list[ClusterOrbit]:
    """The orbits of pairs all of which go along the shortest way.

    In a supercell of lower symmetry than the crystal, a pair may go along it, and its image under
    an operation of the crystal not: such an orbit is left out.
    """
    return [orbit for orbit in orbits if are_shortest(orbit.images, supercell).all()]


def sharing_rules(basis: SymmetryBasis, supercell: Supercell) -> csr_array:
    """Rows whose product with the second-order parameters must vanish: equal images are equal.

    Returns
    -------
    (n_rows, n_parameters) sparse float
    """
    n_sites = supercell.crystal.n_sites
    blocks = [csr_array((0, basis.n_parameters))]
    for (code, multiplicities), cluster in basis.clusters.items():
        if len(multiplicities) != 2:
            continue
        tied = _equally_far(cluster.bodies, supercell)
        for bodies, order in zip(*canonical(tied, n_sites), strict=True):
            other_code = encode(bodies, n_sites).tobytes()
            other = basis.clusters.get((other_code, multiplicities))
            if other is None or (other_code == code and order[0] == 0):
                continue
            turned = other.tensors if order[0] == 0 else other.tensors[_TRANSPOSED]
            blocks.append(
                _at_columns(cluster.tensors, cluster.columns, basis.n_parameters)
                - _at_columns(turned, other.columns, basis.n_parameters)
            )
    return distinct_rows(csr_array(vstack(blocks, format="csr")))


def holds_pairs(supercell: Supercell, other: Supercell) -> bool:
    """Whether every shortest way between atoms of one supercell is a shortest one in the other."""
    if is_multiple(other, supercell):
        return True
    for site, around in enumerate(neighbours(supercell.crystal, longest_pair(supercell))):
        pairs = _pairs_of(site, around)
        used = are_shortest(pairs, supercell)
        if not are_shortest(pairs[used], other).all():
            return False
    return True


def is_multiple(supercell: Supercell, of: Supercell) -> bool:
    """Whether a supercell's vectors are sums of integer multiples of those of another."""
    ratios = supercell.matrix @ np.linalg.inv(of.matrix)
    return bool(np.abs(ratios - np.round(ratios)).max() < 1e-9)


def count_shortest_pairs(supercell: Supercell) -> int:
    """Shortest ways between atoms, per primitive cell, all of equal length counted."""
    crystal = supercell.crystal
    around = neighbours(crystal, longest_pair(supercell))
    found = (are_shortest(_pairs_of(site, a), supercell).sum() for site, a in enumerate(around))
    return int(sum(found)) // 2


def _pairs_of(site: int, others: IntArray) -> IntArray:
    """(n, 2, 4) pairs of a site of the home cell with (n, 4) atoms."""
    first = np.broadcast_to(np.array([0, 0, 0, site]), others.shape)
    return np.stack([first, others], axis=1)


def _images(vectors: FloatArray, supercell: Supercell) -> FloatArray:
    """(..., 27, 3) images of vectors, the shortest among them.

    In a Minkowski-reduced lattice no image is shorter than those next to the origin.
    """
    lattice = supercell.reduced_lattice
    fractional = vectors @ np.linalg.inv(lattice)
    fractional -= np.round(fractional)
    images: FloatArray = (fractional[..., None, :] + _SHIFTS) @ lattice
    return images


def _vectors(pairs: IntArray, crystal: Crystal) -> FloatArray:
    """(..., 3) from the first atom of each pair (..., 2, 4) to the second, Angstrom."""
    fractional = pairs[..., :3] + crystal.fractional_positions[pairs[..., 3]]
    vectors: FloatArray = (fractional[..., 1, :] - fractional[..., 0, :]) @ crystal.lattice
    return vectors


def _equally_far(pair: IntArray, supercell: Supercell) -> IntArray:
    """(n, 2, 4) the pairs with the same first atom and the nearest images of the second."""
    crystal = supercell.crystal
    vector = _vectors(pair, crystal)
    images = _images(vector, supercell)
    lengths = np.linalg.norm(images, axis=1)
    near = images[lengths <= lengths.min() + _EQUAL]
    moves = np.round((near - vector) @ np.linalg.inv(crystal.lattice)).astype(np.int64)
    found = np.repeat(pair[None], len(moves), axis=0)
    found[:, 1, :3] += moves
    return found


def _at_columns(tensors: csr_array, columns: slice, n_columns: int) -> csr_array:
    part = coo_array(tensors)
    placed = coo_array(
        (part.data, (part.row, part.col + columns.start)), shape=(part.shape[0], n_columns)
    )
    return csr_array(placed)
