"""The configurations that are labelled before the dynamics.

Displacements of thermal size and shape teach far more than uncorrelated ones. The first label is
taken where a guess, made without any label, puts the atoms; it gives a first model, whose phonons
and dynamics give the next configurations. Each stage doubles the labels, so that several reference
clients have work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anharm.configuration import RunConfiguration, TrainingSection
from anharm.errors import ConfigurationError
from anharm.model import ForceField
from anharm.model.crystal import FloatArray
from anharm.model.sites import SiteAssignment, assign_sites
from anharm.model.thermal_displacements import guess_phonons, let_move, thermal_phonons
from anharm.server.engine_runs import EngineRun
from anharm.server.initial_strains import initial_deformations, initial_strain
from anharm.server.learner import System
from anharm.wire.driver_protocol import Configuration

logger = logging.getLogger(__name__)

DEFAULT_DISPLACEMENT = 0.03  # Angstrom, of uncorrelated displacements
_WITHIN = 0.9  # of the largest allowed displacement


@dataclass(frozen=True, eq=False)
class InitialConfigurations:
    """Which configurations to label first.

    Attributes
    ----------
    settings : TrainingSection
    ideal : Configuration
        The ideal supercell, its atoms in the order of the i-PI input.
    assignment : SiteAssignment
        Between that order and the supercell's own.
    temperature : float or None
        Of thermal displacements, K; None if they are not wanted.
    quantum : bool
        Whether nuclei are quantum particles.
    strain : float
        Largest component of the strains of their cells.
    """

    settings: TrainingSection
    ideal: Configuration
    assignment: SiteAssignment
    temperature: float | None
    quantum: bool = False
    strain: float = 0.0

    @classmethod
    def of(
        cls,
        configuration: RunConfiguration,
        engines: Sequence[EngineRun],
        system: System,
        ideal: Configuration,
    ) -> InitialConfigurations:
        """Those of a run; thermal ones at the highest temperature of its i-PI inputs.

        Raises
        ------
        ConfigurationError
            If no temperature is known, or the first displacements are larger than allowed.
        """
        settings = configuration.training
        limit = configuration.crystal.maximum_displacement
        found = cls(
            settings,
            ideal,
            assign_sites(system.supercell, ideal.positions, maximum_displacement=limit),
            _temperature(configuration, engines),
            any(run.engine.number_of_beads > 1 for run in engines),
            initial_strain(configuration, engines),
        )
        found._check(found.stage(0, None))
        return found

    def stage(self, n_asked: int, force_field: ForceField | None) -> list[FloatArray]:
        """The next configurations, (n_atoms, 3) positions each; none when there are enough.

        Parameters
        ----------
        n_asked : int
            Initial configurations asked for so far.
        force_field : ForceField or None
            What their labels have taught.
        """
        settings = self.settings
        n_left = settings.initial_configurations - n_asked
        if n_left <= 0:
            return []
        if self.temperature is None:
            size = settings.initial_displacement or DEFAULT_DISPLACEMENT
            random = np.random.default_rng(settings.seed)
            shape = (settings.initial_configurations, *self.ideal.positions.shape)
            drawn = random.normal(0, size, shape)
            return list(self.ideal.positions + drawn[n_asked:])
        if force_field is None:
            moved = [self._guessed(self.temperature)]
        else:
            moved = self._thermal(
                force_field, self.temperature, n_asked, min(max(n_asked, 1), n_left)
            )
        return [self.ideal.positions + self.assignment.to_user_order(one) for one in moved]

    def in_cell(self, number: int, positions: FloatArray) -> Configuration:
        """The configuration of that number (from 1), in the cell that it is labelled in."""
        deformation = initial_deformations(number, self.strain, self.settings.seed)[-1]
        return Configuration(self.ideal.cell @ deformation.T, positions @ deformation.T)

    def _guessed(self, temperature: float) -> FloatArray:
        """Displacements before anything is known of the forces."""
        random = np.random.default_rng([self.settings.seed, 0])
        phonons = guess_phonons(self.assignment.supercell)
        drawn: FloatArray = phonons.draw(temperature, 1, random, self.quantum)[0]
        if self.settings.initial_displacement is None:
            return self._within(drawn)
        return drawn * (self.settings.initial_displacement / np.sqrt(np.mean(drawn**2)))

    def _thermal(
        self, force_field: ForceField, temperature: float, n_asked: int, number: int
    ) -> list[FloatArray]:
        """Displacements from the phonons of a model, and then from its dynamics.

        Only from its phonons, if nuclei are quantum particles: the dynamics is classical.
        """
        random = np.random.default_rng([self.settings.seed, n_asked])
        phonons = thermal_phonons(force_field.model, self.assignment.supercell)
        drawn = phonons.draw(temperature, number, random, self.quantum)
        limit = _WITHIN * self.assignment.maximum_displacement
        if not self.quantum:
            drawn = np.array(
                [let_move(force_field, phonons, d, temperature, random, limit) for d in drawn]
            )
        return [self._within(one) for one in drawn]

    def _within(self, displacements: FloatArray) -> FloatArray:
        """Scaled down where an atom would leave the region that can be learnt."""
        limit = _WITHIN * self.assignment.maximum_displacement
        largest = float(np.linalg.norm(displacements, axis=1).max())
        if largest <= limit:
            return displacements
        logger.warning(
            "an initial configuration at %g K moves an atom by %.2f Angstrom: scaled down to %.2f",
            self.temperature,
            largest,
            limit,
        )
        return displacements * (limit / largest)

    def _check(self, configurations: list[FloatArray]) -> None:
        """Refuse configurations that cannot be learnt, before they cost anything."""
        limit = self.assignment.maximum_displacement
        largest = max(
            (float(np.linalg.norm(c - self.ideal.positions, axis=1).max()) for c in configurations),
            default=0.0,
        )
        if largest > limit:
            size = self.settings.initial_displacement or DEFAULT_DISPLACEMENT
            raise ConfigurationError(
                f"training.initial_displacement = {size:g} Angstrom "
                f"moves an atom by {largest:.3f} Angstrom, more than crystal.maximum_displacement "
                f"= {limit:.3f} Angstrom allows: lower the one or raise the other"
            )


def _temperature(configuration: RunConfiguration, engines: Sequence[EngineRun]) -> float | None:
    """Temperature of thermal displacements (K); None where uncorrelated ones are wanted."""
    settings = configuration.training
    if settings.initial_sampling == "gaussian":
        return None
    if settings.initial_temperature is not None:
        return settings.initial_temperature
    known = [r.engine.temperature for r in engines if r.engine.temperature]  # 0 K moves nothing
    if not known and settings.initial_sampling is None:
        logger.info(
            "the i-PI input has no temperature above 0 K: initial configurations are displaced at "
            "random (training.initial_temperature would displace them as thermal motion does)"
        )
        return None
    if not known:
        raise ConfigurationError(
            f'{configuration.path}: training.initial_sampling = "thermal" needs a temperature, and '
            f"{engines[0].engine.path} has no <ensemble> <temperature> above 0 K: give "
            'training.initial_temperature = 300 (K) for example, or choose "gaussian"'
        )
    return max(known)
