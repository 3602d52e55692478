"""Refuse what would not fit into this machine's memory, before it is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from anharm.errors import ModelError
from anharm.model.expansion_size import ExpansionSize
from anharm.model.memory import MemoryEstimate, estimate_memory

Command = Literal["fit", "broker", "run"]

_MEMORY_FILE = Path("/proc/meminfo")
_CONTROL_GROUPS = Path("/proc/self/cgroup")
_CONTROL_GROUP_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # bytes; version 1 of control groups says "none" by a number like this


def available_memory() -> int:
    """Memory that a new process of this machine can have, bytes.

    What is free or can be freed, within the limits of the control groups (containers, batch
    jobs) that this process belongs to.
    """
    limits = [_machine_memory()]
    try:
        lines = _CONTROL_GROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return limits[0]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            limits += _group_limits(controllers, path)
    return max(min(limits), 0)


def _machine_memory() -> int:
    try:
        for line in _MEMORY_FILE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # no Linux: take what the machine has in all
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_limits(controllers: str, path: str) -> list[int]:
    """What is left of the limits of a control group and of those it is in."""
    root = _CONTROL_GROUP_ROOT / controllers
    limit_name, usage_name, cache_name = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if controllers
        else ("memory.max", "memory.current", "inactive_file")
    )
    group = root / path.lstrip("/")
    found = []
    for folder in (group, *group.parents):
        limit = _number(folder / limit_name)
        usage = _number(folder / usage_name)
        if limit is not None and usage is not None and limit < _NO_LIMIT:
            found.append(limit - usage + _statistic(folder / "memory.stat", cache_name))
        if folder == root:
            break
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)


def memory_needed(memory: MemoryEstimate, command: Command) -> int:
    """Peak memory of all processes that a command starts, bytes."""
    return {"fit": memory.fit, "broker": memory.broker, "run": memory.run}[command]


def check_expansion(
    size: ExpansionSize,
    command: Command,
    n_atoms: int,
    n_labels: int,
    available: int | None = None,
) -> None:
    """Refuse an expansion whose processes need more memory than there is.

    Parameters
    ----------
    size : ExpansionSize
        Estimated or exact.
    command : {"fit", "broker", "run"}
        Which processes share the memory.
    n_atoms, n_labels : int
        Atoms of a label, and labels in all.
    available : int, optional
        Bytes; what this machine has by default.

    Raises
    ------
    ModelError
        With what is needed, what is there, and which key to lower.
    """
    needed = memory_needed(estimate_memory(size, n_atoms, n_labels), command)
    available = available_memory() if available is None else available
    if size.is_complete and needed <= available:
        return
    order = size.largest_order
    about = "about" if size.is_complete else "more than"
    raise ModelError(
        f"expansion.cutoffs ask for {about} {size.n_parameters} parameters "
        f"({size.parameters[order]} of order {order}), which need {about} "
        f"{format_bytes(needed)} of memory for {n_atoms} atoms; {format_bytes(available)} are "
        f"available on this machine: lower the cutoff of order {order}"
    )


def format_bytes(number: float) -> str:
    """Bytes as text with a suitable unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e6:.3g} MB"
