"""Child processes of a run: started with a log each, ended together, never left behind."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from anharm.errors import RunFailed

_PARENT_DEATH_SIGNAL = 1  # prctl(PR_SET_PDEATHSIG), Linux
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")


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
        self.command = tuple(command)
        self.log = log
        self._group_is_left = True
        self._asked_to_end = False
        try:
            with open(log, "ab") as output:
                self._log_start = output.tell()  # a resumed run writes behind the first
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
        code = self._process.poll()
        if code is not None and self._group_is_left:
            self._end_group()
        return code

    @property
    def how_it_ended(self) -> str:
        """Its end in words."""
        code = self.exit_code
        if code is None:
            return "is running"
        if code < 0:
            return f"was ended by the signal {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, so that it could not say why."""
        code = self.exit_code
        return code is not None and code < 0

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    def wait(self, seconds: float) -> bool:
        """Wait for its end; False if it did not come in time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return not self.is_running

    def last_words(self, lines: int = 5) -> str:
        """The end of its log, for messages; of a Python traceback its last line alone."""
        text = [line for line in self._log_text().splitlines() if line.strip()]
        for number, line in reversed(list(enumerate(text))):
            if _EXCEPTION.match(line):
                return line
            if number < len(text) - lines:
                break
        return "\n".join(text[-lines:])

    def last_error(self) -> str:
        """The message that an `anharm` process ended with; empty if there is none."""
        _, mark, message = ("\n" + self._log_text()).rpartition("\nanharm: ")
        return message.strip() if mark else ""

    def has_printed(self, text: str) -> bool:
        """Whether a text stands in its log."""
        return text in self._log_text()

    def _log_text(self) -> str:
        try:
            return self.log.read_bytes()[self._log_start :].decode(errors="replace")
        except OSError:
            return ""

    def ask_to_end(self) -> None:
        """Send SIGTERM, once: i-PI takes a second one as an order to die without a RESTART."""
        if not self._asked_to_end:
            self._asked_to_end = True
            if self.is_running:
                self._process.send_signal(signal.SIGTERM)

    def end(self, seconds: float) -> None:
        """Give it some seconds to end as asked, then end it for good, with all it started."""
        self.wait(seconds)
        if self.is_running:
            self._end_group()
            self.wait(seconds)

    def _end_group(self) -> None:
        """Kill what is left of the process group, once: its number may belong to others later."""
        self._group_is_left = False
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def interruptions_deferred() -> Iterator[None]:
    """Hold back Ctrl-C and its like, so that a child that was started is known when they come.

    Handlers are exchanged, since a blocked signal would still reach another thread (of a linear
    algebra library, say) and interrupt Python's main thread all the same.
    """
    held: list[int] = []
    previous = {
        number: signal.signal(number, lambda received, frame: held.append(received))
        for number in _INTERRUPTIONS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(signal.Signals(held[0]))


def _die_with_parent() -> None:
    """Ask Linux to end this child when its supervisor dies, however that happens."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def wait_until_ended(processes: Sequence[ManagedProcess], seconds: float) -> bool:
    """Wait for the end of all; False if one did not come in time."""
    deadline = time.monotonic() + seconds
    return all(process.wait(max(0.0, deadline - time.monotonic())) for process in processes)
