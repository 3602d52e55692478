"""Design rows of forces as polynomials of the atoms around, one per force component.

A monomial of the energy gives one term to the force on each body in it: the product of its other
factors. Seen from the cell of that body, all such terms of a force component form a polynomial in
the displacements around, the same for every cell of the supercell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest, plant
from anharm.model.program import MonomialTable, Program


@dataclass(frozen=True)
class ForceRows:
    """Polynomials ready for `evaluate_rows`.

    Attributes
    ----------
    n_outputs : int
        (parameter, site, axis), the last running fastest.
    bodies : (n_bodies, 4) int
        Cell, relative to the home cell, and site of each body.
    forest : Forest
    coefficients : (forest.size,) float
    constant_outputs : (n_constants,) int
        Outputs that a monomial of first order gives a constant.
    constants : (n_constants,) float
    """

    n_outputs: int
    bodies: IntArray
    forest: Forest
    coefficients: FloatArray
    constant_outputs: IntArray
    constants: FloatArray
    _map: csr_array  # from the coefficients of the energy to those of the forest and the constants

    @classmethod
    def compile(
        cls,
        program: Program,
        table: MonomialTable,
        bodies: IntArray,
        n_sites: int,
        order: IntArray,
    ) -> ForceRows:
        """Differentiate the outputs of a program.

        Parameters
        ----------
        program : Program
            Compiled from the table.
        table : MonomialTable
        bodies : (n_bodies, 4) int
            Cell and site of each of its bodies.
        n_sites : int
            Of the primitive cell.
        order : (n_outputs of the program,) int
            The outputs of the program in the order in which their rows are wanted.
        """
        numbers = np.argsort(order)
        entries, variables, others, multiplicities = _derivatives(table.variables[program.terms])
        homes, others, used = _seen_from(others, variables // 3, bodies)
        outputs = (numbers[program.entry_outputs[entries]] * n_sites + homes) * 3 + variables % 3
        n_outputs = program.n_outputs * n_sites * 3
        n_terms = len(entries)
        is_constant = others[:, 0] < 0 if others.shape[1] else np.ones(n_terms, dtype=bool)
        real, constant = np.flatnonzero(~is_constant), np.flatnonzero(is_constant)
        weights = csr_array(
            (np.ones(len(real)), (np.arange(len(real)), outputs[real])), (len(real), n_outputs)
        )
        forest, places, terms, _ = plant(others[real], np.zeros_like(real), weights)
        targets = np.empty(n_terms, dtype=np.int64)
        targets[real[terms]] = places
        targets[constant] = forest.size + np.arange(len(constant))
        to_forest = csr_array(
            (-multiplicities.astype(float), (targets, program.places[entries])),
            (forest.size + len(constant), program.forest.size),
        )
        found = cls(n_outputs, used, forest, np.empty(0), outputs[constant], np.empty(0), to_forest)
        return found.with_coefficients(program.coefficients)

    def with_coefficients(self, coefficients: FloatArray) -> ForceRows:
        """The same polynomials for other coefficients of the same program."""
        found = self._map @ coefficients
        size = self.forest.size
        return replace(self, coefficients=found[:size], constants=found[size:])

    def in_precision(self, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Coefficients and constants in double or single precision."""
        return self._single if dtype == np.float32 else (self.coefficients, self.constants)

    @cached_property
    def _single(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.coefficients.astype(np.float32), self.constants.astype(np.float32)


def _derivatives(factors: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Every first derivative of monomials whose variables ascend, padded behind with -1.

    Returns
    -------
    monomials, variables : (n,) int
        Which monomial is differentiated by which variable.
    others : (n, n_max - 1) int
        The factors that are left, padded behind with -1.
    multiplicities : (n,) int
        How often the variable occurs.
    """
    width = factors.shape[1]
    found = []
    for position in range(width):
        variables = factors[:, position]
        is_first = variables >= 0
        if position:
            is_first &= factors[:, position - 1] != variables
        monomials = np.flatnonzero(is_first)
        others = np.delete(factors[monomials], position, axis=1)
        count = (factors[monomials] == variables[monomials, None]).sum(axis=1)
        found.append((monomials, variables[monomials], others, count))
    monomials, variables, others, counts = (np.concatenate(x) for x in zip(*found, strict=True))
    return monomials, variables, others, counts


def _seen_from(
    factors: IntArray, homes: IntArray, bodies: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Number bodies by where they are relative to the cell of another one.

    Parameters
    ----------
    factors : (n, width) int
        Variables, padded behind with -1.
    homes : (n,) int
        The body from whose cell each row is seen.
    bodies : (n_bodies, 4) int

    Returns
    -------
    sites : (n,) int
        Of the homes.
    factors : (n, width) int
        Variables of the new bodies, ascending, padded behind with -1.
    bodies : (n_new, 4) int
    """
    n_bodies = len(bodies)
    relative = np.tile(bodies, (n_bodies, 1, 1))  # home, body
    relative[..., :3] -= bodies[:, None, :3]
    is_used = np.zeros((n_bodies, n_bodies), dtype=bool)
    rows, places = np.nonzero(factors >= 0)
    seen, axes = np.divmod(factors[rows, places], 3)
    is_used[homes[rows], seen] = True
    new_bodies, numbers = np.unique(relative[is_used], axis=0, return_inverse=True)
    number = np.full((n_bodies, n_bodies), -1)
    number[is_used] = numbers.ravel()
    behind = np.iinfo(np.int64).max
    found = np.full(factors.shape, behind)
    found[rows, places] = number[homes[rows], seen] * 3 + axes
    found.sort(axis=1)
    found[found == behind] = -1
    return bodies[homes, 3], found, new_bodies
