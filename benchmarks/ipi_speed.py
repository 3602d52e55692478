"""i-PI with anharm against i-PI with its cheapest driver: `python benchmarks/ipi_speed.py`.

Both serve the same i-PI input over the same kind of UNIX socket, in turns. On our side the real
broker, reference (Tersoff) and lattice client run: errors of all forces at every step, and a
decision of the broker about each, in training. The time of a run is the median of its steps'
times, the first third left out, so that neither start nor labels count; the ratio is the
median over pairs of runs. The floor is the driver of `i-pi-py_driver` that is quickest here:
`gas`, which returns zeros (`--drivers` measures the others).

`--steady`, on both sides: i-PI has a processor of its own and all else shares the others, so that
nobody wakes up where i-PI works; and processors that idle are kept awake by work of the lowest
priority, since those of virtual machines take up to milliseconds to wake. `--one-core`, on both
sides: all processes share one processor, the worst that a kernel can do to them. Linux only.

Inputs are those of `--kind`: `ordinary` as users write them (Langevin, output every ten steps,
i-PI's defaults), `lean` without thermostat, output or safety copies, and with a latency of 1e-5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import uuid4

import numpy as np
from ase.build import bulk
from ase.io import write

INPUTS = Path(__file__).parents[1] / "inputs" / "si"
HERE = Path(__file__).parent
DRIVERS = ("gas", "dummy", "harmonic -o 0.001")
ORDINARY_LATENCY, LEAN_LATENCY = "", "<latency> 1e-5 </latency>"
PATIENCE = 600.0  # seconds
LATTICE_CONSTANT = 5.432  # Angstrom, that of inputs/si/primitive.xyz


@dataclass(frozen=True)
class Case:
    """Conventional silicon cells along each axis, cutoffs per order (Angstrom), beads."""

    cells: int
    cutoffs: tuple[float, float, float]
    beads: int = 1

    @property
    def name(self) -> str:
        """For the table."""
        beads = f", {self.beads} beads in a batch" if self.beads > 1 else ""
        return f"Si {8 * self.cells**3} {list(self.cutoffs)}{beads}"


CASES = (
    Case(2, (5.0, 4.0, 3.5)),
    Case(3, (5.0, 4.0, 3.5)),
    Case(3, (6.0, 4.5, 3.5)),
    Case(2, (5.0, 4.0, 3.5), beads=32),
)


def input_xml(case: Case, kind: str, address: str, steps: int) -> str:
    """An i-PI input; the two kinds differ in what i-PI itself does at each step."""
    is_lean = kind == "lean"
    thermostat = "pile_g" if case.beads > 1 else "langevin"
    dynamics = (
        "<dynamics mode='nve'>"
        if is_lean
        else f"<dynamics mode='nvt'><thermostat mode='{thermostat}'>"
        "<tau units='femtosecond'> 100 </tau></thermostat>"
    )
    output = (
        ""
        if is_lean
        else """
    <properties filename='out' stride='10'> [ step, conserved, potential ] </properties>
    <trajectory filename='pos' stride='10' format='xyz'> positions </trajectory>
    <checkpoint filename='checkpoint' stride='1000' overwrite='True'/>"""
    )
    batch = f"<batch_size> {case.beads} </batch_size>" if case.beads > 1 else ""
    return f"""<simulation verbosity='low' safe_stride='{100000 if is_lean else 1}'>
  <output prefix='silicon'>{output}
  </output>
  <total_steps> {steps} </total_steps>
  <prng><seed> 31415 </seed></prng>
  <ffsocket name='forces' mode='unix' pbc='False'>
    <address> {address} </address> {LEAN_LATENCY if is_lean else ORDINARY_LATENCY} {batch}
  </ffsocket>
  <system>
    <initialize nbeads='{case.beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces><force forcefield='forces'/></forces>
    <motion mode='dynamics'>
      {dynamics}
        <timestep units='femtosecond'> 1.0 </timestep>
      </dynamics>
    </motion>
    <ensemble><temperature units='kelvin'> 300 </temperature></ensemble>
  </system>
</simulation>
"""


def prepare(folder: Path, case: Case, kind: str, steps: int) -> str:
    """Write all inputs of both sides; returns the address."""
    address = f"anharm-speed-{uuid4().hex[:8]}"
    shutil.copy(INPUTS / "primitive.xyz", folder)
    atoms = bulk("Si", "diamond", a=LATTICE_CONSTANT, cubic=True).repeat(case.cells)
    atoms.info, numbers = {}, ("10.8f",) * 6
    lengths = " ".join(format(x, n) for x, n in zip(atoms.cell.cellpar(), numbers, strict=True))
    write(folder / "init.xyz", atoms, format="xyz", fmt="%16.10f",
          comment=f"# CELL(abcABC): {lengths} cell{{angstrom}} positions{{angstrom}}")  # fmt: skip
    (folder / "input.xml").write_text(input_xml(case, kind, address, steps))
    text = (INPUTS / "run.toml").read_text()
    matrix = case.cells * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    orders = ", ".join(f"{n} = {c}" for n, c in enumerate(case.cutoffs, 2))
    text = re.sub(r"supercell = .*", f"supercell = {matrix.tolist()}", text)
    text = re.sub(r"cutoffs = .*", f"cutoffs = {{ {orders} }}", text)
    (folder / "run.toml").write_text(text)
    return address


class Runs:
    """The processes of one case."""

    def __init__(self, folder: Path, address: str, place: str = "free") -> None:
        self.folder = folder
        self.address = address
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            one_thread = {f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "NUMBA")}
            process = subprocess.Popen(
                words, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **one_thread}
            )
        first, *others = sorted(os.sched_getaffinity(0))
        if self.place == "one core" or (self.place == "steady" and name == "engine"):
            os.sched_setaffinity(process.pid, {first})
        elif self.place == "steady":
            os.sched_setaffinity(process.pid, others)
        self.processes.append(process)
        return process

    def _engine(self, *flags: str) -> subprocess.Popen[bytes]:
        script = str(HERE / "timed_engine.py")
        return self._start("engine", sys.executable, script, "input.xml", "times.json", *flags)

    def _finish(self, engine: subprocess.Popen[bytes]) -> dict[str, object]:
        try:
            if engine.wait(PATIENCE) != 0:
                raise SystemExit(f"i-PI failed:\n{(self.folder / 'engine.log').read_text()}")
            for process in self.processes:
                process.wait(PATIENCE)
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self.processes = []
        found: dict[str, object] = json.loads((self.folder / "times.json").read_text())
        return found

    def floor(self, driver: str, *flags: str) -> dict[str, object]:
        """i-PI with a driver of its own."""
        engine = self._engine(*flags)
        socket = Path("/tmp") / f"ipi_{self.address}"
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():
            if time.monotonic() > deadline or engine.poll() is not None:
                raise SystemExit(f"i-PI failed:\n{(self.folder / 'engine.log').read_text()}")
            time.sleep(0.05)
        time.sleep(0.2)  # it listens shortly after the name is there
        command = shutil.which("i-pi-py_driver", path=str(Path(sys.executable).parent))
        command = command or shutil.which("i-pi-py_driver") or "i-pi-py_driver"
        self._start("driver", sys.executable, command, "-u", "-a", self.address, "-m",
                    *driver.split())  # fmt: skip
        return self._finish(engine)

    def ours(self, *flags: str) -> dict[str, object]:
        """i-PI with the lattice client, the broker and the reference."""
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        anharm = (sys.executable, "-m", "anharm")
        self._start("broker", *anharm, "broker", "run.toml")
        self._start("reference", *anharm, "reference", "run.toml")
        if "--stages" in flags:
            script = str(HERE / "timed_client.py")
            self._start("client", sys.executable, script, "run.toml", "client.json")
        else:
            self._start("client", *anharm, "client", "run.toml")
        found = self._finish(self._engine(*flags))
        if "--stages" in flags:
            found["client"] = json.loads((self.folder / "client.json").read_text())
        return found


def step_time(found: dict[str, object], quantile: float) -> float:
    """Seconds per step of a run, the first third left out."""
    steps = found["steps"]
    assert isinstance(steps, list)
    return float(np.quantile(steps[len(steps) // 3 :], quantile))


def print_stages(title: str, stages: object) -> None:
    """One line per part, microseconds."""
    assert isinstance(stages, dict)
    print(f"  {title}:")
    for name, seconds in stages.items():
        print(f"    {name:<48s} {seconds * 1e6:8.0f} us")


@contextmanager
def processors_awake(wanted: bool) -> Iterator[None]:
    """One process of the lowest priority for each processor."""
    processors = sorted(os.sched_getaffinity(0)) if wanted else []
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in processors]
    try:
        for process, processor in zip(busy, processors, strict=True):
            os.sched_setaffinity(process.pid, {processor})
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(case: Case, arguments: argparse.Namespace) -> None:
    """Print the row of a case, and its stages where wanted."""
    with tempfile.TemporaryDirectory() as name:
        steps = max(arguments.steps // (4 if case.beads > 1 else 1), 60)
        folder = Path(name)
        runs = Runs(folder, prepare(folder, case, arguments.kind, steps), arguments.place)
        if arguments.drivers:
            for driver in DRIVERS:
                taken = step_time(runs.floor(driver), arguments.quantile)
                print(f"{case.name:<45s} {driver:<20s} {taken * 1e3:.3f} ms", flush=True)
            return
        pairs = []
        for _ in range(arguments.repeats):
            floor, ours = runs.floor(DRIVERS[0]), runs.ours()
            pairs.append([step_time(found, arguments.quantile) for found in (floor, ours)])
        ratios = [ours / floor for floor, ours in pairs]
        floor_time, our_time = (median(column) * 1e3 for column in zip(*pairs, strict=True))
        print(
            f"| {case.name} | {floor_time:.3f} | {our_time:.3f} | {median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )
        if arguments.stages:
            floor, ours = runs.floor(DRIVERS[0], "--stages"), runs.ours("--stages")
            print_stages(f"i-PI with {DRIVERS[0]}", floor["stages"])
            print_stages("i-PI with anharm", ours["stages"])
            print_stages("the lattice client", ours["client"])


def main() -> None:
    """Measure the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("ordinary", "lean"), default="ordinary")
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    parser.add_argument("--steps", type=int, default=3000, help="a quarter of them with beads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quantile", type=float, default=0.5, help="of the times of the steps")
    parser.add_argument("--stages", action="store_true", help="also say where the time goes")
    place = parser.add_mutually_exclusive_group()
    for name in ("steady", "one core"):
        flag = f"--{name.replace(' ', '-')}"
        place.add_argument(
            flag, dest="place", action="store_const", const=name, default="free", help="see above"
        )
    parser.add_argument("--drivers", action="store_true", help="compare i-PI's own drivers only")
    arguments = parser.parse_args()
    pairs = f"{arguments.repeats} pairs, {arguments.place}"
    print(f"{arguments.kind} input, quantile {arguments.quantile}, {pairs}\n")
    if not arguments.drivers:
        print("| case | i-PI's cheapest driver, ms/step | anharm, ms/step | ratio |")
        print("|---|---|---|---|", flush=True)
    with processors_awake(arguments.place == "steady"):
        for number in arguments.cases:
            measure(CASES[number], arguments)


if __name__ == "__main__":
    main()
