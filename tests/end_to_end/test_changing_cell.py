"""Runs at constant pressure: i-PI changes the cell at every step."""

import numpy as np
import pytest
from ase import Atoms

from anharm.clients.calculators import make_calculator
from anharm.model import LatticeCalculator, load_model

BAROSTAT = (
    "<barostat mode='isotropic'><tau units='femtosecond'> 50 </tau>"
    "<thermostat mode='langevin'><tau units='femtosecond'> 50 </tau></thermostat></barostat>"
)


def constant_pressure(job, gigapascals: float) -> None:
    job.edit(
        "input.xml",
        ("<dynamics mode='nvt'>", f"<dynamics mode='npt'>{BAROSTAT}"),
        ("</ensemble>", f"<pressure units='gigapascal'> {gigapascals} </pressure></ensemble>"),
        ("potential{electronvolt} ]", "potential{electronvolt}, volume{angstrom3} ]"),
    )


def test_a_run_at_constant_pressure_learns_while_the_cell_changes(job):
    constant_pressure(job, 4.0)
    job.set(training__audit_interval=60, training__window=100)
    ended = job.run()
    assert ended.code == 0, ended.err
    volumes = np.loadtxt(job.directory / "silicon.out")[:, 6]
    assert len(volumes) == 31
    assert volumes[-20:].mean() < 0.98 * volumes[0]  # the bulk modulus is 98 GPa

    with job.record() as record:
        models, labels = record.models(), list(record.labels())
    requests = [label.request for label in labels]
    strained = [one for one in requests if np.linalg.det(one.cell) < 0.99 * volumes[0]]
    assert strained

    # In the cell of the last label, forces and stress are the reference's, which the model has
    # not seen for these displacements.
    truth = Atoms(np.full(64, 14), strained[-1].positions, cell=strained[-1].cell, pbc=True)
    truth.rattle(0.05, seed=0)
    found = truth.copy()
    truth.calc = make_calculator("tersoff-silicon")
    found.calc = LatticeCalculator(load_model(job.directory / models[-1].path))
    error = np.sqrt(np.mean((found.get_forces() - truth.get_forces()) ** 2))
    assert error < 0.1 * np.std(truth.get_forces())
    stress = truth.get_stress()
    np.testing.assert_allclose(found.get_stress(), stress, atol=0.1 * np.abs(stress).max())


def test_a_cell_that_leaves_the_reference_behind_stops_the_run_with_a_remedy(job):
    constant_pressure(job, 40.0)
    ended = job.run()
    assert ended.code == 1
    assert "is strained by up to" in ended.message
    assert "the 0.03 that the model was trained for" in ended.message
    assert "training.initial_strain" in ended.message


def test_thermal_expansion_runs_at_three_temperatures_with_one_model(new_job):
    job = new_job("npt.toml", "changing-cells")
    job.set_steps(40, name="npt.xml")
    ended = job.run()
    assert ended.code == 0, ended.err
    with job.record() as record:
        labels, models = list(record.labels()), record.models()
    model = load_model(job.directory / models[-1].path)
    assert model.largest_strain == pytest.approx(0.02)
    cells = [label.request.cell for label in labels[:4]]
    np.testing.assert_allclose(cells[0], 10.864 * np.eye(3), atol=1e-9)
    assert len({round(np.linalg.det(cell), 3) for cell in cells}) == 4
    np.testing.assert_allclose(cells[1] + cells[2], 2 * 10.864 * np.eye(3), atol=1e-9)
    for temperature in (100, 300, 600):
        volumes = np.loadtxt(job.directory / f"{temperature}K_silicon.out")[:, 6]
        assert len(volumes) == 5
        assert np.ptp(volumes) > 0
        np.testing.assert_allclose(volumes, 10.864**3, rtol=0.05)


def test_a_cell_that_may_take_any_shape_gives_way_to_a_stress(new_job):
    job = new_job("nst.toml", "changing-cells")
    job.set_steps(150, name="nst.xml")
    ended = job.run()
    assert ended.code == 0, ended.err
    edges = np.loadtxt(job.directory / "silicon.out")[8:, 7:10].mean(axis=0)
    assert edges[0] < 0.995 * edges[1:].mean()  # C11 is 143 GPa, and 1 GPa presses along x
    shears = np.loadtxt(job.directory / "silicon.out")[:, 10:13]
    assert (np.ptp(shears, axis=0) > 0.01).all()


def test_the_cell_of_a_path_integral_changes_and_every_bead_is_served(new_job):
    job = new_job("pi-npt.toml", "changing-cells")
    job.set_steps(20, name="pi-npt.xml")
    ended = job.run()
    assert ended.code == 0, ended.err
    output = np.loadtxt(job.directory / "silicon.out")
    assert np.isfinite(output).all()
    assert np.ptp(output[:, 6]) > 0
    for bead in range(8):
        errors = (job.directory / f"silicon.force_std_max_{bead}").read_text().split()
        assert float(errors[-1]) > 0
