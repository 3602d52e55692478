"""Threads for compiled code and matrix products, which release Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

Result = TypeVar("Result")


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="anharm")


def run_threads(tasks: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """Run tasks on so many threads, the calling one among them; results in the order of tasks."""
    if threads == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    waiting = [_pool(threads - 1).submit(task) for task in tasks[1:]]
    own = [tasks[0]()]
    return own + [future.result() for future in waiting]


def ranges(size: int, parts: int, grain: int = 1) -> list[tuple[int, int]]:
    """Divide `size` items into at most so many contiguous, nearly equal parts.

    All but the last are multiples of `grain`.
    """
    blocks = -(-size // grain)
    parts = max(min(parts, blocks), 1)
    bounds = [min(blocks * part // parts * grain, size) for part in range(parts + 1)]
    return [(bounds[part], bounds[part + 1]) for part in range(parts)]
