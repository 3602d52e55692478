"""Observations survive the death of the process that took them, to the last one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.errors import RunFailed
from anharm.server.observation_journal import (
    JOURNAL_NAME,
    JournalBlock,
    JournalEntry,
    ObservationJournal,
    read_journal,
)
from anharm.server.record import Record

single = st.floats(0, 2.0**20, width=32, allow_subnormal=False)
ENTRIES = st.lists(
    st.builds(
        JournalEntry,
        number=st.integers(0, 2**64 - 1),
        trajectory=st.text(min_size=1, max_size=30).filter(lambda t: t.isprintable()),
        step=st.integers(0, 2**63),
        configuration=st.binary(min_size=8, max_size=8),
        maximum=single,
        mean=single,
        rms=single,
        energy=st.floats(-1e9, 1e9, allow_subnormal=False),
        model_version=st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=6,
)


def observe(record: Record, step: int, error: float, trajectory: str = "a", version: int = 1):
    values = np.array([[error, error / 2, error / 4, -error]])
    record.observe(trajectory, step, [b"%8d" % step], values, version)


def block(*entries: JournalEntry) -> JournalBlock:
    """Entries of steps in a row."""
    number, name, step, *_, version = entries[0]
    values = np.array([[e.maximum, e.mean, e.rms, e.energy] for e in entries])
    return JournalBlock(number, name, step, [e.configuration for e in entries], values, version)


def stored(record: Record, trajectory: str | None = None) -> list[tuple[str, int, float]]:
    return [
        (chunk.trajectory, int(step), float(error))
        for chunk in record.observations(trajectory)
        for step, error in zip(chunk.steps, chunk.maximum, strict=True)
    ]


@pytest.fixture
def record(tmp_path):
    with Record.open(tmp_path, create=True) as record:
        yield record


@settings(max_examples=50, deadline=None)
@given(entries=ENTRIES, cut=st.integers(0, 10_000))
def test_a_journal_cut_off_anywhere_keeps_its_whole_entries(tmp_path_factory, entries, cut):
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = ObservationJournal(path)
    ends = []
    for entry in entries:
        journal.append([block(entry)])
        ends.append(path.stat().st_size)
    journal.close()
    assert read_journal(path)[0] == entries
    cut = min(cut, ends[-1])
    os.truncate(path, cut)
    whole = [entry for entry, end in zip(entries, ends, strict=True) if end <= cut]
    again = ObservationJournal(path)
    assert again.entries == whole
    again.append([block(entries[-1])])
    again.close()
    assert read_journal(path)[0] == [*whole, entries[-1]]


@given(entries=ENTRIES)
def test_entries_in_a_row_are_written_as_one_by_one(entries):
    first = entries[0]
    row = [
        e._replace(
            number=first.number + n,
            trajectory=first.trajectory,
            step=first.step + n,
            model_version=first.model_version,
        )
        for n, e in enumerate(entries)
        if first.number + n < 2**64
    ]
    together = block(*row)
    assert together.entries == row
    assert together.encode() == b"".join(block(entry).encode() for entry in row)


@settings(max_examples=50, deadline=None)
@given(entries=ENTRIES, place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_entry_is_not_believed(tmp_path_factory, entries, place, flip):
    path = tmp_path_factory.mktemp("journal") / "journal"
    content = bytearray(b"".join(block(entry).encode() for entry in entries))
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    read, _ = read_journal(path)
    assert len(read) < len(entries)
    assert read == entries[: len(read)]


def test_every_observation_is_there_at_once_also_for_a_reader(record, tmp_path):
    for step in range(5):
        observe(record, step, step + 1.0)
    with Record.open(tmp_path, read_only=True) as reader:
        assert stored(reader) == [("a", step, step + 1.0) for step in range(5)]
        record.fold({"a": {"last_step": 4}})
        observe(record, 5, 6.0)
        assert stored(reader) == [("a", step, step + 1.0) for step in range(6)]
        assert reader.trajectory_states() == {"a": {"last_step": 4}}
    assert (tmp_path / JOURNAL_NAME).stat().st_size < 100


def test_the_last_evaluation_of_a_step_counts_wherever_it_is_kept(record):
    observe(record, 0, 1.0)
    observe(record, 1, 9.0)
    observe(record, 1, 8.0)
    record.fold({})
    observe(record, 1, 2.0, version=2)
    assert stored(record) == [("a", 0, 1.0), ("a", 1, 2.0)]
    record.fold({})
    record.fold({})
    observe(record, 2, 3.0)
    record.fold({})
    assert stored(record) == [("a", 0, 1.0), ("a", 1, 2.0), ("a", 2, 3.0)]
    assert record.last_errors("a", 2).tolist() == [2.0, 3.0]
    assert record.last_errors("a", 100).tolist() == [1.0, 2.0, 3.0]
    assert record.last_errors("b", 100).tolist() == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "", "fold", "kill"])), max_size=40),
    st.integers(1, 20),
)
def test_what_is_read_is_the_last_evaluation_of_each_step(tmp_path_factory, events, window):
    folder = tmp_path_factory.mktemp("run") / "run"
    record = Record.open(folder, create=True)
    expected: dict[int, float] = {}
    for number, (step, event) in enumerate(events, start=1):
        expected[step] = float(number)
        observe(record, step, float(number))
        if event == "fold":
            record.fold({})
        if event == "kill":
            record.close()
            record = Record.open(folder)
    assert [(step, error) for _, step, error in stored(record)] == sorted(expected.items())
    record.fold({})
    last = [error for _, error in sorted(expected.items())][-window:]
    assert record.last_errors("a", window).tolist() == last
    record.close()


def test_trajectories_keep_their_steps_apart(record):
    for step in range(3):
        for name in ("b", "a"):
            observe(record, step, 10.0 * step + (name == "b"), name)
    assert stored(record, "b") == [("b", 0, 1.0), ("b", 1, 11.0), ("b", 2, 21.0)]
    record.fold({})
    assert [name for name, _, _ in stored(record)] == ["a"] * 3 + ["b"] * 3


def test_observations_of_one_message_are_written_at_once_whatever_ends_it(record, tmp_path):
    with (
        Record.open(tmp_path, read_only=True) as reader,
        pytest.raises(KeyError),
        record.together(),
    ):
        for step in range(3):
            observe(record, step, step + 1.0)
        assert stored(reader) == []
        raise KeyError
    kept = [("a", step, step + 1.0) for step in range(3)]
    assert stored(record) == kept
    assert read_journal(tmp_path / JOURNAL_NAME)[0] == record.unfolded()
    with record.together():
        observe(record, 3, 4.0)
        record.fold({"a": {"last_step": 3}})  # the run ends in the middle of a message
    observe(record, 4, 5.0)
    assert stored(record) == [*kept, ("a", 3, 4.0), ("a", 4, 5.0)]
    assert [entry.number for entry in record.unfolded()] == [5]


def test_a_kill_between_folding_and_clearing_counts_nothing_twice(record, tmp_path):
    observe(record, 0, 1.0)
    journal = (tmp_path / JOURNAL_NAME).read_bytes()
    record.fold({})
    record.close()
    (tmp_path / JOURNAL_NAME).write_bytes(journal)
    with Record.open(tmp_path) as again:
        assert again.unfolded() == []
        observe(again, 1, 2.0)
        assert stored(again) == [("a", 0, 1.0), ("a", 1, 2.0)]


def test_a_full_disk_keeps_what_was_acknowledged(tmp_path):
    with Record.open(tmp_path, create=True) as record:
        observe(record, 0, 1.0)
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from anharm.server.record import Record\n"
        "with Record.open(sys.argv[1]) as record:\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "    for step in range(1, 100):\n"
        "        record.observe('a', step, [b'12345678'], np.ones((1, 4)), 1)\n"
        "        print(step, flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "RunFailed" in ended.stderr and "observations.journal cannot be used" in ended.stderr
    acknowledged = [int(line) for line in ended.stdout.split()]
    assert 5 < len(acknowledged) < 50
    with Record.open(tmp_path) as record:
        assert [step for _, step, _ in stored(record)] == [0, *acknowledged]


WRITER = """
import sys
import numpy as np
from anharm.server.record import Record

with Record.open(sys.argv[1]) as record:
    step = sum(len(chunk.maximum) for chunk in record.observations())
    print("from", step, flush=True)
    while True:
        record.observe("a", step, [b"%8d" % step], np.array([[step + 1.0, 0, 0, 0]]), 1)
        print("acknowledged", step, flush=True)
        step += 1
        if step % 17 == 0:
            record.fold({"a": {"last_step": step - 1}})
"""


def test_kills_at_any_moment_lose_no_observation(tmp_path: Path) -> None:
    Record.open(tmp_path, create=True).close()
    random = np.random.default_rng(1)
    acknowledged = -1
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = int(writer.stdout.readline().split()[1])
        assert first in (acknowledged + 1, acknowledged + 2)  # kept, but killed before it said so
        lines = [writer.stdout.readline() for _ in range(int(random.integers(1, 300)))]
        writer.send_signal(signal.SIGKILL)
        lines += [line for line in writer.stdout.readlines() if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
        acknowledged = int(lines[-1].split()[1])
    with Record.open(tmp_path) as record:
        kept = stored(record)
    assert [step for _, step, _ in kept] == list(range(len(kept)))
    assert len(kept) in (acknowledged + 1, acknowledged + 2)
    assert all(error == step + 1.0 for _, step, error in kept)


def test_a_reader_cannot_observe(record, tmp_path):
    with (
        Record.open(tmp_path, read_only=True) as reader,
        pytest.raises(ValueError, match="opened for reading"),
    ):
        observe(reader, 0, 1.0)


def test_a_journal_that_cannot_be_written_is_named(tmp_path):
    Record.open(tmp_path, create=True).close()
    (tmp_path / JOURNAL_NAME).unlink()
    (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(RunFailed, match=r"observations\.journal cannot be used"):
        Record.open(tmp_path)
