"""Clients that share a trajectory, and how far it may go on unobserved."""

from pathlib import Path

from anharm.configuration import TrainingSection
from anharm.server.beads import BeadCounts
from anharm.server.lattice_clients import ClientState
from anharm.server.observed import Observed
from anharm.server.record import Record
from anharm.server.trajectories import Trajectories
from anharm.wire.messages import Observation

TRAINING = TrainingSection(window=20, minimum_interval=5, audit_interval=0)


def test_steps_of_clients_that_share_a_trajectory_are_observed_one_by_one(tmp_path: Path) -> None:
    """Their numbers are the order in which the broker hears of them."""
    trajectories = Trajectories(Record.open(tmp_path, create=True), TRAINING, BeadCounts({}), True)
    one, other = ClientState("1", b"1", "a"), ClientState("2", b"2", "a")
    elsewhere = ClientState("3", b"3", "b")
    for sequence in range(30):
        message = Observation("1", sequence, b"%8d" % sequence, 1, False, 0.01, 0.01, 0.01, 0.0)
        decision, _ = trajectories.decide(one, Observed.of(message), 0)
    assert trajectories.calm_after(decision, [one, elsewhere], 1).steps == 4
    assert trajectories.calm_after(decision, [one, other], 1).steps == 1


def test_no_step_is_answered_unobserved_before_it_has_the_latest_model(tmp_path: Path) -> None:
    """Not even where steps never wait for labels, and one may always be answered at once."""
    record = Record.open(tmp_path, create=True)
    trajectories = Trajectories(record, TRAINING, BeadCounts({}), synchronous=False)
    client = ClientState("1", b"1", "a")
    message = Observation("1", 0, bytes(8), 1, True, 0.01, 0.01, 0.01, 0.0)
    decision, _ = trajectories.decide(client, Observed.of(message), 0)
    assert trajectories.calm_after(decision, [client], 1).steps == 1
    assert trajectories.calm_after(decision, [client], 2).steps == 0
