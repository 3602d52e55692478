"""A committee: force fields drawn from the posterior, in pairs about its mean.

Everything is linear in the parameters, so a member is the mean plus or minus a spread, and the mean
of the members is the model itself. The draws are uniform on the sphere that holds the posterior's
variance and orthogonal to one another; their covariance is the posterior's on average, and exactly
the posterior's with two members per parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray
from anharm.model.lattice_sum import LatticeSum, voigt_matrix
from anharm.model.program import Program
from anharm.model.strain import StrainedSum, Strengths
from anharm.model.structure_errors import ideal_crystal_factor


@dataclass(frozen=True)
class Members:
    """What every member of a committee says about a batch of configurations, supercell order.

    Attributes
    ----------
    energies : (n_configurations, n_members) float
        eV.
    forces : (n_configurations, n_members, n_atoms, 3) float
        eV/Angstrom.
    virials : (n_configurations, n_members, 3, 3) float
        -dE/dstrain, eV.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray


def draw_pairs(n_pairs: int, n_dimensions: int, seed: int = 0) -> FloatArray:
    """Vectors z (n_dimensions, n_pairs) of variance 1 per component, orthogonal to one another.

    Beyond n_dimensions vectors, further sets that are orthogonal among themselves follow.
    """
    random = np.random.default_rng(seed)
    blocks = []
    for begin in range(0, n_pairs, n_dimensions):
        orthogonal, triangle = np.linalg.qr(random.standard_normal((n_dimensions, n_dimensions)))
        orthogonal *= np.sign(np.diag(triangle))  # uniform over all rotations
        blocks.append(orthogonal[:, : n_pairs - begin])
    return np.sqrt(n_dimensions) * np.hstack(blocks)


class Committee:
    """Members 2k and 2k + 1 lie opposite to each other about the model.

    Parameters
    ----------
    model : BayesianModel
    lattice_sum : LatticeSum
    polynomial : Program
        One output that sums all monomials, whose coefficients are replaced.
    strained_sum : StrainedSum
    n_members : int
        Even.
    seed : int

    Raises
    ------
    ModelError
        If the number of members is odd or below 2.
    """

    def __init__(
        self,
        model: BayesianModel,
        lattice_sum: LatticeSum,
        polynomial: Program,
        strained_sum: StrainedSum,
        n_members: int,
        seed: int = 0,
    ) -> None:
        if n_members < 2 or n_members % 2:
            raise ModelError(
                f"a committee of {n_members} was asked for: members come in pairs about the mean, "
                "so give an even number of at least 2"
            )
        expansion, factor = model.expansion, model.posterior.factor
        self._model, self._sum, self._strained = model, lattice_sum, strained_sum
        width = max(model.constants_factor.shape[1], factor.shape[1])
        self._draws = draw_pairs(n_members // 2, width, seed)
        self._parameters = factor @ self._draws[width - factor.shape[1] :]
        unconstrained = expansion.constraint_basis @ self._parameters
        coefficients = expansion.monomial_weights @ unconstrained
        self._coefficients = np.ascontiguousarray(coefficients.T)
        self._polynomials = [polynomial.with_coefficients(one) for one in self._coefficients]
        self._strengths: list[Strengths] | None = None

    def member(self, index: int) -> BayesianModel:
        """A member as a model of its own, with the errors of the model it is drawn from."""
        model, (pair, is_second) = self._model, divmod(index, 2)
        sign = -1 if is_second else 1
        mean = model.posterior.mean + sign * self._parameters[:, pair]
        factor = model.constants_factor
        constants = np.zeros(7)
        if factor.shape[1] == len(self._draws):
            constants = sign * factor @ self._draws[:, pair]
        return replace(
            model,
            posterior=replace(model.posterior, mean=mean),
            energy_per_cell=model.energy_per_cell + float(constants[0]),
            virial_per_cell=model.virial_per_cell + voigt_matrix(constants[1:]),
        )

    def about(
        self,
        energies: FloatArray,
        forces: FloatArray,
        virials: FloatArray,
        displacements: FloatArray,
        deformation: FloatArray | None,
        threads: int = 1,
    ) -> Members:
        """The members about the model's own energies, forces and virials of displacements.

        Parameters
        ----------
        energies, forces, virials
            (n_conf,), (n_conf, n_atoms, 3) and (n_conf, 3, 3) of the model.
        displacements : (n_conf, n_atoms, 3) float
            Angstrom, in the supercell's order.
        deformation : (3, 3) float, optional
            F = 1 + strain of the cell, if it is not the reference.
        threads : int
        """
        constants = ideal_crystal_factor(self._model, self._sum.supercell, deformation)
        offsets = constants @ self._draws[-constants.shape[1] :]
        stresses = voigt_matrix(offsets[1:])
        found = []
        for pair in range(len(self._polynomials)):
            energy, force, virial = self._spread(pair, displacements, deformation, threads)
            found.append((energy + offsets[0, pair], force, virial + stresses[..., pair]))
        return Members(
            *(
                _in_pairs(mean, np.stack(spreads, axis=1))
                for mean, spreads in zip(
                    (energies, forces, virials), zip(*found, strict=True), strict=True
                )
            )
        )

    def _spread(
        self, pair: int, displacements: FloatArray, deformation: FloatArray | None, threads: int
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        if deformation is None:
            polynomial = self._polynomials[pair]
            values = polynomial.evaluate(displacements, self._sum.body_atoms, True, threads)
            assert values.virials is not None
            return values.energies[0], values.forces[0], values.virials[0]
        if self._strengths is None:
            self._strengths = [self._strained.strengths(one) for one in self._coefficients]
        strength = self._strengths[pair]
        strained = self._strained.evaluate(strength, deformation, displacements, True, threads)
        assert strained.virials is not None
        return strained.energies, strained.forces, strained.virials


def _in_pairs(mean: FloatArray, spreads: FloatArray) -> FloatArray:
    """(n_conf, n_members, ...): the mean plus and minus each of (n_conf, n_pairs, ...) spreads."""
    centre = mean[:, None]
    members = np.stack([centre + spreads, centre - spreads], axis=2)
    return members.reshape(len(mean), -1, *mean.shape[1:])
