"""A lattice client with a clock: `python timed_client.py RUN.toml TIMES.json`, for `ipi_speed.py`.

Runs `anharm client` and writes the median seconds that a step spends in each part of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from anharm.clients.broker_link import BrokerLink
from anharm.clients.lattice import LatticeClient
from anharm.command_line import main
from anharm.model.force_errors import ForceErrors
from anharm.model.program import Program
from anharm.model.sites import SiteAssignment
from anharm.wire import driver_protocol
from anharm.wire.channel import Channel

PARTS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("decode positions", driver_protocol, ("read_configuration", "read_batch")),
    ("displacements from the sites", SiteAssignment, ("displacements",)),
    ("energy, forces, virial", Program, ("evaluate",)),
    ("errors of all forces", ForceErrors, ("standard_deviations",)),
    ("wait for the broker", BrokerLink, ("receive",)),
    ("encode the answer", driver_protocol, ("encode_evaluation", "encode_evaluations")),
    ("whole evaluation", LatticeClient, ("evaluate", "evaluate_batch")),
    ("send to i-PI", Channel, ("send",)),
)


def timed(function: Callable[..., Any], spans: list[float]) -> Callable[..., Any]:
    """The same function, whose times are kept."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        begin = perf_counter()
        found = function(*arguments, **keywords)
        spans.append(perf_counter() - begin)
        return found

    return call


def run(run_file: str, times_file: str) -> None:
    """Serve i-PI until it ends."""
    spans: dict[str, list[float]] = {}
    for part, owner, names in PARTS:
        spans[part] = []
        for name in names:
            if hasattr(owner, name):
                setattr(owner, name, timed(getattr(owner, name), spans[part]))
    sys.argv = ["anharm", "client", run_file]
    try:
        main()
    finally:
        later = {part: times[len(times) // 3 :] for part, times in spans.items()}
        found = {part: median(times) for part, times in later.items() if times}
        Path(times_file).write_text(json.dumps(found))


if __name__ == "__main__":
    run(*sys.argv[1:])
