"""What observations lead to: decisions, questions for configurations, convergence, the end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from anharm.configuration import TrainingSection
from anharm.server.configuration_sample import ConfigurationSample
from anharm.server.convergence_judge import ConvergenceJudge
from anharm.server.decision import Decision
from anharm.server.flood_limit import FloodLimit
from anharm.server.label_requests import LabelRequests
from anharm.server.lattice_clients import ClientState, budget_spent, check_numbers
from anharm.server.learner import Learner
from anharm.server.record import Record
from anharm.server.trajectories import Trajectories
from anharm.wire.messages import BadMessage, Message, NewModel, Observation, Proceed, Stop

logger = logging.getLogger(__name__)
logger.addFilter(FloodLimit(most=500))

Phase = Literal["initial labels", "training", "converged", "stopped"]
Reply = tuple[bytes, Message]


class Observing(ABC):
    """The part of the broker that observations concern; `Broker` adds the rest."""

    settings: TrainingSection
    stop_when_converged: bool
    record: Record
    learner: Learner
    labels: LabelRequests
    clients: dict[str, ClientState]
    trajectories: Trajectories
    sample: ConfigurationSample
    judge: ConvergenceJudge
    phase: Phase
    failure: str

    @abstractmethod
    def stop(self, reason: str, failure: str) -> list[Reply]:
        """End the run; every client is told."""

    def _observe(self, client: ClientState, messages: Sequence[Observation]) -> list[Reply]:
        """React to each observation, as if it had come after the answer to the one before it.

        Answered is the first that may not simply proceed, or else the last. The observations are in
        the record when this returns.
        """
        if self.phase == "stopped":
            return [(client.address, Stop("the run has ended", self.failure))]
        check_numbers(messages)
        first, version = messages[0], self.learner.version
        was_current = first.is_answered and first.model_version < version
        if first.model_version != version and not was_current:
            return [self._model_for(client)]
        if client.is_new:
            messages = self.trajectories.since_last(client, messages)
            self.trajectories.place(client, messages[0])
        elif first.sequence < client.last_sequence + (0 if client.may_repeat else 1):
            raise BadMessage(f"observation {first.sequence} after {client.last_sequence}")
        client.wanted, client.sampled = None, {}
        with self.record.together():
            for message in messages:
                decision = self._decide(client, message)
                replies = self._react(client, decision)
                if replies:
                    return replies
        client.calm = self.trajectories.calm_after(
            decision, self.clients.values(), version, self.phase == "converged"
        )
        return [(client.address, client.answer)]

    def _decide(self, client: ClientState, message: Observation) -> Decision:
        is_new = self.trajectories.number(client, message.sequence)
        if is_new:
            self.judge.count(client.trajectory)
        has_converged = self.phase == "converged"
        decision = self.trajectories.decide(client, message, self.labels.n_taken, has_converged)
        if is_new or not message.is_answered:
            self.judge.observe(message.model_version, client.step, message.force_std_max)
        return decision

    def _react(self, client: ClientState, decision: Decision) -> list[Reply]:
        """Ask for what a decision wants, or end the run; nothing if the client may proceed."""
        has_converged = self.phase == "converged"
        is_spent = decision.verdict == "budget" and decision.rule != "audit"
        if is_spent and not has_converged:
            return self.stop("", budget_spent(self.settings.budget, decision))
        if decision.label:
            if has_converged:
                self._resume_training(decision)
            client.wanted = decision
            if decision.rule != "audit":
                self.judge.label_wanted()
            return [(client.address, client.answer)]
        ending = self._judge()
        if ending:
            return [(client.address, Proceed(client.last_sequence)), *ending]
        if self.sample.wants(client.trajectory, client.step):
            client.sampled[client.last_sequence] = client.step
        return []

    def _resume_training(self, decision: Decision) -> None:
        """Go on training after convergence, because of a step that stands out."""
        self.phase = "training"
        self.judge.withdraw(decision)
        logger.warning(self.judge.reason)

    def _judge(self) -> list[Reply]:
        """Declare convergence, once, from what has been observed."""
        if self.phase != "training" or self.labels or not self.judge.is_due:
            return []
        text = self.judge.declares(self.trajectories.n_steps)
        if not text:
            return []
        self.phase = "converged"
        logger.info(text)
        return self.stop("training has converged", "") if self.stop_when_converged else []

    def _model_for(self, client: ClientState) -> Reply:
        client.waits_for, client.may_repeat = "", True
        return client.address, NewModel(self.learner.version, self.learner.content)
