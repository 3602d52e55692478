"""What `physics.py` learns from: references, relaxed crystals, labels, models, thermal snapshots.

Any file that is in the folder already is taken as it is.

Silicon learns from the Tersoff potential, BAs from CHGNet, SnSe from SevenNet's 7net-0 (packages
`chgnet` and `sevenn`; their weights come with them).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import make_supercell
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.optimize import BFGS
from systems import CONVENTIONAL, boron_arsenide, silicon, tin_selenide

from anharm.errors import ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    Expansion,
    ForceField,
    Supercell,
    build_expansion,
    fit_structures,
    load_model,
    save_model,
)
from anharm.model.sites import assign_sites

TEMPERATURES = (300.0, 600.0)  # K
FRICTION = 1 / 150  # 1/fs
EQUILIBRATION = 500.0  # fs, of the reference's own dynamics
FARTHEST_LABEL = 0.45  # Angstrom


@dataclass(frozen=True)
class Material:
    """A crystal and what it learns.

    Attributes
    ----------
    guess : Atoms
        The primitive cell before its relaxation.
    matrix : (3, 3) int
        Supercell of labels and molecular dynamics, rows are its vectors.
    cutoffs : dict
        Of the model, Angstrom by order; of order 2 perhaps "supercell".
    ladder : tuple of float
        Temperatures of the rounds of training, K. Without any, the reference itself moves the atoms
        at both temperatures: its earlier snapshots are the labels, its later ones the test.
    labels_per_round : int
    first : (int, float)
        Number and standard deviation, Angstrom, of the random displacements before the first round.
    time_step : float
        Of the molecular dynamics, fs.
    n_snapshots : int
        Per temperature.
    interval, training_interval : float
        Between snapshots, and between those that become labels, fs.
    """

    guess: Atoms
    matrix: np.ndarray
    cutoffs: dict[int, float | str]
    ladder: tuple[float, ...]
    labels_per_round: int
    first: tuple[int, float]
    time_step: float
    n_snapshots: int
    interval: float
    training_interval: float


MATERIALS = {
    "si": Material(
        silicon(),
        2 * CONVENTIONAL,
        {2: 5.4, 3: 4.0, 4: 4.0, 5: 2.5, 6: 2.5},
        (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 600.0),
        6,
        (4, 0.03),
        2.0,
        40,
        300.0,
        300.0,
    ),
    "bas": Material(
        boron_arsenide(),
        2 * CONVENTIONAL,
        {2: 4.8, 3: 3.6, 4: 2.6, 5: 2.6, 6: 2.6},
        (100.0, 200.0, 300.0, 300.0, 450.0, 450.0, 600.0, 600.0, 700.0, 700.0),
        8,
        (4, 0.03),
        1.5,
        40,
        300.0,
        300.0,
    ),
    "snse": Material(
        tin_selenide(),
        np.diag([1, 3, 3]),
        {2: "supercell", 3: 4.4, 4: 3.6, 5: 3.3, 6: 3.3},
        (),
        0,
        (8, 0.02),
        10.0,
        20,
        50.0,
        0.0,
    ),
}


class Reference:
    """The reference of a material, which counts its calls."""

    def __init__(self, name: str) -> None:
        self.calculator = _calculator(name)
        self.calls = 0

    def label(self, atoms: Atoms) -> Atoms:
        """The same structure with energy and forces."""
        found = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        self.calculator.calculate(found, ["energy", "forces"], all_changes)
        results = self.calculator.results
        forces = np.array(results["forces"], dtype=float)
        energy = float(results["energy"])
        found.calc = SinglePointCalculator(found, energy=energy, forces=forces)
        self.calls += 1
        return found

    def forces(self, atoms: Atoms) -> np.ndarray:
        """(n_atoms, 3) eV/Angstrom, without their mean: that of the potentials is rounding."""
        forces = self.label(atoms).get_forces()
        return forces - forces.mean(axis=0)


def _calculator(name: str) -> Any:
    if name == "si":
        from anharm.clients.calculators import make_calculator

        return make_calculator("tersoff-silicon")
    import torch

    torch.set_num_threads(1)
    if name == "bas":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu")
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


class ModelForces(Calculator):
    """A model's energy and forces alone, for molecular dynamics: errors would cost more."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, model: BayesianModel, matrix: np.ndarray, atoms: Atoms) -> None:
        super().__init__()
        self._force_field = ForceField(model, Supercell(model.expansion.crystal, matrix))
        self._sites = assign_sites(self._force_field.supercell, atoms.positions, atoms.numbers)

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        """Evaluate; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        displacements = self._sites.displacements(self.atoms.positions)[None]
        found = self._force_field.predict(displacements, errors=False, virial=False)
        forces = self._sites.to_user_order(found.forces[0])
        self.results = {"energy": float(found.energies[0]), "forces": forces}


def crystal(name: str, folder: Path) -> Atoms:
    """The primitive cell at rest in its reference, kept in `folder`."""
    file = folder / f"{name}.xyz"
    if not file.exists():
        atoms = MATERIALS[name].guess.copy()
        atoms.calc = _calculator(name)
        atoms.set_constraint(FixSymmetry(atoms))
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=300)
        folder.mkdir(parents=True, exist_ok=True)
        relaxed = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        write(file, relaxed, format="extxyz")
    return read(file)


@dataclass(frozen=True)
class Dynamics:
    """Snapshots, and what came just before the end where the atoms left their sites."""

    snapshots: list[Atoms]
    before_the_end: list[Atoms]


def dynamics(
    name: str,
    model: BayesianModel,
    ideal: Atoms,
    temperature: float,
    n: int,
    seed: int,
    interval: float,
) -> Dynamics:
    """Langevin dynamics of a model, until there are `n` snapshots or atoms leave their sites."""
    material = MATERIALS[name]
    atoms = ideal.copy()
    atoms.calc = ModelForces(model, material.matrix, ideal)
    langevin = _langevin(atoms, material.time_step, temperature, seed)
    recent: deque[Atoms] = deque(maxlen=40)
    langevin.attach(lambda: recent.append(_plain(atoms)), interval=5)
    stride = round(interval / material.time_step)
    snapshots: list[Atoms] = []
    try:
        langevin.run(3 * stride)
        while len(snapshots) < n:
            langevin.run(stride)
            snapshots.append(_plain(atoms))
    except ModelError as error:
        print(f"{name}, {temperature:g} K: after {len(snapshots)} snapshots: {error}")
        moved = [np.linalg.norm(one.positions - ideal.positions, axis=1).max() for one in recent]
        near = [one for one, d in zip(recent, moved, strict=True) if d < FARTHEST_LABEL]
        return Dynamics(snapshots, near[::-2][:4])
    return Dynamics(snapshots, [])


def _langevin(atoms: Atoms, time_step: float, temperature: float, seed: int) -> Langevin:
    """Dynamics that begin at rest on the sites: half of the energy goes into displacements."""
    random = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=random)
    Stationary(atoms)
    return Langevin(
        atoms,
        time_step * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        rng=random,
    )


def _plain(atoms: Atoms) -> Atoms:
    return Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)


def reference_dynamics(name: str, temperature: float, folder: Path) -> list[Atoms]:
    """Snapshots of Langevin dynamics of the reference, kept in `folder`."""
    file = folder / f"{name}_reference_{temperature:g}K.xyz"
    if not file.exists():
        material, reference = MATERIALS[name], Reference(name)
        atoms = make_supercell(crystal(name, folder), material.matrix)
        atoms.calc = reference.calculator
        langevin = _langevin(atoms, material.time_step, temperature, seed=1)
        langevin.run(round(EQUILIBRATION / material.time_step))
        frames = []
        for _ in range(material.n_snapshots):
            langevin.run(round(material.interval / material.time_step))
            frames.append(_plain(atoms))
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            frames[-1].calc = SinglePointCalculator(frames[-1], **results)
        write(file, frames, format="extxyz")
    frames: list[Atoms] = read(file, ":")
    return frames


def _parts(frames: list[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """The first 60 % of a trajectory, and the rest."""
    split = round(0.6 * len(frames))
    return frames[:split], frames[split:]


def make_model(name: str, folder: Path) -> BayesianModel:
    """The model of a material, kept in `folder`."""
    file = folder / f"{name}.h5"
    if file.exists():
        return load_model(file)
    material = MATERIALS[name]
    expansion = build_expansion(
        Crystal.from_atoms(crystal(name, folder)), material.cutoffs, supercell=material.matrix
    )
    if material.ladder:
        labels = _labels_of_own_dynamics(name, expansion, folder)
    else:
        trajectories = (reference_dynamics(name, t, folder) for t in TEMPERATURES)
        labels = _small_displacements(name, folder)
        labels += [frame for frames in trajectories for frame in _parts(frames)[0]]
    write(folder / f"{name}_labels.xyz", labels, format="extxyz")
    model = fit_structures(expansion, labels, targets=["forces"])
    save_model(model, file)
    return model


def _small_displacements(name: str, folder: Path) -> list[Atoms]:
    """Labels of random displacements, from which the second order at rest is learnt."""
    material, reference = MATERIALS[name], Reference(name)
    ideal = make_supercell(crystal(name, folder), material.matrix)
    labels = []
    for seed in range(material.first[0]):
        start = ideal.copy()
        start.rattle(material.first[1], seed=seed)
        labels.append(reference.label(start))
    return labels


def _labels_of_own_dynamics(name: str, expansion: Expansion, folder: Path) -> list[Atoms]:
    """Labels of snapshots of the model's own dynamics, a better model in every round."""
    material, reference = MATERIALS[name], Reference(name)
    harmonic = build_expansion(expansion.crystal, {2: material.cutoffs[2]})
    ideal = make_supercell(crystal(name, folder), material.matrix)
    labels = _small_displacements(name, folder)
    n, interval = material.labels_per_round, material.training_interval
    for seed, temperature in enumerate(material.ladder):
        model = fit_structures(expansion, labels, targets=["forces"])
        run = dynamics(name, model, ideal, temperature, n, seed, interval)
        found = run.snapshots + run.before_the_end
        if len(found) < n:  # a model of few labels may be unstable; the harmonic one is not
            simple, left = fit_structures(harmonic, labels, targets=["forces"]), n - len(found)
            found += dynamics(name, simple, ideal, temperature, left, seed, interval).snapshots
        new = [reference.label(one) for one in found]
        predicted = ModelForces(model, material.matrix, ideal)
        errors = [predicted.get_forces(one) - one.get_forces() for one in new]
        rmse = np.sqrt(np.mean(np.square(errors))) if new else np.nan
        print(f"{name}, {temperature:g} K: {len(labels)} labels, RMSE of new ones {rmse:.4f} eV/A")
        labels += new
    return labels


def cold_model(name: str, folder: Path) -> Path:
    """File of a model of the labels up to the first round alone, the coldest."""
    file = folder / f"{name}_cold.h5"
    material, model = MATERIALS[name], make_model(name, folder)
    n_labels = material.first[0] + material.labels_per_round
    labels = read(folder / f"{name}_labels.xyz", f":{n_labels}")
    save_model(fit_structures(model.expansion, labels, targets=["forces"]), file)
    return file


def snapshots_file(name: str, temperature: float, folder: Path) -> Path:
    """Snapshots of the model's dynamics with the reference's forces, made if they are missing."""
    file = folder / f"{name}_{temperature:g}K.xyz"
    if not file.exists() and not MATERIALS[name].ladder:
        frames = reference_dynamics(name, temperature, folder)
        write(file, _parts(frames)[1], format="extxyz")
    elif not file.exists():
        model = make_model(name, folder)
        ideal = make_supercell(crystal(name, folder), MATERIALS[name].matrix)
        reference = Reference(name)
        material = MATERIALS[name]
        n, interval = material.n_snapshots, material.interval
        found = dynamics(name, model, ideal, temperature, n, 100, interval).snapshots
        if len(found) < n:
            raise SystemExit(f"{name}: the model is not stable at {temperature:g} K")
        write(file, [reference.label(one) for one in found], format="extxyz")
    return file
