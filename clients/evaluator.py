"""The model on i-PI's supercell: configurations in, energies, forces, virials and extras out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from anharm.extras import COMMITTEE_EXTRAS, ExtrasChoice
from anharm.model import BayesianModel, ForceField
from anharm.model.committee import Committee
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.force_field import Prediction
from anharm.model.sites import SiteAssignment, assign_sites
from anharm.wire.driver_protocol import Evaluations, committee_extras


@dataclass(frozen=True)
class Placed:
    """Configurations of one cell, in the supercell's order.

    Attributes
    ----------
    displacements : (n_configurations, n_atoms, 3) float
        Angstrom.
    deformation : (3, 3) float or None
        F = 1 + strain; None in the reference cell.
    """

    displacements: FloatArray
    deformation: FloatArray | None

    def __getitem__(self, chosen: slice) -> Placed:
        """Some of the configurations."""
        return Placed(self.displacements[chosen], self.deformation)


class Evaluator:
    """Evaluates configurations in i-PI's order of atoms.

    Parameters
    ----------
    force_field : ForceField
    version : int
        Of its model.
    extras : ExtrasChoice
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    numbers : (n_atoms,) int, optional
        Atomic numbers in i-PI's order; without them, positions alone tell the sites.
    """

    def __init__(
        self,
        force_field: ForceField,
        version: int,
        extras: ExtrasChoice,
        maximum_displacement: float | None = None,
        numbers: IntArray | None = None,
    ) -> None:
        self.force_field = force_field
        self.version = version
        self._extras = extras
        self._maximum_displacement = maximum_displacement
        self._numbers = numbers
        self._assignment: SiteAssignment | None = None
        self._committee = self._new_committee()

    def use(self, model: BayesianModel, version: int) -> None:
        """Swap in another version of the model."""
        self.force_field.use(model)
        self.version = version
        self._committee = self._new_committee()

    def place(self, cell: FloatArray, positions: FloatArray) -> Placed:
        """Displacements of (n_configurations, n_atoms, 3) positions in one cell.

        Raises
        ------
        AnharmError
            If an atom left its site or the cell is strained too far.
        """
        deformation = self.force_field.deformation(cell)
        if self._assignment is None:
            self._assignment = assign_sites(
                self.force_field.supercell,
                positions[0],
                self._numbers,
                self._maximum_displacement,
                deformation,
            )
        return Placed(self._assignment.displacements(positions, deformation), deformation)

    def predict(self, placed: Placed, errors: bool = True) -> Prediction:
        """Energy, forces, virial, and errors in single precision."""
        force_field, u = self.force_field, placed.displacements
        if placed.deformation is None:
            return force_field.predict(u, errors, exact_errors=False)
        return force_field.predict_strained(placed.deformation, u, errors, exact_errors=False)

    def with_errors(self, placed: Placed, result: Prediction) -> Prediction:
        """A prediction with its errors, by the same version of the model."""
        if result.force_std is not None:
            return result
        std = self.force_field.force_std(placed.displacements, False, placed.deformation)
        return replace(result, force_std=std)

    def evaluations(self, placed: Placed, result: Prediction) -> Evaluations:
        """The answers for i-PI, in its order of atoms."""
        assert self._assignment is not None and result.virials is not None
        extras = [json.dumps(one) if one else "" for one in self._extras_of(placed, result)]
        forces = self._assignment.to_user_order(result.forces)
        return Evaluations(result.energies, forces, result.virials, extras)

    def _extras_of(self, placed: Placed, result: Prediction) -> list[dict[str, Any]]:
        """One dictionary per configuration, all with the same keys, as i-PI needs them."""
        names = self._extras.names
        found: list[dict[str, Any]] = [{} for _ in range(len(result.energies))]
        if not names:
            return found
        for index, extras in enumerate(found):
            if "model_version" in names:
                extras["model_version"] = self.version
            if self._extras.has_errors:
                self._add_errors(extras, result, index)
        if self._committee is not None:
            self._add_committee(found, placed, result)
        return found

    def _add_errors(self, extras: dict[str, Any], result: Prediction, index: int) -> None:
        assert self._assignment is not None and result.force_std is not None
        names = self._extras.names
        largest, mean, _ = result.error_statistics[index].tolist()
        if "force_std_max" in names:
            extras["force_std_max"] = largest
        if "force_std_mean" in names:
            extras["force_std_mean"] = mean
        if "force_std" in names:
            std = self._assignment.to_user_order(result.force_std[index])
            extras["force_std"] = std.tolist()

    def _add_committee(
        self, found: list[dict[str, Any]], placed: Placed, result: Prediction
    ) -> None:
        assert self._committee is not None and self._assignment is not None
        assert result.virials is not None
        members = self._committee.about(
            result.energies,
            result.forces,
            result.virials,
            placed.displacements,
            placed.deformation,
            self.force_field.threads,
        )
        forces = self._assignment.to_user_order(members.forces)
        names = [name for name in COMMITTEE_EXTRAS if name in self._extras.names]
        for index, extras in enumerate(found):
            extras.update(
                committee_extras(
                    names, members.energies[index], forces[index], members.virials[index]
                )
            )

    def _new_committee(self) -> Committee | None:
        n_members = self._extras.n_members
        return self.force_field.committee(n_members) if n_members else None
