"""Translational sum rules: moving the whole crystal costs nothing.

For every cluster c of n-1 atoms and every component, sum_b Phi(n)[c + b] = 0, where b runs over
all atoms of the crystal. Orders never mix. At first order c is empty, and b runs over one cell: the
forces on the atoms of the ideal crystal add up to zero.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.linalg import solve_triangular
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from anharm.model.clusters import ClusterOrbit, canonical, encode
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.symmetric_tensors import Multiplicities, dimensions, exponents
from anharm.model.symmetry_basis import SymmetryBasis, multiplicity_orbits


def sum_rule_matrix(
    basis: SymmetryBasis,
    orbits: list[ClusterOrbit],
    neighbour_lists: list[IntArray],
    n_sites: int,
) -> csr_array:
    """Rows whose product with the parameters of one order must vanish.

    Parameters
    ----------
    basis : SymmetryBasis
        Symmetry-allowed parameters of order n.
    orbits : list of ClusterOrbit
        Orbits of distinct atoms that occur at this order.
    neighbour_lists : list of (m, 4) int
        Neighbours of each site of the home cell within the largest cutoff of the order.

    Returns
    -------
    (n_rows, n_parameters) sparse float
    """
    if basis.order == 1:
        return distinct_rows(_total_force(basis))
    rows, columns, values = [], [], []
    n_rows = 0
    for orbit in orbits:
        if orbit.n_bodies > basis.order - 1:
            continue
        candidates = _candidates(orbit.bodies, neighbour_lists, n_sites)
        for members in multiplicity_orbits(orbit, basis.order - 1):
            multiplicities = next(iter(members))
            for extra in candidates:
                block = _block(basis, orbit.bodies, multiplicities, extra, n_sites)
                if block is not None:
                    rows.append(block.row + n_rows)
                    columns.append(block.col)
                    values.append(block.data)
            n_rows += 3 * int(np.prod(dimensions(multiplicities)))
    if not rows:
        return csr_array((0, basis.n_parameters))
    matrix = coo_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(n_rows, basis.n_parameters),
    )
    return distinct_rows(matrix.tocsr())


def _total_force(basis: SymmetryBasis) -> csr_array:
    """(3, n_parameters) sum of the first-order constants of one cell."""
    total = np.zeros((3, basis.n_parameters))
    for cluster in basis.clusters.values():
        total[:, cluster.columns] += cluster.tensors.toarray()
    return csr_array(total)


def _candidates(bodies: IntArray, neighbour_lists: list[IntArray], n_sites: int) -> list[IntArray]:
    """The atoms of a cluster and the common neighbours of all of them."""
    common: dict[int, IntArray] = {}
    for count, body in enumerate(bodies):
        around = neighbour_lists[body[3]].copy()
        around[:, :3] += body[:3]
        codes = encode(around, n_sites).tolist()
        here = dict(zip(codes, around, strict=True))
        common = here if count == 0 else {c: common[c] for c in here if c in common}
    return [*bodies, *common.values()]


@cache
def _raised_monomials(
    multiplicities: Multiplicities, position: int, new: bool
) -> tuple[IntArray, FloatArray]:
    """Where each monomial goes when multiplied by a displacement of the atom at `position`.

    Returns
    -------
    index : (d * 3,) int
        Monomial of the larger cluster, axis varying fastest.
    factor : (d * 3,) float
        sqrt((alpha + 1) / (m + 1)), from orthonormal coordinates to a sum of force constants.
    """
    larger = list(multiplicities)
    if new:
        larger.insert(position, 1)
    else:
        larger[position] += 1
    table = {a.tobytes(): i for i, a in enumerate(exponents(tuple(larger)))}
    smaller = exponents(multiplicities)
    if new:
        smaller = np.insert(smaller, position, 0, axis=1)
    index = np.empty((len(smaller), 3), dtype=np.int64)
    factor = np.empty((len(smaller), 3))
    for axis in range(3):
        raised = smaller.copy()
        raised[:, position, axis] += 1
        index[:, axis] = [table[a.tobytes()] for a in raised]
        factor[:, axis] = np.sqrt(raised[:, position, axis] / larger[position])
    return index.ravel(), factor.ravel()


def _block(
    basis: SymmetryBasis,
    bodies: IntArray,
    multiplicities: Multiplicities,
    extra: IntArray,
    n_sites: int,
) -> coo_array | None:
    """Contribution of one added atom to the rows of one smaller cluster."""
    inside = np.flatnonzero(np.all(bodies == extra, axis=1))
    if inside.size:
        position, larger_bodies = int(inside[0]), bodies
        larger = list(multiplicities)
        larger[position] += 1
    else:
        larger_bodies, order = canonical(np.vstack([bodies, extra[None]]), n_sites)
        position = int(np.flatnonzero(order == len(bodies))[0])
        larger = list(multiplicities)
        larger.insert(position, 1)
    cluster = basis.clusters.get((encode(larger_bodies, n_sites).tobytes(), tuple(larger)))
    if cluster is None:
        return None
    index, factor = _raised_monomials(multiplicities, position, not inside.size)
    part = coo_array(cluster.tensors[index])
    return coo_array(
        (part.data * factor[part.row], (part.row, part.col + cluster.columns.start)),
        shape=(len(index), basis.n_parameters),
    )


def distinct_rows(matrix: csr_array) -> csr_array:
    """Normalise the rows and drop those that repeat or vanish."""
    norms = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    kept = np.flatnonzero(norms > 1e-9)
    matrix = csr_array(matrix[kept].multiply(1 / norms[kept, None]))
    matrix.data[np.abs(matrix.data) < 1e-11] = 0
    matrix.eliminate_zeros()
    matrix.sort_indices()
    seen: dict[bytes, int] = {}
    for row in range(matrix.shape[0]):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        sign = np.sign(matrix.data[part][0])
        key = matrix.indices[part].tobytes() + np.round(matrix.data[part] * sign, 8).tobytes()
        seen.setdefault(key, row)
    return matrix[np.array(sorted(seen.values()), dtype=np.int64)]


def null_space(constraints: csr_array, sizes: FloatArray | None = None) -> csr_array:
    """Basis of the vectors that every row annihilates, orthonormal in units of given sizes.

    Each connected component of the parameters is treated on its own.

    Parameters
    ----------
    constraints : (n_rows, n_parameters) sparse float
    sizes : (n_parameters,) float, optional
        Unit of each parameter: equal priors of the basis vectors' coefficients expect parameters of
        these sizes. 1 by default.

    Returns
    -------
    (n_parameters, n_free) sparse float
    """
    n_parameters = constraints.shape[1]
    if n_parameters == 0:
        return csr_array((0, 0))
    pattern = abs(constraints).T @ abs(constraints)
    n_components, component_of = connected_components(pattern, directed=False)
    by_column = constraints.tocsc()
    rows, columns, values = [], [], []
    n_free = 0
    for component in range(n_components):
        members = np.flatnonzero(component_of == component)
        part = by_column[:, members].tocsr()
        used = np.flatnonzero(np.diff(part.indptr))
        free = _dense_null_space(part[used].toarray())
        if sizes is not None:
            free = _orthonormal_in(sizes[members], free)
        index, free_index = np.nonzero(free)
        rows.append(members[index])
        columns.append(free_index + n_free)
        values.append(free[index, free_index])
        n_free += free.shape[1]
    return csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(n_parameters, n_free),
    )


def _dense_null_space(matrix: FloatArray, tolerance: float = 1e-10) -> FloatArray:
    """Orthonormal null space from the eigenvectors of the Gram matrix.

    Constraints are sums of a few orthonormal coordinates, so the smallest singular value is of the
    order of the largest (0.37 against 2.0 for sixth order in BAs) and squaring it loses nothing.
    """
    if not matrix.shape[0]:
        return np.eye(matrix.shape[1])
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    free: FloatArray = vectors[:, values < tolerance * values[-1]].copy()
    free[np.abs(free) < 1e-14] = 0
    return free


def _orthonormal_in(sizes: FloatArray, free: FloatArray) -> FloatArray:
    """Combinations of orthonormal columns that are orthonormal in units of the sizes."""
    triangle = np.linalg.qr(free / sizes[:, None], mode="r")
    triangle *= np.sign(np.diag(triangle))[:, None]  # where all sizes are 1, nothing changes
    found: FloatArray = solve_triangular(triangle, free.T, trans="T", check_finite=False).T
    found[np.abs(found) < 1e-14 * sizes[:, None]] = 0
    return found
