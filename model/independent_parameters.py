"""The sum rules solved for some of the symmetry-allowed parameters, in few operations.

The orthonormal solutions C of the sum rules (`Expansion.constraint_basis`) are dense in large
blocks. Where only the span counts, as for the variance phi S phi^T, it is enough to choose as many
of the symmetry-allowed parameters, C_chosen, and to express all others in them: C = B C_chosen,
where B is sparse. With phi = B^T m for the row m of the symmetry-allowed parameters, and S = F F^T,
the factor of the same variance is C_chosen F.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr
from scipy.sparse import csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.expansion import Expansion

# Of a row's length, so much must be new; with less, more digits would be lost to cancelling.
_SMALLEST_PIVOT = 0.3
_ZERO = 1e-9  # coefficients of order 1


@dataclass(frozen=True)
class IndependentParameters:
    """Some symmetry-allowed parameters that determine all others.

    Attributes
    ----------
    order : (n_unconstrained,) int
        The symmetry-allowed parameters, those of one block of the sum rules after another.
    combinations : (n_parameters, n_unconstrained) sparse float
        B^T, its columns in that order.
    blocks : list of (places, parameters, values)
        C_chosen block by block: rows, columns and values.
    """

    order: IntArray
    combinations: csr_array
    blocks: list[tuple[IntArray, IntArray, FloatArray]]

    @classmethod
    def of(cls, expansion: Expansion) -> IndependentParameters:
        """Choose parameters of clusters as wide as possible, from the end of each block."""
        n_rows = n_chosen = 0
        rows, columns, values, blocks = [], [], [], []
        for allowed, parameters, basis in expansion.constraint_blocks:
            chosen = _independent_rows(basis)
            solution = np.linalg.solve(basis[chosen].T, basis.T)
            solution[np.abs(solution) < _ZERO] = 0
            places, allowed_places = np.nonzero(solution)
            rows.append(places + n_chosen)
            columns.append(allowed_places + n_rows)
            values.append(solution[places, allowed_places])
            where = np.arange(n_chosen, n_chosen + len(chosen))
            blocks.append((where, parameters, basis[chosen]))
            n_rows, n_chosen = n_rows + len(allowed), n_chosen + len(chosen)
        combinations = csr_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
            shape=(n_chosen, n_rows),
        )
        order = np.concatenate([allowed for allowed, _, _ in expansion.constraint_blocks])
        return cls(order, combinations, blocks)

    def triangular_factors(
        self, factor: FloatArray, wanted: Iterable[IntArray]
    ) -> Iterator[FloatArray]:
        """Lower triangles T with T^T T = C_wanted F F^T C_wanted^T, for F (n_parameters, n).

        Parameters
        ----------
        factor : (n_parameters, n) float
        wanted : iterable of (m,) int
            Some of the chosen parameters for each triangle.
        """
        turned = np.zeros((len(factor), factor.shape[1]))
        for places, parameters, values in self.blocks:
            turned[places] = values @ factor[parameters]
        for some in wanted:
            # Upper triangle of the columns in reverse, turned around.
            reverse = turned[some[::-1]].T
            triangle = qr(reverse, mode="r", overwrite_a=True, check_finite=False)[0]
            yield triangle[: len(some)][::-1, ::-1]


def _independent_rows(basis: FloatArray) -> IntArray:
    """As many rows (ascending) of a (n, m) matrix of orthonormal columns as span it, m.

    From the last one on, each that is clearly independent of those before.
    """
    n_columns = basis.shape[1]
    span = np.zeros((n_columns, n_columns))
    chosen: list[int] = []
    lengths = np.linalg.norm(basis, axis=1)
    for row in range(len(basis) - 1, -1, -1):
        if len(chosen) == n_columns:
            break
        old = span[: len(chosen)]
        new = basis[row] - (old @ basis[row]) @ old
        length = np.linalg.norm(new)
        if length > max(_SMALLEST_PIVOT * lengths[row], _ZERO):
            span[len(chosen)] = new / length
            chosen.append(row)
    if len(chosen) < n_columns:
        old = span[: len(chosen)]
        pivots = qr((basis - (basis @ old.T) @ old).T, mode="r", pivoting=True)[1]
        chosen += pivots[: n_columns - len(chosen)].tolist()
    return np.sort(np.array(chosen, dtype=np.int64))
