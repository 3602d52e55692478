"""Rotational sum rules of second order: turning the whole crystal costs nothing.

About a reference whose atoms feel no force, a rigid rotation leaves every force zero (Born and
Huang, Dynamical Theory of Crystal Lattices, 1954): for every atom a,

    sum_b Phi_ab,ij R_ab,k  is symmetric in j and k,

and where the stress is zero or isotropic besides, a rotation of a long wave costs nothing either
(Huang, Proc. R. Soc. A 203, 178 (1950)):

    [ij,kl] = sum_ab Phi_ab,ij R_ab,k R_ab,l  per cell  equals  [kl,ij],

b running over all atoms of the crystal and R_ab = R_b - R_a.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, vstack

from anharm.errors import ModelError
from anharm.model.crystal import Crystal, FloatArray
from anharm.model.sum_rules import distinct_rows, null_space
from anharm.model.symmetry_basis import SymmetryBasis

_PERMUTATIONS = np.array(
    [[[0, 0, 0], [0, 0, 1], [0, -1, 0]],
     [[0, 0, -1], [0, 0, 0], [1, 0, 0]],
     [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]], dtype=float
)  # fmt: skip
_TRANSPOSED = np.arange(9).reshape(3, 3).T.ravel()
_FIRST, _SECOND = np.triu_indices(3)  # the six components of a symmetric tensor
_UPPER, _LOWER = np.triu_indices(6, 1)


def rotational_sum_rule_matrix(basis: SymmetryBasis, crystal: Crystal) -> csr_array:
    """Rows whose product with the second-order parameters must vanish.

    Lengths are in units of the longest pair, so that all rows are of one size.

    Parameters
    ----------
    basis : SymmetryBasis
        Of order 2.
    crystal : Crystal

    Returns
    -------
    (9 n_sites + 15, n_parameters) sparse float
        Born-Huang conditions of each site, then the Huang conditions.
    """
    moments = np.zeros((crystal.n_sites, 9, basis.n_parameters))
    elastic = np.zeros((15, basis.n_parameters))
    pairs = [cluster for cluster in basis.clusters.values() if len(cluster.bodies) == 2]
    vectors = np.array([_vector(cluster.bodies, crystal) for cluster in pairs]).reshape(-1, 3)
    vectors /= np.linalg.norm(vectors, axis=1).max(initial=1e-9)
    for cluster, vector in zip(pairs, vectors, strict=True):
        first, second = cluster.bodies[:, 3]
        tensors = cluster.tensors.toarray()
        curl = np.kron(np.eye(3), _PERMUTATIONS @ vector)
        moments[first, :, cluster.columns] += curl @ tensors
        moments[second, :, cluster.columns] -= curl @ tensors[_TRANSPOSED]
        elastic[:, cluster.columns] += _huang(vector) @ tensors
    rows = [csr_array(block) for block in (*moments, elastic)]
    return csr_array(vstack(rows, format="csr"))


def impose_rotational_sum_rules(
    solutions: csr_array, basis: SymmetryBasis, crystal: Crystal
) -> csr_array:
    """The part of the translational solutions that obeys the rotational sum rules too.

    Parameters
    ----------
    solutions : (n_parameters, n_free) sparse float
        Solutions of the translational sum rules.
    basis, crystal : as for `rotational_sum_rule_matrix`

    Returns
    -------
    (n_parameters, n) sparse float
        Orthonormal combinations of them.
    """
    rows = distinct_rows(rotational_sum_rule_matrix(basis, crystal) @ solutions)
    return csr_array(solutions @ null_space(rows))


def check_rotational_sum_rules(by_order: dict[int, dict[int, float]], first_order: bool) -> None:
    """Refuse them where they would say nothing, or something wrong."""
    if 2 not in by_order:
        raise ModelError(
            "expansion.rotational_sum_rules constrain order 2, which expansion.cutoffs does not "
            f"name (it names {sorted(by_order)}); add order 2 or leave them out"
        )
    if first_order:
        raise ModelError(
            "expansion.rotational_sum_rules hold for a crystal without forces on its sites, and "
            "expansion.first_order allows such forces: choose one of them (or relax the crystal)"
        )


def _vector(bodies: np.ndarray, crystal: Crystal) -> FloatArray:
    """The way from the first atom of a pair to the second, Angstrom."""
    fractional = bodies[:, :3] + crystal.fractional_positions[bodies[:, 3]]
    vector: FloatArray = (fractional[1] - fractional[0]) @ crystal.lattice
    return vector


def _huang(vector: FloatArray) -> FloatArray:
    """(15, 9) a pair's share of [ij,kl] - [kl,ij], linear in its force constants."""
    stretch = vector[_FIRST] * vector[_SECOND]
    components = np.zeros((6, 9))
    rows = np.arange(6)
    components[rows, 3 * _FIRST + _SECOND] += 1
    components[rows, 3 * _SECOND + _FIRST] += 1
    return components[_UPPER] * stretch[_LOWER, None] - components[_LOWER] * stretch[_UPPER, None]
