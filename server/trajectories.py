"""The trajectories of a run: their steps are numbered, decided on, and kept in the record."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from anharm.configuration import TrainingSection
from anharm.server.beads import BeadCounts
from anharm.server.calm import NOT_CALM, Calm, calm_after
from anharm.server.convergence_record import expected_gains
from anharm.server.decision import Decision, ObservedStep, TrajectoryState, refitted
from anharm.server.decision_runs import decide_run
from anharm.server.lattice_clients import ClientState
from anharm.server.observed import Observed
from anharm.server.record import Record
from anharm.server.resumption import restore_states, stored_state


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

    def place(self, client: ClientState, observed: Observed) -> None:
        """Find the step of the first observation of a client that is new or came back.

        Where the one before it, or the broker before this one, died in the middle of a step, the
        same configuration is evaluated again, and it is the same step.
        """
        state = self.states.get(client.trajectory)
        last_step = -1 if state is None or state.last_step is None else state.last_step
        is_again = self.last_configurations.get(client.trajectory) == observed.configurations[0]
        client.is_new, client.may_repeat, client.step = False, True, last_step
        client.last_sequence = observed.sequence if is_again else observed.sequence - 1

    def since_last(self, client: ClientState, observed: Observed) -> Observed:
        """The observations from the one that was the trajectory's last on; all, if none was.

        Where the broker or the client before this one died after some of those that came together,
        the same configurations come again: they are the same steps.
        """
        last = self.last_configurations.get(client.trajectory)
        again = [n for n, digest in enumerate(observed.configurations) if digest == last]
        return observed.part(again[0]) if again else observed

    def decide(
        self,
        client: ClientState,
        observed: Observed,
        labels_taken: int,
        has_converged: bool = False,
    ) -> tuple[Decision, range]:
        """Decide on evaluations of a client up to the first that may stand out, and keep them.

        Returns
        -------
        decision : Decision
            On the last of them; the ones before it go on.
        steps : range
            Theirs; the client has come to the last one.
        """
        name, version = client.trajectory, observed.model_version
        state = self.states.get(name) or TrajectoryState(name, beads=self._beads.of(name))
        if observed.sequence > client.last_sequence:
            client.step = 0 if state.last_step is None else state.last_step + 1
        gain = self._gains.get(version, 0.0)
        first = ObservedStep(
            client.step, observed.errors[0], version, labels_taken, has_converged, gain
        )
        self.states[name], decision, count = decide_run(
            state, first, observed.errors, self._settings
        )
        if decision.verdict == "budget":
            self._record.add_decision(decision)
        self._record.observe(
            name, first.step, observed.configurations[:count], observed.values[:count], version
        )
        self.last_configurations[name] = observed.configurations[count - 1]
        client.step, client.may_repeat = decision.step, False
        client.last_sequence = observed.sequence + count - 1
        return decision, range(first.step, decision.step + 1)

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
