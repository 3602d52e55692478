"""What observations lead to: decisions, questions for configurations, convergence, the end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Literal

from anharm.configuration import TrainingSection
from anharm.server.configuration_sample import ConfigurationSample
from anharm.server.convergence_judge import ConvergenceJudge
from anharm.server.decision import Decision
from anharm.server.flood_limit import FloodLimit
from anharm.server.label_requests import LabelRequests
from anharm.server.lattice_clients import ClientState, budget_spent
from anharm.server.learner import Learner
from anharm.server.observed import Observed
from anharm.server.record import Record
from anharm.server.trajectories import Trajectories
from anharm.wire.messages import BadMessage, Message, NewModel, Proceed, Stop

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

    def _observe(self, client: ClientState, observed: Observed) -> list[Reply]:
        """React to each evaluation, as if it had come after the answer to the one before it.

        Answered is the first that may not simply proceed, or else the last. They are in the record
        when this returns.
        """
        if self.phase == "stopped":
            return [(client.address, Stop("the run has ended", self.failure))]
        version = self.learner.version
        was_current = observed.is_answered and observed.model_version < version
        if observed.model_version != version and not was_current:
            return [self._model_for(client)]
        if client.is_new:
            observed = self.trajectories.since_last(client, observed)
            self.trajectories.place(client, observed)
        elif observed.sequence < client.last_sequence + (0 if client.may_repeat else 1):
            raise BadMessage(f"observation {observed.sequence} after {client.last_sequence}")
        client.wanted, client.sampled = None, {}
        with self.record.together():
            while observed:
                decision, steps = self._decide(client, observed)
                replies = self._react(client, decision, steps)
                if replies:
                    return replies
                observed = observed.part(len(steps))
        client.calm = self.trajectories.calm_after(
            decision, self.clients.values(), version, self.phase == "converged"
        )
        return [(client.address, client.answer)]

    def _decide(self, client: ClientState, observed: Observed) -> tuple[Decision, range]:
        """Decide on evaluations up to the first that may stand out; on it, and their steps."""
        is_new = observed.sequence > client.last_sequence
        has_converged = self.phase == "converged"
        decision, steps = self.trajectories.decide(
            client, observed, self.labels.n_taken, has_converged
        )
        if is_new:
            self.judge.count(client.trajectory, len(steps))
        if is_new or not observed.is_answered:
            errors = observed.errors[: len(steps)]
            self.judge.observe(observed.model_version, steps.start, errors)
        return decision, steps

    def _react(self, client: ClientState, decision: Decision, steps: range) -> list[Reply]:
        """Ask for what a decision wants, or end the run; nothing if the client may proceed."""
        self._sample(client, steps[:-1] if decision.label else steps)
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
        return []

    def _sample(self, client: ClientState, steps: range) -> None:
        """Ask for those of steps that the client has come to which belong to the sample."""
        for step in self.sample.wanted(client.trajectory, steps):
            client.sampled[client.last_sequence - client.step + step] = step

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
