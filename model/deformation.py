"""Cells near the reference: the homogeneous deformation that leads from one to the other."""

from __future__ import annotations

import numpy as np

from anharm.errors import ModelError
from anharm.model.crystal import Crystal, FloatArray, IntArray, Supercell, identify_supercell

MAXIMUM_STRAIN = 0.05
STRAIN_MARGIN = 0.01  # beyond the strain of its labels a model is used this far (changing-cells.md)
_SAME_CELL = 1e-6  # Angstrom; cells that differ by less differ by rounding


def deformation_gradient(reference: FloatArray, cell: FloatArray) -> FloatArray:
    """F = 1 + eta of the homogeneous deformation that makes one cell of another.

    Parameters
    ----------
    reference, cell : (3, 3) float
        Cell vectors as rows, Angstrom; a vector v of the reference becomes F v.
    """
    deformation: FloatArray = np.asarray(np.linalg.solve(reference, cell).T, dtype=float)
    return deformation


def strain_of(deformation: FloatArray) -> float:
    """The largest component of the strain F - 1, by size."""
    return float(np.abs(deformation - np.eye(3)).max())


def checked_deformation(
    supercell: Supercell,
    cell: FloatArray,
    limit: float = MAXIMUM_STRAIN,
    trained: float | None = None,
) -> FloatArray:
    """The deformation of a supercell, refused where an expansion about its sites cannot follow.

    Parameters
    ----------
    supercell : Supercell
    cell : (3, 3) float
        Angstrom.
    limit : float
        Largest component of the strain.
    trained : float, optional
        The strain of the labels that the limit comes from.

    Raises
    ------
    ModelError
        If a component of the strain exceeds the limit, or a number is not finite.
    """
    deformation = deformation_gradient(supercell.lattice, np.asarray(cell, dtype=float))
    strain = strain_of(deformation)
    if strain <= min(limit, MAXIMUM_STRAIN):
        return deformation
    is_reachable = strain <= MAXIMUM_STRAIN
    allowed = f"the allowed {limit if is_reachable else MAXIMUM_STRAIN:.3g}"
    remedy = "train a model about a reference crystal nearer to it"
    if trained is not None and is_reachable:
        allowed = (
            f"the {limit:.3g} that the model was trained for (its labels are strained by up to "
            f"{trained:.3g}; {STRAIN_MARGIN:g} beyond is allowed)"
        )
        remedy = (
            "add labels in strained cells (training.initial_strain for those that a run begins "
            "with), or allow it with crystal.maximum_strain"
        )
    raise ModelError(
        f"the cell {np.round(cell, 4).tolist()} Angstrom is strained by up to {strain:.3f} "
        f"against the model's supercell {np.round(supercell.lattice, 4).tolist()}, more than "
        f"{allowed}: {remedy}"
    )


def is_reference_cell(supercell: Supercell, cell: FloatArray) -> bool:
    """Whether a cell is the ideal supercell but for rounding."""
    return bool(np.abs(cell - supercell.lattice).max() < _SAME_CELL)


def identify_strained_supercell(crystal: Crystal, cell: FloatArray, n_atoms: int) -> IntArray:
    """The integer supercell matrix of a cell that may be strained.

    Rounding the cell in units of the lattice would miscount the cells of a large supercell, so
    that the number of atoms first tells the change of volume.

    Raises
    ------
    ModelError
        If the cell is no supercell of the crystal, strained by `MAXIMUM_STRAIN` at most.
    """
    if not np.isfinite(cell).all():
        return identify_supercell(crystal, cell)
    ratios = cell @ np.linalg.inv(crystal.lattice)
    volume = abs(np.linalg.det(ratios))
    stretch = (volume * crystal.n_sites / max(n_atoms, 1)) ** (1 / 3)
    if not abs(stretch - 1) <= MAXIMUM_STRAIN:
        stretch = 1.0  # the number of atoms is wrong, which others say better
    matrix = np.round(ratios / stretch).astype(np.int64)
    if round(np.linalg.det(matrix)) == 0:
        return identify_supercell(crystal, cell)
    deformation = deformation_gradient(matrix @ crystal.lattice, cell)
    if np.abs(deformation - np.eye(3)).max() > MAXIMUM_STRAIN:
        raise ModelError(
            f"the cell {np.round(cell, 4).tolist()} Angstrom is not a supercell of the crystal "
            f"with lattice {np.round(crystal.lattice, 4).tolist()} Angstrom (as multiples: "
            f"{np.round(ratios, 3).tolist()}), nor one strained by at most {MAXIMUM_STRAIN}; use "
            "the lattice constant and the orientation of [crystal] primitive"
        )
    return matrix
