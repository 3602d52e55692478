"""Child processes of a run: started with a log each, ended together, never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from anharm.errors import RunFailed

_PARENT_DEATH_SIGNAL = 1  # prctl(PR_SET_PDEATHSIG), Linux


class ManagedProcess:
    """One child process in a process group of its own.

    Parameters
    ----------
    name : str
        What messages call it.
    command : sequence of str
    folder, log : Path
        Working directory, and the file that takes its output.
    environment : mapping
        Added to this process's environment.

    Raises
    ------
    RunFailed
        If it cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        try:
            with open(log, "ab") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
        except OSError as error:
            raise RunFailed(f"{name} cannot be started: {error}") from error

    @property
    def exit_code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self.is_running:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; False if it did not come in time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self, lines: int = 5) -> str:
        """The end of its log, for messages."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def end(self, seconds: float = 10.0) -> None:
        """End the process and its children: politely, then for good."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            if self.wait(seconds):
                continue
        self.wait(seconds)


def _die_with_parent() -> None:
    """Ask Linux to end this child when its supervisor dies, however that happens."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def wait_until_ended(processes: Sequence[ManagedProcess], seconds: float) -> bool:
    """Wait for the end of all; False if one did not come in time."""
    deadline = time.monotonic() + seconds
    return all(process.wait(max(0.0, deadline - time.monotonic())) for process in processes)
