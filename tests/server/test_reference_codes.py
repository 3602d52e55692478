"""The recipes of inputs/ with the real codes behind the labelling server."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.neighborlist import neighbor_list

from anharm.clients.calculators import make_calculator
from anharm.server.label_checks import check_label
from anharm.server.labelling import ClientJoined, LabelReceived, LabelRequest, RequestFailed
from anharm.server.reference_output import NOT_CONVERGED
from anharm.wire.driver_protocol import Configuration

INPUTS = Path(__file__).parents[2] / "inputs" / "si"
PATIENCE = 60.0

# One process and one thread each, also where the tests run as root in a container.
ENVIRONMENT = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Code:
    """A code, its recipe, and how it is made to stop its SCF too early."""

    program: str
    folder: str
    structure: str
    structure_format: str
    socket: str  # the name in the input file; empty where it is on the command line
    command: str
    too_few_steps: tuple[str, str, str] = ("", "", "")
    insists_on_its_geometry: bool = False


CODES = {
    "pw.x": Code(
        "pw.x",
        "qe8",
        "pw.in",
        "espresso-in",
        "",
        "pw.x -ipi {name}:UNIX -in pw.in",
        ("pw.in", "&ELECTRONS", "&ELECTRONS electron_maxstep = 2,"),
    ),
    "ABINIT": Code(
        "abinit",
        "abinit8",
        "run.abi",
        "abinit-in",
        "",
        "abinit run.abi --ipi {name}:UNIX",
        ("run.abi", "nstep 50", "nstep 3"),
        insists_on_its_geometry=True,
    ),
    "CP2K": Code(
        "cp2k.psmp",
        "cp2k8",
        "silicon.xyz",
        "extxyz",
        "anharm-cp2k",
        "cp2k.psmp -i cp2k.inp",
        ("cp2k.inp", "MAX_SCF 50", "MAX_SCF 3"),
    ),
    "LAMMPS": Code(
        "lmp",
        "lammps",
        "silicon.data",
        "lammps-data",
        "anharm-lammps",
        "lmp -log none -in in.lammps",
    ),
}


class Recipe:
    """A recipe in a folder of its own, with a socket of its own."""

    def __init__(self, code: Code, folder: Path, name: str, start, prefix: str = "") -> None:
        self.code, self.folder, self._start, self.name = code, folder, start, name
        self.prefix = prefix
        shutil.copytree(INPUTS / code.folder, folder)
        for path in folder.iterdir():
            if code.socket and code.socket in (text := path.read_text()):
                path.write_text(text.replace(code.socket, name))
        self.atoms = read(folder / code.structure, format=code.structure_format)
        self.ideal = Configuration(np.array(self.atoms.cell), self.atoms.positions)

    @property
    def options(self) -> dict:
        """What the labelling server has to know about the code."""
        first = self.ideal if self.code.insists_on_its_geometry else None
        return {
            "number_of_atoms": len(self.atoms),
            "time_limit": PATIENCE,
            "first_configuration": first,
            "wrap_positions": self.code.program == "lmp",
        }

    def limit_scf(self) -> None:
        """Allow so few SCF iterations that none converges."""
        file, before, after = self.code.too_few_steps
        text = (self.folder / file).read_text()
        assert before in text
        (self.folder / file).write_text(text.replace(before, after))

    def start(self, **options) -> subprocess.Popen:
        command = self.prefix + self.code.command.format(name=self.name)
        return self._start(*command.split(), cwd=self.folder, env=ENVIRONMENT, **options)

    def displaced(
        self, seed: int, strain: np.ndarray | None = None, further: np.ndarray | None = None
    ) -> Configuration:
        """Displacements of thermal size, in a cell strained by a (3, 3) matrix."""
        noise = np.random.default_rng(seed).normal(0, 0.05, self.ideal.positions.shape)
        deformation = np.eye(3) if strain is None else np.eye(3) + strain
        positions = self.ideal.positions + noise + (0 if further is None else further)
        return Configuration(self.ideal.cell @ deformation, positions @ deformation)


@pytest.fixture
def recipe(start, address, tmp_path, require_program) -> Callable[..., Recipe]:
    """Take a recipe of inputs/ into the folder of the test."""

    def take(code: str, number: int = 1, prefix: str = "") -> Recipe:
        require_program(CODES[code].program)
        name = address.path.removeprefix("/tmp/ipi_")
        return Recipe(CODES[code], tmp_path / f"{code}-{number}", name, start, prefix)

    return take


def labels_of(dispatcher, count: int) -> dict[int, LabelReceived]:
    received = dispatcher.wait_for(LabelReceived, count, PATIENCE)
    return {label.request_id: label for label in received}


EXIT_CODES = {"ABINIT": 14, "LAMMPS": 1}  # when they are told to leave; the others end with 0


@pytest.mark.parametrize("code", CODES)
def test_forces_and_virial_are_derivatives_of_the_energy(code, dispatch, recipe):
    """In the units, the signs and the order of atoms of the protocol; nothing is rejected."""
    recipe = recipe(code)
    dispatcher = dispatch(**recipe.options)
    client = recipe.start()
    # Further along the displacements, where forces resist, in a cell that is deformed as well.
    step, direction = 0.01, recipe.displaced(1).positions - recipe.ideal.positions
    direction *= 10.0 / np.sqrt(direction.size)
    strain = np.array([[0.5, 0.2, 0.0], [0.2, -0.3, 0.0], [0.0, 0.0, 0.4]])
    if code == "LAMMPS":
        strain = np.diag(np.diag(strain))  # its box is orthogonal
    if code == "pw.x":
        strain = np.zeros((3, 3))  # its radial tables end where the recipe's cell does
    asked = [
        recipe.displaced(1, distance * strain, distance * direction)
        for distance in (0.0, step, -step)
    ]
    for number, configuration in enumerate(asked):
        dispatcher.server.submit(LabelRequest(number, configuration))
    labels = labels_of(dispatcher, 3)
    slope = (labels[1].evaluation.energy - labels[2].evaluation.energy) / (2 * step)
    by_forces = -np.sum(labels[0].evaluation.forces * direction)
    by_virial = -np.sum(labels[0].evaluation.virial * strain)
    assert abs(by_forces) > 0.2
    if strain.any():
        assert abs(by_virial) > 0.1
    scale = abs(by_forces) + abs(by_virial)
    assert slope == pytest.approx(by_forces + by_virial, abs=0.03 * scale)
    for number, configuration in enumerate(asked):
        label = labels[number]
        assert label.complaints == ()
        assert check_label(configuration, label.evaluation, ideal=recipe.ideal) == []
        assert label.program == CODES[code].program
    dispatcher.server.close()
    assert client.wait(PATIENCE) == EXIT_CODES.get(code, 0)


@pytest.mark.parametrize("code", CODES)
def test_without_a_server_every_code_gives_up_at_once(code, recipe):
    """So the broker has to be there first."""
    client = recipe(code).start()
    assert client.wait(PATIENCE) == (1 if code == "LAMMPS" else 255)


@pytest.mark.parametrize("code", ["ABINIT", "CP2K"])
def test_forces_of_an_unconverged_scf_come_with_the_words_of_the_code(code, dispatch, recipe):
    """These codes send them all the same; their own output tells."""
    recipe = recipe(code)
    recipe.limit_scf()
    dispatcher = dispatch(**recipe.options)
    recipe.start()
    dispatcher.server.submit(LabelRequest(1, recipe.displaced(1)))
    label = labels_of(dispatcher, 1)[1]
    assert label.complaints
    for complaint in label.complaints:
        assert re.search(NOT_CONVERGED[code], complaint)
        assert str(recipe.folder.parent) in complaint  # which file says so


def test_pw_x_breaks_down_where_its_scf_does_not_converge(dispatch, recipe):
    recipe = recipe("pw.x")
    recipe.limit_scf()
    dispatcher = dispatch(attempts=1, **recipe.options)
    client = recipe.start()
    dispatcher.server.submit(LabelRequest(1, recipe.displaced(1)))
    reason = dispatcher.wait_for(RequestFailed, patience=PATIENCE)[0].reason
    assert "died or left in the middle of a calculation" in reason
    assert re.search(NOT_CONVERGED["pw.x"], reason)
    assert client.wait(PATIENCE) != 0


def test_the_output_is_found_behind_mpirun(dispatch, recipe, require_program):
    """mpirun collects it, so that it comes a little later than the forces."""
    require_program("mpirun")
    recipe = recipe("CP2K", prefix="mpirun -np 1 ")
    recipe.limit_scf()
    dispatcher = dispatch(**recipe.options)
    recipe.start()
    dispatcher.server.submit(LabelRequest(1, recipe.displaced(1)))
    label = labels_of(dispatcher, 1)[1]
    assert label.program == CODES["CP2K"].program
    assert any(re.search(NOT_CONVERGED["CP2K"], complaint) for complaint in label.complaints)


def test_two_pw_x_clients_one_killed(dispatch, recipe):
    recipes = [recipe("pw.x", number) for number in (1, 2)]
    dispatcher = dispatch(**recipes[0].options)
    clients = [one.start() for one in recipes]
    dispatcher.wait_for(ClientJoined, 2)
    requests = [LabelRequest(number, recipes[0].displaced(number)) for number in range(4)]
    requests.append(LabelRequest(4, requests[0].configuration))
    for request in requests:
        dispatcher.server.submit(request)
    labels_of(dispatcher, 1)
    clients[0].kill()
    labels = labels_of(dispatcher, 5)
    assert sorted(labels) == [0, 1, 2, 3, 4]
    twice = [labels[0].evaluation, labels[4].evaluation]
    assert twice[0].energy == pytest.approx(twice[1].energy, abs=1e-4)
    np.testing.assert_allclose(twice[0].forces, twice[1].forces, atol=2e-3)
    assert labels[0].evaluation.energy / 8 == pytest.approx(-107.6, abs=1.0)
    dispatcher.server.close()
    assert clients[1].wait(PATIENCE) == 0


def test_abinit_answers_for_its_own_geometry_first(dispatch, recipe):
    recipe = recipe("ABINIT")
    dispatcher = dispatch(**recipe.options)
    recipe.start()
    dispatcher.server.submit(LabelRequest(1, recipe.displaced(1)))
    dispatcher.server.submit(LabelRequest(2, recipe.ideal))
    labels = labels_of(dispatcher, 2)
    assert list(labels) == [2, 1]
    assert np.abs(labels[2].evaluation.forces).max() < 1e-3
    assert labels[1].evaluation.energy > labels[2].evaluation.energy


def test_two_dft_codes_differ_in_their_energies_and_hardly_in_forces(dispatch, recipe):
    """One crystal in the local density approximation, with two sets of pseudopotentials."""
    answers = []
    for code in ("pw.x", "ABINIT"):
        one = recipe(code)
        dispatcher = dispatch(**one.options)
        one.start()
        dispatcher.server.submit(LabelRequest(1, one.displaced(1)))
        answers.append(labels_of(dispatcher, 1)[1].evaluation)
        dispatcher.server.close()
    energies = [answer.energy / 8 for answer in answers]
    assert abs(energies[0] - energies[1]) == pytest.approx(13, abs=0.5)
    difference = np.sqrt(np.mean((answers[0].forces - answers[1].forces) ** 2))
    relative = difference / np.sqrt(np.mean(answers[0].forces ** 2))
    assert 0.005 < relative < 0.03


# LAMMPS, compared with potentials that are not its own


def stillinger_weber(configuration: Configuration) -> float:
    """F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985): the energy, eV."""
    epsilon, sigma, reach, strength, gamma = 2.1683, 2.0951, 1.8, 21.0, 1.2
    a, b, p = 7.049556277, 0.6022245584, 4
    atoms = Atoms("Si64", configuration.positions, cell=configuration.cell, pbc=True)
    centres, bonds = neighbor_list("iD", atoms, reach * sigma)
    lengths = np.linalg.norm(bonds, axis=1)
    scaled = lengths / sigma
    # Every pair is in the list twice.
    pairs = a * (b * scaled**-p - 1) * np.exp(1 / (scaled - reach)) / 2
    energy = pairs.sum()
    for atom in range(len(atoms)):
        mine = centres == atom
        unit = bonds[mine] / lengths[mine, None]
        damping = np.exp(gamma / (scaled[mine] - reach))
        angles = strength * (unit @ unit.T + 1 / 3) ** 2 * np.outer(damping, damping)
        energy += np.sum(np.triu(angles, 1))
    return float(epsilon * energy)


def test_lammps_agrees_with_the_published_potential(dispatch, recipe):
    """Also where atoms are boxes away, since positions are wrapped before they are sent."""
    recipe = recipe("LAMMPS")
    dispatcher = dispatch(**recipe.options)
    recipe.start()
    home = recipe.displaced(1)
    boxes = np.random.default_rng(3).integers(-3, 4, home.positions.shape)
    away = Configuration(home.cell, home.positions + boxes @ home.cell)
    for number, configuration in enumerate([recipe.ideal, home, away]):
        dispatcher.server.submit(LabelRequest(number, configuration))
    ideal, near, far = (labels_of(dispatcher, 3)[number].evaluation for number in range(3))
    # Four bonds per atom of the depth epsilon, each shared by two.
    assert ideal.energy / 64 == pytest.approx(-2 * 2.1683, abs=1e-4)
    # Its Hartree is that of CODATA 2006, one part in ten millions from today's.
    assert near.energy == pytest.approx(stillinger_weber(home), rel=2e-7)
    assert far.energy == pytest.approx(near.energy, abs=1e-8)
    np.testing.assert_allclose(far.forces, near.forces, atol=1e-8)
    for atom, axis in [(0, 0), (17, 1), (63, 2)]:
        step = np.zeros_like(home.positions)
        step[atom, axis] = 1e-3
        energies = [
            stillinger_weber(Configuration(home.cell, home.positions + sign * step))
            for sign in (1, -1)
        ]
        force = -(energies[0] - energies[1]) / 2e-3
        assert near.forces[atom, axis] == pytest.approx(force, abs=1e-4)


# J. Tersoff, Phys. Rev. B 38, 9902 (1988): the parameters of "tersoff-silicon".
TERSOFF = """
Si Si Si 3.0 1.0 1.7322 1.0039e5 16.218 -0.59826 0.78734 1.0999e-6
         1.7322 471.18 2.85 0.15 2.4799 1830.8
"""


def test_lammps_agrees_with_our_reference(dispatch, recipe):
    recipe = recipe("LAMMPS")
    (recipe.folder / "Si.tersoff").write_text(TERSOFF)
    script = recipe.folder / "in.lammps"
    text = script.read_text().replace("pair_style sw", "pair_style tersoff")
    script.write_text(text.replace("Si.sw", "Si.tersoff"))
    dispatcher = dispatch(**recipe.options)
    recipe.start()
    asked = recipe.displaced(1)
    dispatcher.server.submit(LabelRequest(1, asked))
    label = labels_of(dispatcher, 1)[1].evaluation
    ours = Atoms("Si64", cell=asked.cell, pbc=True, positions=asked.positions)
    ours.calc = make_calculator("tersoff-silicon")
    assert label.energy == pytest.approx(ours.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(label.forces, ours.get_forces(), atol=1e-4)
    virial = -ours.get_stress(voigt=False) * ours.get_volume()
    np.testing.assert_allclose(label.virial, virial, atol=1e-2)
