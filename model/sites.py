"""Which atom of a configuration sits on which site, and how far it has moved from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import chemical_symbols
from scipy.spatial import cKDTree

from anharm.errors import ModelError
from anharm.model.crystal import FloatArray, IntArray, Supercell, nearest_image
from anharm.model.site_kernels import site_displacements

_OF_FIRST_ATOM: FloatArray = np.empty((0, 3))  # no guesses


@dataclass(frozen=True)
class SiteAssignment:
    """A one-to-one map from a user's atom order to the sites of a supercell.

    Parameters
    ----------
    supercell : Supercell
        The ideal supercell.
    sites : (n_atoms,) int
        `sites[i]` is the supercell atom (site, cell) that the user's atom i occupies.
    maximum_displacement : float
        Atoms further than this from their site (after the mean displacement is removed) are
        an error, Angstrom.
    """

    supercell: Supercell
    sites: IntArray
    maximum_displacement: float

    def displacements(
        self, positions: FloatArray, deformation: FloatArray | None = None
    ) -> FloatArray:
        """Displacements in the supercell's own order, without their mean.

        Parameters
        ----------
        positions : (..., n_atoms, 3) float
            Positions in the user's order, Angstrom, wrapped or not.
        deformation : (3, 3) float, optional
            F = 1 + strain of a cell other than the ideal supercell, whose sites are deformed
            with it.

        Returns
        -------
        (..., n_atoms, 3) float
            Minimum-image displacements from the ideal sites, Angstrom, mean zero.

        Raises
        ------
        ModelError
            If the number of atoms differs, a position is not finite, or an atom left its site.
        """
        supercell = self.supercell
        positions = np.ascontiguousarray(positions, dtype=float)
        if positions.shape[-2:] != (supercell.n_atoms, 3):
            raise ModelError(
                f"a configuration of {positions.shape[-2]} atoms was given to a model whose "
                f"supercell has {supercell.n_atoms}"
            )
        to_fractional, to_cartesian = self._reference_units
        if deformation is not None:
            to_fractional = np.linalg.inv(deformation).T @ to_fractional
            to_cartesian = to_cartesian @ deformation.T
        displacements = np.empty_like(positions)
        found, given = (x.reshape(-1, *x.shape[-2:]) for x in (displacements, positions))
        guesses = self._guesses(given, to_fractional)
        longest = site_displacements(
            given, self._ideal, guesses, to_fractional, to_cartesian, self.sites, found
        )
        if not longest <= self.maximum_displacement**2:
            self._refuse(given, found)
        return displacements

    @cached_property
    def _reference_units(self) -> tuple[FloatArray, FloatArray]:
        """From Angstrom to units of the reduced lattice and back, in the reference cell."""
        lattice: FloatArray = np.ascontiguousarray(self.supercell.reduced_lattice)
        return np.asarray(np.linalg.inv(lattice), dtype=float), lattice

    @cached_property
    def _ideal(self) -> FloatArray:
        """(n_atoms, 3) ideal positions in the user's order, in these units."""
        return self.supercell.positions[self.sites] @ self._reference_units[0]

    @cached_property
    def _is_wide(self) -> bool:
        """Whether images are clear from one atom: no two differ by half the cell."""
        heights = 1 / np.linalg.norm(self._reference_units[0], axis=0)
        return bool(4 * self.maximum_displacement < 0.9 * heights.min())

    def _guesses(self, configurations: FloatArray, to_fractional: FloatArray) -> FloatArray:
        """About the common shift of the atoms of each, in units of the reduced lattice.

        None at all where the first atom tells.
        """
        if self._is_wide:
            return _OF_FIRST_ATOM
        return _circular_means(configurations @ to_fractional - self._ideal)

    def to_user_order(self, per_atom: FloatArray) -> FloatArray:
        """Bring (..., n_atoms, 3) values from the supercell's order into the user's."""
        return per_atom.take(self.sites, axis=-2)

    def _refuse(self, configurations: FloatArray, displacements: FloatArray) -> None:
        """Say which atom of the first bad configuration has no displacement that can be used."""
        if not np.isfinite(configurations).all():
            atom = int(np.argwhere(~np.isfinite(configurations))[0][1])
            raise ModelError(f"the position of atom {atom} is not a finite number")
        each = np.linalg.norm(displacements[:, self.sites], axis=2)
        distances = each[np.argmax(each.max(axis=1) > self.maximum_displacement)]
        atom = int(np.argmax(distances))
        symbol = chemical_symbols[int(self.supercell.numbers[self.sites[atom]])]
        raise ModelError(
            f"atom {atom} ({symbol}) is {distances[atom]:.3f} Angstrom from its site, "
            f"more than the allowed {self.maximum_displacement:.3f} Angstrom "
            "(crystal.maximum_displacement): the crystal has left the region that an "
            "expansion about its sites can describe"
        )


def _circular_means(fractions: FloatArray) -> FloatArray:
    """Means (m, 3) of (m, n, 3) numbers that are known up to integers.

    A crystal that has drifted by half the cell has atoms on both sides of the boundary; their
    plain mean would be far from all of them.
    """
    phases = 2 * np.pi * fractions
    means: FloatArray = np.arctan2(np.sin(phases).mean(axis=1), np.cos(phases).mean(axis=1))
    return means / (2 * np.pi)


def default_maximum_displacement(supercell: Supercell) -> float:
    """Half the nearest-neighbour distance of the ideal crystal, Angstrom."""
    crystal = supercell.crystal
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    between = crystal.positions[:, None] - crystal.positions[None]
    between = nearest_image(between, crystal.reduced_lattice)
    vectors = between[..., None, :] + shifts @ crystal.reduced_lattice
    distances = np.linalg.norm(vectors, axis=-1).ravel()
    return float(0.5 * distances[distances > 1e-6].min())


def assign_sites(
    supercell: Supercell,
    positions: FloatArray,
    numbers: IntArray | None = None,
    maximum_displacement: float | None = None,
    deformation: FloatArray | None = None,
) -> SiteAssignment:
    """Find the site of every atom, for any order of the atoms and any common shift.

    Parameters
    ----------
    supercell : Supercell
        The ideal supercell.
    positions : (n_atoms, 3) float
        Positions in the user's order, Angstrom.
    numbers : (n_atoms,) int, optional
        Atomic numbers in the user's order; without them, positions alone decide.
    maximum_displacement : float, optional
        Angstrom; half the nearest-neighbour distance by default.
    deformation : (3, 3) float, optional
        F = 1 + strain of the cell that the positions are in.

    Raises
    ------
    ModelError
        If counts or species differ, or no one-to-one assignment within the limit exists.
    """
    limit = maximum_displacement or default_maximum_displacement(supercell)
    if len(positions) != supercell.n_atoms:
        raise ModelError(
            f"a configuration of {len(positions)} atoms was given to a model whose supercell "
            f"has {supercell.n_atoms}"
        )
    if not np.isfinite(positions).all():
        atom = int(np.argwhere(~np.isfinite(positions))[0][0])
        raise ModelError(f"the position of atom {atom} is not a finite number")
    if deformation is not None:
        positions = positions @ np.linalg.inv(deformation).T
    if numbers is not None:
        _check_composition(supercell.numbers, numbers)
    problem, best, closest = "", None, np.inf
    for shift in _candidate_shifts(supercell, positions):
        sites, distances = _nearest_sites(supercell, positions - shift)
        mismatch = _describe_mismatch(supercell, sites, distances, numbers, limit)
        problem = problem or mismatch
        # In an open crystal a wrong shift can leave every atom within the limit of some site.
        spread = float(np.sqrt(np.mean(distances**2)))
        if not mismatch and spread < closest - 1e-6:
            best, closest = sites, spread
    if best is None:
        raise ModelError(problem)
    return SiteAssignment(supercell, best, limit)


def _candidate_shifts(supercell: Supercell, positions: FloatArray) -> FloatArray:
    """No shift first, then those that put the first atom on each site of the crystal."""
    crystal = supercell.crystal
    onto_sites = nearest_image(positions[0] - crystal.positions, crystal.reduced_lattice)
    mean_residuals = []
    for shift in np.vstack([np.zeros((1, 3)), onto_sites]):
        residual = (positions - shift)[:, None] - crystal.positions[None]
        residual = nearest_image(residual, crystal.reduced_lattice)
        nearest = np.argmin(np.linalg.norm(residual, axis=-1), axis=1)
        mean_residuals.append(shift + residual[np.arange(len(positions)), nearest].mean(axis=0))
    return np.array(mean_residuals)


def _nearest_sites(supercell: Supercell, positions: FloatArray) -> tuple[IntArray, FloatArray]:
    """The supercell atom nearest to each position, and its distance."""
    crystal, lattice = supercell.crystal, supercell.crystal.reduced_lattice
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    around_first = nearest_image(crystal.positions - crystal.positions[0], lattice)
    tree = cKDTree((around_first[:, None] + shifts @ lattice).reshape(-1, 3))
    distances, index = tree.query(nearest_image(positions - crystal.positions[0], lattice))
    sites, _ = np.divmod(index, len(shifts))
    ideal = positions - nearest_image(positions - crystal.positions[sites], lattice)
    cells = np.round(ideal @ np.linalg.inv(crystal.lattice) - crystal.fractional_positions[sites])
    return sites * supercell.n_cells + supercell.cell_index(cells.astype(np.int64)), distances


def _check_composition(expected: IntArray, given: IntArray) -> None:
    if not np.array_equal(np.sort(expected), np.sort(given)):
        describe = lambda numbers: {  # noqa: E731
            chemical_symbols[z]: int(np.sum(numbers == z)) for z in np.unique(numbers)
        }
        raise ModelError(
            f"a configuration of {describe(given)} was given to a model of {describe(expected)}"
        )


def _describe_mismatch(
    supercell: Supercell,
    sites: IntArray,
    distances: FloatArray,
    numbers: IntArray | None,
    limit: float,
) -> str:
    """Why an assignment is not acceptable, or an empty string."""
    if numbers is not None and np.any(supercell.numbers[sites] != numbers):
        atom = int(np.argmax(supercell.numbers[sites] != numbers))
        return (
            f"atom {atom} ({chemical_symbols[int(numbers[atom])]}) sits on a site of "
            f"{chemical_symbols[int(supercell.numbers[sites[atom]])]}"
        )
    if len(np.unique(sites)) < len(sites):
        values, counts = np.unique(sites, return_counts=True)
        pair = np.flatnonzero(sites == values[np.argmax(counts > 1)])[:2]
        return f"atoms {pair[0]} and {pair[1]} are nearest to the same site of the crystal"
    if distances.max() > limit:
        atom = int(np.argmax(distances))
        return (
            f"atom {atom} is {distances[atom]:.3f} Angstrom from the nearest site, more than the "
            f"allowed {limit:.3f} Angstrom"
        )
    return ""
