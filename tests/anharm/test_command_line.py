"""The `anharm` command: what it writes, where, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator

from anharm.clients.calculators import make_calculator

INPUTS = Path(__file__).parents[2] / "inputs" / "si"
MATRIX = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
RUN_TOML = """[crystal]
primitive = "primitive.xyz"
supercell = [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]
[expansion]
cutoffs = { 2 = 5.0, 3 = 4.0, 4 = 3.5 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run.toml of [crystal] and [expansion] alone, and labelled structures."""
    folder = tmp_path_factory.mktemp("command")
    shutil.copy(INPUTS / "primitive.xyz", folder)
    (folder / "run.toml").write_text(RUN_TOML)
    ase.io.write(folder / "labels.xyz", [labelled(seed) for seed in range(4)])
    return folder


def labelled(seed):
    """Silicon at some 300 K, its atoms in another order each time, with Tersoff labels."""
    atoms = make_supercell(ase.io.read(INPUTS / "primitive.xyz"), MATRIX)
    random = np.random.default_rng(seed)
    atoms = atoms[random.permutation(len(atoms))]
    atoms.positions += random.normal(0, 0.05, (len(atoms), 3))
    atoms.positions += atoms.cell[seed % 3] * random.integers(-1, 2, (len(atoms), 1))  # unwrapped
    atoms.calc = make_calculator("tersoff-silicon")
    results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces")}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture(scope="module")
def anharm(folder):
    def run(*words):
        command = [sys.executable, "-m", "anharm", *map(str, words)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="module")
def model(anharm, folder):
    done = anharm("fit", "run.toml", "--labels", "labels.xyz", "--output", "model.h5")
    assert done.returncode == 0, done.stderr
    assert "4 labels" in done.stdout
    return folder / "model.h5"


def test_plan_as_json(anharm):
    done = anharm("plan", "run.toml", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert set(found["parameters"]) == {"2", "3", "4"}
    assert all(isinstance(count, int) for count in found["parameters"].values())
    assert found["parameters_total"] == sum(found["parameters"].values())


def test_plan_as_text(anharm):
    done = anharm("plan", "run.toml")
    assert done.returncode == 0
    assert "space group Fd-3m" in done.stdout


def test_what_was_fitted_is_foretold(anharm, folder, model):
    done = anharm("evaluate", model, "labels.xyz", "--output", "answers.xyz", "--json")
    assert done.returncode == 0, done.stderr
    statistics = json.loads(done.stdout)
    assert statistics["structures"] == statistics["labelled_structures"] == 4
    truths = ase.io.read(folder / "labels.xyz", ":")
    answers = ase.io.read(folder / "answers.xyz", ":")
    squares = []
    for truth, answer in zip(truths, answers, strict=True):
        np.testing.assert_allclose(answer.positions, truth.positions, atol=1e-8)  # order kept
        assert list(answer.symbols) == list(truth.symbols)
        assert answer.get_potential_energy() == pytest.approx(
            truth.get_potential_energy(), abs=0.02 * len(truth)
        )
        assert answer.get_stress(voigt=False).shape == (3, 3)
        assert answer.arrays["force_std"].shape == (64, 3)
        assert (answer.arrays["force_std"] > 0).all()
        squares.append((answer.get_forces() - truth.get_forces()) ** 2)
    rmse = np.sqrt(np.mean(squares))
    assert statistics["force_rmse"] == pytest.approx(rmse, rel=1e-5)
    assert rmse < 0.1 * np.sqrt(np.mean(np.square([t.get_forces() for t in truths])))
    largest = max(answer.arrays["force_std"].max() for answer in answers)
    assert statistics["largest_force_std"] == pytest.approx(largest, rel=1e-5)


def test_the_answer_does_not_depend_on_the_order_of_the_atoms(anharm, folder, model):
    atoms = ase.io.read(folder / "labels.xyz", 0)
    order = np.random.default_rng(9).permutation(len(atoms))
    ase.io.write(folder / "orders.xyz", [atoms, atoms[order]])
    assert anharm("evaluate", model, "orders.xyz", "--output", "o.xyz").returncode == 0
    first, second = ase.io.read(folder / "o.xyz", ":")
    np.testing.assert_allclose(first.get_forces()[order], second.get_forces(), atol=1e-7)
    assert first.get_potential_energy() == pytest.approx(second.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(
        first.arrays["force_std"][order], second.arrays["force_std"], atol=1e-7
    )


def test_structures_without_labels_are_evaluated_without_comparison(anharm, folder, model):
    ase.io.write(
        folder / "plain.xyz", make_supercell(ase.io.read(INPUTS / "primitive.xyz"), MATRIX)
    )
    done = anharm("evaluate", model, "plain.xyz", "--output", "p.xyz", "--json")
    assert "force_rmse" not in json.loads(done.stdout)
    answer = ase.io.read(folder / "p.xyz")
    np.testing.assert_allclose(answer.get_forces(), 0, atol=1e-9)  # the ideal crystal


WRONG = {
    "no command": ((), 2, "Usage"),
    "unknown command": (("plam", "run.toml"), 2, "No such command"),
    "no file": (("plan",), 2, "Missing argument"),
    "unknown option": (("plan", "run.toml", "--yaml"), 2, "No such option"),
    "missing run.toml": (("plan", "other.toml"), 2, "other.toml does not exist"),
    "run without engine": (("run", "run.toml"), 2, "[engine] and [reference] missing"),
    "broker without engine": (("broker", "run.toml"), 2, "[engine] and [reference] missing"),
    "client without engine": (("client", "run.toml"), 2, "[engine] missing"),
    "missing labels": (
        ("fit", "run.toml", "--labels", "no.xyz", "--output", "x.h5"),
        2,
        "the structure file no.xyz does not exist",
    ),
    "labels without forces": (
        ("fit", "run.toml", "--labels", "primitive.xyz", "--output", "x.h5"),
        1,
        "forces",
    ),
    "missing model": (
        ("evaluate", "no.h5", "labels.xyz", "--output", "x.xyz"),
        1,
        "no.h5",
    ),
    "not a model": (
        ("evaluate", "labels.xyz", "labels.xyz", "--output", "x.xyz"),
        1,
        "labels.xyz",
    ),
    "folder that is not there": (
        ("fit", "run.toml", "--labels", "labels.xyz", "--output", "nowhere/x.h5"),
        2,
        "the folder nowhere does not exist",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_message_and_an_exit_code(anharm, name):
    words, code, message = WRONG[name]
    done = anharm(*words)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_full_disk_behind_the_standard_output_is_one_message(folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "anharm", "plan", "run.toml"],
            cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_atom_between_two_sites_is_named(anharm, folder, model):
    atoms = ase.io.read(folder / "labels.xyz", 0)
    atoms.positions[5] += 1.2
    ase.io.write(folder / "far.xyz", atoms)
    done = anharm("evaluate", model, "far.xyz", "--output", "f.xyz")
    assert done.returncode == 1
    assert "structure 0" in done.stderr
    assert "atom 5" in done.stderr


@pytest.mark.parametrize("words", [("plan",), ("fit", "--labels", "labels.xyz", "--output", "m")])
def test_an_expansion_beyond_the_memory_is_refused_within_seconds(anharm, folder, words):
    wide = RUN_TOML.replace("[[-2, 2, 2], [2, -2, 2], [2, 2, -2]]", "[8, 8, 8]")
    (folder / "wide.toml").write_text(wide.replace("3 = 4.0", "3 = 8.0, 6 = 8.0"))
    done = anharm(words[0], "wide.toml", *words[1:])
    assert done.returncode == 2, done.stderr
    assert "wide.toml: expansion.cutoffs ask for" in done.stderr
    assert "lower the cutoff of order 6" in done.stderr


def test_help_and_version(anharm):
    assert "fit" in anharm("--help").stdout
    assert anharm("--version").stdout.startswith("anharm")


def test_orders_that_the_labels_do_not_determine_are_named(anharm, folder):
    atoms = make_supercell(ase.io.read(INPUTS / "primitive.xyz"), MATRIX)
    atoms.positions[0, 0] += 0.01
    forces = np.random.default_rng(0).normal(0, 1e-3, (64, 3))
    forces[0, 0] -= 0.1
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    ase.io.write(folder / "small.xyz", atoms)
    done = anharm("fit", "run.toml", "--labels", "small.xyz", "--output", "small.h5")
    assert done.returncode == 0, done.stderr
    assert "order 3: 0 of 27 parameters determined by the labels" in done.stdout
    assert "warning: order 3 is not determined by the labels" in done.stderr
    assert "larger displacements" in done.stderr


def spoil_energy(atoms, results):
    results["energy"] = np.nan


def spoil_force(atoms, results):
    results["forces"][7, 1] = np.inf


def spoil_stress(atoms, results):
    results["stress"] = np.array([0, 0, np.nan, 0, 0, 0])


def spoil_magnitude(atoms, results):
    results["forces"][7, 1] = 1e300


def spoil_position(atoms, results):
    atoms.positions[7, 1] = np.nan


def spoil_cell(atoms, results):
    atoms.cell[0, 0] = np.inf


def move_onto_another(atoms, results):
    atoms.positions[4] = atoms.positions[9] + 0.01


def change_species(atoms, results):
    atoms.symbols[3] = "Ge"


def scale_cell(atoms, results):
    atoms.set_cell(1.2 * atoms.cell[:], scale_atoms=True)


def rotate(atoms, results):
    atoms.rotate(20, "z", rotate_cell=True)


SPOILT = {
    spoil_energy: "the energy is nan",
    spoil_force: "the force of atom 7 is inf",
    spoil_stress: "the stress is nan",
    spoil_magnitude: "the force of atom 7 is 1e+300",
    spoil_position: "the position of atom 7 is nan",
    spoil_cell: "lattice vectors",
    move_onto_another: "atoms 4 and 9",
    change_species: "'Ge': 1",
    scale_cell: "is not a supercell of the crystal",
    rotate: "orientation",
}


@pytest.mark.parametrize(
    ("spoil", "command"),
    [*((spoil, "fit") for spoil in SPOILT), (spoil_force, "evaluate"), (rotate, "evaluate")],
)
def test_a_spoilt_label_is_named(anharm, folder, model, spoil, command):
    good = ase.io.read(folder / "labels.xyz", 0)
    atoms, results = good.copy(), dict(good.calc.results)
    results["forces"] = results["forces"].copy()
    spoil(atoms, results)
    atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write(folder / "spoilt.xyz", [good, atoms])
    words = {
        "fit": ("fit", "run.toml", "--labels", "spoilt.xyz", "--output", "spoilt.h5"),
        "evaluate": ("evaluate", model, "spoilt.xyz", "--output", "s.xyz"),
    }
    done = anharm(*words[command])
    assert done.returncode in (1, 2)
    assert SPOILT[spoil] in done.stderr
    assert "spoilt.xyz" in done.stderr and "structure 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "spoilt.h5").exists()


BAD_FILES = {
    "no labels": (b"", 2, "Empty file"),
    "half a model": (None, 1, "damaged"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_broken_file_is_named(anharm, folder, model, name):
    content, code, message = BAD_FILES[name]
    broken = folder / "broken"
    broken.write_bytes(model.read_bytes()[:20_000] if content is None else content)
    done = (
        anharm("evaluate", broken, "labels.xyz", "--output", "b.xyz")
        if content is None
        else anharm("fit", "run.toml", "--labels", broken, "--output", "b.h5")
    )
    assert done.returncode == code
    assert "broken" in done.stderr and message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interruption_of_the_first_moments_is_said_in_a_line(tmp_path):
    """Imports are still going on then, here that of the first library."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt  # what Python makes of Ctrl-C")
    command = [sys.executable, "-m", "anharm", "plan", "run.toml"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "anharm: interrupted\n")


def test_a_model_of_another_crystal_is_refused(anharm, folder, model):
    ase.io.write(folder / "oxide.xyz", bulk("MgO", "rocksalt", a=4.21) * (3, 3, 3))
    done = anharm("evaluate", model, "oxide.xyz", "--output", "b.xyz")
    assert done.returncode == 1
    assert "structure 0" in done.stderr
    assert "is not a supercell of the crystal" in done.stderr


CELLS = {
    "left-handed supercell": ("[[2, -2, 2], [-2, 2, 2], [2, 2, -2]]", None, "64 atoms"),
    "conventional cell": ("[2, 2, 2]", "conventional.xyz", "64 atoms"),
    "singular supercell": ("[[1, 1, 0], [1, 1, 0], [0, 0, 2]]", None, "determinant is 0"),
    "multiple cell": ("[2, 2, 1]", "multiple.xyz", "hides symmetry"),
    "atom given twice": ("[3, 3, 3]", "twice.xyz", "atoms 0 and 2 of the crystal are 0.000"),
}


@pytest.mark.parametrize("name", CELLS)
def test_every_kind_of_cell_is_planned_or_refused_with_the_reason(anharm, folder, name):
    supercell, primitive, expected = CELLS[name]
    silicon = bulk("Si", "diamond", a=5.432)
    ase.io.write(folder / "conventional.xyz", bulk("Si", "diamond", a=5.432, cubic=True))
    ase.io.write(folder / "multiple.xyz", silicon * (1, 1, 2))
    ase.io.write(folder / "twice.xyz", silicon + silicon[:1])
    text = RUN_TOML.replace("[[-2, 2, 2], [2, -2, 2], [2, 2, -2]]", supercell)
    (folder / "cell.toml").write_text(text.replace("primitive.xyz", primitive or "primitive.xyz"))
    done = anharm("plan", "cell.toml")
    assert expected in done.stdout + done.stderr
    if expected == "64 atoms":
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [words[-2] for words in lines if words and words[0] in "234"] == ["10", "27", "4"]


def test_a_cutoff_of_some_bodies_that_wraps_is_refused_with_the_largest_that_fits(anharm, folder):
    text = RUN_TOML.replace("4 = 3.5", "4 = { 2 = 6.0, 3 = 3.5 }")
    (folder / "wrap.toml").write_text(text)
    done = anharm("plan", "wrap.toml")
    assert done.returncode == 2
    assert "6 Angstrom of order 4 (2 bodies) reaches around the supercell" in done.stderr
    assert "largest cutoff that fits into this supercell is 5.43" in done.stderr
