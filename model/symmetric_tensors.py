"""Symmetric tensors on a cluster in the orthonormal monomial (multiset) basis.

A tensor of order n on a cluster whose atoms occur m = (m_1, ..., m_k) times, sum m = n, lives in
Sym^m1(V) x ... x Sym^mk(V). A basis element is a monomial with exponents alpha (three per atom);
its coordinate psi relates to the force constant by psi = Phi sqrt(m! / alpha!), so that rotations
are orthogonal matrices, and the monomial's coefficient in the energy is
Phi / alpha! = psi / sqrt(m! alpha!).
"""

from __future__ import annotations

from functools import cache
from math import factorial, prod

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from anharm.model.crystal import FloatArray, IntArray

Multiplicities = tuple[int, ...]
_ZERO = 1e-11  # entries of products of orthogonal matrices below this are rounding noise


@cache
def monomials(degree: int) -> tuple[tuple[int, int, int], ...]:
    """Exponents (x, y, z) of the monomials of one atom, in a fixed order."""
    return tuple(
        (x, y, degree - x - y) for x in range(degree, -1, -1) for y in range(degree - x, -1, -1)
    )


@cache
def _raising(degree: int) -> FloatArray:
    """Isometry from Sym^degree into Sym^(degree-1) x V, shape (n_lower * 3, n)."""
    lower = {alpha: index for index, alpha in enumerate(monomials(degree - 1))}
    matrix = np.zeros((len(lower) * 3, len(monomials(degree))))
    for column, alpha in enumerate(monomials(degree)):
        for axis in range(3):
            if alpha[axis]:
                x, y, z = (alpha[i] - (i == axis) for i in range(3))
                matrix[lower[x, y, z] * 3 + axis, column] = np.sqrt(alpha[axis] / degree)
    return matrix


def symmetric_powers(rotations: FloatArray, maximum_degree: int) -> list[FloatArray]:
    """Rotations acting on Sym^0, ..., Sym^maximum_degree.

    Parameters
    ----------
    rotations : (n, 3, 3) float
        Orthogonal matrices.

    Returns
    -------
    list of (n, d, d) float
        Orthogonal representation matrices, d = (degree + 1)(degree + 2) / 2.
    """
    powers = [np.ones((len(rotations), 1, 1))]
    for degree in range(1, maximum_degree + 1):
        size = powers[-1].shape[1] * 3
        product = np.einsum("gab,gij->gaibj", powers[-1], rotations).reshape(-1, size, size)
        isometry = _raising(degree)
        power = isometry.T @ product @ isometry
        power[np.abs(power) < _ZERO] = 0
        powers.append(power)
    return powers


def dimensions(multiplicities: Multiplicities) -> tuple[int, ...]:
    """Number of monomials of each atom of the cluster."""
    return tuple((m + 1) * (m + 2) // 2 for m in multiplicities)


@cache
def exponents(multiplicities: Multiplicities) -> IntArray:
    """(d, k, 3) exponents of every monomial of a cluster, atoms varying slowest first."""
    grids = np.meshgrid(*[np.arange(d) for d in dimensions(multiplicities)], indexing="ij")
    tables = [np.array(monomials(m), dtype=np.int64) for m in multiplicities]
    parts = [table[grid.ravel()] for table, grid in zip(tables, grids, strict=True)]
    return np.stack(parts, axis=1)


@cache
def energy_coefficients(multiplicities: Multiplicities) -> FloatArray:
    """(d,) factors 1 / sqrt(m! alpha!) from coordinates to coefficients of the energy."""
    m_factorial = prod(factorial(m) for m in multiplicities)
    alpha_factorial = np.vectorize(factorial, otypes=[float])(exponents(multiplicities))
    return np.asarray(1 / np.sqrt(m_factorial * alpha_factorial.prod(axis=(1, 2))))


def rotate(
    tensors: FloatArray, multiplicities: Multiplicities, powers: list[FloatArray]
) -> FloatArray:
    """Apply one rotation to every column of (d, p) tensors, atom by atom.

    Parameters
    ----------
    powers : list of (d_m, d_m) float
        The rotation on each symmetric power.
    """
    sizes = dimensions(multiplicities)
    result = tensors.reshape(*sizes, -1)
    for axis, m in enumerate(multiplicities):
        result = np.moveaxis(np.tensordot(powers[m], result, axes=(1, axis)), 0, axis)
    return result.reshape(tensors.shape)


def permute_atoms(
    tensors: FloatArray, multiplicities: Multiplicities, order: IntArray
) -> FloatArray:
    """Reorder the atoms of (d, p) tensors: new atom i is old atom `order[i]`."""
    sizes = dimensions(multiplicities)
    moved = tensors.reshape(*sizes, -1).transpose(*order, len(sizes))
    return np.ascontiguousarray(moved).reshape(tensors.shape)


def invariant_tensors(
    multiplicities: Multiplicities,
    powers: list[FloatArray],
    permutations: IntArray,
) -> FloatArray:
    """Orthonormal basis of the tensors that every operation of a stabiliser leaves unchanged.

    Parameters
    ----------
    multiplicities : tuple of int
        How often each of the k atoms occurs.
    powers : list of (n_operations, d_m, d_m) float
        The stabiliser's rotations on each symmetric power.
    permutations : (n_operations, k) int
        Atom i goes to position `permutations[h, i]`.

    Returns
    -------
    (d, p) float
        As sparse as the symmetry allows: monomials that no operation mixes stay apart.
    """
    size = prod(dimensions(multiplicities))
    if len(permutations) == 1:
        return np.eye(size)
    projector = np.zeros((size, size))
    identity = np.eye(size)
    for operation, permutation in enumerate(permutations):
        rotation = [power[operation] for power in powers]
        rotated = rotate(identity, multiplicities, rotation)
        projector += permute_atoms(rotated, multiplicities, np.argsort(permutation))
    projector /= len(permutations)
    projector[np.abs(projector) < _ZERO] = 0
    return _range_by_blocks(projector)


def _range_by_blocks(projector: FloatArray) -> FloatArray:
    """Orthonormal basis of the range of a projector, one connected block at a time."""
    n_blocks, block_of = connected_components(csr_array(projector), directed=False)
    columns = []
    for block in range(n_blocks):
        members = np.flatnonzero(block_of == block)
        part = projector[np.ix_(members, members)]
        if len(members) == 1 and abs(part[0, 0]) < 0.5:
            continue
        values, vectors = np.linalg.eigh((part + part.T) / 2)
        for index in np.flatnonzero(values > 0.5):
            column = np.zeros(len(projector))
            column[members] = vectors[:, index] * np.sign(
                vectors[np.argmax(np.abs(vectors[:, index])), index]
            )
            columns.append(column)
    return np.array(columns).T.reshape(len(projector), len(columns))
