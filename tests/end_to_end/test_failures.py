"""What can go wrong once a run has started: it stops with one message, and nothing is left."""

import pytest

BOUND = 40.0  # seconds; most take four


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
        "2 label(s) are wanted, and no reference client has been connected to unix:anharm",
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


def test_a_calculator_that_fails(job):
    job.use_calculator(
        "    def calculate(self, *a, **k):\n        raise RuntimeError('SCF diverged')\n"
    )
    expect(job, 1, "RuntimeError: SCF diverged", "--resume")


def test_ipi_that_cannot_start(job):
    job.edit("input.xml", ("<tau units='femtosecond'>", "<tau units='fortnight'>"))
    ended = expect(job, 1, "i-pi ended with exit code 1", "fortnight", "i-pi.log", "--resume")
    assert ended.seconds < 20


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
