"""The reference crystal, its supercell, and displacements of atoms from their sites."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from numpy.typing import ArrayLike, NDArray

from anharm.errors import ModelError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Crystal:
    """A periodic reference structure: the sites about which displacements are taken.

    Parameters
    ----------
    lattice : (3, 3) float
        Lattice vectors as rows, Angstrom.
    fractional_positions : (n_sites, 3) float
        Sites in units of the lattice vectors.
    numbers : (n_sites,) int
        Atomic numbers.
    """

    lattice: FloatArray
    fractional_positions: FloatArray
    numbers: IntArray

    @classmethod
    def from_atoms(cls, atoms: Atoms) -> Crystal:
        """Take lattice, sites and species from an `ase.Atoms`.

        Raises
        ------
        ModelError
            If the cell is missing, a number is not finite, or two atoms share a site.
        """
        lattice = np.array(atoms.cell[:], dtype=float)
        if not (np.isfinite(lattice).all() and np.isfinite(atoms.positions).all()):
            raise ModelError(
                "the crystal has a lattice vector or a position that is not a finite number; "
                "correct the structure file"
            )
        if abs(np.linalg.det(lattice)) < 1e-6:
            raise ModelError(
                f"the crystal has no three-dimensional cell (lattice vectors {lattice.tolist()}); "
                "give a structure file that states its lattice"
            )
        if len(atoms) == 0:
            raise ModelError("the crystal has no atoms; give a structure file that lists them")
        crystal = cls(lattice, atoms.get_scaled_positions(wrap=True), np.array(atoms.numbers))
        crystal._check_distances()
        return crystal

    def _check_distances(self) -> None:
        distances = self._all_pair_distances()
        if distances.size and distances.min() < 0.3:
            i, j = np.unravel_index(np.argmin(distances), distances.shape)
            raise ModelError(
                f"atoms {i} and {j} of the crystal are {distances[i, j]:.3f} Angstrom apart; "
                "remove the duplicate site or correct the positions"
            )

    def _all_pair_distances(self) -> FloatArray:
        """Nearest-image distance between every two sites, inf on the diagonal, Angstrom."""
        difference = self.fractional_positions[:, None] - self.fractional_positions[None]
        shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
        difference = difference @ self.lattice @ np.linalg.inv(self.reduced_lattice)
        difference -= np.round(difference)
        vectors = (difference[:, :, None] + shifts) @ self.reduced_lattice
        distances: FloatArray = np.linalg.norm(vectors, axis=-1).min(axis=-1)
        np.fill_diagonal(distances, np.inf)
        return distances

    @cached_property
    def reduced_lattice(self) -> FloatArray:
        """(3, 3) the shortest vectors that span the same lattice, Angstrom."""
        return reduce_lattice(self.lattice)

    @property
    def n_sites(self) -> int:
        """Number of sites in the cell."""
        return len(self.numbers)

    @property
    def positions(self) -> FloatArray:
        """(n_sites, 3) Cartesian positions of the sites, Angstrom."""
        return self.fractional_positions @ self.lattice

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols of the sites."""
        return [chemical_symbols[number] for number in self.numbers]

    def to_atoms(self) -> Atoms:
        """The crystal as `ase.Atoms`."""
        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.lattice, pbc=True)


def reduce_lattice(lattice: FloatArray) -> FloatArray:
    """The shortest vectors that span the same lattice (Minkowski reduction), as rows."""
    reduced: FloatArray = minkowski_reduce(lattice, pbc=True)[0]
    return reduced


def nearest_image(vectors: FloatArray, reduced_lattice: FloatArray) -> FloatArray:
    """Shift (..., 3) vectors by lattice vectors towards the shortest image.

    Exact for vectors shorter than half the smallest height of the cell; a skewed cell has small
    heights, so give the reduced lattice.
    """
    fractional = vectors @ np.linalg.inv(reduced_lattice)
    fractional -= np.round(fractional)
    shortened: FloatArray = fractional @ reduced_lattice
    return shortened


def as_supercell_matrix(supercell: ArrayLike) -> IntArray:
    """A (3, 3) integer matrix from three multiples or from a matrix; rows are new vectors.

    Raises
    ------
    ModelError
        If the numbers are not integers or the matrix is singular.
    """
    try:
        values = np.array(supercell, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    matrix = np.diag(values) if values.shape == (3,) else values
    if (
        matrix.shape != (3, 3)
        or not np.isfinite(matrix).all()
        or np.abs(matrix - np.round(matrix)).max() > 1e-9
    ):
        raise ModelError(
            f"supercell {supercell!r} is neither three integers nor a 3x3 integer matrix"
        )
    integers = np.round(matrix).astype(np.int64)
    if round(np.linalg.det(integers)) == 0:
        raise ModelError(f"supercell {integers.tolist()} is singular: its vectors span no volume")
    return integers


@dataclass(frozen=True)
class Supercell:
    """A supercell of a crystal, its atoms numbered by (site, cell), cells contiguous.

    Atom `site * n_cells + cell` is the image of `site` in the primitive cell number `cell`.

    Parameters
    ----------
    crystal : Crystal
        The reference crystal.
    matrix : (3, 3) int
        Rows are the supercell vectors in units of the crystal's lattice vectors.
    """

    crystal: Crystal
    matrix: IntArray

    @property
    def lattice(self) -> FloatArray:
        """(3, 3) supercell vectors as rows, Angstrom."""
        return self.matrix @ self.crystal.lattice

    @cached_property
    def n_cells(self) -> int:
        """Number of primitive cells in the supercell."""
        return abs(round(np.linalg.det(self.matrix)))

    @cached_property
    def n_atoms(self) -> int:
        """Number of atoms in the supercell."""
        return self.n_cells * self.crystal.n_sites

    @cached_property
    def exact_inverse(self) -> tuple[IntArray, int]:
        """Integer adjugate and determinant of the matrix: inverse = adjugate / determinant."""
        determinant = round(np.linalg.det(self.matrix))
        adjugate = np.round(np.linalg.inv(self.matrix) * determinant).astype(np.int64)
        return adjugate, determinant

    def _cell_keys(self, cells: IntArray) -> IntArray:
        """Reduce lattice vectors modulo the supercell, exactly; returns (..., 3) residues."""
        adjugate, determinant = self.exact_inverse
        residues: IntArray = np.mod(cells @ adjugate, abs(determinant))
        return residues

    @cached_property
    def cells(self) -> IntArray:
        """(n_cells, 3) lattice vectors of the primitive cells inside the supercell."""
        corners = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
        corners = corners @ self.matrix
        ranges = [np.arange(corners[:, i].min(), corners[:, i].max() + 1) for i in range(3)]
        grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3).astype(np.int64)
        adjugate, determinant = self.exact_inverse
        scaled = grid @ adjugate * np.sign(determinant)
        inside = np.all((scaled >= 0) & (scaled < abs(determinant)), axis=1)
        return grid[inside]

    @cached_property
    def _cell_lookup(self) -> tuple[IntArray, IntArray]:
        codes = self._cell_codes(self.cells)
        order = np.argsort(codes)
        return codes[order], order

    def _cell_codes(self, cells: IntArray) -> IntArray:
        size = abs(self.exact_inverse[1])
        keys = self._cell_keys(cells)
        return (keys[..., 0] * size + keys[..., 1]) * size + keys[..., 2]

    def cell_index(self, cells: IntArray) -> IntArray:
        """Index of the primitive cell that is equivalent to each lattice vector (..., 3)."""
        codes, order = self._cell_lookup
        found: IntArray = order[np.searchsorted(codes, self._cell_codes(np.asarray(cells)))]
        return found

    @cached_property
    def positions(self) -> FloatArray:
        """(n_atoms, 3) ideal positions, Angstrom, in the supercell's own order."""
        fractional = self.crystal.fractional_positions[:, None] + self.cells[None]
        return fractional.reshape(-1, 3) @ self.crystal.lattice

    @property
    def numbers(self) -> IntArray:
        """(n_atoms,) atomic numbers in the supercell's own order."""
        return np.repeat(self.crystal.numbers, self.n_cells)

    @cached_property
    def half_width(self) -> float:
        """Half the shortest supercell lattice vector, Angstrom.

        A cluster whose diameter is below it never meets its own image.
        """
        return float(np.linalg.norm(self.reduced_lattice, axis=1).min() / 2)

    @cached_property
    def reduced_lattice(self) -> FloatArray:
        """(3, 3) the shortest vectors that span the supercell's lattice, Angstrom."""
        return reduce_lattice(self.lattice)

    def to_atoms(self) -> Atoms:
        """The ideal supercell as `ase.Atoms`, in the supercell's own order."""
        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.lattice, pbc=True)


def identify_supercell(crystal: Crystal, cell: FloatArray, tolerance: float = 0.02) -> IntArray:
    """The integer supercell matrix of a simulation cell.

    Parameters
    ----------
    crystal : Crystal
        The reference crystal.
    cell : (3, 3) float
        Simulation cell vectors as rows, Angstrom.
    tolerance : float
        Largest allowed relative deviation of the cell from an ideal supercell.

    Raises
    ------
    ModelError
        If the cell is no supercell of the crystal.
    """
    if not np.isfinite(cell).all():
        raise ModelError(f"the cell {cell.tolist()} holds a number that is not finite")
    ratios = cell @ np.linalg.inv(crystal.lattice)
    matrix = np.round(ratios).astype(np.int64)
    deviation = np.abs(matrix @ crystal.lattice - cell).max() / max(np.abs(cell).max(), 1e-9)
    if round(np.linalg.det(matrix)) == 0 or deviation > tolerance:
        raise ModelError(
            f"the cell {np.round(cell, 4).tolist()} Angstrom is not a supercell of the crystal "
            f"with lattice {np.round(crystal.lattice, 4).tolist()} Angstrom "
            f"(as multiples: {np.round(ratios, 3).tolist()}); use the lattice constant and the "
            "orientation of [crystal] primitive"
        )
    return matrix
