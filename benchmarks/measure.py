"""How the benchmarks measure and print; one thread per process unless a row says otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TURN_SECONDS = 0.02


def interleaved(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU time of each work, seconds, taken in turns after one that is not counted.

    CPU time of this process, so that other users of the machine count less. A turn repeats what
    is short, after a call of its own that is not counted, as the steps of a simulation do.
    """
    counts = []
    for work in works:
        work()
        counts.append(max(int(TURN_SECONDS / max(cpu_time(work), 1e-6)), 1))

    def turn(work: Callable[[], object], count: int) -> float:
        if count > 1:
            work()
        return cpu_time(lambda: [work() for _ in range(count)]) / count

    turns = [[turn(*one) for one in zip(works, counts, strict=True)] for _ in range(repeats)]
    return [float(median) for median in np.median(turns, axis=0)]


def cpu_time(work: Callable[[], object]) -> float:
    """CPU time of one call in this process, seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def wall_time(work: Callable[[], object]) -> float:
    """Elapsed time of one call, seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_memory() -> float:
    """Largest memory of this process so far, MB; Linux only.

    The number that `resource` gives begins with that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_process(script: str, *arguments: str) -> dict[str, float]:
    """Run a script of this folder in a process of its own; its last line is a JSON object."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(what: str, ours: float, peer: float | None, name: str, memory: str = "") -> None:
    """Print one line of the table; times in seconds."""
    other = f"{peer * 1e3:10.3f} ms {peer / ours:7.2f}x" if peer else " " * 21
    print(f"{what:<58s} {ours * 1e3:10.3f} ms {other}  {memory:<18s} {name}", flush=True)
