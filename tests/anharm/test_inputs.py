"""Every run file of inputs/ that belongs to a material: it is read, and it fits together."""

import tomllib
from pathlib import Path

import pytest

from anharm.configuration import load_configuration
from anharm.server.plan import make_plan

INPUTS = Path(__file__).parents[2] / "inputs"
MATERIALS = ("si", "bas", "snse", "guide")
RUN_FILES = [path for name in MATERIALS for path in sorted((INPUTS / name).glob("run*.toml"))]


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_can_be_planned(path, require_program):
    command = tomllib.loads(path.read_text())["reference"].get("command", [])
    for line in [command] if isinstance(command, str) else command:
        require_program(line.split()[0])
    found = make_plan(load_configuration(path))
    assert found["reachability"]["inputs"] == "consistent"
    assert found["parameters_total"] > 0


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_its_folder_says_what_it_is(path):
    assert f"inputs/{path.parent.name}/{path.name}" in (path.parent / "README.md").read_text()


def test_no_two_runs_share_a_socket_or_a_directory():
    runs = [load_configuration(path) for path in RUN_FILES]
    assert len({run.run.directory for run in runs}) == len(runs)
    named = [run.reference.address for run in runs if run.reference.calculator is None]
    assert len(set(map(str, named))) == len(named)


@pytest.mark.parametrize("material", ["bas", "snse"])
def test_the_relaxed_crystal_has_no_force_on_its_atoms(material):
    pytest.importorskip("torch", reason="the reference needs the extra `reference`")
    pytest.importorskip({"bas": "chgnet", "snse": "sevenn"}[material])
    from ase.io import read

    from anharm.clients.calculators import make_calculator

    run = load_configuration(INPUTS / material / "run.toml")
    atoms = read(run.crystal.primitive)
    chosen = run.reference.calculator
    atoms.calc = make_calculator(chosen.name, chosen.parameters)
    assert abs(atoms.get_forces()).max() < 2e-3  # eV/Angstrom
    assert abs(atoms.get_stress()).max() < 2e-4  # eV/Angstrom^3
