"""Training: from labelled structures to a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray, Supercell
from anharm.model.deformation import (
    checked_deformation,
    identify_strained_supercell,
    is_reference_cell,
)
from anharm.model.expansion import Expansion
from anharm.model.lattice_sum import LatticeSum, voigt
from anharm.model.noise import NoiseModel, estimate_noise
from anharm.model.regression import Posterior, SufficientStatistics, maximise_evidence
from anharm.model.sites import assign_sites
from anharm.model.strain import StrainedSum
from anharm.model.symmetry import find_space_group

_NOISE_ITERATIONS = 4
_SAME_WEIGHTS = 0.1  # weights that differ by less are the same
_EXACT_FIT = 1e-7  # residuals below this fraction of the forces are rounding, not noise
_NOISE_SAMPLES = 10_000  # force components from which the noise is estimated, about
_ROWS_IN_MEMORY = 512 << 20  # bytes of design rows that are kept between refits
_UNIT_TENSORS = np.array(  # xx, yy, zz, yz, xz, xy as (6, 3, 3)
    [[[float({i, j} == {a, b}) for j in range(3)] for i in range(3)]
     for a, b in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]]
)  # fmt: skip


@dataclass(frozen=True)
class _Label:
    """A label in the supercell's order."""

    strained_sum: StrainedSum
    deformation: FloatArray | None
    displacements: FloatArray
    forces: FloatArray
    amplitudes: FloatArray
    rows: FloatArray | None

    def force_rows(self) -> FloatArray:
        """Design rows (3 n_atoms, n_parameters), kept or computed again."""
        if self.rows is not None:
            return self.rows
        return self.strained_sum.force_rows(self.deformation, self.displacements)


@dataclass(frozen=True)
class _IdealLabel:
    """An energy or a virial of one configuration, and what of it the expansion explains."""

    rows: FloatArray
    value: FloatArray
    n_cells: int
    deformation: FloatArray

    def rest_per_cell(self, parameters: FloatArray) -> FloatArray:
        """What the expansion does not explain: the part of the ideal crystal."""
        rest: FloatArray = (self.value - self.rows @ parameters) / self.n_cells
        return rest


class Trainer:
    """Collects labels and refits on demand.

    Sufficient statistics are kept as long as the weights of the targets do not change, so that a
    refit costs O(M^3) and a new label O(N M^2), whatever the number of labels.

    Parameters
    ----------
    expansion : Expansion
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    """

    def __init__(self, expansion: Expansion, maximum_displacement: float | None = None) -> None:
        self.expansion = expansion
        self.maximum_displacement = maximum_displacement
        self._labels: list[_Label] = []
        self._noise: NoiseModel | None = None
        self._statistics = SufficientStatistics.empty(expansion.n_parameters)
        self._sums: dict[bytes, tuple[LatticeSum, StrainedSum]] = {}
        self._energies: list[_IdealLabel] = []
        self._virials: list[_IdealLabel] = []
        self._kept_bytes = 0

    @property
    def n_labels(self) -> int:
        """Labels added so far."""
        return len(self._labels)

    def add(
        self,
        cell: FloatArray,
        positions: FloatArray,
        forces: FloatArray,
        energy: float | None = None,
        numbers: IntArray | None = None,
        virial: FloatArray | None = None,
    ) -> None:
        """Add one label.

        Parameters
        ----------
        cell : (3, 3) float
            Cell vectors as rows, Angstrom; a supercell of the crystal, strained by a few per
            cent at most.
        positions, forces : (n_atoms, 3) float
            Angstrom, eV/Angstrom, in any order of the atoms.
        energy : float, optional
            eV; fixes the energy of the ideal crystal.
        numbers : (n_atoms,) int, optional
            Atomic numbers in the same order.
        virial : (3, 3) float, optional
            -dE/dstrain, eV; fixes the virial of the ideal crystal.

        Raises
        ------
        ModelError
            If cell, atoms or numbers do not belong to the crystal, or a number is not finite.
        """
        if forces.shape != positions.shape:
            raise ModelError(
                f"a label has forces of shape {forces.shape} for positions {positions.shape}"
            )
        matrix = identify_strained_supercell(self.expansion.crystal, cell, len(positions))
        lattice_sum, strained_sum = self._lattice_sums(matrix)
        supercell = lattice_sum.supercell
        deformation = (
            None if is_reference_cell(supercell, cell) else checked_deformation(supercell, cell)
        )
        assignment = assign_sites(
            supercell, positions, numbers, self.maximum_displacement, deformation
        )
        displacements = assignment.displacements(positions, deformation)
        rows = strained_sum.design_rows(deformation, displacements)
        targets = np.empty_like(forces)
        targets[assignment.sites] = forces
        self._kept_bytes += rows.forces.nbytes
        label = _Label(
            strained_sum,
            deformation,
            displacements,
            targets.ravel(),
            np.repeat(lattice_sum.local_amplitudes(displacements), 3),
            rows.forces if self._kept_bytes < _ROWS_IN_MEMORY else None,
        )
        self._statistics = self._weighted(self._statistics, label, rows.forces)
        self._labels.append(label)
        frame = np.eye(3) if deformation is None else deformation
        if energy is not None:
            self._energies.append(
                _IdealLabel(rows.energy, np.array(energy), supercell.n_cells, frame)
            )
        if virial is not None:
            self._virials.append(_IdealLabel(rows.virial, voigt(virial), supercell.n_cells, frame))

    def fit(self, version: int = 0, provenance: dict[str, str] | None = None) -> BayesianModel:
        """The model that all labels so far imply.

        Parameters and noise depend on each other, and are found in turn.

        Raises
        ------
        ModelError
            If there are no labels.
        """
        for _ in range(_NOISE_ITERATIONS):
            posterior = maximise_evidence(self._statistics, self.expansion.parameter_orders)
            noise = self._estimate_noise(posterior)
            if noise is None or self._has_same_weights(noise):
                break
            self._noise = noise
            self._statistics = SufficientStatistics.empty(self.expansion.n_parameters)
            for label in self._labels:
                self._statistics = self._weighted(self._statistics, label, label.force_rows())
        ideal_virial = self._ideal_virial(posterior.mean)
        offsets = [
            label.rest_per_cell(posterior.mean)
            + np.sum(ideal_virial * (label.deformation - np.eye(3)))
            for label in self._energies
        ]
        return BayesianModel(
            expansion=self.expansion,
            posterior=posterior,
            noise=noise,
            energy_per_cell=float(np.mean(offsets)) if offsets else 0.0,
            virial_per_cell=ideal_virial,
            n_labels=self.n_labels,
            version=version,
            provenance=provenance or {},
        )

    def _ideal_virial(self, parameters: FloatArray) -> FloatArray:
        """Virial per cell that the expansion does not explain, made invariant by symmetry.

        The ideal crystal's virial V shows as V F^T in a cell deformed by F; a least-squares
        problem, which is the mean for labels in the reference cell.
        """
        if not self._virials:
            return np.zeros((3, 3))
        shown = [voigt(_UNIT_TENSORS @ label.deformation.T).T for label in self._virials]
        normal = sum((one.T @ one for one in shown), np.zeros((6, 6)))
        rests = [label.rest_per_cell(parameters) for label in self._virials]
        moments = sum((a.T @ rest for a, rest in zip(shown, rests, strict=True)), np.zeros(6))
        mean = np.tensordot(np.linalg.solve(normal, moments), _UNIT_TENSORS, axes=1)
        turns = self._rotations
        invariant: FloatArray = np.einsum("gij,jk,glk->il", turns, mean, turns) / len(turns)
        return invariant

    @cached_property
    def _rotations(self) -> FloatArray:
        """Cartesian rotations of the crystal."""
        return find_space_group(self.expansion.crystal)[1].cartesian_rotations

    def _weighted(
        self, statistics: SufficientStatistics, label: _Label, rows: FloatArray
    ) -> SufficientStatistics:
        """Statistics with one more label, weighted by the present noise model."""
        if self._noise is None:
            return statistics.add(rows, label.forces)
        roots = np.sqrt(self._noise.weights(label.amplitudes))
        return statistics.add(rows * roots[:, None], label.forces * roots)

    def _estimate_noise(self, posterior: Posterior) -> NoiseModel | None:
        """Noise from the residuals of all labels; None if the fit is exact to rounding."""
        stride = 1 + sum(len(label.forces) for label in self._labels) // _NOISE_SAMPLES
        squares, amplitudes, forces = [], [], []
        for label in self._labels:
            rows = label.force_rows()[::stride]
            chosen = label.forces[::stride]
            spread = rows @ posterior.factor
            leverages = np.einsum("ij,ij->i", spread, spread)
            squares.append((chosen - rows @ posterior.mean) ** 2 + leverages)
            amplitudes.append(label.amplitudes[::stride])
            forces.append(chosen)
        expected = np.concatenate(squares)
        if expected.mean() < _EXACT_FIT**2 * np.mean(np.concatenate(forces) ** 2):
            return None
        return estimate_noise(expected, np.concatenate(amplitudes), max(self.expansion.orders))

    def _has_same_weights(self, noise: NoiseModel) -> bool:
        """Whether another noise model would weight the labels as the present one does."""
        amplitudes = np.concatenate([label.amplitudes for label in self._labels])
        before = np.ones(1) if self._noise is None else self._noise.weights(amplitudes)
        change = np.log(noise.weights(amplitudes) / before)
        return bool(np.ptp(change) < _SAME_WEIGHTS)

    def _lattice_sums(self, matrix: IntArray) -> tuple[LatticeSum, StrainedSum]:
        key = matrix.tobytes()
        if key not in self._sums:
            plain = LatticeSum(self.expansion, Supercell(self.expansion.crystal, matrix))
            self._sums[key] = plain, StrainedSum(plain)
        return self._sums[key]


def virial_of_stress(stress: ArrayLike | None, volume: float) -> FloatArray | None:
    """(3, 3) virial, eV, of ASE's stress (6,) or (3, 3), eV/Angstrom^3, and the cell's volume."""
    if stress is None:
        return None
    values = np.asarray(stress, dtype=float)
    if values.shape == (6,):
        values = values[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    return -volume * values


def fit_structures(
    expansion: Expansion,
    structures: Iterable[Atoms],
    maximum_displacement: float | None = None,
    provenance: dict[str, str] | None = None,
) -> BayesianModel:
    """Fit to labelled `ase.Atoms`, each a supercell of the crystal with its atoms in any order.

    Raises
    ------
    ModelError
        Naming the structure that cannot be used.
    """
    trainer = Trainer(expansion, maximum_displacement)
    for index, atoms in enumerate(structures):
        results = atoms.calc.results if atoms.calc is not None else {}
        if "forces" not in results:
            raise ModelError(
                f"structure {index} has no forces; labels need an array `forces` in eV/Angstrom"
            )
        try:
            trainer.add(
                np.array(atoms.cell[:]),
                atoms.positions,
                np.array(results["forces"]),
                results.get("energy"),
                atoms.numbers,
                virial_of_stress(results.get("stress"), atoms.get_volume()),
            )
        except ModelError as error:
            raise ModelError(f"structure {index}: {error}") from error
    return trainer.fit(provenance=provenance)
