"""Effective harmonic force constants at a temperature.

The harmonic forces that come closest, in the mean square, to those on configurations of a thermal
ensemble: O. Hellman, I. A. Abrikosov and S. I. Simak, Phys. Rev. B 84, 180301 (2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from scipy.linalg import rq

from anharm.errors import ModelError
from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import FloatArray
from anharm.model.cutoffs import WHOLE
from anharm.model.expansion import Expansion, build_expansion
from anharm.model.force_field import ForceField
from anharm.model.labels import Label, LabelReader
from anharm.model.regression import Posterior, maximise_evidence
from anharm.model.sufficient_statistics import SufficientStatistics

_N_BLOCKS = 20  # of successive configurations, which may be correlated
_HARMONIC = 2


@dataclass(frozen=True)
class EffectiveHarmonic:
    """Effective harmonic model of one thermal ensemble.

    Attributes
    ----------
    model : BayesianModel
        Of second order, and first where the sites allow forces. The covariance of its parameters is
        that of the fit under a new choice of configurations.
    n_configurations : int
    rms_force : float
        eV/Angstrom.
    left : float
        rms(F - effective harmonic forces) / rms(F): what no harmonic model gives.
    """

    model: BayesianModel
    n_configurations: int
    rms_force: float
    left: float


def effective_expansion(model: BayesianModel) -> Expansion:
    """The second order of a model, with the first, which moves the sites to their mean places.

    Raises
    ------
    ModelError
        If the model has no second order.
    """
    expansion = model.expansion
    if _HARMONIC not in expansion.orders:
        raise ModelError("the model has no second order to be effective")
    whole = expansion.second_order_cell
    reach = expansion.cutoffs[_HARMONIC] if whole is None else WHOLE
    return build_expansion(expansion.crystal, {_HARMONIC: reach}, first_order=True, supercell=whole)


def fit_effective(
    expansion: Expansion,
    structures: Iterable[Atoms],
    source: BayesianModel | None = None,
    name: str = "",
) -> EffectiveHarmonic:
    """Fit effective harmonic force constants to the forces on thermal configurations.

    All force components have the same weight: anything else would not be the harmonic crystal of
    that ensemble. What is left is not noise but the anharmonic forces, neither independent from one
    another nor of one size; so the errors of the parameters come from how blocks of successive
    configurations pull at them (H. White, Econometrica 50, 1 (1982)), not from the residual.

    Parameters
    ----------
    expansion : Expansion
        From `effective_expansion`.
    structures : iterable of ase.Atoms
        Thermal configurations with forces, in the order of the trajectory.
    source : BayesianModel, optional
        Whose forces are used in the place of those of the structures.
    name : str
        Provenance.

    Raises
    ------
    ModelError
        Naming the structure that has no forces or is not of the crystal.
    """
    reader = LabelReader(expansion)
    forces_of = _ModelForces(source) if source is not None else None
    labels = []
    for index, atoms in enumerate(structures):
        try:
            labels.append(_label(reader, atoms, forces_of))
        except ModelError as error:
            raise ModelError(f"structure {index}: {error}") from error
    if len(labels) < 2:
        raise ModelError(f"{len(labels)} configurations are too few for errors: at least 2")
    statistics = _statistics(expansion, labels)
    total = SufficientStatistics.empty(expansion.n_parameters)
    for one in statistics:
        total = total.add(one.factor[:, :-1], one.factor[:, -1])
    n_targets = sum(one.n_targets for one in statistics)
    total = replace(total, n_targets=n_targets)
    posterior = maximise_evidence(total, expansion.parameter_orders)
    factor = _sandwich(posterior, statistics)
    left = total.factor[:, :-1] @ posterior.mean - total.factor[:, -1]
    model = BayesianModel(
        expansion,
        replace(posterior, factor=factor),
        n_labels=len(labels),
        provenance={"effective harmonic force constants of": name},
    )
    return EffectiveHarmonic(
        model,
        len(labels),
        float(np.sqrt(total.square / n_targets)),
        float(np.sqrt(left @ left / total.square)),
    )


class _ModelForces:
    """Forces of a model, for labels of its own crystal."""

    def __init__(self, model: BayesianModel) -> None:
        self._model = model
        self._force_fields: dict[bytes, ForceField] = {}

    def __call__(self, label: Label) -> FloatArray:
        supercell = label.strained_sum.supercell
        key = supercell.matrix.tobytes()
        if key not in self._force_fields:
            self._force_fields[key] = ForceField(self._model, supercell)
        field = self._force_fields[key]
        batch = label.displacements[None]
        if label.deformation is None:
            found = field.predict(batch, errors=False, virial=False)
        else:
            found = field.predict_strained(label.deformation, batch, errors=False, virial=False)
        return found.forces[0].ravel()


Pulled = tuple[Label, FloatArray]


def _label(reader: LabelReader, atoms: Atoms, forces_of: _ModelForces | None) -> Pulled:
    """A configuration and the forces on it, in the supercell's order."""
    known = atoms.calc.results.get("forces") if atoms.calc is not None else None
    if forces_of is None and known is None:
        raise ModelError("it has no forces; give them, or take those of the model")
    label = reader.read(
        np.array(atoms.cell[:]),
        atoms.positions,
        np.asarray(known, dtype=float) if forces_of is None else None,
        None,
        None,
        atoms.numbers,
    )
    forces = label.targets["forces"].values if forces_of is None else forces_of(label)
    return label, forces


def _statistics(expansion: Expansion, labels: Sequence[Pulled]) -> list[SufficientStatistics]:
    """Statistics of each block of successive configurations."""
    found = []
    for block in np.array_split(np.arange(len(labels)), min(_N_BLOCKS, len(labels))):
        one = SufficientStatistics.empty(expansion.n_parameters)
        for index in block:
            label, forces = labels[index]
            rows = label.strained_sum.force_rows(label.deformation, label.displacements)
            one = one.add(rows, forces)
        found.append(one)
    return found


def _sandwich(posterior: Posterior, blocks: Sequence[SufficientStatistics]) -> FloatArray:
    """(M, M) upper triangular factor of the covariance under a new choice of configurations.

    S B S, with the posterior covariance S for independent targets of one noise, and B the sum over
    blocks of g g^T, g = beta Phi_b^T (t_b - Phi_b m) the pull of a block at the parameters.
    """
    pulls = []
    for one in blocks:
        residual = one.factor[:, -1] - one.factor[:, :-1] @ posterior.mean
        pulls.append(one.factor[:, :-1].T @ residual)
    gathered = posterior.noise_precision * np.column_stack(pulls)
    gathered -= gathered.mean(axis=1, keepdims=True)
    n_blocks, size = len(blocks), len(posterior.mean)
    columns = posterior.factor @ (posterior.factor.T @ gathered)
    columns *= np.sqrt(n_blocks / (n_blocks - 1))
    padded = np.hstack([np.zeros((size, max(0, size - n_blocks))), columns])
    factor: FloatArray = np.ascontiguousarray(rq(padded, mode="r")[:, -size:])
    return factor
