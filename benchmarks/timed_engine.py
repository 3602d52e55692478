"""i-PI with a clock: `python timed_engine.py INPUT.xml TIMES.json [--stages]`, for `ipi_speed.py`.

Runs i-PI itself, with its own loop, and writes the seconds of every step; with `--stages`, also the
median seconds that a step spends in each part of i-PI.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from ipi.engine.simulation import Simulation
from ipi.interfaces.sockets import Driver
from ipi.utils.softexit import softexit

Moments = dict[str, list[float]]


def note(moments: Moments, owner: type, name: str) -> None:
    """Keep the moments at which a method begins and ends."""
    method = getattr(owner, name)

    @wraps(method)
    def timed(*arguments: Any, **keywords: Any) -> Any:
        moments[f"{name} begins"].append(perf_counter())
        found = method(*arguments, **keywords)
        moments[f"{name} ends"].append(perf_counter())
        return found

    setattr(owner, name, timed)


def stages(moments: Moments, send: str, receive: str) -> dict[str, float]:
    """Median seconds per step and part, of the later two thirds of the steps."""
    order = (
        ("integrator, until the request is sent", "run_step begins", f"{send} begins"),
        ("send positions", f"{send} begins", f"{send} ends"),
        ("wait for the answer", f"{send} ends", f"{receive} begins"),
        ("receive forces and extras, ask for the status", f"{receive} begins", f"{receive} ends"),
        ("collect the forces, integrator", f"{receive} ends", "run_step ends"),
        ("output, state to go back to, next step", "run_step ends", "run_step begins"),
    )
    found = {}
    for name, begin, end in order:
        # The very first forces are asked for before the first step.
        begins, ends = (
            values[1:] if key.startswith((send, receive)) else values
            for key, values in ((begin, moments[begin]), (end, moments[end]))
        )
        if name.startswith("output"):
            ends = ends[1:]
        spans = [after - before for before, after in zip(begins, ends, strict=False)]
        found[name] = median(spans[len(spans) // 3 :])
    return found


def main(input_file: str, times_file: str, *flags: str) -> None:
    """Run the simulation and write its times."""
    moments: Moments = defaultdict(list)
    is_batched = "<batch_size>" in Path(input_file).read_text()
    names = ("dispatch_send_batch", "dispatch_recv_batch")
    send, receive = names if is_batched else ("dispatch_send", "dispatch_recv")
    note(moments, Simulation, "run_step")
    if "--stages" in flags:
        note(moments, Driver, send)
        note(moments, Driver, receive)
    with Path(input_file).open() as source:
        simulation = Simulation.load_from_xml(source)
    simulation.run()
    begins = moments["run_step begins"]
    steps = [after - before for before, after in pairwise(begins)]
    result: dict[str, Any] = {"steps": steps}
    if "--stages" in flags:
        result["stages"] = stages(moments, send, receive)
    Path(times_file).write_text(json.dumps(result))
    end: Callable[..., None] = softexit.trigger
    end(status="success", message="the benchmark is over")


if __name__ == "__main__":
    main(*sys.argv[1:])
