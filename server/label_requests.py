"""Labels on their way: asked for once, checked, committed, and learnt.

A label is in the record before anything uses it. Most labels are wanted by training. Others are
harvested: the dynamics itself needs the reference's answer (see `anharm.server.relays`), which is
checked and committed like any label, and learnt only where the run says so.
"""

from __future__ import annotations

import logging

from anharm.model.crystal import FloatArray
from anharm.server.decision import Decision
from anharm.server.initial_configurations import InitialConfigurations
from anharm.server.label_checks import check_label, has_virial
from anharm.server.label_plausibility import check_against_prediction, check_restoring
from anharm.server.labelling import LabellingServer, LabelReceived, LabelRequest
from anharm.server.learner import Learner
from anharm.server.record import Answer, Record, Request
from anharm.server.record_schema import HARVESTED
from anharm.wire.driver_protocol import Configuration

logger = logging.getLogger(__name__)

INITIAL = "initial configuration"


class LabelRequests:
    """The labels that a run waits for; its length is the number of those that training wants.

    Parameters
    ----------
    record : Record
    learner : Learner
    labelling : LabellingServer
        Started by the caller.
    initial : InitialConfigurations
        What to label before the dynamics.
    attempts : int
        Tries per label, also when an answer fails its checks.
    """

    def __init__(
        self,
        record: Record,
        learner: Learner,
        labelling: LabellingServer,
        initial: InitialConfigurations,
        attempts: int,
    ) -> None:
        self.record = record
        self.learner = learner
        self.labelling = labelling
        self.initial = initial
        self.ideal = initial.ideal
        self.attempts = attempts
        self._pending: set[int] = set()  # wanted by training
        self._harvested: set[int] = set()  # wanted by the dynamics alone
        self._tries: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._pending

    @property
    def n_open(self) -> int:
        """Labels on their way, whoever wants them."""
        return len(self._pending) + len(self._harvested)

    def is_open(self, request_id: int) -> bool:
        """Whether a label is on its way, whoever wants it."""
        return request_id in self._pending or request_id in self._harvested

    @property
    def n_taken(self) -> int:
        """Labels that count towards the budget: those that training has asked for."""
        return self.learner.n_paid + len(self._pending)

    def ask_interrupted(self) -> None:
        """Ask again for the labels that an earlier part of the run did not receive.

        Harvested ones are left out: if the dynamics still needs them, its relay asks again.
        """
        for request in self.record.requests():
            if request.state != "labelled" and not request.is_harvested:
                self._pending.add(request.id)
                self._submit(request)

    def ask_initial(self) -> bool:
        """Ask for the next of the initial labels; whether there are any that are not known."""
        n_asked = sum(r.reason.startswith(INITIAL) for r in self.record.requests())
        stage = self.initial.stage(n_asked, self.learner.force_field)
        for number, positions in enumerate(stage, start=n_asked + 1):
            wanted = self.initial.in_cell(number, positions)
            request = self.record.request_for(wanted.positions, wanted.cell, f"{INITIAL} {number}")
            if request.state != "labelled":  # a label may have been given for the same positions
                self._pending.add(request.id)
                self._submit(request)
        return bool(self._pending)

    def ask(self, positions: FloatArray, cell: FloatArray, decision: Decision) -> Request:
        """Ask for the label of a configuration, unless it is there or on its way already.

        One that was only harvested becomes a label of training.
        """
        reason = f"{decision.rule} at step {decision.step} of trajectory {decision.trajectory}"
        request = self.record.request_for(positions, cell, reason, decision)
        logger.info("label %d wanted: %s", request.id, reason)
        if request.is_harvested:
            request = self.record.adopt_request(request.id, reason, decision)
        if request.state == "labelled":
            label = self.record.label_of(request.id)
            if not self.learner.knows(label):
                self.learner.learn(label)
        elif request.id in self._harvested:
            self._harvested.remove(request.id)
            self._pending.add(request.id)
        elif request.id not in self._pending:
            self._pending.add(request.id)
            self._submit(request)
        return request

    def harvest(self, positions: FloatArray, cell: FloatArray, forcefield: str) -> Request:
        """Ask for what the dynamics needs, unless it is there or on its way already."""
        reason = f"{HARVESTED} from i-PI's force field {forcefield}"
        request = self.record.request_for(positions, cell, reason)
        if request.state != "labelled" and not self.is_open(request.id):
            self._harvested.add(request.id)
            self._submit(request)
        return request

    def _submit(self, request: Request) -> None:
        self._tries[request.id] = self._tries.get(request.id, 0) + 1
        self.record.start_attempt(request.id)
        self.labelling.submit(
            LabelRequest(request.id, Configuration(request.cell, request.positions))
        )

    def receive(self, event: LabelReceived, learns_harvested: bool) -> str:
        """Check a label, commit and learn it.

        Parameters
        ----------
        event : LabelReceived
        learns_harvested : bool
            Whether those that training did not ask for are learnt, too.

        Returns
        -------
        str
            Why the run cannot go on; empty if it can.
        """
        request = self.record.request(event.request_id)
        configuration = Configuration(request.cell, request.positions)
        answer = Answer(
            event.evaluation.energy,
            event.evaluation.forces,
            event.evaluation.virial if has_virial(event.evaluation) else None,
            event.evaluation.extras,
            event.client,
            event.seconds,
            event.program,
        )
        reasons = [
            *check_label(configuration, event.evaluation, ideal=self.ideal),
            *event.complaints,
        ]
        if not reasons and self.learner.model is None and not self.learner.has_forces_on_sites:
            reasons = check_restoring(configuration, event.evaluation, self.ideal)
        if reasons:
            return self._reject(request, answer, reasons)
        prediction = self.learner.predict(configuration, event.evaluation)
        if (
            prediction is not None
            and prediction.forces is not None
            and prediction.predictive_force_std is not None
        ):
            reasons = check_against_prediction(
                event.evaluation.forces, prediction.forces, prediction.predictive_force_std
            )
            if reasons:
                return self._reject(request, answer, reasons)
        label = self.record.add_label(request.id, answer, prediction=prediction)
        if request.id in self._pending or (learns_harvested and request.id in self._harvested):
            self.learner.learn(label)
        self._pending.discard(request.id)
        self._harvested.discard(request.id)
        return ""

    def _reject(self, request: Request, answer: Answer, reasons: list[str]) -> str:
        self.record.add_label(request.id, answer, accepted=False, reasons=reasons)
        text = f"label {request.id} from {answer.client} was quarantined: {'; '.join(reasons)}"
        logger.warning(text)
        self.record.log(text, "warning")
        tries = self._tries[request.id]
        if tries < self.attempts:
            self._submit(request)
            return ""
        self.record.set_request_state(request.id, "quarantined")
        return (
            f"{text} (attempt {tries} of {self.attempts}). The answers are kept in the record; "
            "look at the reference's own output (logs/reference-1.log in the run directory, if "
            "`anharm run` started it), put right what is wrong, and continue with --resume"
        )
