"""Where the time of a run went."""

from dataclasses import dataclass

import pytest

from anharm.server.record import Event, ModelVersion
from anharm.server.run_times import run_times


@dataclass
class Stored:
    """A label as far as its times go: asked for, answered, computed for so long."""

    asked: float
    created: float
    seconds: float

    @property
    def request(self):
        return type("Request", (), {"created": self.asked})

    @property
    def answer(self):
        return type("Answer", (), {"seconds": self.seconds})


def model(created: float, seconds: float) -> ModelVersion:
    return ModelVersion(1, "", "", (), {"seconds": seconds}, created)


def test_overlapping_labels_are_waited_for_once():
    labels = [Stored(10, 20, 9), Stored(12, 25, 12), Stored(40, 41, 1)]
    times = run_times({"created": "0"}, [Event(100, "info", "end")], labels, [model(26, 0.5)], True)
    assert times.total == 100 and times.parts == 1
    assert times.waiting == pytest.approx(16)
    assert times.calculations == 22
    assert times.dynamics == pytest.approx(100 - 16 - 0.5)


def test_the_pause_between_a_kill_and_a_resume_does_not_count():
    labels = [Stored(50, 1010, 5)]  # asked for, killed, and computed after the resume
    events = [Event(60, "warning", "the last sign"), Event(1000, "info", "resumed"),
              Event(1100, "info", "end")]  # fmt: skip
    times = run_times({"created": "0"}, events, labels, [], True)
    assert times.total == 60 + 100 and times.parts == 2
    assert times.waiting == pytest.approx(10)


def test_nothing_is_waited_for_in_an_asynchronous_run():
    times = run_times({"created": "0"}, [], [Stored(1, 9, 8)], [], False)
    assert times.waiting == 0 and times.total == 9
