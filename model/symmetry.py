"""The space group as integer maps of sites and cells, and as exact rotations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from scipy.linalg import polar, sqrtm

from anharm.errors import ModelError
from anharm.model.crystal import Crystal, FloatArray, IntArray


@dataclass(frozen=True)
class SpaceGroup:
    """Symmetry operations of a crystal, acting on sites and cells with integer arithmetic.

    Operation g maps the atom (site s, cell L) to the atom
    (`site_images[g, s]`, `rotations[g] @ L + cell_shifts[g, s]`).

    Parameters
    ----------
    symbol : str
        International symbol.
    rotations : (n_operations, 3, 3) int
        Rotations in units of the lattice vectors, acting on column vectors.
    cartesian_rotations : (n_operations, 3, 3) float
        The same as orthogonal matrices acting on Cartesian column vectors.
    site_images : (n_operations, n_sites) int
        Image of each site.
    cell_shifts : (n_operations, n_sites, 3) int
        Lattice vector by which the image of a site in the home cell leaves the home cell.
    """

    symbol: str
    rotations: IntArray
    cartesian_rotations: FloatArray
    site_images: IntArray
    cell_shifts: IntArray

    @property
    def n_operations(self) -> int:
        """Number of operations, pure translations of a non-primitive cell included."""
        return len(self.rotations)

    def apply(self, bodies: IntArray) -> IntArray:
        """Images of atoms under every operation.

        Parameters
        ----------
        bodies : (..., 4) int
            Atoms as (cell, cell, cell, site).

        Returns
        -------
        (n_operations, ..., 4) int
        """
        cells, sites = bodies[..., :3], bodies[..., 3]
        images = np.empty((self.n_operations, *bodies.shape), dtype=np.int64)
        images[..., :3] = np.einsum("gij,...j->g...i", self.rotations, cells)
        images[..., :3] += self.cell_shifts[:, sites]
        images[..., 3] = self.site_images[:, sites]
        return images


def find_space_group(crystal: Crystal, tolerance: float = 1e-3) -> tuple[Crystal, SpaceGroup]:
    """Find the space group and idealise the crystal so that it holds to machine precision.

    Parameters
    ----------
    crystal : Crystal
        A crystal, possibly with rounded coordinates.
    tolerance : float
        Distance within which symmetry is recognised, Angstrom.

    Returns
    -------
    (Crystal, SpaceGroup)
        The idealised crystal (same sites in the same order) and its symmetry.

    Raises
    ------
    ModelError
        If no consistent set of operations is found within the tolerance, or if the cell is a
        multiple of the primitive one whose shape hides part of the symmetry.
    """
    cell: Any = (crystal.lattice, crystal.fractional_positions, crystal.numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = spglib.get_symmetry_dataset(cell, symprec=tolerance)
    if dataset is None:
        raise ModelError(
            f"no space group was found within {tolerance} Angstrom; check the crystal structure "
            "or change crystal.symmetry_tolerance"
        )
    _refuse_hidden_symmetry(cell, dataset, tolerance)
    rotations = np.array(dataset.rotations, dtype=np.int64)
    translations = np.array(dataset.translations, dtype=float)
    lattice = _symmetrised_lattice(crystal.lattice, rotations)
    site_images, shifts = _map_sites(crystal, rotations, translations, tolerance)
    translations = _exact_translations(translations)
    fractional = _symmetrised_sites(crystal, rotations, translations, site_images, shifts)
    ideal = Crystal(lattice, fractional, crystal.numbers)
    cartesian = np.einsum("ji,gjk,lk->gil", lattice, rotations, np.linalg.inv(lattice))
    return ideal, SpaceGroup(dataset.international, rotations, cartesian, site_images, shifts)


def _refuse_hidden_symmetry(cell: Any, dataset: Any, tolerance: float) -> None:
    """Only rotations that map the given cell's lattice onto itself can be used.

    A multiple cell of lower shape (2x1x1 of a hexagonal crystal, say) has fewer of them than the
    crystal; parameters that symmetry makes equal would then be counted, and fitted, apart.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        primitive = spglib.find_primitive(cell, symprec=tolerance)
        if primitive is None or len(primitive[2]) == len(cell[2]):
            return
        symmetry: Any = spglib.get_symmetry(primitive, symprec=tolerance)
        expected = len(symmetry["rotations"])
    multiple = len(cell[2]) // len(primitive[2])
    if len(dataset.rotations) < expected * multiple:
        raise ModelError(
            f"the crystal's cell of {len(cell[2])} atoms is {multiple} primitive cells in a shape "
            f"that hides symmetry of the space group {dataset.international}; give the primitive "
            f"cell of {len(primitive[2])} atoms, or the conventional one"
        )


def _symmetrised_lattice(lattice: FloatArray, rotations: IntArray) -> FloatArray:
    """The nearest lattice whose metric every rotation leaves unchanged, in the same orientation."""
    metric = lattice @ lattice.T
    metric = np.einsum("gki,kl,glj->ij", rotations, metric, rotations) / len(rotations)
    root = np.real(sqrtm(metric))
    rotation, _ = polar(np.linalg.solve(root, lattice))
    symmetrised: FloatArray = root @ rotation
    return symmetrised


def _map_sites(
    crystal: Crystal, rotations: IntArray, translations: FloatArray, tolerance: float
) -> tuple[IntArray, IntArray]:
    """Image site and cell of every site under every operation."""
    fractional = crystal.fractional_positions
    moved = np.einsum("gij,sj->gsi", rotations, fractional) + translations[:, None]
    difference = moved[:, :, None] - fractional[None, None]
    residual = (difference - np.round(difference)) @ crystal.lattice
    distance = np.linalg.norm(residual, axis=-1)
    distance[:, crystal.numbers[:, None] != crystal.numbers[None]] = np.inf
    images = np.argmin(distance, axis=-1)
    nearest = np.take_along_axis(distance, images[..., None], -1)
    one_to_one = np.all(np.sort(images, axis=1) == np.arange(crystal.n_sites), axis=None)
    if nearest.max() > 10 * tolerance or not one_to_one:
        raise ModelError(
            f"symmetry operations do not map the sites onto each other within {tolerance} "
            "Angstrom; lower crystal.symmetry_tolerance or give more digits in the structure file"
        )
    shift = np.take_along_axis(difference, images[..., None, None], 2)[:, :, 0]
    return images.astype(np.int64), np.round(shift).astype(np.int64)


def _exact_translations(translations: FloatArray) -> FloatArray:
    """Round to the nearest multiple of 1/24 where that is what was meant."""
    rational = np.round(translations * 24) / 24
    return np.where(np.abs(rational - translations) < 1e-3, rational, translations)


def _symmetrised_sites(
    crystal: Crystal,
    rotations: IntArray,
    translations: FloatArray,
    images: IntArray,
    shifts: IntArray,
) -> NDArray[np.float64]:
    """Average each site over the operations that map some site onto it."""
    moved = np.einsum("gij,sj->gsi", rotations, crystal.fractional_positions)
    moved += translations[:, None] - shifts
    total = np.zeros((crystal.n_sites, 3))
    np.add.at(total, images, moved)
    return total / len(rotations)
