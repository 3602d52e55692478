"""Programs: polynomials in the displacements, arranged in forests for the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from scipy.sparse import coo_array, csr_array

from anharm.model.crystal import FloatArray, IntArray
from anharm.model.forest import Forest, plant
from anharm.model.kernels import evaluate
from anharm.model.lanes import NARROW, WIDE, Block, width_of
from anharm.model.threads import ranges, run_threads


@dataclass(frozen=True)
class MonomialTable:
    """Every monomial of an expansion, all orders together.

    Parameters
    ----------
    variables : (n_terms, n_max) int
        Body * 3 + axis of each factor, ascending, padded behind with -1.
    orders : (n_terms,) int
        Number of factors.
    body_positions : (n_bodies, 3) float
        Ideal positions of the bodies relative to the origin of their home cell, Angstrom.
    """

    variables: IntArray
    orders: IntArray
    body_positions: FloatArray

    @property
    def anchors(self) -> IntArray:
        """(n_terms,) the lowest body of each monomial, which is in the home cell."""
        return self.variables[:, 0] // 3


@dataclass(frozen=True)
class Evaluated:
    """Result of a program for n_conf configurations, one entry per output.

    Attributes
    ----------
    energies : (n_outputs, n_conf) float
    forces : (n_outputs, n_conf, n_atoms, 3) float
    virials : (n_outputs, n_conf, 3, 3) float or None
        -dE/dstrain, eV.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray | None


@dataclass(frozen=True)
class Program:
    """Polynomials ready for the kernels.

    The coefficients can be replaced (`with_coefficients`) without arranging them again.

    Attributes
    ----------
    n_outputs : int
    forest : Forest
    positions : (n_bodies, 3) float
        Ideal positions of the bodies, Angstrom.
    places, terms, entry_outputs : (n_entries,) int
        For every weight, the coefficient of the forest that it is, its monomial and its output.
    coefficients : (forest.size,) float
    """

    n_outputs: int
    forest: Forest
    positions: FloatArray
    places: IntArray
    terms: IntArray
    entry_outputs: IntArray
    coefficients: FloatArray

    @classmethod
    def compile(cls, table: MonomialTable, weights: csr_array) -> Program:
        """Compile the columns of a (n_terms, n_outputs) matrix of monomial coefficients."""
        forest, places, terms, order = plant(table.variables, table.anchors, weights)
        coefficients = np.zeros(forest.size)
        entries = coo_array(weights)
        coefficients[places] = entries.data[order]
        return cls(
            n_outputs=int(weights.shape[1]),
            forest=forest,
            positions=table.body_positions,
            places=places,
            terms=terms,
            entry_outputs=entries.col[order].astype(np.int64),
            coefficients=coefficients,
        )

    def with_coefficients(self, term_coefficients: FloatArray) -> Program:
        """The same forest with other coefficients (n_terms,), for a program of one output."""
        coefficients = np.zeros(self.forest.size)
        coefficients[self.places] = term_coefficients[self.terms]
        return replace(self, coefficients=coefficients)

    @cached_property
    def single(self) -> Program:
        """The same program in single precision."""
        return replace(
            self,
            positions=self.positions.astype(np.float32),
            coefficients=self.coefficients.astype(np.float32),
        )

    def columns_of(self, outputs: IntArray) -> tuple[IntArray, IntArray]:
        """Columns of some outputs (ascending), and the number of each one's output among them."""
        columns = np.flatnonzero(np.isin(self.forest.outputs, outputs))
        return columns, np.searchsorted(outputs, self.forest.outputs[columns])

    def evaluate(
        self,
        displacements: FloatArray,
        body_atoms: IntArray,
        virial: bool = True,
        threads: int = 1,
    ) -> Evaluated:
        """Evaluate (n_conf, n_atoms, 3) displacements, Angstrom, in the supercell's order.

        Threads divide the cells of the supercell among them, and add up their results.
        """
        by_atom = configurations_last(displacements)
        n_atoms, _, n_configurations = by_atom.shape
        n_outputs = self.n_outputs
        block = block_for(n_configurations, body_atoms.shape[1], by_atom.itemsize)
        grain = -(-width_of(block, by_atom.itemsize) // n_configurations)

        def sum_over(cells: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
            energies = np.zeros((n_outputs, n_configurations))
            forces = np.zeros((n_outputs, n_atoms, 3, n_configurations))
            virials = np.zeros((n_outputs if virial else 0, 9, n_configurations))
            evaluate(
                self.forest, self.coefficients, self.positions, self._columns,
                self.forest.outputs, by_atom, body_atoms, body_atoms, *cells,
                energies, forces, virials, block,
            )  # fmt: skip
            return energies, forces, virials

        parts = ranges(body_atoms.shape[1], threads, grain)
        found = run_threads([partial(sum_over, cells) for cells in parts], threads)
        energies, by_atom_forces, moments = found[0]
        for other in found[1:]:
            for total, part in zip(found[0], other, strict=True):
                total += part
        forces = configurations_first(by_atom_forces)
        if not virial:
            return Evaluated(energies, forces, None)
        virials = moments.swapaxes(1, 2).reshape(n_outputs, n_configurations, 3, 3)
        return Evaluated(energies, forces, virials + forces.swapaxes(-1, -2) @ displacements)

    @cached_property
    def _columns(self) -> IntArray:
        return np.arange(len(self.forest.outputs))


def block_for(n_configurations: int, n_cells: int, itemsize: int) -> Block:
    """Wide blocks for a batch that fills more than a narrow one; one configuration needs none."""
    is_wide = n_configurations > 1 and n_configurations * n_cells > width_of(NARROW, itemsize)
    return WIDE if is_wide else NARROW


def configurations_last(displacements: FloatArray) -> FloatArray:
    """(n_conf, n_atoms, 3) as contiguous (n_atoms, 3, n_conf), the layout of the kernels."""
    if len(displacements) == 1:
        return np.ascontiguousarray(displacements).reshape(*displacements.shape[1:], 1)
    return np.ascontiguousarray(np.moveaxis(displacements, 0, -1))


def configurations_first(forces: FloatArray) -> FloatArray:
    """(n, n_atoms, 3, n_conf) as contiguous (n, n_conf, n_atoms, 3)."""
    if forces.shape[-1] == 1:
        return forces.reshape(len(forces), 1, *forces.shape[1:3])
    return np.ascontiguousarray(np.moveaxis(forces, -1, 1))
