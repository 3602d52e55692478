"""A job: the silicon inputs in a folder of its own, and the processes of one run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from anharm.server.record import Record
from anharm.wire.addresses import SOCKET_PREFIX

INPUTS = Path(__file__).parents[2] / "inputs" / "si"
MARK = "ANHARM_TEST_JOB"
PATIENCE = 90.0  # seconds until something that must happen has happened, on a slow machine
ADDRESS = re.compile(r"<address>\s*([-\w]+)\s*</address>")
INPUT_SUFFIXES = (".toml", ".xml", ".in", ".inp", ".lammps")
NAMES = (
    *(f"anharm-silicon{cell}" for cell in ("-qe8", "-abinit8", "-cp2k8", "-lammps", "")),
    *(f"anharm-{code}" for code in ("pwx", "abinit", "cp2k", "lammps", "dft", "chgnet")),
    *(f"anharm-mixing-{kind}-pwx" for kind in ("mts", "rpc", "sum")),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def message(self) -> str:
        """The one message on stderr."""
        assert self.err.startswith("anharm: "), self.err
        assert self.err.count("anharm: ") == 1, self.err
        return self.err


class Job:
    """One run in a folder, with sockets that no other run uses.

    Every process that it starts inherits a mark in its environment, by which those that were
    left behind are found.
    """

    def __init__(self, folder: Path, run_file: str = "run.toml", inputs: Path = INPUTS) -> None:
        self.folder = folder
        self.mark = uuid4().hex
        self.run_file = folder / run_file
        self.processes: list[subprocess.Popen[bytes]] = []
        shutil.copytree(inputs, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
        files = [file for suffix in INPUT_SUFFIXES for file in folder.rglob(f"*{suffix}")]
        addresses = {a for file in files for a in ADDRESS.findall(file.read_text())}
        for path in files:
            path.chmod(0o644)
            text = path.read_text()
            for name in {*NAMES, *addresses}:
                text = re.sub(rf"\b{name}(?![-\w])", f"{name}-{self.mark[:10]}", text)
            path.write_text(text)

    # The inputs

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return next((self.folder / "runs").glob("*"), self.folder / "runs" / "silicon")

    def edit(self, name: str, *changes: tuple[str, str]) -> None:
        """Replace text in an input file, which must be there."""
        path = self.folder / name
        text = path.read_text()
        for old, new in changes:
            assert old in text, f"{old!r} is not in {name}"
            text = text.replace(old, new)
        path.write_text(text)

    def set(self, **settings: object) -> None:
        """Set keys of run.toml, as `run__mode="synchronous"`; None removes one."""
        table = tomllib.loads(self.run_file.read_text())
        for key, value in settings.items():
            *sections, last = key.split("__")
            inner = table
            for section in sections:
                inner = inner.setdefault(section, {})
            inner.pop(last, None)
            if value is not None:
                inner[last] = value
        self.run_file.write_text("".join(_toml_section(*entry) for entry in table.items()))

    def set_steps(self, steps: int, checkpoint: int = 20, name: str = "input.xml") -> None:
        """Set the length of the dynamics and the steps between checkpoints."""
        path = self.folder / name
        text = re.sub(r"<total_steps>.*?</", f"<total_steps> {steps} </", path.read_text())
        path.write_text(text.replace("stride='100'", f"stride='{checkpoint}'"))

    def use_calculator(self, body: str) -> None:
        """Let the reference be a Tersoff calculator with a method of the test's own."""
        (self.folder / "reference_of_test.py").write_text(
            "import time\nimport numpy as np\n"
            "from ase.calculators.tersoff import Tersoff\n"
            "from anharm.clients.calculators import SILICON\n\n"
            f"class Changed(Tersoff):\n{body}\n\n"
            'def make():\n    return Changed({("Si", "Si", "Si"): SILICON})\n'
        )
        self.set(reference__calculator={"name": "reference_of_test:make"})

    def slow_labels(self, seconds: float) -> None:
        """Let every label take so long."""
        self.use_calculator(
            "    def calculate(self, *a, **k):\n"
            f"        time.sleep({seconds})\n        super().calculate(*a, **k)\n"
        )

    # The processes

    def start(self, *words: str, name: str = "") -> subprocess.Popen[bytes]:
        """Start `anharm ...`, or i-PI, in a process group of its own."""
        name = name or words[0]
        command = [sys.executable, "-m", "anharm", *words]
        with (
            (self.folder / f"{name}.out").open("wb") as out,
            (self.folder / f"{name}.err").open("wb") as err,
        ):
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_run(self, *flags: str, name: str = "run") -> subprocess.Popen[bytes]:
        """Start `anharm run`."""
        return self.start("run", str(self.run_file), *flags, name=name)

    def end(self, process: subprocess.Popen[bytes], name: str, within: float = PATIENCE) -> Ended:
        """Wait for a process; nothing it printed may be a traceback."""
        started = time.monotonic()
        code = process.wait(within)
        seconds = time.monotonic() - started
        out, err = ((self.folder / f"{name}.{kind}").read_text() for kind in ("out", "err"))
        assert "Traceback" not in out + err, out + err
        return Ended(code, out, err, seconds)

    def run(self, *flags: str, within: float = PATIENCE, name: str = "run") -> Ended:
        """`anharm run` until it ends; no process is left then."""
        ended = self.end(self.start_run(*flags, name=name), name, within)
        self.expect_no_process()
        return ended

    def command(self, *words: str, within: float = PATIENCE) -> Ended:
        """Another command until it ends."""
        return self.end(self.start(*words), words[0], within)

    def living(self) -> dict[int, str]:
        """Every living process of this job: its id and its command line."""
        found = {}
        mark = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = b" ".join(words).decode().strip()
            except OSError:
                continue  # ended meanwhile, or not ours
        return {pid: words for pid, words in found.items() if words}  # zombies have no words

    def process_of(self, part: str) -> int:
        """The process whose command line holds a text."""
        (found,) = (pid for pid, words in self.living().items() if part in words)
        return found

    def expect_no_process(self, within: float = 0.0) -> None:
        """No process of the job is left, or none after some time."""
        wait_until(lambda: not self.living(), within, lambda: f"left behind: {self.living()}")

    def kill_all(self) -> None:
        """End whatever a failed test left."""
        for pid in self.living():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.processes:
            process.wait(10)
        prefix = Path(SOCKET_PREFIX)
        for path in prefix.parent.glob(f"{prefix.name}*{self.mark[:10]}*"):
            path.unlink(missing_ok=True)  # of an i-PI that was killed

    # What it did

    def record(self) -> Record:
        """The record, for reading."""
        return Record.open(self.directory, read_only=True)

    def n_labels(self) -> int:
        """Labels in the record; 0 before there is one."""
        if not (self.directory / "record.sqlite").exists():
            return 0
        with self.record() as record:
            return record.label_count()

    def output_steps(self) -> list[int]:
        """The steps in i-PI's own output, in the order of the file."""
        path = self.directory / "silicon.out"
        if not path.exists():
            path = self.folder / "silicon.out"  # of an i-PI started by hand
        if not path.exists():
            return []
        lines = [line.split() for line in path.read_text().splitlines()]
        return [int(float(words[0])) for words in lines if len(words) > 3 and words[0] != "#"]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until a condition is true."""
        wait_until(condition, PATIENCE)

    def wait_for_step(self, step: int) -> None:
        """Until i-PI has written a step."""
        self.wait_for(lambda: max(self.output_steps(), default=-1) >= step)


def _toml_section(name: str, section: dict[str, object]) -> str:
    return "\n".join([f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in section.items()), "\n"])


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def wait_until(
    condition: Callable[[], bool], within: float, why: Callable[[], str] = lambda: "in vain"
) -> None:
    """Wait for a condition, which fails the test if it does not come true in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """The silicon job with the Tersoff reference."""
    job = Job(tmp_path)
    job.set_steps(300)
    yield job
    job.kill_all()


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Make the job of any run file of inputs/si, or of another folder of inputs."""
    jobs: list[Job] = []

    def make(run_file: str, inputs: str = "si") -> Job:
        jobs.append(Job(tmp_path, run_file, INPUTS.parent / inputs))
        return jobs[-1]

    yield make
    for job in jobs:
        job.kill_all()


@pytest.fixture
def mixing_job(tmp_path: Path) -> Iterator[Callable[[str], Job]]:
    """Make the job of any folder of inputs/mixing."""
    jobs: list[Job] = []

    def make(kind: str) -> Job:
        job = Job(tmp_path, f"{kind}/run.toml", INPUTS.parent / "mixing")
        job.folder = job.run_file.parent
        jobs.append(job)
        return job

    yield make
    for job in jobs:
        job.kill_all()


@pytest.fixture
def qe_job(tmp_path: Path) -> Iterator[Job]:
    """The silicon job with Quantum ESPRESSO, 8 atoms."""
    job = Job(tmp_path, "run-qe.toml")
    job.set_steps(40, name="qe8/input.xml")
    yield job
    job.kill_all()
