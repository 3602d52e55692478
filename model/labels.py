"""Labels as targets of the regression: forces, energies and virials of one configuration.

Beside the parameters of the expansion, the constants of the ideal crystal are unknown: its energy
per primitive cell, and those components of its virial that symmetry allows. They come first among
the columns of all design rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.deformation import (
    checked_deformation,
    identify_strained_supercell,
    is_reference_cell,
    strain_of,
)
from anharm.model.expansion import Expansion
from anharm.model.ideal_crystal import ideal_energy, ideal_virial
from anharm.model.lattice_sum import DesignRows, LatticeSum, voigt
from anharm.model.sites import assign_sites
from anharm.model.strain import StrainedSum
from anharm.model.symmetry import find_space_group
from anharm.model.truncation import TruncationShapes

_ROUNDING = 1e-12  # Angstrom
KINDS = ("forces", "energies", "virials")
_UNIT_TENSORS = np.array(  # xx, yy, zz, yz, xz, xy as (6, 3, 3)
    [[[float({i, j} == {a, b}) for j in range(3)] for i in range(3)]
     for a, b in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]]
)  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """The numbers of one kind that a label gives.

    Energies and virials are divided by the square root of the number of atoms: what a local
    expansion leaves out adds up at random, so that their noise is the same for all supercells.

    Attributes
    ----------
    values : (n,) float
    shapes : (n, K) float
        What their noise may consist of, see `truncation`.
    """

    values: FloatArray
    shapes: FloatArray


@dataclass(frozen=True)
class Label:
    """One labelled configuration, in the supercell's order."""

    constants: IdealConstants
    strained_sum: StrainedSum
    deformation: FloatArray | None
    displacements: FloatArray
    targets: dict[str, Targets]

    @property
    def strain(self) -> float:
        """The largest component of the strain of its cell, by size."""
        return 0.0 if self.deformation is None else strain_of(self.deformation)

    def rows(self) -> dict[str, FloatArray]:
        """Design rows (n, n_constants + n_parameters) of each kind of target."""
        if self.targets.keys() == {"forces"}:
            forces = self.strained_sum.force_rows(self.deformation, self.displacements)
            return {"forces": self._with_constants(forces)}
        found = self.strained_sum.design_rows(self.deformation, self.displacements)
        return {kind: self._rows_of(kind, found) for kind in self.targets}

    def _rows_of(self, kind: str, rows: DesignRows) -> FloatArray:
        if kind == "forces":
            return self._with_constants(rows.forces)
        n_cells, n_atoms = self.strained_sum.supercell.n_cells, len(self.displacements)
        deformation = np.eye(3) if self.deformation is None else self.deformation
        if kind == "energies":
            constants = self.constants.energy_rows(deformation) * n_cells
            found = np.concatenate([constants, rows.energy])[None]
        else:
            found = np.hstack([self.constants.virial_rows(deformation) * n_cells, rows.virial])
        return found / np.sqrt(n_atoms)

    def _with_constants(self, forces: FloatArray) -> FloatArray:
        return np.hstack([np.zeros((len(forces), self.constants.number)), forces])


@dataclass(frozen=True)
class IdealConstants:
    """Energy and virial of the ideal crystal per primitive cell, as unknowns.

    Parameters
    ----------
    virials : (n_virials, 3, 3) float
        Basis of the virials that the crystal's symmetry allows.
    """

    virials: FloatArray

    @classmethod
    def of(cls, rotations: FloatArray) -> IdealConstants:
        """Constants of a crystal with these Cartesian rotations, (n, 3, 3)."""
        turned = np.einsum("gij,vjk,glk->vil", rotations, _UNIT_TENSORS, rotations)
        invariant = (turned / len(rotations)).reshape(6, 9)
        _, sizes, basis = np.linalg.svd(invariant)
        return cls(basis[: int((sizes > 1e-6).sum())].reshape(-1, 3, 3))

    @property
    def number(self) -> int:
        """Number of unknowns; the energy comes first."""
        return 1 + len(self.virials)

    def energy_rows(self, deformation: FloatArray) -> FloatArray:
        """(number,) energy of the deformed ideal crystal per cell and unknown."""
        return np.concatenate([[1.0], ideal_energy(self.virials, deformation)])

    def virial_rows(self, deformation: FloatArray) -> FloatArray:
        """(6, number) virial of the deformed ideal crystal per cell and unknown."""
        return np.column_stack([np.zeros(6), voigt(ideal_virial(self.virials, deformation)).T])

    def tensors(self) -> FloatArray:
        """(7, number) energy and six virial components (xx, yy, zz, yz, xz, xy) per unknown."""
        found = np.zeros((7, self.number))
        found[0, 0] = 1
        found[1:, 1:] = voigt(self.virials).T
        return found


class LabelReader:
    """Makes labels of an expansion from structures in any supercell and order of atoms.

    Parameters
    ----------
    expansion : Expansion
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    """

    def __init__(self, expansion: Expansion, maximum_displacement: float | None = None) -> None:
        self.expansion = expansion
        self.maximum_displacement = maximum_displacement
        self._sums: dict[bytes, tuple[StrainedSum, TruncationShapes]] = {}

    @cached_property
    def constants(self) -> IdealConstants:
        """Unknown constants of the ideal crystal."""
        return IdealConstants.of(find_space_group(self.expansion.crystal)[1].cartesian_rotations)

    def read(
        self,
        cell: FloatArray,
        positions: FloatArray,
        forces: FloatArray | None,
        energy: float | None,
        virial: FloatArray | None,
        numbers: IntArray | None,
    ) -> Label:
        """One label; see `Trainer.add`."""
        if forces is not None and forces.shape != positions.shape:
            raise ModelError(
                f"a label has forces of shape {forces.shape} for positions {positions.shape}"
            )
        matrix = identify_strained_supercell(self.expansion.crystal, cell, len(positions))
        strained_sum, shapes = self._sums_of(matrix)
        supercell = strained_sum.supercell
        deformation = (
            None if is_reference_cell(supercell, cell) else checked_deformation(supercell, cell)
        )
        assignment = assign_sites(
            supercell, positions, numbers, self.maximum_displacement, deformation
        )
        displacements = assignment.displacements(positions, deformation)
        # What rounding leaves of an atom on its site would teach, precisely, nothing but rounding.
        displacements[np.abs(displacements) < _ROUNDING] = 0
        targets = {}
        if forces is not None:
            ordered = np.empty_like(forces)
            ordered[assignment.sites] = forces
            targets["forces"] = Targets(ordered.ravel(), shapes.of_forces(displacements))
        share = 1 / np.sqrt(len(positions))
        whole = shapes.of_structure(displacements)
        if energy is not None:
            targets["energies"] = Targets(np.array([energy * share]), whole[None])
        if virial is not None:
            targets["virials"] = Targets(voigt(virial) * share, np.tile(whole, (6, 1)))
        return Label(self.constants, strained_sum, deformation, displacements, targets)

    def _sums_of(self, matrix: IntArray) -> tuple[StrainedSum, TruncationShapes]:
        key = matrix.tobytes()
        if key not in self._sums:
            supercell = Supercell(self.expansion.crystal, matrix)
            shapes = TruncationShapes(
                supercell, self.expansion.surroundings, max(self.expansion.orders)
            )
            self._sums[key] = StrainedSum(LatticeSum(self.expansion, supercell)), shapes
        return self._sums[key]
