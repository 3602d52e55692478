"""The conductivity is phono3py's own, and scales as perturbation theory says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from rich.console import Console

from anharm.clients.calculators import make_calculator
from anharm.command_line import cli
from anharm.conductivity_command import (
    ConductivityRequest,
    ConductivityResult,
    print_conductivity,
)
from anharm.errors import ConfigurationError, ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    LatticeCalculator,
    build_expansion,
    fit_structures,
    save_model,
)
from anharm.model.export import to_phono3py
from anharm.model.export.conductivity import (
    Conductivity,
    Transport,
    conductivity,
    load_phono3py,
    solve,
)

phono3py = pytest.importorskip("phono3py", reason="phono3py is not installed")

CONVENTIONAL = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
MESH = [5, 5, 5]


@pytest.fixture(scope="module")
def silicon() -> BayesianModel:
    """Orders 2 and 3 of silicon, learnt from the Tersoff potential."""
    primitive = bulk("Si", "diamond", a=5.432)
    ideal = make_supercell(primitive, 2 * CONVENTIONAL)
    calculator, labels = make_calculator("tersoff-silicon"), []
    for seed in range(2):
        atoms = ideal.copy()
        atoms.rattle(0.02, seed=seed)
        forces = calculator.get_property("forces", atoms)
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        labels.append(atoms)
    expansion = build_expansion(Crystal.from_atoms(primitive), {2: 5.0, 3: 4.0})
    return fit_structures(expansion, labels)


@pytest.fixture(scope="module")
def kappa(silicon: BayesianModel) -> float:
    found = conductivity(silicon, Transport(np.array([300.0]), MESH))
    assert found.is_stable
    return float(found.kappa[0, 0])


def scaled(model: BayesianModel, order: int, factor: float) -> BayesianModel:
    """The same crystal with the force constants of one order multiplied."""
    own = model.expansion.parameter_orders == order
    mean = np.where(own, factor, 1.0) * model.posterior.mean
    return replace(model, posterior=replace(model.posterior, mean=mean))


def test_it_is_that_of_displacements_of_the_same_force_field(
    silicon: BayesianModel, kappa: float, tmp_path: Path
) -> None:
    """phono3py's finite differences of the model's own forces, through the same command."""
    exported = to_phono3py(silicon)
    other = phono3py.Phono3py(exported.unitcell, 2 * CONVENTIONAL.T, np.eye(3))
    other.generate_displacements(0.03)
    calculator, forces = LatticeCalculator(silicon), []
    for cell in other.supercells_with_displacements:
        atoms = Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
        forces.append(calculator.get_property("forces", atoms))
    other.forces = forces
    other.save(tmp_path / "displaced.yaml")
    save_model(silicon, tmp_path / "model.h5")
    words = ["conductivity", tmp_path / "model.h5", "--compare", tmp_path / "displaced.yaml",
             "--mesh", "5 5 5", "--samples", "2", "--output", tmp_path / "kappa.svg"]  # fmt: skip
    done = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["kappa"][0][0] == pytest.approx(kappa)
    assert found["compared"][0][:3] == pytest.approx([kappa] * 3, rel=5e-3)
    assert found["lower"][0][0] <= found["upper"][0][0]
    assert (tmp_path / "kappa.svg").read_text().startswith("<?xml")
    other = solve(load_phono3py(tmp_path / "displaced.yaml", silicon), Transport([300.0], MESH))
    assert other[0][0, 0] == pytest.approx(found["compared"][0][0])


def test_twice_the_third_order_is_a_quarter_of_the_conductivity(
    silicon: BayesianModel, kappa: float
) -> None:
    found = conductivity(scaled(silicon, 3, 2.0), Transport(np.array([300.0]), MESH))
    assert found.kappa[0, 0] == pytest.approx(kappa / 4, rel=1e-6)


def test_of_a_classical_crystal_it_is_inversely_proportional_to_the_temperature(
    silicon: BayesianModel,
) -> None:
    found = conductivity(silicon, Transport(np.array([4000.0, 8000.0]), MESH))
    assert found.kappa[0, 0] / found.kappa[1, 0] == pytest.approx(2, rel=2e-3)


def test_isotopes_and_the_direct_solution_are_those_of_phono3py(
    silicon: BayesianModel, kappa: float
) -> None:
    mixed = conductivity(silicon, Transport(np.array([300.0]), MESH, isotopes=True))
    assert mixed.kappa[0, 0] < kappa
    direct = conductivity(silicon, Transport(np.array([300.0]), MESH, direct=True))
    phonon = to_phono3py(silicon, [4, 4, 4])
    phonon.mesh_numbers = MESH
    phonon.init_phph_interaction()
    phonon.run_thermal_conductivity(is_LBTE=True, temperatures=[300.0])
    own = np.array(phonon.thermal_conductivity.kappa)[0, 0, 0]
    assert direct.kappa[0, 0] == pytest.approx(own, rel=1e-4)


def test_an_unstable_crystal_is_said_to_be_one(silicon: BayesianModel) -> None:
    found = conductivity(scaled(silicon, 2, -1.0), Transport(np.array([300.0]), MESH))
    assert not found.is_stable
    assert found.lowest_frequency < -10


def test_what_cannot_be_compared_is_refused(silicon: BayesianModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_phono3py(tmp_path / "missing.yaml", silicon)
    (tmp_path / "nonsense.yaml").write_text("a: [1")
    with pytest.raises(ModelError, match="cannot read"):
        load_phono3py(tmp_path / "nonsense.yaml", silicon)
    smaller = bulk("Si", "diamond", a=5.0)
    other = build_expansion(Crystal.from_atoms(smaller), {2: 5.0, 3: 4.0})
    assert other.n_parameters == silicon.expansion.n_parameters
    to_phono3py(replace(silicon, expansion=other)).save(
        tmp_path / "smaller.yaml", settings={"force_constants": True}
    )
    with pytest.raises(ModelError, match="another crystal"):
        load_phono3py(tmp_path / "smaller.yaml", silicon)


def test_phonons_that_nothing_scatters_are_told_of(silicon: BayesianModel) -> None:
    endless = Conductivity(
        np.array([300.0]), np.full((1, 6), np.inf), np.empty((0, 1, 6)), np.array(MESH), 0.0
    )
    console = Console(record=True, width=200)
    print_conductivity(ConductivityResult(endless, None, ""), 0.95, console)
    text = console.export_text()
    assert "not finite" in text
    assert "--isotopes" in text
    assert "zz" in text


@pytest.mark.parametrize("temperatures", ["", "0", "-300", "warm", "nan"])
def test_temperatures_that_are_none_are_refused(temperatures: str) -> None:
    with pytest.raises(ConfigurationError, match="positive numbers of K"):
        ConductivityRequest(temperatures).transport()
