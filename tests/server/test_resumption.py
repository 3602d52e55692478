"""A resumed run decides as the uninterrupted one would have."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anharm.configuration import TrainingSection
from anharm.server.audits import is_audit_step
from anharm.server.beads import BeadCounts, errors_of_steps
from anharm.server.convergence_record import note_convergence
from anharm.server.decision import ObservedStep, TrajectoryState, decide, refitted
from anharm.server.record import Record
from anharm.server.resumption import restore_states, stored_state

TRAINING = TrainingSection(window=7, minimum_interval=3, audit_interval=0, factor=1.5)
CELL = 10.0 * np.eye(3)

# Errors of the steps; what happens after each step.
EVENTS = st.lists(
    st.tuples(
        st.floats(0.125, 1.0, width=32),
        st.sampled_from(["", "", "", "repeated", "refit", "folded", "killed", "killed at a label"]),
    ),
    min_size=1,
    max_size=60,
)


class Trainee:
    """A trajectory and its record, handled as the broker does."""

    def __init__(self, folder, beads):
        self.folder, self.beads = folder, BeadCounts({"a": beads})
        self.record = Record.open(folder, create=True)
        self.state = TrajectoryState("a", beads=beads)
        self.step = -1

    def observe(self, error, is_repeated=False):
        self.step += not is_repeated
        seen = ObservedStep(self.step, error, self.state.model_version)
        before = self.state, self.step - 1
        self.state, decision = decide(self.state, seen, TRAINING)
        self.record.observe("a", self.step, [b"%8d" % self.step], np.array([[error, 0, 0, 0]]), 0)
        return before, decision

    def request(self, decision):
        self.record.request_for(np.full((2, 3), self.step), CELL, "why", decision)

    def fold(self):
        self.record.fold({"a": stored_state(self.state, b"%8d" % self.step)})

    def be_killed(self):
        self.record.close()
        self.record = Record.open(self.folder)


@settings(max_examples=100, deadline=None)
@given(events=EVENTS, beads=st.integers(1, 4))
@example(events=[(0.125, "")] * 3 + [(1.0, "killed at a label")] * 2, beads=1)  # at one step
def test_the_state_is_that_of_the_uninterrupted_run(tmp_path_factory, events, beads):
    trainee = Trainee(tmp_path_factory.mktemp("run") / "run", beads)
    for error, event in events:
        before, decision = trainee.observe(error)
        is_killed = event.startswith("killed")
        expected = trainee.state
        if decision.label and event == "killed at a label":
            # Killed before the configuration came: the step will come again, to be decided.
            expected, trainee.step = before
        elif decision.label:
            trainee.request(decision)
        if event == "repeated":
            trainee.observe(0.25, is_repeated=True)
        if event == "refit":
            trainee.state = refitted(trainee.state, 0)
            trainee.fold()
        if event == "folded":
            trainee.fold()
        if is_killed:
            trainee.be_killed()
            states, configurations = restore_states(trainee.record, TRAINING, trainee.beads)
            trainee.state = states.get("a", TrajectoryState("a", beads=beads))
            if trainee.step >= 0:
                assert configurations["a"] == b"%8d" % trainee.step
            np.testing.assert_array_equal(trainee.state.errors, expected.errors)
            assert trainee.state.mean_error == expected.mean_error
            restored, wanted = (replace(s, errors=np.empty(0)) for s in (trainee.state, expected))
            assert {**restored.__dict__, "errors": 0} == {**wanted.__dict__, "errors": 0}
    trainee.observe(0.125)
    every = np.concatenate([chunk.maximum for chunk in trainee.record.observations()])
    assert len(every) == trainee.step + 1
    steps = errors_of_steps(every, len(every), beads, TRAINING.bead_reduction)
    np.testing.assert_array_equal(steps[-TRAINING.window :], trainee.state.errors)
    trainee.record.close()


@pytest.mark.parametrize("why_not", ["it has converged", "the budget is spent"])
def test_a_step_that_was_not_labelled_though_an_audit_is_not_forgotten(tmp_path, why_not):
    """It was answered and does not come again: the next step has to be counted as the next."""
    training = TRAINING.model_copy(update={"audit_interval": 1, "budget": 1})
    record = Record.open(tmp_path / "run", create=True)
    has_converged = why_not == "it has converged"
    if has_converged:
        note_convergence(record, training, 0, "for good reasons")
    else:
        record.request_for(np.zeros((2, 3)), CELL, "the only one that may be asked for")
    state = TrajectoryState("a")
    for step in range(3):
        seen = ObservedStep(step, 0.125, 0, int(not has_converged), has_converged)
        state, decision = decide(state, seen, training)
        record.observe("a", step, [b"%8d" % step], np.array([[0.125, 0, 0, 0]]), 0)
    assert is_audit_step(training, "a", 2) and not decision.label
    record.close()
    with Record.open(tmp_path / "run") as record:
        states, configurations = restore_states(record, training, BeadCounts({"a": 1}))
    assert states["a"].last_step == state.last_step == 2
    assert configurations["a"] == b"%8d" % 2
