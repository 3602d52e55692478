"""Audits: how often they are taken, and that a run takes the same ones when it is killed."""

from math import inf
from pathlib import Path

import numpy as np
import pytest

from anharm.configuration import TrainingSection
from anharm.server.audits import audit_frequency, is_audit_step
from anharm.server.beads import BeadCounts
from anharm.server.convergence import expected_gain
from anharm.server.decision import Decision
from anharm.server.lattice_clients import ClientState
from anharm.server.observed import Observed
from anharm.server.record import ModelVersion, Record
from anharm.server.trajectories import Trajectories
from anharm.wire.messages import Observation

TRAINING = TrainingSection(audit_interval=8, convergence_gain=0.08, minimum_interval=2)
BEADS = BeadCounts({})
STEPS = 40


def audits(gain: float, training: TrainingSection = TRAINING) -> set[int]:
    return {n for n in range(8_000) if is_audit_step(training, "a", n, expected_gain=gain)}


def test_audits_are_twice_as_frequent_while_labels_are_too_few_for_convergence() -> None:
    assert [audit_frequency(TRAINING, gain) for gain in (0.0, 0.04, 0.0799)] == [1, 1, 1]
    assert [audit_frequency(TRAINING, gain) for gain in (0.08, 0.5, inf)] == [2, 2, 2]
    for gain in (0.0, inf):
        expected = 1000 * audit_frequency(TRAINING, gain)
        assert abs(len(audits(gain)) - expected) < 4 * np.sqrt(expected)


def test_more_frequent_audits_are_added_to_the_others_and_none_stays_none() -> None:
    assert audits(0.0) < audits(inf)
    assert not audits(inf, TRAINING.model_copy(update={"audit_interval": 0}))


class Run:
    """A trajectory whose steps are all alike, its record and its models: audits alone are labelled.

    The labels determine 300 parameters, and have 200 targets each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.version = folder, 0
        Record.open(folder, create=True).close()
        self._open()
        self.learn()

    def _open(self) -> None:
        self.record = Record.open(self.folder)
        self.trajectories = Trajectories(self.record, TRAINING, BEADS, synchronous=True)
        self.client = ClientState("1", b"1", "a")

    def be_killed(self) -> None:
        self.record.close()
        self._open()

    def observe(self, step: int) -> Decision:
        message = Observation(
            "1", step, b"%8d" % step, self.version, False, 0.125, 0.0, 0.0, 0.0
        )  # fmt: skip
        observed = Observed.of(message)
        if self.client.is_new:
            self.trajectories.place(self.client, observed)
        decision, _ = self.trajectories.decide(self.client, observed, self.version)
        return decision

    def request(self, decision: Decision) -> None:
        positions = np.full((2, 3), float(decision.step))
        self.record.request_for(positions, np.eye(3), "audit", decision)

    def learn(self, is_killed: bool = False) -> None:
        self.version += 1
        labels = tuple(range(1, self.version + 1))
        found = {"effective_parameters": {"2": 300.0}, "n_targets": 200 * self.version}
        self.record.add_model(ModelVersion(self.version, "m.h5", "0", labels, found))
        if is_killed:
            self.be_killed()
        else:
            gain = expected_gain(300.0, 200 * self.version)
            self.trajectories.refitted(self.version, gain)
            self.trajectories.fold()

    def make_step(self, step: int, killed: str) -> None:
        decision = self.observe(step)
        if killed == "before its answer":
            self.be_killed()
            decision = self.observe(step)
        if decision.label:
            self.request(decision)
            if killed == "with its label on the way":
                self.be_killed()
            self.learn(is_killed=killed == "with its model stored")
            assert not self.observe(step).label
        if killed == "after its answer":
            self.be_killed()


def labelled_steps(folder: Path, killed: str) -> list[int]:
    """Steps that a run labels, if it is killed at every step, or every label, at such a moment."""
    run = Run(folder)
    for step in range(STEPS):
        run.make_step(step, killed)
    steps = run.record.requested_steps()["a"]
    run.record.close()
    return steps


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    return labelled_steps(tmp_path_factory.mktemp("whole") / "run", "")


@pytest.mark.parametrize(
    "killed",
    [
        "before its answer",
        "with its label on the way",
        "with its model stored",
        "after its answer",
    ],
)
def test_kills_neither_lose_nor_repeat_an_audit(
    tmp_path: Path, uninterrupted: list[int], killed: str
) -> None:
    assert labelled_steps(tmp_path / "run", killed) == uninterrupted
    rare = [n for n in range(STEPS) if is_audit_step(TRAINING, "a", n)]
    assert len(uninterrupted) > 1.5 * len(rare) > 0
