"""Runs of 10^5 steps, trained as they go: memory, processor time and record at start and end, and
the drift of the energy; the table of docs/performance.md.

    python benchmarks/long_runs.py [--folder FOLDER] [--steps 100000] [--cases nve nvt beads]

Silicon, 64 atoms, the Tersoff potential as reference: NVE (inputs/more-runs), Langevin NVT
(inputs/si), and 8 beads in batches (inputs/path-integrals, at 300 K), one after the other. Memory
and processor time are those that the kernel reports for the processes of `anharm run`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from mixing_drift import MILLI, fit_line

from anharm.server.engine_properties import read_properties
from anharm.server.record_database import FILE_NAME
from anharm.server.run_data import read_run

INPUTS = Path(__file__).parents[1] / "inputs"
SAMPLE_SECONDS = 2.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PROCESSES = {"broker": "anharm broker", "client": "anharm client", "i-PI": "i-pi"}
N_ATOMS = 64


@dataclass(frozen=True)
class Case:
    """The folder and the stem of its inputs, and what is changed in XML and run.toml."""

    folder: str
    stem: str
    changes: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


_BEADS = (
    (r"nbeads='64'", "nbeads='8'"),
    (r"<batch_size> 64", "<batch_size> 8"),
    (r"'kelvin'> 50 <", "'kelvin'> 300 <"),
)
CASES = {
    "nve": Case("more-runs", "nve", settings=(("budget", 'after_convergence = "freeze"\nbudget'),)),
    "nvt": Case("si", "input"),
    "beads": Case("path-integrals", "batched", _BEADS),
}


@dataclass(frozen=True)
class Sample:
    """Steps made, and resident memory (MB) and processor time (s) of each process by then."""

    step: int
    memory: dict[str, float]
    processor: dict[str, float]


def prepare(name: str, folder: Path, steps: int) -> Path:
    """The inputs of a case, with sockets of their own; returns run.toml."""
    case = CASES[name]
    source = INPUTS / case.folder
    folder.mkdir(parents=True)
    for file in ("primitive.xyz", "init.xyz"):
        shutil.copy(source / file, folder)
    xml = (source / f"{case.stem}.xml").read_text()
    changes = (
        *case.changes,
        (r"<total_steps>[^<]*<", f"<total_steps> {steps} <"),
        (r"<address>[^<]*<", f"<address> long-{os.getpid()}-{name} <"),
        (r"prefix='[^']*'", "prefix='long'"),
    )
    for pattern, new in changes:
        xml, count = re.subn(pattern, new, xml)
        if not count:
            sys.exit(f"{pattern} is not in {case.stem}.xml any more")
    (folder / "input.xml").write_text(xml)
    text = (source / ("run.toml" if case.stem == "input" else f"{case.stem}.toml")).read_text()
    for key, new in (
        (r"(?m)^input = .*$", 'input = "input.xml"'),
        (r"(?m)^directory = .*$", 'directory = "run"'),
        *((rf"(?m)^{key}", new) for key, new in case.settings),
    ):
        text = re.sub(key, new, text)
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def watch(run_file: Path) -> list[Sample]:
    """Run to the end, looking at the processes from time to time."""
    words = [sys.executable, "-m", "anharm", "run", str(run_file)]
    samples = []
    with (run_file.parent / "out").open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            memory, processor = usage(process.pid)
            step = last_step(run_file.parent / "run" / "long.out")
            if step and memory.keys() == PROCESSES.keys():
                samples.append(Sample(step, memory, processor))
    if process.returncode:
        sys.exit(f"the run failed:\n{(run_file.parent / 'out').read_text()}")
    return samples


def usage(parent: int) -> tuple[dict[str, float], dict[str, float]]:
    """Memory and processor time of the children of `anharm run`."""
    memory, processor = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended meanwhile
        names = [name for name, part in PROCESSES.items() if part in command]
        if int(words[1]) == parent and names:
            memory[names[0]] = int(words[21]) * PAGE / 1e6
            processor[names[0]] = (int(words[11]) + int(words[12])) / TICKS
    return memory, processor


def last_step(path: Path) -> int:
    """The last step in i-PI's properties; 0 before there is one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().split(b"\n")[:-1]
    words = lines[-1].split() if lines else []
    return int(float(words[0])) if words and words[0] != b"#" else 0


def tell(name: str, folder: Path, samples: list[Sample]) -> None:
    """Print the rows of a case."""
    early = [s for s in samples if s.step >= 0.1 * samples[-1].step]
    late = [s for s in samples if s.step >= 0.9 * samples[-1].step]
    second = [s for s in early if s.step <= 0.2 * samples[-1].step]
    run = read_run(folder / "run")
    print(f"\n{name}: {samples[-1].step} steps or more, {len(run.labels)} labels")
    thirds = [early[0], samples[len(samples) // 2], samples[-1]]
    print(f"  memory after {', '.join(str(sample.step) for sample in thirds)} steps:")
    for process in PROCESSES:
        memory = ", ".join(f"{sample.memory[process]:.1f}" for sample in thirds)
        print(
            f"  {process}: {memory} MB; processor time "
            f"{rate(second, process):.3f} ms per step in the second tenth of the run, "
            f"{rate(late, process):.3f} ms in the last"
        )
    size = (folder / "run" / FILE_NAME).stat().st_size / 1e6
    print(f"  record {size:.2f} MB, {run.n_steps} observations")
    (found,) = read_properties(folder / "run", ["input.xml"], ["time", "conserved", "temperature"])
    swaps = [step for step, _ in run.traces[0].swaps]
    last_swap = (swaps[-1] if swaps else 0) / run.traces[0].beads
    settled = found.columns["step"] > last_swap
    times = found.columns["time"][settled]
    energy = found.columns["conserved"][settled] / N_ATOMS * MILLI
    drift, error, rms = fit_line(times, energy)
    print(
        f"  from the last new model on, at step {last_swap:.0f}: {times[-1] - times[0]:.0f} ps, "
        f"conserved quantity {drift:+.6f} ± {error:.6f} meV/atom/ps, rms about that line "
        f"{rms:.4f} meV/atom; temperature {found.columns['temperature'][settled].mean():.1f} K"
    )


def rate(samples: list[Sample], process: str) -> float:
    """Processor time per step, ms."""
    if len(samples) < 2:
        return float(np.nan)
    seconds = samples[-1].processor[process] - samples[0].processor[process]
    return MILLI * seconds / (samples[-1].step - samples[0].step)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    words = parser.parse_args()
    root = words.folder or Path(tempfile.mkdtemp(prefix="long-"))
    for name in words.cases:
        folder = root / name
        started = time.monotonic()
        samples = watch(prepare(name, folder, words.steps))
        tell(name, folder, samples)
        print(f"  {time.monotonic() - started:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
