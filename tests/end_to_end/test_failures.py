"""What can go wrong once a run has started: it stops with one message, and nothing is left."""

import shutil
import subprocess

import numpy as np
import pytest

from anharm.server.record import Record

BOUND = 40.0  # seconds; most take four


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB, where mounting is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def expect(job, code, *fragments, flags=(), within=BOUND):
    ended = job.run(*flags, within=within)
    assert ended.code == code, ended.err
    for fragment in fragments:
        assert fragment in ended.message
    return ended


def test_a_calculator_that_is_not_there(job):
    job.set(reference__calculator={"name": "no_such_module:make"})
    expect(job, 2, "reference-1: calculator", "no_such_module cannot be imported", "install it")


def test_a_reference_that_never_connects(job):
    job.set(reference__calculator=None, reference__command="sleep 1000")
    job.set(reference__connection_limit=3.0)
    ended = expect(
        job,
        1,
        "1 label(s) are wanted, and no reference client has been connected to unix:anharm",
        "for 3 s (reference.connection_limit)",
        "start one",
    )
    assert ended.seconds < 20


def test_a_reference_that_ends_at_once(job):
    job.set(reference__calculator=None, reference__command="false")
    ended = expect(
        job, 1, "reference-1 ended with exit code 1", "false)", "It printed nothing", "--resume"
    )
    assert "restart 3 of 3" in ended.out
    assert ended.seconds < BOUND


def test_a_reference_that_explains_itself(job):
    (job.folder / "code.py").write_text("raise RuntimeError('no pseudopotential for Si')")
    job.set(reference__calculator=None, reference__command=f"python3 {job.folder}/code.py")
    expect(job, 1, "ended with exit code 1", "RuntimeError: no pseudopotential for Si")


def test_a_reference_that_gives_garbage(job):
    job.use_calculator(
        "    def calculate(self, *a, **k):\n        super().calculate(*a, **k)\n"
        "        self.results['forces'] = self.results['forces'] + 5.0\n"
    )
    expect(
        job,
        1,
        "label 1 from client 1",
        "was quarantined: the forces do not add up to zero",
        "attempt 3 of 3",
        "reference-1.log",
        "--resume",
    )
    with job.record() as record:
        assert record.label_count() == 0
        assert len(list(record.rejected_labels())) >= 3


@pytest.mark.parametrize(
    ("factor", "evidence"),
    [
        ("-1.0", "do not push the atoms back to their sites"),
        ("51.42", "forces in another unit"),
        ("(-1.0 if self.calls > 2 else 1.0)", "the sign is wrong: a gradient instead of a force?"),
        ("(25.711 if self.calls > 2 else 1.0)", "Rydberg/bohr"),
    ],
    ids=["sign-at-first", "unit-at-first", "sign-later", "unit-later"],
)
def test_forces_that_are_wrong_by_a_sign_or_a_unit(job, factor, evidence):
    job.set_steps(2000)
    job.set(training__audit_interval=20)
    job.use_calculator(
        "    calls = 0\n"
        "    def calculate(self, *a, **k):\n        super().calculate(*a, **k)\n"
        "        self.calls += 1\n"
        f"        self.results['forces'] = self.results['forces'] * {factor}\n"
    )
    ended = expect(job, 1, "was quarantined", evidence, "attempt 3 of 3", within=60)
    assert "Traceback" not in ended.err
    with job.record() as record:
        assert record.label_count() == (2 if "calls" in factor else 0)
        assert all(evidence in label.reasons[0] for label in record.rejected_labels())


def test_a_full_disk_keeps_every_label(job, small_disk):
    """The run directory is a file system of its own, too small for the run."""
    job.set_steps(100_000)
    job.set(run__directory=str(small_disk / "run"), training__audit_interval=15)
    job.set(training__budget=10_000)
    process = job.start_run()
    ended = job.end(process, "run", within=120)
    job.expect_no_process()
    assert ended.code == 1
    assert ("anharm: " in ended.err and "full" in ended.err.lower()) or "space" in ended.err
    with Record.open(small_disk / "run", read_only=True) as record:
        labels = list(record.labels())
    assert len(labels) >= 2
    assert all(np.isfinite(label.answer.forces).all() for label in labels)


def test_a_run_directory_that_became_read_only_keeps_every_label(job, small_disk):
    """Also for root, whom permissions do not stop: the whole file system is read-only."""
    job.set_steps(20)
    job.set(run__directory=str(small_disk / "run"))
    assert job.run().code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    job.set_steps(40)
    ended = job.run("--resume", name="resumed")
    assert ended.code == 1, ended.err
    assert str(small_disk / "run") in ended.message
    assert "read-only" in ended.message.lower() or "cannot be written" in ended.message
    with Record.open(small_disk / "run", read_only=True) as record:
        labels = list(record.labels())
    assert len(labels) >= 2
    assert all(np.isfinite(label.answer.forces).all() for label in labels)


def test_a_reference_that_hangs_once(job):
    """At the time limit its label goes to a second client, and the run ends well."""
    job.set_steps(20)
    job.set(reference__time_limit=2.0, reference__clients=2)
    job.use_calculator(
        "    def calculate(self, *a, **k):\n"
        "        try:\n"
        f"            open({str(job.folder / 'hung')!r}, 'x').close()\n"
        "        except FileExistsError:\n"
        "            return super().calculate(*a, **k)\n"
        "        time.sleep(1000)\n"
    )
    ended = job.run(within=BOUND)
    assert ended.code == 0, ended.err
    assert "time limit of 2" in (job.directory / "logs" / "broker.log").read_text()
    assert job.n_labels() >= 2


def test_forces_that_are_once_not_numbers(job):
    """The reference client sends none of them, and calculates anew when it is asked again."""
    job.set_steps(20)
    job.use_calculator(
        "    def calculate(self, *a, **k):\n        super().calculate(*a, **k)\n"
        "        try:\n"
        f"            open({str(job.folder / 'spoilt')!r}, 'x').close()\n"
        "        except FileExistsError:\n"
        "            return\n"
        "        self.results['forces'] = self.results['forces'] * np.nan\n"
    )
    ended = job.run(within=BOUND)
    assert ended.code == 0, ended.err
    assert "numbers that are not finite" in (job.directory / "logs/reference-1.log").read_text()
    with job.record() as record:
        assert record.label_count() >= 2
        assert all(np.isfinite(label.answer.forces).all() for label in record.labels())


def test_a_calculator_that_fails(job):
    job.use_calculator(
        "    def calculate(self, *a, **k):\n        raise RuntimeError('SCF diverged')\n"
    )
    expect(job, 1, "RuntimeError: SCF diverged", "--resume")


def test_ipi_that_cannot_start(job):
    job.edit("input.xml", ("<tau units='femtosecond'> 100 </tau>", ""))  # known once it starts
    expect(job, 1, "i-pi ended with exit code 1", "thermostat", "i-pi.log", "--resume")


def test_an_atom_that_leaves_its_site(job):
    job.edit("input.xml", ("'kelvin'> 300", "'kelvin'> 20000"))
    ended = expect(job, 1, "atom ", "from its site", "crystal.maximum_displacement", "Angstrom")
    assert "labels  " in ended.out  # the summary of what was done


def test_initial_displacements_beyond_the_largest_allowed(job):
    job.set(crystal__maximum_displacement=0.05, training__initial_displacement=0.1)
    expect(job, 2, "training.initial_displacement = 0.1", "crystal.maximum_displacement = 0.050")
    assert job.n_labels() == 0  # before any label was computed


def test_a_budget_that_is_spent(job):
    job.set_steps(100)
    job.set(training__budget=3, training__audit_interval=None, training__factor=1.01)
    expect(
        job,
        1,
        "the budget of 3 labels is spent",
        "raise training.budget and resume",
        "eV/A",
    )
    assert job.n_labels() == 3

    # Raising the budget and resuming finishes the job.
    job.set(training__budget=100, training__factor=5.0)
    ended = job.run("--resume", name="resumed")
    assert ended.code == 0, ended.err
    assert job.output_steps()[-1] == 100


def test_an_audit_beyond_the_budget_is_left_out(job):
    job.set_steps(100)
    job.set(training__budget=2, training__audit_interval=10, training__factor=1000.0)
    ended = job.run()
    assert ended.code == 0, ended.err
    assert job.n_labels() == 2


def test_resuming_what_has_changed(job):
    job.set_steps(30)
    assert job.run().code == 0
    expect(job, 2, f"{job.directory} holds a run already; add --resume")
    expect(job, 2, "has made all its 30 steps", "raise <total_steps>", flags=("--resume",))

    job.set_steps(60)
    cutoffs = {"2": 5.0, "3": 4.0}
    original = job.run_file.read_text()
    job.set(expansion__cutoffs=cutoffs)
    expect(job, 2, "expansion.cutoffs has changed since the run", "restore", flags=("--resume",))
    job.run_file.write_text(original)
    job.set(expansion__first_order=True)
    changed = "expansion.first_order has changed since the run"
    expect(job, 2, changed, "then False, now True", flags=("--resume",))
    job.run_file.write_text(original)

    primitive = (job.folder / "primitive.xyz").read_text()
    job.edit("primitive.xyz", ("2.716", "2.7161"))
    changed = "the structure in crystal.primitive (primitive.xyz) has changed"
    expect(job, 2, changed, "restore", flags=("--resume",))
    (job.folder / "primitive.xyz").write_text(primitive)

    lines = (job.folder / "init.xyz").read_text().splitlines()
    moved = [*lines[:2], *lines[3:], lines[2]]
    (job.folder / "init.xyz").write_text("\n".join(moved) + "\n")
    expect(job, 2, "the order of the atoms in engine.input has changed", flags=("--resume",))
    (job.folder / "init.xyz").write_text("\n".join(lines) + "\n")

    job.edit(
        "input.xml", ("<timestep units='femtosecond'> 1.0", "<timestep units='femtosecond'> 2")
    )
    expect(job, 2, "input.xml has changed since the run", "restore it", flags=("--resume",))
    job.edit(
        "input.xml", ("<timestep units='femtosecond'> 2", "<timestep units='femtosecond'> 1.0")
    )

    ended = job.run("--resume", name="resumed")
    assert ended.code == 0, ended.err
    assert job.output_steps() == list(range(0, 61, 10))


@pytest.mark.parametrize("ending", ["EXIT"])
def test_ipi_that_is_told_to_end(job, ending):
    job.set_steps(100_000)
    process = job.start_run()
    job.wait_for_step(30)
    (job.directory / ending).touch()
    ended = job.end(process, "run")
    job.expect_no_process()
    assert ended.code == 1
    assert "of 100000 steps" in ended.message
    assert "EXIT" in ended.message
