"""Training: from labelled structures to a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.expansion import Expansion
from anharm.model.labels import KINDS, Label, LabelReader
from anharm.model.lattice_sum import voigt_matrix
from anharm.model.noise import NoiseModel, estimate_noise, leave_out, noise_of_structures
from anharm.model.regression import FREE, Posterior, maximise_evidence
from anharm.model.sufficient_statistics import SufficientStatistics
from anharm.model.truncation import UNIT_AMPLITUDE

_NOISE_ITERATIONS = 4
_SAME_WEIGHTS = 0.1  # weights that differ by less are the same
_EXACT_FIT = 1e-7  # residuals below this fraction of the targets are rounding, not noise
_NOISE_SAMPLES = 4000  # targets from which the noise is estimated, about
_NOISE_GROWTH = 1.1  # the noise is estimated again when there are this many times more labels
_ROWS_IN_MEMORY = 512 << 20  # bytes of design rows that are kept between refits

Rows = dict[str, FloatArray]


class Trainer:
    """Collects labels and refits on demand.

    Sufficient statistics are kept as long as the weights of the targets do not change, so that a
    refit costs O(M^3) and a new label O(N M^2), whatever the number of labels.

    Parameters
    ----------
    expansion : Expansion
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    targets : sequence of str
        What to train on, of "forces", "energies" and "virials".
    """

    def __init__(
        self,
        expansion: Expansion,
        maximum_displacement: float | None = None,
        targets: Sequence[str] = KINDS,
    ) -> None:
        unknown = set(targets) - set(KINDS)
        if unknown or not targets:
            raise ModelError(f"targets are some of {', '.join(KINDS)}; got {', '.join(unknown)}")
        self.expansion = expansion
        self._kinds = tuple(targets)
        self._reader = LabelReader(expansion, maximum_displacement)
        self._labels: list[Label] = []
        self._kept: list[Rows | None] = []
        self._kept_bytes = 0
        self._energy_origin: float | None = None
        self._noise: dict[str, NoiseModel] = {}
        self._weighting: dict[str, NoiseModel] = {}  # by which the statistics are weighted
        self._noise_known_at = 0
        self._statistics = self._empty()

    @property
    def n_labels(self) -> int:
        """Labels added so far."""
        return len(self._labels)

    def add(
        self,
        cell: FloatArray,
        positions: FloatArray,
        forces: FloatArray | None = None,
        energy: float | None = None,
        numbers: IntArray | None = None,
        virial: FloatArray | None = None,
    ) -> None:
        """Add one label: any of forces, energy and virial.

        Parameters
        ----------
        cell : (3, 3) float
            Cell vectors as rows, Angstrom; a supercell of the crystal, strained by a few per
            cent at most.
        positions : (n_atoms, 3) float
            Angstrom, in any order of the atoms.
        forces : (n_atoms, 3) float, optional
            eV/Angstrom, in the same order.
        energy : float, optional
            eV.
        numbers : (n_atoms,) int, optional
            Atomic numbers in the same order.
        virial : (3, 3) float, optional
            -dE/dstrain, eV.

        Raises
        ------
        ModelError
            If cell, atoms or numbers do not belong to the crystal, a number is not finite, or there
            is nothing to train on.
        """
        label = self._reader.read(
            cell,
            positions,
            forces if "forces" in self._kinds else None,
            energy if "energies" in self._kinds else None,
            virial if "virials" in self._kinds else None,
            numbers,
        )
        if not label.targets:
            raise ModelError(f"the label has none of the {', '.join(self._kinds)} to train on")
        if self._energy_origin is None and energy is not None and "energies" in label.targets:
            self._energy_origin = energy / label.strained_sum.supercell.n_cells
        rows = label.rows()
        self._kept_bytes += sum(one.nbytes for one in rows.values())
        self._kept.append(rows if self._kept_bytes < _ROWS_IN_MEMORY else None)
        self._statistics = self._with_label(self._statistics, label, rows)
        self._labels.append(label)

    def fit(self, version: int = 0, provenance: dict[str, str] | None = None) -> BayesianModel:
        """The model that all labels so far imply.

        Parameters and noise depend on each other, and are found in turn. The noise is estimated
        from what each label shows as an unseen one, now and then as labels come.

        Raises
        ------
        ModelError
            If there are no labels.
        """
        if not self._labels:
            raise ModelError("there are no labels to fit to; give at least one labelled structure")
        posterior, columns = self._maximise_evidence()
        if self.n_labels >= _NOISE_GROWTH * self._noise_known_at:
            for _ in range(_NOISE_ITERATIONS):
                noise = self._estimate_noise(posterior, columns)
                self._noise = noise
                if self._has_same_weights(noise):
                    break
                self._weighting = noise
                self._statistics = self._empty()
                for label, rows in zip(self._labels, self._kept, strict=True):
                    self._statistics = self._with_label(
                        self._statistics, label, rows or label.rows()
                    )
                posterior, columns = self._maximise_evidence(near=posterior)
            self._noise_known_at = self.n_labels
        return self._model(posterior, columns, version, provenance or {})

    @property
    def _n_constants(self) -> int:
        return self._reader.constants.number

    def _empty(self) -> dict[str, SufficientStatistics]:
        size = self._n_constants + self.expansion.n_parameters
        return {kind: SufficientStatistics.empty(size) for kind in self._kinds}

    def _maximise_evidence(self, near: Posterior | None = None) -> tuple[Posterior, IntArray]:
        """Posterior of those unknowns that the labels can tell, and which these are.

        `near` is one of the same labels with other weights.
        """
        seen = sum(np.abs(one.factor).sum(axis=0) for one in self._statistics.values())[:-1]
        is_constant = np.arange(len(seen)) < self._n_constants
        columns = np.flatnonzero(~is_constant | (seen > 0))
        orders = np.concatenate([np.full(self._n_constants, FREE), self.expansion.parameter_orders])
        chosen = {kind: one.select(columns) for kind, one in self._statistics.items()}
        ratios = self._noise_ratios
        return maximise_evidence(chosen, orders[columns], noise_ratios=ratios, near=near), columns

    @property
    def _noise_ratios(self) -> dict[str, float]:
        """Noise of energies and virials that missing forces f imply: f times a displacement, and
        f times a distance between atoms (Angstrom)."""
        crystal = self.expansion.crystal
        volume = abs(float(np.linalg.det(crystal.lattice))) / crystal.n_sites
        squares = [np.mean(label.displacements**2) for label in self._labels]
        return {"energies": float(np.sqrt(np.mean(squares))), "virials": float(np.cbrt(volume))}

    def _with_label(
        self, statistics: dict[str, SufficientStatistics], label: Label, rows: Rows
    ) -> dict[str, SufficientStatistics]:
        """Statistics with one more label, weighted as the others are."""
        grown = dict(statistics)
        for kind, targets in label.targets.items():
            weights = None
            if kind in self._weighting:
                weights = self._weighting[kind].weights(targets.shapes)
            grown[kind] = grown[kind].add(rows[kind], self._values(label, kind), weights)
        return grown

    def _values(self, label: Label, kind: str) -> FloatArray:
        """Targets; energies relative to the first label's, for their digits' sake."""
        values = label.targets[kind].values
        if kind != "energies" or self._energy_origin is None:
            return values
        n_cells, n_atoms = label.strained_sum.supercell.n_cells, len(label.displacements)
        shifted: FloatArray = values - self._energy_origin * n_cells / np.sqrt(n_atoms)
        return shifted

    def _estimate_noise(self, posterior: Posterior, columns: IntArray) -> dict[str, NoiseModel]:
        """Noise of each kind from the residuals of labels; none where the fit is exact."""
        n_targets = sum(one.n_targets for one in self._statistics.values())
        stride = 1 + n_targets // _NOISE_SAMPLES
        found: dict[str, list[tuple[FloatArray, ...]]] = {kind: [] for kind in self._kinds}
        for label, kept in zip(self._labels[::stride], self._kept[::stride], strict=True):
            unseen = self._unseen(label, kept or label.rows(), posterior, columns)
            for kind, (residuals, variances) in unseen.items():
                values, shapes = self._values(label, kind), label.targets[kind].shapes
                found[kind].append((residuals**2, shapes, variances, values))
        noise: dict[str, NoiseModel] = {}
        by_amplitude = None
        for kind in (kind for kind in KINDS if found.get(kind)):  # forces first
            squares, shapes, known, values = map(np.concatenate, zip(*found[kind], strict=True))
            if squares.mean() <= _EXACT_FIT**2 * np.mean(values**2):
                continue
            if by_amplitude is not None:
                power, ratio = self._growth_of_structures[kind]
                noise[kind] = noise_of_structures(
                    squares, shapes, known, by_amplitude, power, ratio
                )
                continue
            noise[kind] = estimate_noise(squares, shapes, known, heavy_tails=kind == "forces")
            if kind == "forces":
                by_amplitude = noise[kind].by_amplitude(shapes)
        return noise

    @property
    def _growth_of_structures(self) -> dict[str, tuple[int, float]]:
        """Noise of energies and virials from that of forces: a power of the amplitude, a factor."""
        # The mean square displacement is half of that of two atoms relative to each other.
        return {
            "energies": (1, UNIT_AMPLITUDE / np.sqrt(2)),
            "virials": (0, self._noise_ratios["virials"]),
        }

    def _unseen(
        self, label: Label, rows: Rows, posterior: Posterior, columns: IntArray
    ) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Residuals and parameter variances that a label would show as an unseen one, by kind."""
        spreads, residuals, roots = [], [], []
        for kind, targets in label.targets.items():
            chosen = rows[kind][:, columns]
            precision = posterior.noise_precisions.get(kind, 0.0)
            weights = np.full(len(chosen), precision)
            if kind in self._weighting:
                weights *= self._weighting[kind].weights(targets.shapes)
            root = np.sqrt(weights)
            spreads.append(root[:, None] * (chosen @ posterior.factor))
            residuals.append(root * (self._values(label, kind) - chosen @ posterior.mean))
            roots.append(root)
        spread, residual = np.vstack(spreads), np.concatenate(residuals)
        if self.n_labels > 1:
            unseen, variances = leave_out(spread, residual)
        else:  # without its only label a fit knows nothing: the expected square as a seen one
            leverages = np.einsum("ij,ij->i", spread, spread)
            unseen, variances = np.sqrt(residual**2 + leverages), np.zeros(len(residual))
        edges = np.cumsum([len(root) for root in roots])[:-1]
        return {
            kind: (one / root, variance / root**2)
            for kind, root, one, variance in zip(
                label.targets, roots, np.split(unseen, edges), np.split(variances, edges),
                strict=True,
            )
        }  # fmt: skip

    def _has_same_weights(self, noise: dict[str, NoiseModel]) -> bool:
        """Whether other noise models would weight the labels as the present ones do."""
        for kind in noise.keys() | self._weighting.keys():
            parts = [one.targets[kind].shapes for one in self._labels if kind in one.targets]
            shapes = np.concatenate(parts)
            before, after = (
                models[kind].weights(shapes) if kind in models else np.ones(len(shapes))
                for models in (self._weighting, noise)
            )
            if np.ptp(np.log(after / before)) > _SAME_WEIGHTS:
                return False
        return True

    def _model(
        self, posterior: Posterior, columns: IntArray, version: int, provenance: dict[str, str]
    ) -> BayesianModel:
        """Split what was found into the parameters' posterior and the ideal crystal's constants."""
        n_known = len(columns) - self.expansion.n_parameters
        tensors = self._reader.constants.tensors()[:, columns[:n_known]]
        constants = tensors @ posterior.mean[:n_known]
        return BayesianModel(
            expansion=self.expansion,
            posterior=posterior.of_parameters(n_known),
            noise=self._noise,
            energy_per_cell=float(constants[0]) + (self._energy_origin or 0.0),
            virial_per_cell=voigt_matrix(constants[1:]),
            constants_factor=tensors @ posterior.factor[:n_known],
            n_labels=self.n_labels,
            largest_strain=max(label.strain for label in self._labels),
            version=version,
            provenance=provenance,
        )


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
    targets: Sequence[str] = KINDS,
) -> BayesianModel:
    """Fit to labelled `ase.Atoms`, each a supercell of the crystal with its atoms in any order.

    Each structure may give forces, an energy, a stress, or any of them; `targets` says which are
    used.

    Raises
    ------
    ModelError
        Naming the structure that cannot be used.
    """
    trainer = Trainer(expansion, maximum_displacement, targets)
    for index, atoms in enumerate(structures):
        results = atoms.calc.results if atoms.calc is not None else {}
        if not {"forces", "energy", "stress"} & results.keys():
            raise ModelError(
                f"structure {index} has neither forces nor energy nor stress to train on; forces "
                "are an array `forces` in eV/Angstrom"
            )
        try:
            trainer.add(
                np.array(atoms.cell[:]),
                atoms.positions,
                np.array(results["forces"]) if "forces" in results else None,
                results.get("energy"),
                atoms.numbers,
                virial_of_stress(results.get("stress"), atoms.get_volume()),
            )
        except ModelError as error:
            raise ModelError(f"structure {index}: {error}") from error
    return trainer.fit(provenance=provenance)
