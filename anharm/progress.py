"""Progress of a run on the terminal: one live line, or plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

import click
from rich.console import Console
from rich.status import Status as Spinner

from anharm.wire.messages import Status

_PLAIN_SECONDS = 5.0


def describe(status: Status) -> str:
    """One line that says how the run stands."""
    parts = [
        f"{status.phase:<14s}",
        f"step {status.steps:7d}",
        f"labels {status.labels:4d}",
        f"model {status.model_version:4d}",
    ]
    if status.average_error >= 0:
        parts.append(f"error {status.error:.4f}, average {status.average_error:.4f} eV/A")
    if status.waiting_for:
        parts.append(f"waiting for {status.waiting_for}")
    return "  ".join(parts)


class Progress:
    """Shows the status of a run; use as a context manager."""

    def __init__(self) -> None:
        self._console = Console()
        self._spinner: Spinner | None = None
        self._shown = 0.0
        self._key: tuple[str, int] = ("", -1)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._spinner = self._console.status("starting")
            self._spinner.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def show(self, status: Status) -> None:
        """Take a new status."""
        if self._spinner is not None:
            self._spinner.update(describe(status))
            return
        key = (status.phase, status.labels)
        now = time.monotonic()
        if key != self._key or now - self._shown > _PLAIN_SECONDS:
            click.echo(describe(status))
            self._key, self._shown = key, now

    def tell(self, text: str) -> None:
        """Print a sentence, above the live line if there is one."""
        if self._spinner is not None:
            self._console.print(text, markup=False, highlight=False)
        else:
            click.echo(text)
