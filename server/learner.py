"""The broker's model: it grows by labels, is refitted, and is written before it is used."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anharm.configuration import RunConfiguration
from anharm.errors import ConfigurationError, ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    Expansion,
    ForceField,
    Supercell,
    Trainer,
    build_expansion,
    save_model,
)
from anharm.model.crystal import as_supercell_matrix
from anharm.model.cutoffs import check_cutoffs_fit, normalise_cutoffs, whole_supercell
from anharm.model.deformation import MAXIMUM_STRAIN
from anharm.model.determination import (
    Determination,
    describe_lack_of_data,
    find_determination,
)
from anharm.model.expansion_size import ExpansionSize, estimate_size
from anharm.model.labels import KINDS
from anharm.model.regression import Posterior
from anharm.model.sites import assign_sites, default_maximum_displacement
from anharm.model.storage import load_model, model_to_bytes
from anharm.model.symmetry import find_space_group
from anharm.server.energy_zero import EnergyZero
from anharm.server.memory_check import Command, check_expansion
from anharm.server.record import Label, ModelVersion, Prediction, Record
from anharm.structures import read_structure
from anharm.wire.driver_protocol import Configuration, Evaluation

logger = logging.getLogger(__name__)

MODEL_FOLDER = "models"


@dataclass(frozen=True)
class System:
    """What the configuration says about the crystal: expansion and ideal supercell."""

    expansion: Expansion
    supercell: Supercell


def build_system(configuration: RunConfiguration, command: Command = "broker") -> System:
    """Build the expansion and the supercell of run.toml.

    Parameters
    ----------
    configuration : RunConfiguration
    command : str
        What it is for; see `check_expansion`.

    Raises
    ------
    ConfigurationError
        If the structure, the cutoffs or the supercell cannot be used, or memory would not do.
    """
    section = configuration.crystal
    with _as_configuration_error(configuration):
        crystal = Crystal.from_atoms(read_structure(section.primitive))
        ideal, _ = find_space_group(crystal, section.symmetry_tolerance)
        supercell = Supercell(ideal, as_supercell_matrix(section.supercell))
        cutoffs = configuration.expansion.cutoffs
        whole = whole_supercell(ideal, cutoffs, section.supercell)
        check_cutoffs_fit(supercell, normalise_cutoffs(cutoffs, whole), whole)
    expansion = build_expansion_of(
        configuration, command, supercell.n_atoms, configuration.training.budget
    )
    return System(expansion, Supercell(expansion.crystal, supercell.matrix))


def build_expansion_of(
    configuration: RunConfiguration, command: Command, n_atoms: int, n_labels: int
) -> Expansion:
    """Build the expansion of run.toml's [crystal] and [expansion].

    Parameters
    ----------
    configuration : RunConfiguration
    command : str
        What it is for; see `check_expansion`.
    n_atoms, n_labels : int
        Atoms of a label, and labels in all: both take memory.

    Raises
    ------
    ConfigurationError
        If the structure or the cutoffs cannot be used, or memory would not do.
    """
    section = configuration.crystal
    with _as_configuration_error(configuration):
        crystal = Crystal.from_atoms(read_structure(section.primitive))
        cutoffs = configuration.expansion.cutoffs
        size = estimate_size(crystal, cutoffs, section.symmetry_tolerance, section.supercell)
        check_expansion(size, command, n_atoms, n_labels)
        expansion = build_expansion(
            crystal,
            cutoffs,
            section.symmetry_tolerance,
            first_order=configuration.expansion.first_order,
            rotational_sum_rules=configuration.expansion.rotational_sum_rules,
            supercell=section.supercell,
        )
        check_expansion(ExpansionSize.of(expansion), command, n_atoms, n_labels)
    return expansion


def _hyperparameters(
    posterior: Posterior, determination: dict[int, Determination]
) -> dict[str, Any]:
    """What the record says about a fit."""
    return {
        "noise_std": posterior.noise_std,
        "prior_precisions": {str(k): v for k, v in posterior.prior_precisions.items()},
        "effective_parameters": {str(k): v for k, v in posterior.effective_parameters.items()},
        "determined": {str(k): one.determined for k, one in determination.items()},
        "lack_of_data": describe_lack_of_data(determination),
        "log_evidence": posterior.log_evidence,
        "n_targets": posterior.n_targets,
    }


@contextmanager
def _as_configuration_error(configuration: RunConfiguration) -> Iterator[None]:
    """What the model refuses here stands in run.toml."""
    try:
        yield
    except ModelError as error:
        raise ConfigurationError(f"{configuration.path}: {error}") from error


class Learner:
    """Labels in, model versions out; every version is a durable file before it is used.

    Parameters
    ----------
    system : System
    record : Record
        Labels it already holds are learnt at once.
    directory : Path
        The run directory.
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    targets : sequence of str
        What of a label is learnt: "forces", "energies", "virials".
    learns_harvested : bool
        Whether labels that the record holds and training did not ask for are learnt at once, too;
        those that were learnt once stay learnt.
    """

    def __init__(
        self,
        system: System,
        record: Record,
        directory: Path,
        maximum_displacement: float | None = None,
        targets: Sequence[str] = KINDS,
        learns_harvested: bool = False,
    ) -> None:
        self.system = system
        self.model: BayesianModel | None = None
        self.content = b""
        self._last_version = 0
        self.refit_seconds = 0.0
        self._record = record
        self._directory = directory
        self._maximum_displacement = maximum_displacement
        self.maximum_displacement = maximum_displacement or default_maximum_displacement(
            system.supercell
        )
        self._trainer = Trainer(system.expansion, maximum_displacement, targets)
        self._label_ids: list[int] = []
        self.n_paid = 0  # of the labels learnt, those that training asked for
        self._energy_zero: EnergyZero | None = None
        self._has_foreign_labels = False
        self._force_field: ForceField | None = None
        versions = record.models()
        known = set(versions[-1].labels) if versions else set()
        for label in record.labels():
            if learns_harvested or not label.request.is_harvested or label.id in known:
                self._learn(label)
        self._load_latest()

    @property
    def version(self) -> int:
        """The current model version; 0 before the first."""
        return self.model.version if self.model is not None else 0

    @property
    def has_forces_on_sites(self) -> bool:
        """Whether the crystal may feel forces on its ideal sites."""
        return 1 in self.system.expansion.parameters_per_order

    @property
    def force_field(self) -> ForceField | None:
        """The current model on the supercell of the run; None before the first."""
        return self._force_field

    @property
    def n_labels(self) -> int:
        """Labels learnt so far."""
        return len(self._label_ids)

    def knows(self, label: Label) -> bool:
        """Whether a label was learnt."""
        return label.id in self._label_ids

    @property
    def is_current(self) -> bool:
        """Whether the model knows every label."""
        return self.model is not None and self.model.n_labels == self.n_labels

    def predict(self, configuration: Configuration, evaluation: Evaluation) -> Prediction | None:
        """How well the current model foretells a label, before the label is learnt."""
        if self._force_field is None:
            return None
        try:
            deformation = self._force_field.deformation(configuration.cell)
            assignment = assign_sites(
                self.system.supercell,
                configuration.positions,
                None,
                self._maximum_displacement,
                deformation,
            )
            displacements = assignment.displacements(configuration.positions, deformation)[None]
        except ModelError:
            return None  # the label is committed all the same; learning it says what is wrong
        if deformation is None:
            result = self._force_field.predict(displacements, virial=False)
        else:
            result = self._force_field.predict_strained(deformation, displacements, virial=False)
        predictive = self._force_field.predictive_force_std(displacements, deformation)
        assert result.force_std is not None
        forces = assignment.to_user_order(result.forces[0])
        return Prediction(
            energy=float(result.energies[0]),
            force_rmse=float(np.sqrt(np.mean((forces - evaluation.forces) ** 2))),
            model_version=self.version,
            forces=forces,
            force_std=assignment.to_user_order(result.force_std[0]),
            predictive_force_std=assignment.to_user_order(predictive[0]),
        )

    def learn(self, label: Label) -> None:
        """Add one label that the record already holds."""
        self._learn(label)

    def refit(self) -> BayesianModel:
        """Fit to all labels, write the new version, note it in the record, and use it."""
        started = time.perf_counter()
        version = self._last_version + 1
        model = self._trainer.fit(
            version, {"labels": ",".join(str(number) for number in self._label_ids)}
        )
        path = self._directory / MODEL_FOLDER / f"model-{version:04d}.h5"
        path.parent.mkdir(exist_ok=True)
        digest = save_model(model, path)
        determination = find_determination(model.posterior, model.expansion.parameter_orders)
        self._record.add_model(
            ModelVersion(
                version,
                str(path.relative_to(self._directory)),
                digest,
                tuple(self._label_ids),
                {
                    **_hyperparameters(model.posterior, determination),
                    "seconds": time.perf_counter() - started,
                },
            )
        )
        self._last_version = version
        self._use(model)
        self.refit_seconds = time.perf_counter() - started
        shares = [f"{one.determined}/{one.parameters}" for one in determination.values()]
        logger.info(
            "model %d from %d labels in %.3f s; parameters determined per order: %s",
            version,
            self.n_labels,
            self.refit_seconds,
            ", ".join(shares),
        )
        return model

    def _learn(self, label: Label) -> None:
        if self._energy_zero is None:
            self._energy_zero = EnergyZero.of(label)
        counts = self._energy_zero.is_of(label)
        if not counts and not self._has_foreign_labels:
            self._has_foreign_labels = True
            warning = self._energy_zero.warning(label)
            logger.warning(warning)
            self._record.log(warning, "warning")
        self._trainer.add(
            label.request.cell,
            label.request.positions,
            label.answer.forces,
            label.answer.energy if counts else None,
            virial=label.answer.virial if counts else None,
        )
        self._label_ids.append(label.id)
        self.n_paid += label.request.is_paid

    def _load_latest(self) -> None:
        """Take up the latest model version of an earlier run, or fit again if its file is lost."""
        versions = self._record.models()
        if not versions:
            return
        self._last_version = versions[-1].version
        try:
            model = load_model(self._directory / versions[-1].path)
            if not model.expansion.is_same(self.system.expansion):
                raise ModelError("the last model was made with other linear algebra libraries")
            self._use(model)
        except ModelError as error:
            logger.warning("%s; the model is fitted again to all labels of the record", error)

    def _use(self, model: BayesianModel) -> None:
        if self._force_field is None:
            # Labels are what a model is trained for; they may lie beyond those before.
            self._force_field = ForceField(
                model, self.system.supercell, maximum_strain=MAXIMUM_STRAIN
            )
        else:
            self._force_field.use(model)
        self.model = model
        self.content = model_to_bytes(model)
