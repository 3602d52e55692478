"""`anharm watch`: reads beside the broker, in a terminal of any kind."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console

from anharm.server.record import Record
from anharm.server.run_snapshot import take_snapshot
from anharm.watch_command import watch
from anharm.watch_frame import sparkline

PATIENCE = 60.0


def frame_of(directory, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    watch(directory, once=True, console=console)
    return console.file.getvalue()


def as_words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def run_under_way(made_run):
    made_run.learn()
    made_run.walk(300)
    made_run.record.set_trajectory_state("trajectory", {"last_step": 299, "errors": []})
    made_run.learn(step=150)
    request = made_run.record.request_for(made_run.displaced().positions, np.eye(3), "audit [x]")
    made_run.record.start_attempt(request.id)
    made_run.record.set_request_client(request.id, "client 3 (process 99)")
    made_run.record.set_metadata({"phase": "training", "convergence": "2 of the 4 refits."})
    return made_run


def test_a_frame_says_how_the_run_stands(run_under_way):
    errors = np.concatenate([c.maximum for c in run_under_way.record.observations()])
    text = as_words(frame_of(run_under_way.directory, 120))
    assert "training 300 steps 2 labels 1 pending model 2" in text
    assert f"error {errors[-1]:.4g}, average {errors.mean():.4g}" in text
    assert f"threshold {3 * errors.mean():.4g} eV/A" in text
    assert "client 3 (process 99)" in text and "audit [x]" in text
    assert "2 of the 4 refits." in text


@pytest.mark.parametrize("width", [20, 40, 80])
def test_no_line_is_wider_than_the_terminal(run_under_way, width):
    text = frame_of(run_under_way.directory, width)
    assert max(map(len, text.splitlines())) <= width
    assert "training" in text


def test_watching_neither_locks_nor_changes_the_record(run_under_way):
    path = run_under_way.record.path
    before = path.read_bytes()
    with run_under_way.record._database.transaction():  # a writer in the middle of its work
        assert take_snapshot(run_under_way.directory).labels == 2
    assert path.read_bytes() == before


def test_a_dead_run_and_an_ended_one_are_told_apart(run_under_way):
    directory = run_under_way.directory
    assert take_snapshot(directory).state == "training"
    run_under_way.record.close()
    assert take_snapshot(directory).state == "dead"
    assert "it was killed" in as_words(frame_of(directory, 80))
    with Record.open(directory) as record:
        record.set_metadata({"ended": "i-PI ended the dynamics"})
    assert take_snapshot(directory).state == "ended"
    with Record.open(directory) as record:
        record.set_metadata({"ended": "", "failure": "no [more] disk"})
        assert take_snapshot(directory).is_running
    text = frame_of(directory, 80)
    assert "The run failed: no [more] disk" in text and "failed" in text


def test_a_pipe_gets_a_line_per_change_until_the_run_ends(run_under_way):
    process = start(run_under_way.directory, stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    assert first.startswith("training") and "labels 2" in first
    run_under_way.learn(step=250)
    assert "labels 3" in process.stdout.readline()
    run_under_way.record.set_metadata({"ended": "i-PI ended the dynamics"})
    run_under_way.record.close()
    rest = process.stdout.read()
    assert "The run has ended: i-PI ended the dynamics." in rest and "\x1b" not in rest
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_a_key_ends_the_watching_and_leaves_the_terminal_as_it_was(run_under_way, key):
    own, its = pty.openpty()
    process = start(
        run_under_way.directory, stdin=its, stdout=its, stderr=its, preexec_fn=take_terminal
    )
    os.close(its)
    shown = read_until(own, b"threshold")
    os.write(own, key)
    shown += read_until(own, None)
    assert process.wait(PATIENCE) == 0, shown.decode(errors="replace")
    assert b"Traceback" not in shown
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    assert run_under_way.record.label_count() == 2


def take_terminal() -> None:
    """Make the terminal that of the new process, so that Ctrl-C is a signal to it."""
    os.setsid()
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def start(directory, **streams) -> subprocess.Popen:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    command = [sys.executable, "-m", "anharm", "watch", str(directory)]
    return subprocess.Popen(command, env=environment, **streams)


def read_until(descriptor: int, wanted: bytes | None) -> bytes:
    """What the process shows, until it shows something or ends."""
    shown, deadline = b"", time.monotonic() + PATIENCE
    while wanted is None or wanted not in shown:
        assert time.monotonic() < deadline, shown
        if not select.select([descriptor], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            return shown
        if not piece:
            return shown
        shown += piece
    return shown


def test_a_folder_without_a_record_is_named(command, tmp_path):
    done = command("watch", tmp_path)
    assert done.code == 2 and "holds no record of a run" in done.err


@given(
    arrays(float, st.integers(1, 200), elements=st.floats(0, 10)), st.integers(1, 80), st.booleans()
)
def test_a_sparkline_fits_and_shows_the_largest_error(values, width, is_unicode):
    line = sparkline(values, width, 10.0, "utf-8" if is_unicode else "ascii")
    blocks = "▁▂▃▄▅▆▇█" if is_unicode else "_.-=+*%#"
    assert len(line) == min(width, len(values)) and set(line) <= set(blocks)
    assert max(map(blocks.index, line)) == min(7, int(values.max() / 10.0 * 8))
    assert is_unicode or line.isascii()
