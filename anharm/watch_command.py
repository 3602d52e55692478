"""`anharm watch`: a run as it goes on, in the terminal."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from anharm.server.run_snapshot import Snapshot, take_snapshot
from anharm.watch_frame import describe_change, frame

_SECONDS = 1.0
_LINE_SECONDS = 30.0


def watch(directory: Path, once: bool = False, console: Console | None = None) -> None:
    """Show a run until it ends, or q or Ctrl-C is pressed; it is only read.

    Parameters
    ----------
    directory : Path
        The run directory.
    once : bool
        Show one frame and return.
    console : Console, optional
        Where to; stdout by default.

    Raises
    ------
    AnharmError
        If there is no readable record.
    """
    console = console or Console()
    snapshot = take_snapshot(directory)
    if once or (not snapshot.is_running and console.is_terminal):
        console.print(frame(snapshot, None, console.width, console.encoding))
    elif console.is_terminal:
        _watch_live(directory, console, snapshot)
    else:
        _watch_lines(directory, console, snapshot)


def _watch_live(directory: Path, console: Console, snapshot: Snapshot) -> None:
    first = snapshot
    with (
        Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live,
        _keys() as wait_for_key,
    ):
        while snapshot.is_running:
            rate = _rate(first, snapshot)
            live.update(frame(snapshot, rate, console.width, console.encoding), refresh=True)
            if wait_for_key(_SECONDS) in ("q", "Q"):
                break
            if snapshot.time - first.time > 20:
                first = snapshot
            snapshot = take_snapshot(directory)
    console.print(frame(snapshot, None, console.width, console.encoding))


def _watch_lines(directory: Path, console: Console, snapshot: Snapshot) -> None:
    """A line for every change of what matters, and from time to time for the steps."""
    shown: tuple[object, ...] = ()
    shown_at = 0.0
    while True:
        key = (snapshot.state, snapshot.labels, snapshot.model_version, len(snapshot.pending))
        if key != shown or snapshot.time - shown_at > _LINE_SECONDS:
            line = describe_change(snapshot)
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            console.file.flush()
            shown, shown_at = key, snapshot.time
        if not snapshot.is_running:
            return
        time.sleep(_SECONDS)
        snapshot = take_snapshot(directory)


def _rate(first: Snapshot, now: Snapshot) -> float | None:
    seconds = now.time - first.time
    return (now.steps - first.steps) / seconds if seconds > 0.5 else None


class _Keys:
    """Waits, and returns a key if one is pressed meanwhile."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def __call__(self, seconds: float) -> str:
        if not self._is_terminal:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""


@contextmanager
def _keys() -> Iterator[_Keys]:
    """Take single keys without Enter; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield _Keys(False)
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _Keys(True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
