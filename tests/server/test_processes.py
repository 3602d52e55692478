"""Children of a run: how they ended, what they said, and that nothing of them stays."""

import signal
import sys
import time
from pathlib import Path

import pytest

from anharm.errors import RunFailed
from anharm.server.processes import ManagedProcess

PATIENCE = 30.0


@pytest.fixture
def run_python(tmp_path):
    started = []

    def start(code):
        command = (sys.executable, "-c", code)
        started.append(ManagedProcess("child", command, tmp_path, tmp_path / "log"))
        return started[-1]

    yield start
    for child in started:
        child.ask_to_end()
        child.end(PATIENCE)


def wait_for_log(child, text):
    deadline = time.monotonic() + PATIENCE
    while text not in child.last_words():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_it_said_and_how_it_ended(run_python):
    child = run_python("print('one'); print('two'); raise SystemExit(3)")
    assert child.wait(PATIENCE)
    assert child.last_words(1) == "two"
    assert child.how_it_ended == "ended with exit code 3"
    assert child.last_error() == ""


def test_of_a_traceback_only_the_error_is_told(run_python):
    child = run_python("def f():\n    raise ValueError('no such unit')\nf()")
    assert child.wait(PATIENCE)
    assert child.last_words() == "ValueError: no such unit"


def test_the_message_of_a_command_of_ours_is_told_whole(run_python):
    child = run_python("print('INFO'); print('anharm: first line\\n  second line')")
    assert child.wait(PATIENCE)
    assert child.last_error() == "first line\n  second line"


def test_the_log_of_an_earlier_run_is_kept_and_not_quoted(run_python):
    first = run_python("print('anharm: an old error')")
    assert first.wait(PATIENCE)
    second = run_python("pass")
    assert second.wait(PATIENCE)
    assert (second.last_error(), second.last_words()) == ("", "")
    assert "an old error" in second.log.read_text()


def test_a_signal_is_named(run_python):
    child = run_python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert child.wait(PATIENCE)
    assert child.exit_code == -signal.SIGKILL
    assert child.how_it_ended == "was ended by the signal SIGKILL"


def test_a_child_that_ignores_sigterm_ends_with_its_own_children(run_python):
    child = run_python(
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('grandchild', subprocess.Popen(['sleep', '1000']).pid, flush=True)\n"
        "time.sleep(1000)"
    )
    wait_for_log(child, "grandchild")
    grandchild = Path("/proc") / child.last_words().split()[1] / "cmdline"
    child.ask_to_end()
    child.end(0.3)
    assert child.exit_code == -signal.SIGKILL
    expect_gone(grandchild)


def test_what_a_child_leaves_behind_ends_with_it(run_python):
    child = run_python("import subprocess; print('x', subprocess.Popen(['sleep', '1000']).pid)")
    assert child.wait(PATIENCE)
    expect_gone(Path("/proc") / child.last_words().split()[1] / "cmdline")


def expect_gone(cmdline):
    deadline = time.monotonic() + PATIENCE
    while cmdline.exists() and cmdline.read_bytes():  # a zombie has no command line
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_program_that_cannot_be_started(tmp_path):
    with pytest.raises(RunFailed, match="child cannot be started"):
        ManagedProcess("child", ("/no/such/program",), tmp_path, tmp_path / "log")
