"""One frame of `anharm watch`: a snapshot as text for a terminal of any width."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from anharm.model.crystal import FloatArray
from anharm.server.run_snapshot import Snapshot, TrajectoryView

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-=+*%#"
_MOST_TRAJECTORIES = 6
_MOST_PENDING = 6
_COLOURS = {"training": "cyan", "converged": "green", "ended": "green", "failed": "red",
            "dead": "red"}  # fmt: skip


def sparkline(values: FloatArray, width: int, top: float, encoding: str = "utf-8") -> str:
    """Values as a line of blocks; each stands for the largest of its bin.

    Parameters
    ----------
    values : ndarray
        Not negative.
    width : int
        Characters.
    top : float
        The value of the highest block; larger ones are drawn like it.
    encoding : str
        Of the terminal; without Unicode, plain characters are used.
    """
    if len(values) == 0 or width < 1:
        return ""
    blocks = _BLOCKS if encoding.lower().replace("-", "").startswith("utf") else _PLAIN
    starts = np.unique(np.linspace(0, len(values), min(width, len(values)), False).astype(int))
    highest = np.maximum.reduceat(values, starts)
    levels = np.clip(highest / top * len(blocks), 0, len(blocks) - 1) if top > 0 else highest * 0
    return "".join(blocks[int(level)] for level in levels)


def describe_change(snapshot: Snapshot) -> str:
    """One line, for output that is no terminal."""
    parts = [
        snapshot.state,
        f"steps {snapshot.steps}",
        f"labels {snapshot.labels}",
        f"pending {len(snapshot.pending)}",
        f"model {snapshot.model_version}",
    ]
    for view in snapshot.trajectories[:_MOST_TRAJECTORIES]:
        parts.append(f"{view.name}: {_errors(view)}")
    ending = _ending(snapshot)
    return "  ".join([*parts, *([ending] if ending else [])])


def frame(
    snapshot: Snapshot, rate: float | None, width: int, encoding: str = "utf-8"
) -> RenderableType:
    """The whole frame.

    Parameters
    ----------
    snapshot : Snapshot
    rate : float or None
        Steps per second; None where it is not known yet.
    width : int
        Columns of the terminal.
    encoding : str
        Of the terminal.
    """
    parts: list[RenderableType] = [_headline(snapshot, rate)]
    for view in snapshot.trajectories[:_MOST_TRAJECTORIES]:
        parts += _trajectory(view, width, encoding)
    if len(snapshot.trajectories) > _MOST_TRAJECTORIES:
        hidden = len(snapshot.trajectories) - _MOST_TRAJECTORIES
        parts.append(Text(f"and {hidden} more trajectories", style="dim"))
    if snapshot.pending:
        parts.append(_pending(snapshot))
    if snapshot.last_requests:
        parts += [Text("\nlast labels wanted", style="bold"), *_lines(
            f"{r.reason}: {r.state}" for r in snapshot.last_requests)]  # fmt: skip
    if snapshot.events:
        parts += [Text("\nlog", style="bold"), *_lines(e.text for e in snapshot.events)]
    if snapshot.convergence:
        parts.append(Text(f"\n{snapshot.convergence}"))
    if ending := _ending(snapshot):
        parts.append(Text(f"\n{ending}", style=_COLOURS.get(snapshot.state, "")))
    return Group(*parts)


def _lines(texts: Iterable[str]) -> list[Text]:
    return [Text(f"  {text}") for text in texts]


def _headline(snapshot: Snapshot, rate: float | None) -> RenderableType:
    speed = "" if rate is None else f"   {rate:.3g} steps/s"
    line = Text.assemble(
        (snapshot.state, f"bold {_COLOURS.get(snapshot.state, 'yellow')}"),
        f"   {snapshot.steps:,} steps{speed}   {snapshot.labels} labels   "
        f"{len(snapshot.pending)} pending   model {snapshot.model_version}",
    )
    if snapshot.waiting_for:
        line.append(f"   waiting for {snapshot.waiting_for}", style="yellow")
    return Panel(line)


def _trajectory(view: TrajectoryView, width: int, encoding: str) -> list[RenderableType]:
    if len(view.errors) == 0:
        return [Text(f"{view.name}: no step yet")]
    top = max(view.threshold or 0.0, float(view.errors.max()))
    line = sparkline(view.errors, max(1, width - 2), top, encoding)
    return [
        Text(f"\n{view.name}, step {view.steps:,}: {_errors(view)}"),
        Text(line, style="cyan", no_wrap=True, overflow="crop"),
    ]


def _errors(view: TrajectoryView) -> str:
    if len(view.errors) == 0 or view.average is None:
        return "no step yet"
    threshold = "none yet" if view.threshold is None else f"{view.threshold:.4g}"
    return f"error {view.errors[-1]:.4g}, average {view.average:.4g}, threshold {threshold} eV/A"


def _pending(snapshot: Snapshot) -> RenderableType:
    table = Table(title="labels under way", title_justify="left", expand=False)
    for title in ("request", "why", "computed by", "for"):
        table.add_column(title, overflow="fold")
    for request in snapshot.pending[:_MOST_PENDING]:
        seconds = max(0.0, snapshot.time - (request.updated or snapshot.time))
        table.add_row(
            str(request.id),
            Text(request.reason),
            Text(request.client or "nobody yet"),
            f"{seconds:.0f} s",
        )
    if len(snapshot.pending) > _MOST_PENDING:
        table.add_row("...", f"{len(snapshot.pending) - _MOST_PENDING} more", "", "")
    return table


def _ending(snapshot: Snapshot) -> str:
    if snapshot.is_running:
        return ""
    if snapshot.failure:
        return f"The run failed: {snapshot.failure}"
    if snapshot.ended:
        return f"The run has ended: {snapshot.ended}."
    return (
        "No broker is running and nothing says how the run ended: it was killed, or is about to "
        "start. --resume continues it."
    )
