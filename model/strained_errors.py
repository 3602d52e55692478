"""Errors of forces in cells near the reference, by the polynomials of the reference cell.

In a cell deformed by F = 1 + eta, a body of reference position R moves by eta R + u. Nothing
depends on where R is counted from, as long as the translational sum rules hold, so that for the
force on an atom it can be counted from this atom. The design rows of that force are then those of
the reference cell for the displacements u + eta (R - R_atom), and a new cell costs no more than
these shifts.

What is left of the sum of the forces is the same for all displacements, because only the constant
forces of the strained crystal do not add up to zero, and only in a crystal that is polar.
"""

from __future__ import annotations

import numpy as np

from anharm.model.component_classes import ComponentClasses
from anharm.model.crystal import FloatArray, Supercell
from anharm.model.force_errors import ForceErrors, PosteriorFactor
from anharm.model.force_rows import ForceRows
from anharm.model.independent_parameters import IndependentParameters

_ROUNDING = 1e-12  # of the largest force
_SOME_STRAIN = 0.01 * np.sin(np.arange(1.0, 10.0)).reshape(3, 3)  # without any symmetry


class StrainedErrors:
    """Standard deviations of forces in one supercell, in cells near its reference cell.

    Parameters
    ----------
    supercell : Supercell
    rows : ForceRows
        In the reference cell.
    independent : IndependentParameters
        Of the expansion.
    classes : ComponentClasses
        In the reference cell; also in others, unless a mean over the atoms has to be removed.
    """

    def __init__(
        self,
        supercell: Supercell,
        rows: ForceRows,
        independent: IndependentParameters,
        classes: ComponentClasses,
    ) -> None:
        crystal = supercell.crystal
        by_site, homes = rows.by_site(crystal.n_sites)
        bodies, sites = by_site.bodies, crystal.fractional_positions
        self._vectors = (bodies[:, :3] + sites[bodies[:, 3]] - sites[homes]) @ crystal.lattice
        self._errors = ForceErrors(supercell, by_site, independent, classes)
        at_sites = self._errors.rows_at_sites(self._shifts(_SOME_STRAIN))
        self._has_mean = bool(
            np.abs(at_sites.mean(axis=1)).max() > _ROUNDING * np.abs(at_sites).max()
        )
        if self._has_mean:  # which has a part of every parameter
            together = ComponentClasses.of(
                np.ones((len(at_sites), 3 * crystal.n_sites), dtype=bool)
            )
            self._errors = ForceErrors(supercell, by_site, independent, together)
        self._deformation = b""

    def standard_deviations(
        self,
        deformation: FloatArray,
        displacements: FloatArray,
        factor: PosteriorFactor,
        exact: bool = True,
        threads: int = 1,
    ) -> FloatArray:
        """Those of `ForceErrors`, of displacements from the sites of the strained crystal.

        Parameters
        ----------
        deformation : (3, 3) float
            F = 1 + eta.
        displacements : (n_conf, n_atoms, 3) float
            Angstrom, in the supercell's order.
        factor : PosteriorFactor
        exact : bool
        threads : int
        """
        key = deformation.tobytes()
        if key != self._deformation:
            shifts = self._shifts(deformation - np.eye(3))
            means = self._errors.rows_at_sites(shifts).mean(axis=1) if self._has_mean else None
            self._errors.strain(shifts, means)
            self._deformation = key
        return self._errors.standard_deviations(displacements, factor, exact, threads)

    def _shifts(self, strain: FloatArray) -> FloatArray:
        return np.ascontiguousarray(self._vectors @ strain.T).ravel()
