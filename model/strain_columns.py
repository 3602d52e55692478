"""Design rows in strained cells: programs whose coefficients follow the strain at little cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from anharm.model.crystal import FloatArray
from anharm.model.program import Program
from anharm.model.strain_table import StrainTable


class StrainedColumns:
    """The columns of all parameters of an expansion, as functions of the strain.

    Which monomials a column holds does not depend on the strain, so that the program is arranged
    once; a new cell, which i-PI gives at every step, only renews its coefficients.

    Parameters
    ----------
    table : StrainTable
        Of the expansion.
    weights : (n_terms, n_parameters) sparse
        Coefficients of the terms in the reference cell, by parameter.
    """

    def __init__(self, table: StrainTable, weights: csr_array) -> None:
        self._products = table.products
        shares = np.diff(weights.indptr)[table.terms]
        contributions = np.repeat(np.arange(len(shares)), shares)
        before = np.cumsum(shares) - shares
        entries = np.arange(shares.sum()) - before[contributions]
        entries += weights.indptr[table.terms[contributions]]
        n_outputs = int(weights.shape[1])
        keys = table.targets[contributions].astype(np.int64) * n_outputs + weights.indices[entries]
        distinct, numbers = np.unique(keys, return_inverse=True)
        shape = (len(table.monomials.orders), n_outputs)
        # The number of a key as its coefficient tells where the key ends up.
        marks = np.arange(1.0, len(distinct) + 1)
        marked = csr_array((marks, np.divmod(distinct, n_outputs)), shape)
        self._program = Program.compile(table.monomials, marked)
        places = np.empty(len(distinct), dtype=np.int64)
        places[self._program.coefficients.astype(np.int64) - 1] = np.arange(len(distinct))
        self._map = csr_array(
            (
                table.weights[contributions] * weights.data[entries],
                (places[numbers.ravel()], table.numbers[contributions]),
            ),
            shape=(len(distinct), table.products.size),
        )

    def program(self, strain: FloatArray) -> Program:
        """The program in a cell of a (3, 3) strain."""
        return replace(self._program, coefficients=self._map @ self._products.values(strain))
