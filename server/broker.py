"""The uncertainty broker: what it answers to each message and each label.

`Broker` holds the state of a run and turns events into replies; sockets and clocks are in
`broker_process`. A label is in the record before anything uses it.
"""

from __future__ import annotations

import logging

from anharm.configuration import RunConfiguration
from anharm.errors import AnharmError
from anharm.server.beads import BeadCounts
from anharm.server.configuration_sample import ConfigurationSample
from anharm.server.convergence_judge import ConvergenceJudge
from anharm.server.flood_limit import FloodLimit
from anharm.server.initial_configurations import InitialConfigurations
from anharm.server.label_requests import LabelRequests
from anharm.server.labelling import LabellingServer, LabelReceived
from anharm.server.lattice_clients import (
    ClientState,
    labels_from_clients,
    refusal,
)
from anharm.server.learner import Learner
from anharm.server.observed import Observed
from anharm.server.observing import Observing, Phase, Reply
from anharm.server.record import Record, SampledConfiguration
from anharm.server.record_observations import LARGEST_JOURNAL
from anharm.server.relays import Relays
from anharm.server.status import status_of, watched_status
from anharm.server.trajectories import Trajectories
from anharm.wire.messages import (
    Alive,
    BadMessage,
    ConfigurationSent,
    ForcesWanted,
    Goodbye,
    Hello,
    Introduce,
    Message,
    Observation,
    Observations,
    Proceed,
    StatusRequest,
    Stop,
    Waiting,
    unpack_vectors,
)

logger = logging.getLogger(__name__)
logger.addFilter(FloodLimit(most=500))


class Broker(Observing):
    """State of a run and its reactions; every method returns the messages to send.

    Parameters
    ----------
    configuration : RunConfiguration
    record : Record
    learner : Learner
    labelling : LabellingServer
        Started by the caller.
    initial : InitialConfigurations
        What to label before the dynamics.
    beads : BeadCounts
        Evaluations of a step of each trajectory.
    """

    def __init__(
        self,
        configuration: RunConfiguration,
        record: Record,
        learner: Learner,
        labelling: LabellingServer,
        initial: InitialConfigurations,
        beads: BeadCounts,
    ) -> None:
        self.settings = configuration.training
        self.synchronous = configuration.run.mode == "synchronous"
        self.stop_when_converged = configuration.run.stop_when_converged
        self.record = record
        self.learner = learner
        self.labelling = labelling
        attempts = configuration.reference.attempts if configuration.reference else 1
        self.labels = LabelRequests(record, learner, labelling, initial, attempts)
        self.n_atoms = len(initial.ideal.positions)
        self.relays = Relays(self.labels, record, self.n_atoms)
        self.clients: dict[str, ClientState] = {}
        self.trajectories = Trajectories(record, self.settings, beads, self.synchronous)
        self.sample = ConfigurationSample(record)
        self.judge = ConvergenceJudge(record, self.settings, beads, self.trajectories.states)
        self.phase: Phase = "initial labels"
        self.failure = ""
        self.n_finished = 0
        self._is_fold_due = False
        self._now = 0.0
        self._written_status: dict[str, str] = {}

    # Start

    def start(self) -> list[Reply]:
        """Ask for all labels that are still missing: the initial ones and interrupted ones."""
        self.labels.ask_interrupted()
        return self._refit_if_ready()

    # Messages

    def handle(self, address: bytes, message: Message, now: float) -> list[Reply]:
        """React to one message of a lattice client, a relay or a supervisor.

        Raises
        ------
        BadMessage
            If the message makes no sense in the present state; nothing has changed then.
        """
        self._now = now
        if isinstance(message, StatusRequest):
            replies = self.stop(message.stop, "") if message.stop else []
            return [*replies, (address, status_of(self))]
        if isinstance(message, Hello):
            return self._welcome(address, message)
        if isinstance(message, ForcesWanted):
            if self.phase == "stopped":
                return [(address, Stop("the run has ended", self.failure))]
            return self.relays.ask(address, message)
        if not isinstance(
            message, Observation | Observations | ConfigurationSent | Alive | Goodbye
        ):
            raise BadMessage(f"a {type(message).__name__} is for clients, not for the broker")
        client = self.clients.get(message.client)
        if client is not None and isinstance(message, Alive):
            client.last_heard = now  # from a socket of its own: it may be evaluating meanwhile
            return []
        if client is None or client.address != address:
            if isinstance(message, Goodbye):
                raise BadMessage("a Goodbye of an unknown client")
            return [(address, Introduce("it was restarted, or has given this client up"))]
        client.last_heard = now
        if isinstance(message, Observation | Observations):
            return self._observe(client, Observed.of(message))
        if isinstance(message, ConfigurationSent):
            return self._take_configuration(client, message)
        if isinstance(message, Goodbye):
            return self._part(client, message)
        return []

    def _welcome(self, address: bytes, message: Hello) -> list[Reply]:
        if self.phase == "stopped":
            return [(address, Stop("the run has ended", self.failure))]
        if message.client in self.clients:
            raise BadMessage("a Hello in the name of a client that is there")
        if any(client.address == address for client in self.clients.values()):
            raise BadMessage("a second Hello of a client")
        failure = refusal(message, self.clients, self.trajectories.states.keys())
        if failure:
            return [(address, Stop("", failure))]
        client = ClientState(message.client, address, message.trajectory, last_heard=self._now)
        self.clients[message.client] = client
        logger.info("lattice client %s joined trajectory %s", client.name, client.trajectory)
        is_labelling = self.synchronous and len(self.labels) > 0  # what it evaluated before, maybe
        if self.learner.model is None or self.phase == "initial labels" or is_labelling:
            client.waits_for = "model"
            return [(address, Waiting(self.waiting_for))]
        return [self._model_for(client)]

    def _take_configuration(self, client: ClientState, message: ConfigurationSent) -> list[Reply]:
        if not client.is_asked_for(message.sequence):
            raise BadMessage("a configuration that was not asked for")
        positions = unpack_vectors(message.positions, self.n_atoms)
        cell = unpack_vectors(message.cell, 3)
        step = client.sampled.pop(message.sequence, None)
        if step is not None:
            self.sample.add(SampledConfiguration(client.trajectory, step, positions, cell))
            return [(client.address, client.answer)]
        decision, client.wanted = client.wanted, None
        assert decision is not None
        request = self.labels.ask(positions, cell, decision)
        if request.state == "labelled":
            if self.synchronous and not self.learner.is_current:
                client.waits_for = "model"  # what was harvested earlier is learnt now
                return self._refit_if_ready()
            return [*self._refit_if_ready(), (client.address, Proceed(message.sequence))]
        if self.synchronous:
            client.waits_for, client.label = "label", request.id
            return [(client.address, Waiting(self.waiting_for))]
        return [(client.address, Proceed(message.sequence))]

    def _part(self, client: ClientState, message: Goodbye) -> list[Reply]:
        del self.clients[client.name]
        self.n_finished += 1
        logger.info(
            "lattice client %s left after %d evaluations: %s",
            client.name,
            client.last_sequence + 1,
            message.failure or "i-PI ended",
        )
        if message.failure:
            return self.stop("", f"the lattice client stopped: {message.failure}")
        if not self.clients and self.labels:
            self.record.log(f"i-PI ended the dynamics; {self.waiting_for} are still to come")
        return self._end_if_done()

    def _end_if_done(self) -> list[Reply]:
        """The run ends when i-PI has ended and no label is on its way any more."""
        if self.n_finished and not self.clients and not self.labels:
            return self.stop("i-PI ended the dynamics", "")
        return []

    # Labels

    def receive_label(self, event: LabelReceived) -> list[Reply]:
        """Check a label, commit it, learn it, and give the new model to those who wait."""
        learns_harvested = self.settings.harvest == "learn" and self.phase != "converged"
        failure = self.labels.receive(event, learns_harvested)
        if failure:
            return self.stop("", failure)
        answers = self.relays.answer(event.request_id)
        return [*answers, *self._refit_if_ready(), *self._end_if_done()]

    def _refit_if_ready(self) -> list[Reply]:
        """Refit when labels are new; clients get no model before all initial ones are there."""
        is_initial = self.phase == "initial labels"
        if is_initial and self.labels:
            return []
        if self.learner.n_labels and not self.learner.is_current:
            self.learner.refit()
            gain = self.judge.refitted(self.learner.version, self.learner.n_labels)
            self.trajectories.refitted(self.learner.version, gain)
            self._is_fold_due = True
            self._fold_if_due()
        if is_initial:
            if self.labels.ask_initial():
                return []
            self.phase = "converged" if self.judge.has_converged else "training"
        return [
            self._model_for(c)
            for c in self.clients.values()
            if c.waits_for == "model" or (c.waits_for == "label" and c.label not in self.labels)
        ]

    # Status, end

    def stop(self, reason: str, failure: str) -> list[Reply]:
        """End the run; every client is told."""
        if self.phase != "stopped":
            self.phase = "stopped"
            self.failure = failure
            self._fold()
            self.record.log(failure or reason, "error" if failure else "info")
            self.record.set_metadata({"ended": reason, "failure": failure})
        told = [(client.address, Stop(reason, failure)) for client in self.clients.values()]
        return [*told, *self.relays.stop(Stop(reason, failure))]

    def write(self) -> None:
        """Let the observations survive a loss of power, too, and keep the journal short."""
        self.record.sync()
        self._is_fold_due |= self.record.n_unfolded >= LARGEST_JOURNAL
        self._fold_if_due()

    def _fold_if_due(self) -> None:
        """Fold, but not while a label is wanted that has not been asked for.

        If this process died then, the resumed run has to find the step as one to be decided.
        """
        if self._is_fold_due and not any(client.wanted for client in self.clients.values()):
            self._fold()

    def _fold(self) -> None:
        """Store the observations in the database, with the states that they lead to."""
        self._is_fold_due = False
        self.trajectories.fold()

    def write_status(self) -> None:
        """Write, for those who watch the run, what has changed in how it stands."""
        status = watched_status(self)
        if status != self._written_status:
            self.record.set_metadata(status, durable=False)
            self._written_status = status

    def forget_silent(self, now: float, limit: float) -> list[Reply]:
        """Give up clients that have not been heard for `limit` seconds.

        One that was only slow is asked to join again. Where the others have ended, one that was
        killed must not keep the run from ending.
        """
        for client in [c for c in self.clients.values() if now - c.last_heard > limit]:
            self._give_up(client, f"has been silent for {limit:.0f} s")
            if not self.clients and self.n_finished:
                return self.stop("i-PI ended the dynamics", "")
        return []

    def give_up(self, address: bytes) -> None:
        """Give up the client that does not read what it is sent; its answer is lost to it.

        It is asked to join again when it next says that it is alive.
        """
        client = next((c for c in self.clients.values() if c.address == address), None)
        if client is None:
            logger.warning("a peer that has not joined does not read its answers")
        else:
            self._give_up(client, "does not read its messages")

    def _give_up(self, client: ClientState, why: str) -> None:
        text = f"lattice client {client.name} {why}: given up"
        logger.warning(text)
        self.record.log(text, "warning")
        del self.clients[client.name]

    def reassure(self) -> list[Reply]:
        """Tell the clients that wait that the broker is alive."""
        return [
            (c.address, Waiting(self.waiting_for)) for c in self.clients.values() if c.waits_for
        ]

    @property
    def waiting_for(self) -> str:
        """What the run waits for, in words; empty when it waits for nothing."""
        if not self.labels:
            return "" if self.clients or self.phase == "stopped" else "a lattice client"
        is_initial = self.phase == "initial labels"
        return labels_from_clients(len(self.labels), is_initial, self.labelling.number_of_clients)

    @property
    def n_pending(self) -> int:
        """Labels asked for and not received, whoever wants them."""
        return self.labels.n_open

    def fail(self, error: AnharmError) -> list[Reply]:
        """End the run because of an error."""
        return self.stop("", str(error))
