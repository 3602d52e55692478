"""Design rows: energy, forces and virial of a supercell, linear in the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.expansion import Expansion
from anharm.model.program import Program


@dataclass(frozen=True)
class DesignRows:
    """Rows of the linear map from parameters to observables, for one configuration.

    Attributes
    ----------
    forces : (3 n_atoms, n_parameters) float
        eV/Angstrom per unit parameter, in the supercell's order.
    energy : (n_parameters,) float
        eV per unit parameter.
    virial : (6, n_parameters) float
        eV per unit parameter; xx, yy, zz, yz, xz, xy of -dE/dstrain.
    """

    forces: FloatArray
    energy: FloatArray
    virial: FloatArray


class LatticeSum:
    """An expansion applied to one supercell.

    Parameters
    ----------
    expansion : Expansion
    supercell : Supercell
        Of the expansion's crystal.

    Raises
    ------
    ModelError
        If a cluster would reach around the supercell.
    """

    def __init__(self, expansion: Expansion, supercell: Supercell) -> None:
        expansion.check_supercell(supercell)
        self.expansion = expansion
        self.supercell = supercell

    @cached_property
    def body_atoms(self) -> IntArray:
        """(n_bodies, n_cells) supercell atom of every body."""
        return np.ascontiguousarray(self.expansion.body_atoms(self.supercell))

    @cached_property
    def columns(self) -> Program:
        """One output per symmetry-allowed parameter."""
        return Program.compile(self.expansion.monomials, self.expansion.monomial_weights)

    def unconstrained_forces(self, displacements: FloatArray) -> FloatArray:
        """Forces per symmetry-allowed parameter, before the sum rules.

        Parameters
        ----------
        displacements : (n_configurations, n_atoms, 3) float
            Angstrom, in the supercell's order.

        Returns
        -------
        (n_unconstrained, n_configurations, n_atoms, 3) float
        """
        return self.columns.evaluate(displacements, self.body_atoms, virial=False).forces

    def force_rows(self, displacements: FloatArray) -> FloatArray:
        """Force design rows (3 n_atoms, n_parameters) of one (n_atoms, 3) configuration."""
        forces = self.unconstrained_forces(displacements[None])
        return self.expansion.constrain(forces.reshape(len(forces), -1)).T

    def design_rows(self, displacements: FloatArray) -> DesignRows:
        """Design rows of forces, energy and virial of one (n_atoms, 3) configuration."""
        constrain = self.expansion.constrain
        found = self.columns.evaluate(displacements[None], self.body_atoms)
        assert found.virials is not None
        return DesignRows(
            forces=constrain(found.forces.reshape(len(found.forces), -1)).T,
            energy=constrain(found.energies)[:, 0],
            virial=constrain(voigt(found.virials[:, 0])).T,
        )


def voigt(tensors: FloatArray) -> FloatArray:
    """Symmetrised (..., 3, 3) tensors as (..., 6): xx, yy, zz, yz, xz, xy."""
    symmetric = (tensors + np.swapaxes(tensors, -1, -2)) / 2
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
    components: FloatArray = symmetric[..., rows, columns]
    return components


def voigt_matrix(components: FloatArray) -> FloatArray:
    """The symmetric (3, 3) tensor of xx, yy, zz, yz, xz, xy."""
    tensor: FloatArray = components[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    return tensor
