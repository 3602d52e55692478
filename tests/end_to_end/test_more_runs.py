"""Further kinds of i-PI runs, each with the complete input of inputs/more-runs."""

import os
import signal

import numpy as np
from ase import units
from ase.io import read

from anharm.model import ForceField, Supercell, load_model
from anharm.model.sites import assign_sites
from anharm.server.record_schema import content_hash

FOLDER = "more-runs"
TEMPERATURES = [300.0, 380.0, 480.0, 600.0]


def column(job, name: str, number: int) -> np.ndarray:
    """A column of i-PI's output of properties."""
    return np.loadtxt(job.directory / name)[:, number]


def last_model(job):
    with job.record() as record:
        return load_model(job.directory / record.models()[-1].path)


def test_without_a_thermostat_the_energy_changes_only_with_the_model(new_job):
    job = new_job("nve.toml", FOLDER)
    job.set_steps(150, name="nve.xml")
    job.set(training__window=100, training__audit_interval=60)
    ended = job.run()
    assert ended.code == 0, ended.err
    with job.record() as record:
        versions = np.concatenate([chunk.model_version for chunk in record.observations()])
    steps, conserved, temperature = (column(job, "silicon.out", c) for c in (0, 2, 3))
    assert temperature[steps > 50].min() > 100  # it moves
    used = versions[steps.astype(int)]
    assert len(set(used)) > 1
    within = [np.ptp(conserved[used == one]) for one in set(used)]
    assert max(within) < 0.006  # eV; velocity Verlet's own error at 1 fs


def test_a_ramp_of_the_temperature_is_labelled_as_the_error_grows(new_job):
    job = new_job("ramp.toml", FOLDER)
    job.set_steps(200, name="ramp.xml")
    # A poor start, so that the growing error asks for labels within a few steps.
    job.set(training__initial_sampling="gaussian", training__initial_displacement=0.03)
    job.set(training__audit_interval=0)
    ended = job.run()
    assert ended.code == 0, ended.err
    wanted = column(job, "silicon.out", 6)
    np.testing.assert_allclose(wanted[[0, -1]], [100, 600], atol=5)
    assert (np.diff(wanted) > 0).all()
    with job.record() as record:
        decisions = [one for one in record.decisions() if one.verdict == "label"]
        errors = np.concatenate([chunk.maximum for chunk in record.observations()])
    assert decisions
    assert {one.rule for one in decisions} == {"fixed"}
    assert np.median(errors) < 0.004  # the threshold of ramp.toml


def test_replica_exchange_survives_the_death_of_ipi_and_the_broker_at_once(new_job):
    """Thermostats, exchanged temperatures and labels go on where they were."""
    steps = 150
    job = new_job("replica-exchange.toml", FOLDER)
    job.set_steps(steps, name="replica-exchange.xml")
    job.set(training__audit_interval=100, training__window=400)
    process = job.start_run()
    job.wait_for(lambda: len(outputs(job)) == 4 and outputs(job)[3] >= 40 and job.n_labels() > 2)
    for part in ("anharm broker", "i-pi replica-exchange.xml"):
        os.kill(job.process_of(part), signal.SIGKILL)
    ended = job.end(process, "run")
    job.expect_no_process(within=30)
    assert ended.code == 1
    assert "SIGKILL" in ended.message
    with job.record() as record:
        before = {label.id: label.request.attempts for label in record.labels()}
    resumed = job.run("--resume", name="resumed")
    assert resumed.code == 0, resumed.err
    with job.record() as record:
        labels = list(record.labels())
    hashes = [content_hash(label.request.positions, label.request.cell) for label in labels]
    assert len(set(hashes)) == len(hashes)
    attempts = {label.id: label.request.attempts for label in labels}
    assert before.items() <= attempts.items()  # none lost, none computed again
    names = [f"r{k}_silicon.out" for k in range(4)]
    for name in names:
        assert set(column(job, name, 0)) == set(range(0, steps + 1, 10))
    last = [column(job, name, 6)[-1] for name in names]
    assert sorted(np.round(last)) == TEMPERATURES
    assert any(len(set(np.round(column(job, name, 6)))) > 1 for name in names)  # exchanged


def outputs(job) -> list[int]:
    """The last step that each replica has written."""
    paths = sorted(job.directory.glob("r?_silicon.out"))
    words = [["#", *path.read_text().splitlines()][-1].split() for path in paths]
    return [int(float(line[0])) for line in words if line[0] != "#"]


def test_two_systems_of_one_ipi_are_two_trajectories_with_one_model(new_job):
    job = new_job("systems.toml", FOLDER)
    job.set_steps(40, name="systems.xml")
    job.set(training__audit_interval=15)
    ended = job.run()
    assert ended.code == 0, ended.err
    with job.record() as record:
        states, chunks = record.trajectory_states(), list(record.observations())
        models = record.models()
    assert {name: state["steps"] for name, state in states.items()} == {"cold": 41, "hot": 41}
    mean = {
        name: np.concatenate([c.maximum for c in chunks if c.trajectory == name]).mean()
        for name in states
    }
    assert mean["cold"] < 0.8 * mean["hot"]
    assert len(models) > 1


def test_a_restart_file_of_ipi_is_an_input_like_any_other(new_job):
    job = new_job("restart.toml", FOLDER)
    job.set_steps(4020, name="restart.xml")
    ended = job.run()
    assert ended.code == 0, ended.err
    assert job.output_steps() == [4010, 4020]
    assert column(job, "silicon.out", 3)[0] > 50.0  # its velocities came along


def test_ipi_optimises_the_geometry(new_job):
    job = new_job("optimisation.toml", FOLDER)
    ended = job.run()
    assert ended.code == 0, ended.err
    energies = column(job, "silicon.out", 1)
    assert 5 < len(energies) < 200
    assert energies[0] > energies[-1] + 5.0
    model = last_model(job)
    assert energies[-1] == np.min(energies)
    ideal = read(job.folder / "primitive.xyz")
    np.testing.assert_allclose(energies[-1], 32 * model.energy_per_cell, atol=1e-4)
    final = read(job.directory / "silicon.pos_0.xyz", index=-1)
    supercell = Supercell(model.expansion.crystal, np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]]))
    moved = assign_sites(supercell, final.positions).displacements(final.positions)
    assert len(ideal) * 32 == len(final)
    assert np.abs(moved).max() < 1e-3


def test_the_phonons_that_ipi_finds_are_those_of_the_models_force_constants(new_job):
    job = new_job("phonons.toml", FOLDER)
    ended = job.run()
    assert ended.code == 0, ended.err
    model = last_model(job)
    supercell = Supercell(model.expansion.crystal, np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]]))
    field = ForceField(model, supercell)
    step = 1e-4  # so small that order 4 does not matter
    u = np.concatenate([sign * step * np.eye(192).reshape(192, 64, 3) for sign in (1, -1)])
    forces = field.predict(u, errors=False, virial=False).forces.reshape(2, 192, 192)
    hessian = -(forces[0] - forces[1]) / (2 * step)
    exact = np.linalg.eigvalsh((hessian + hessian.T) / 2 / 28.0855)
    found = np.loadtxt(job.directory / "silicon.phonons.eigval")
    found *= units.Hartree / units.Bohr**2 / (units._me / units._amu)
    terahertz = np.sqrt(units._e / units._amu) * 1e10 / (2e12 * np.pi)
    difference = np.sqrt(np.abs(found)) - np.sqrt(np.abs(exact))
    assert terahertz * np.sqrt(exact.max()) > 14
    assert terahertz * np.abs(difference).max() < 0.01
