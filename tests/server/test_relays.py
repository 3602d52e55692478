"""i-PI's own calls of the reference: asked once, recorded before they are answered."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.calculator import all_changes

from anharm.clients.calculators import make_calculator
from anharm.configuration import load_configuration
from anharm.model.sites import assign_sites
from anharm.server.decision import Decision
from anharm.server.initial_configurations import InitialConfigurations
from anharm.server.label_requests import LabelRequests
from anharm.server.labelling import LabelReceived
from anharm.server.labelling_events import Result
from anharm.server.learner import Learner, build_system
from anharm.server.record import Record
from anharm.server.relays import Relays
from anharm.wire.driver_protocol import Configuration, Evaluation
from anharm.wire.messages import (
    BadMessage,
    ForcesWanted,
    ReferenceForces,
    Stop,
    Waiting,
    unpack_vectors,
)

RUN = """
[crystal]
primitive = "primitive.xyz"
supercell = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
[expansion]
cutoffs = { 2 = 2.6 }
"""
PRIMITIVE = """2
Lattice="0 2.7 2.7 2.7 0 2.7 2.7 2.7 0" Properties=species:S:1:pos:R:3 pbc="T T T"
Si 0 0 0
Si 1.35 1.35 1.35
"""


class Desk:
    """Label requests of eight silicon atoms, the relays' side of them, and a reference."""

    def __init__(self, directory, dispatch) -> None:
        (directory / "primitive.xyz").write_text(PRIMITIVE)
        (directory / "run.toml").write_text(RUN)
        self.directory = directory
        configuration = load_configuration(directory / "run.toml")
        self.settings = configuration.training
        self.system = build_system(configuration)
        self.atoms = self.system.supercell.to_atoms()
        self.cell = np.array(self.atoms.cell[:])
        self.ideal = Configuration(self.cell, self.system.supercell.positions)
        self.dispatcher = dispatch()
        self.record = Record.open(directory / "run", create=True)
        self.open()

    def open(self, learns_harvested: bool = False) -> None:
        """Begin, or begin again after the broker's death."""
        self.learner = Learner(
            self.system, self.record, self.directory / "run", learns_harvested=learns_harvested
        )
        labelling = self.dispatcher.server
        sites = assign_sites(self.system.supercell, self.ideal.positions)
        initial = InitialConfigurations(self.settings, self.ideal, sites, None)
        self.labels = LabelRequests(self.record, self.learner, labelling, initial, 2)
        self.relays = Relays(self.labels, self.record, len(self.atoms))

    def positions(self, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(0, 0.05, (len(self.atoms), 3))
        return self.ideal.positions + noise

    def ask(self, seed: int, address: bytes = b"a", sequence: int = 0):
        """A relay asks."""
        question = ForcesWanted.of("relay", "dft", sequence, self.cell, self.positions(seed))
        ((to, answer),) = self.relays.ask(address, question)
        assert to == address
        return answer

    def evaluate(self, seed: int) -> Evaluation:
        atoms = self.atoms.copy()
        atoms.positions = self.positions(seed)
        calculator = make_calculator("tersoff-silicon")
        calculator.calculate(atoms, ["energy", "forces"], all_changes)
        found = calculator.results
        return Evaluation(found["energy"], found["forces"], np.zeros((3, 3)), '{"a": 1}')

    def label(self, seed: int, learns_harvested: bool = False, **changes) -> list:
        """The reference answers; returns what the relays are told."""
        server = self.dispatcher.server
        request = server.take("client 1")
        assert np.array_equal(request.configuration.positions, self.positions(seed))
        evaluation = Evaluation(**{**self.evaluate(seed).__dict__, **changes})
        server.answered("client 1", Result(evaluation, 0.1))
        (event,) = (e for e in server.events() if isinstance(e, LabelReceived))
        assert self.labels.receive(event, learns_harvested) == ""
        return self.relays.answer(event.request_id)

    def decide(self, seed: int, step: int):
        """Training wants a label."""
        decision = Decision("trajectory", step, 1, "label", "audit", 0.1, None, None, 0)
        return self.labels.ask(self.positions(seed), self.cell, decision)


@pytest.fixture
def desk(tmp_path, dispatch):
    made = Desk(tmp_path, dispatch)
    yield made
    made.record.close()


def test_an_answer_is_in_the_record_before_i_pi_has_it_and_is_given_again_at_once(desk):
    assert isinstance(desk.ask(0), Waiting)
    assert isinstance(desk.ask(0), Waiting)  # it asks again while it waits
    assert len(desk.record.requests()) == 1
    ((address, answer),) = desk.label(0)
    (label,) = desk.record.labels()
    assert label.request.is_harvested and label.request.origin == "harvested"
    expected = desk.evaluate(0)
    assert address == b"a" and answer.energy == expected.energy
    assert np.array_equal(unpack_vectors(answer.forces, 8), expected.forces)
    assert answer.extras == b'{"a": 1}'
    desk.open()  # the broker died and came back
    assert isinstance(desk.ask(0, sequence=7), ReferenceForces)
    assert desk.relays.answer(label.request.id) == []


def test_all_who_wait_for_one_configuration_get_its_label(desk):
    desk.ask(0, b"a", 3)
    desk.ask(0, b"b", 5)
    answers = dict(desk.label(0))
    assert {address: answer.sequence for address, answer in answers.items()} == {b"a": 3, b"b": 5}


def test_harvested_labels_are_neither_learnt_nor_counted_unless_asked_for(desk):
    desk.ask(0)
    assert (len(desk.labels), desk.labels.n_open, desk.labels.n_taken) == (0, 1, 0)
    desk.label(0)
    assert (desk.learner.n_labels, desk.labels.n_taken) == (0, 0)
    desk.ask(1)
    desk.label(1, learns_harvested=True)
    assert (desk.learner.n_labels, desk.labels.n_taken) == (1, 0)
    desk.learner.refit()
    desk.open()
    assert desk.learner.n_labels == 1  # what was learnt once stays learnt
    desk.open(learns_harvested=True)
    assert desk.learner.n_labels == 2


def test_training_takes_over_what_was_harvested(desk):
    """Before it has come, after it has come, and never a second calculation."""
    desk.ask(0)
    request = desk.decide(0, step=11)
    assert not request.is_harvested and request.step == 11
    assert (len(desk.labels), desk.labels.n_open) == (1, 1)
    assert len(desk.label(0)) == 1  # the relay has its answer all the same
    assert (desk.learner.n_labels, desk.labels.n_taken) == (1, 1)
    desk.ask(1)
    desk.label(1)
    assert desk.decide(1, step=22).state == "labelled"
    assert (desk.learner.n_labels, desk.labels.n_taken) == (2, 2)
    desk.decide(1, step=22)
    assert desk.learner.n_labels == 2
    assert [r.attempts for r in desk.record.requests()] == [1, 1]
    assert desk.record.requested_steps() == {"trajectory": [11, 22]}


def test_a_relay_shares_what_training_waits_for(desk):
    desk.decide(0, step=3)
    assert isinstance(desk.ask(0), Waiting)
    assert len(desk.label(0)) == 1
    assert desk.learner.n_labels == 1
    assert not next(desk.record.labels()).request.is_harvested


def test_an_answer_in_quarantine_goes_to_nobody(desk):
    desk.ask(0)
    assert desk.label(0, forces=np.full((8, 3), 300.0)) == []
    assert desk.labels.n_open == 1 and desk.record.label_count() == 0
    assert len(desk.label(0)) == 1


def test_after_a_restart_only_what_training_wants_is_asked_for_again(desk):
    desk.ask(0)
    desk.decide(1, step=3)
    server = desk.dispatcher.server
    assert [server.take(name).request_id for name in ("client 1", "client 2")] == [1, 2]
    for name in ("client 1", "client 2"):
        server.answered(name, Result(desk.evaluate(0), 0.1))  # to a broker that has died
    desk.open()
    desk.labels.ask_interrupted()
    assert server.take("client 1").request_id == 2 and not server.has_work()
    assert (len(desk.labels), desk.labels.n_open) == (1, 1)


def test_what_is_no_configuration_is_refused(desk):
    question = ForcesWanted.of("relay", "dft", 0, desk.cell, desk.positions(0)[:7])
    with pytest.raises(BadMessage):
        desk.relays.ask(b"a", question)
    old = ForcesWanted(1, "relay", "dft", 0, b"", b"")
    ((_, answer),) = desk.relays.ask(b"a", old)
    assert isinstance(answer, Stop) and "same version" in answer.failure
    assert not desk.record.requests()
