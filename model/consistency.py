"""Whether the arrays of a model fit together: compiled code does not look again."""

from __future__ import annotations

import numpy as np

from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import Crystal, IntArray
from anharm.model.expansion import Expansion

_LARGEST_NUMBER = 118  # of an element
_SMALLEST_VOLUME = 1e-6  # Angstrom^3
_LARGEST_SUPERCELL = 100_000  # cells


def is_consistent(model: BayesianModel) -> bool:
    """Tell whether no number of a model indexes beyond its array, and all are finite."""
    return (
        _is_crystal(model.expansion.crystal)
        and _is_expansion(model.expansion)
        and _is_posterior(model)
    )


def _is_crystal(crystal: Crystal) -> bool:
    return (
        crystal.lattice.shape == (3, 3)
        and crystal.numbers.ndim == 1
        and crystal.fractional_positions.shape == (len(crystal.numbers), 3)
        and len(crystal.numbers) > 0
        and crystal.numbers.dtype.kind == "i"
        and bool(np.all((crystal.numbers >= 1) & (crystal.numbers <= _LARGEST_NUMBER)))
        and bool(np.isfinite(crystal.lattice).all())
        and bool(np.isfinite(crystal.fractional_positions).all())
        and bool(abs(np.linalg.det(crystal.lattice)) > _SMALLEST_VOLUME)
    )


def _is_expansion(expansion: Expansion) -> bool:
    table, bodies = expansion.monomials, expansion.bodies
    width = max(expansion.orders, default=0)
    if (
        any(array.dtype.kind != "i" for array in (bodies, table.variables, table.orders))
        or bodies.shape != (len(table.body_positions), 4)
        or table.body_positions.shape[1:] != (3,)
        or table.variables.shape != (len(table.orders), width)
    ):
        return False
    factors = table.variables >= 0
    return (
        bool(np.all((bodies[:, 3] >= 0) & (bodies[:, 3] < expansion.crystal.n_sites)))
        and bool(np.isfinite(table.body_positions).all())
        and bool(np.all((table.variables >= -1) & (table.variables < 3 * len(bodies))))
        and bool(np.all(factors[:, :-1] >= factors[:, 1:]))
        and bool(np.all(factors.any(axis=1)))
        and np.array_equal(factors.sum(axis=1), table.orders)
        and expansion.monomial_weights.shape[0] == len(table.orders)
        and expansion.monomial_weights.shape[1] == expansion.constraint_basis.shape[0]
        and bool(np.isfinite(expansion.monomial_weights.data).all())
        and bool(np.isfinite(expansion.constraint_basis.data).all())
        and _is_supercell(expansion.second_order_cell)
    )


def _is_supercell(matrix: IntArray | None) -> bool:
    """Whether a matrix spans a supercell of a size that can be worked with, if there is one."""
    if matrix is None:
        return True
    return (
        matrix.shape == (3, 3)
        and matrix.dtype.kind == "i"
        and int(np.abs(matrix).max()) <= _LARGEST_SUPERCELL
        and 0 < abs(round(np.linalg.det(matrix))) <= _LARGEST_SUPERCELL
    )


def _is_posterior(model: BayesianModel) -> bool:
    posterior, n = model.posterior, model.expansion.n_parameters
    numbers = (
        posterior.mean, posterior.factor, model.virial_per_cell, model.constants_factor,
        np.array(model.energy_per_cell),
    )  # fmt: skip
    counts = model.expansion.parameters_per_order.values()
    return (
        posterior.mean.shape == (n,)
        and posterior.factor.shape == (n, n)
        and min(counts, default=0) >= 0
        and sum(counts) == n
        and model.virial_per_cell.shape == (3, 3)
        and model.constants_factor.shape[:1] == (7,)
        and all(array.dtype.kind == "f" and bool(np.isfinite(array).all()) for array in numbers)
        and bool(posterior.noise_precisions)
    )
