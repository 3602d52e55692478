"""A trained model: an expansion, the posterior of its parameters, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations, product
from math import prod

import numpy as np

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.deformation import MAXIMUM_STRAIN, STRAIN_MARGIN
from anharm.model.expansion import Expansion
from anharm.model.noise import NoiseModel
from anharm.model.regression import Posterior


@dataclass(frozen=True)
class BayesianModel:
    """One version of the force field.

    Parameters
    ----------
    expansion : Expansion
    posterior : Posterior
    noise : dict
        By kind of target ("forces", "energies", "virials"): what the expansion leaves out, as a
        function of displacement. The posterior's constant noise where the labels had none.
    energy_per_cell : float
        Energy of the ideal crystal per primitive cell, eV, from the labels' energies.
    virial_per_cell : (3, 3) float
        Virial of the ideal crystal per primitive cell, eV, from the labels' virials: its stress
        where the reference lattice is not the relaxed one. Zero without such labels.
    constants_factor : (7, k + M) float
        Factor of the covariance of that energy and virial (xx, yy, zz, yz, xz, xy): the last M
        columns are shared with `posterior.factor`. k = 0 where no label gave an energy or virial.
    n_labels : int
        Number of labelled configurations behind the posterior.
    largest_strain : float
        The largest component of the strain of any label's cell, by size.
    version : int
        Counts the refits of a run; 0 for a model fitted on its own.
    provenance : dict
        Free text by key: software versions, label hashes, file names.
    """

    expansion: Expansion
    posterior: Posterior
    noise: dict[str, NoiseModel] = field(default_factory=dict)
    energy_per_cell: float = 0.0
    virial_per_cell: FloatArray = field(default_factory=lambda: np.zeros((3, 3)))
    constants_factor: FloatArray = field(default_factory=lambda: np.zeros((7, 0)))
    n_labels: int = 0
    largest_strain: float = MAXIMUM_STRAIN
    version: int = 0
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def strain_limit(self) -> float:
        """The strain up to which the model may be used: that of its labels and a margin."""
        return min(self.largest_strain + STRAIN_MARGIN, MAXIMUM_STRAIN)

    def force_constants(self, order: int) -> tuple[IntArray, FloatArray]:
        """Force constants of all clusters anchored in the home cell.

        Parameters
        ----------
        order : int
            An order of the expansion.

        Returns
        -------
        clusters : (n_clusters, order, 4) int
            Atoms (cell, cell, cell, site) of each multiset, ascending, the first in the home cell.
        tensors : (n_clusters, 3, ..., 3) float
            Phi in eV/Angstrom^order; index k belongs to atom k of the cluster.

        Raises
        ------
        ModelError
            If the expansion does not hold the order.
        """
        expansion = self.expansion
        if order not in expansion.orders:
            raise ModelError(f"the model holds orders {expansion.orders}, not {order}")
        coefficients = expansion.monomial_weights @ (
            expansion.constraint_basis @ self.posterior.mean
        )
        chosen = expansion.monomials.orders == order
        variables = expansion.monomials.variables[chosen][:, :order]
        bodies, axes = np.divmod(variables, 3)
        clusters, cluster_of = np.unique(bodies, axis=0, return_inverse=True)
        tensors = np.zeros((len(clusters), *[3] * order))
        for cluster, body, axis, coefficient in zip(
            cluster_of.ravel(), bodies, axes, coefficients[chosen], strict=True
        ):
            counts = np.unique(np.column_stack([body, axis]), axis=0, return_counts=True)[1]
            value = coefficient * prod(_factorial(int(c)) for c in counts)
            for index in _equivalent_indices(tuple(body.tolist()), tuple(axis.tolist())):
                tensors[(int(cluster), *index)] = value
        return expansion.bodies[clusters], tensors


def _factorial(number: int) -> int:
    return prod(range(1, number + 1))


def _equivalent_indices(bodies: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All axis tuples that permuting equal atoms makes equal to `axes`."""
    groups: list[list[tuple[int, ...]]] = []
    for body in sorted(set(bodies)):
        own = tuple(a for b, a in zip(bodies, axes, strict=True) if b == body)
        groups.append(sorted(set(permutations(own))))
    return [tuple(a for part in choice for a in part) for choice in product(*groups)]
