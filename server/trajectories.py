"""The trajectories of a run: their steps are numbered, decided on, and kept in the record."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from anharm.configuration import TrainingSection
from anharm.server.beads import BeadCounts
from anharm.server.calm import NOT_CALM, Calm, calm_after
from anharm.server.convergence_record import expected_gains
from anharm.server.decision import Decision, ObservedStep, TrajectoryState, decide, refitted
from anharm.server.lattice_clients import ClientState
from anharm.server.record import Record
from anharm.server.resumption import restore_states, stored_state
from anharm.wire.messages import Observation


class Trajectories:
    """What the broker knows of each trajectory, whichever lattice clients serve it.

    Parameters
    ----------
    record : Record
        What it holds already is gone on with.
    settings : TrainingSection
    beads : BeadCounts
        Evaluations of a step of each trajectory.
    synchronous : bool
        Whether a step that is labelled waits for the new model.

    Attributes
    ----------
    states : dict of TrajectoryState
        By trajectory.
    last_configurations : dict of bytes
        Digests of the configurations evaluated last.
    """

    def __init__(
        self, record: Record, settings: TrainingSection, beads: BeadCounts, synchronous: bool
    ) -> None:
        self._record, self._settings, self._beads = record, settings, beads
        self._synchronous = synchronous
        self.states, self.last_configurations = restore_states(record, settings, beads)
        self._gains = expected_gains(record)

    @property
    def n_steps(self) -> int:
        """Steps of all trajectories, those of ring polymers having many evaluations."""
        return sum(-(-state.steps // state.beads) for state in self.states.values())

    def place(self, client: ClientState, message: Observation) -> None:
        """Find the step of the first observation of a client that is new or came back.

        Where the one before it, or the broker before this one, died in the middle of a step, the
        same configuration is evaluated again, and it is the same step.
        """
        state = self.states.get(client.trajectory)
        last_step = -1 if state is None or state.last_step is None else state.last_step
        is_again = self.last_configurations.get(client.trajectory) == message.configuration
        client.is_new, client.may_repeat, client.step = False, True, last_step
        client.last_sequence = message.sequence if is_again else message.sequence - 1

    def since_last(
        self, client: ClientState, observations: Sequence[Observation]
    ) -> Sequence[Observation]:
        """The observations from the one that was the trajectory's last on; all, if none was.

        Where the broker or the client before this one died after some of those that came together,
        the same configurations come again: they are the same steps.
        """
        last = self.last_configurations.get(client.trajectory)
        again = [n for n, one in enumerate(observations) if one.configuration == last]
        return observations[again[0] if again else 0 :]

    def number(self, client: ClientState, sequence: int) -> bool:
        """Set the client's step to that of an observation; tell whether it is a new one."""
        is_new = sequence > client.last_sequence
        if is_new:
            state = self.states.get(client.trajectory)
            client.step = 0 if state is None or state.last_step is None else state.last_step + 1
        client.last_sequence, client.may_repeat = sequence, False
        return is_new

    def decide(
        self,
        client: ClientState,
        message: Observation,
        labels_taken: int,
        has_converged: bool = False,
    ) -> Decision:
        """Decide on the client's step, and keep it in the record."""
        name, step = client.trajectory, client.step
        state = self.states.get(name) or TrajectoryState(name, beads=self._beads.of(name))
        error = float(np.float32(message.force_std_max))  # as the record keeps it
        version = message.model_version
        gain = self._gains.get(version, 0.0)
        seen = ObservedStep(step, error, version, labels_taken, has_converged, gain)
        self.states[name], decision = decide(state, seen, self._settings)
        if decision.verdict == "budget":
            self._record.add_decision(decision)
        errors = (message.force_std_max, message.force_std_mean, message.force_std_rms)
        self._record.observe(
            name, step, message.configuration, errors, message.energy, message.model_version
        )
        self.last_configurations[name] = message.configuration
        return decision

    def calm_after(
        self,
        decision: Decision,
        clients: Collection[ClientState],
        version: int,
        has_converged: bool = False,
    ) -> Calm:
        """How far a trajectory may go on unobserved.

        One step at most, where clients share it; at least one, where no step waits for its label;
        and none before it has the latest model, of that version.
        """
        if decision.model_version != version:
            return NOT_CALM
        state, gain = self.states[decision.trajectory], self._gains.get(version, 0.0)
        calm = calm_after(state, decision, self._settings, gain, has_converged)
        if calm == NOT_CALM and not self._synchronous:
            return Calm(steps=1)
        if calm.steps > 1 and [c.trajectory for c in clients].count(decision.trajectory) > 1:
            return replace(calm, steps=1)
        return calm

    def refitted(self, version: int, expected_gain: float) -> None:
        """Note that a new model drives them all, and what endless labels would gain it."""
        self._gains[version] = expected_gain
        self.states = {name: refitted(state, version) for name, state in self.states.items()}

    def fold(self) -> None:
        """Store the observations in the database, with the states that they lead to."""
        self._record.fold(
            {
                name: stored_state(state, self.last_configurations[name])
                for name, state in self.states.items()
            }
        )
