"""What strained cells of a model have to do with its reference: elasticity and thermal pressure.

    python benchmarks/strained_cells.py [--frames 200] [--labels 30]

Silicon, Tersoff potential. First, elastic constants of second and third order, with the atoms of a
cell moving with the strain: of a model that learnt forces in the unstrained cell alone, and of the
potential, by finite differences of the stress. Second, for several expansions: models of the same
labels (frames of the reference's dynamics at 100, 300 and 600 K and constant pressure, and six in
randomly strained cells), their bulk modulus, mean Grueneisen parameter, and error of the pressure
averaged over other frames, from the reference's dynamics at each temperature in its own mean cell.
The pressure error divided by three bulk moduli is an error of strain, given as one of the lattice
constant: truncation and training, and no statistics of any dynamics. Needs LAMMPS (`lmp`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from ase import Atoms
from ase.io import read
from ase.units import GPa
from scipy.linalg import sqrtm
from tersoff_lammps import Lammps

from anharm.clients.calculators import make_calculator
from anharm.model import BayesianModel, Crystal, LatticeCalculator, Supercell, fit_structures
from anharm.model.expansion import build_expansion

INPUTS = Path(__file__).parents[1] / "inputs" / "changing-cells"
MATRIX = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
LATTICE_CONSTANTS = {100: 5.43548, 300: 5.44270, 600: 5.45396}  # of thermal_expansion.py
EXPANSIONS = (
    {2: 5.0, 3: 4.0, 4: 3.5},
    {2: 5.0, 3: 4.0, 4: 3.5, 5: 2.5, 6: 2.5},
    {2: 5.0, 3: 4.0, 4: 4.0},
    {2: 5.0, 3: 4.0, 4: 4.0, 5: 2.5, 6: 2.5},
)
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
THIRD_ORDER = {"C111": (0, 0, 0), "C112": (1, 0, 0), "C123": (0, 1, 2), "C144": (0, 3, 3),
               "C155": (0, 4, 4), "C456": (3, 4, 5)}  # fmt: skip

Stress = Callable[[np.ndarray], np.ndarray]


def labelled(atoms: Atoms) -> Atoms:
    """A copy with energy, forces and stress of the reference."""
    copy = atoms.copy()
    copy.calc = make_calculator("tersoff-silicon")
    copy.get_forces(), copy.get_stress()
    return copy


def strained(atoms: Atoms, deformation: np.ndarray) -> Atoms:
    """The ideal crystal in a deformed cell."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell[:] @ deformation.T, scale_atoms=True)
    return copy


def random_labels(ideal: Atoms, number: int, size: float, strain: float) -> list[Atoms]:
    """Random displacements in randomly strained cells."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(number):
        eta = random.uniform(-strain, strain, (3, 3))
        atoms = strained(ideal, np.eye(3) + (eta + eta.T) / 2)
        atoms.positions += random.normal(0, size, atoms.positions.shape)
        found.append(labelled(atoms))
    return found


def lagrangian_stress(ideal: Atoms, calculator: object) -> Stress:
    """The second Piola-Kirchhoff stress, GPa, of the Lagrangian strain in Voigt's notation."""

    def stress(strain: np.ndarray) -> np.ndarray:
        tensor = np.array([[strain[0], strain[5] / 2, strain[4] / 2],
                           [strain[5] / 2, strain[1], strain[3] / 2],
                           [strain[4] / 2, strain[3] / 2, strain[2]]])  # fmt: skip
        deformation = np.real(sqrtm(np.eye(3) + 2 * tensor))
        atoms = strained(ideal, deformation)
        atoms.calc = calculator
        inverse = np.linalg.inv(deformation)
        cauchy = atoms.get_stress(voigt=False) / GPa
        found = np.linalg.det(deformation) * inverse @ cauchy @ inverse.T
        return np.array([found[pair] for pair in VOIGT])

    return stress


def elastic_constants(stress: Stress, step: float = 2e-3) -> dict[str, float]:
    """Of second and third order, GPa."""
    unit = step * np.eye(6)
    first = {j: (stress(unit[j]) - stress(-unit[j])) / (2 * step) for j in (0, 3)}
    found = {"C11": first[0][0], "C12": first[0][1], "C44": first[3][3]}
    for name, (i, j, k) in THIRD_ORDER.items():
        total = sum(a * b * stress(a * unit[j] + b * unit[k])[i] for a in (1, -1) for b in (1, -1))
        found[name] = float(total) / (4 * step**2)
    return found


def hessian(ideal: Atoms, calculator: object, scale: float, step: float = 2e-3) -> np.ndarray:
    """(3N, 3N) force constants in a scaled cell, from displacements of the two atoms of a cell."""
    atoms = strained(ideal, scale * np.eye(3))
    atoms.calc = calculator
    sites, n = atoms.get_scaled_positions(wrap=False), len(atoms)
    steps = np.round((atoms.positions - atoms.positions[0]) @ np.linalg.inv(
        np.linalg.solve(MATRIX.astype(float), atoms.cell[:])), 3)  # fmt: skip
    whole = np.abs(steps - np.round(steps)).max(axis=1) < 0.01
    found = np.zeros((n, 3, n, 3))
    for home, images in ((0, np.flatnonzero(whole)), (np.argmin(whole), np.flatnonzero(~whole))):
        columns = np.empty((n, 3, 3))
        for axis in range(3):
            forces = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[home, axis] += sign * step
                moved.calc = calculator
                forces.append(moved.get_forces())
            columns[:, :, axis] = -(forces[0] - forces[1]) / (2 * step)
        for image in images:
            shifted = sites + sites[image] - sites[home]
            distances = shifted[:, None] - sites[None]
            distances -= np.round(distances)
            found[np.abs(distances).sum(axis=2).argmin(axis=1), :, image] = columns
    matrix = found.reshape(3 * n, 3 * n)
    return (matrix + matrix.T) / 2


def grueneisen_parameters(
    ideal: Atoms, calculator: object, strain: float = 0.004
) -> tuple[np.ndarray, np.ndarray]:
    """Force constants of the modes of the unstrained cell, eV/Angstrom^2, and their parameters."""
    less, here, more = (hessian(ideal, calculator, 1 + e) for e in (-strain, 0, strain))
    squares, modes = np.linalg.eigh(here)
    change = np.einsum("ik,ij,jk->k", modes, (more - less) / (2 * strain), modes)
    vibrations = squares > 1e-3 * squares.max()
    return squares[vibrations], -change[vibrations] / (6 * squares[vibrations])


def bulk_modulus(stress: Stress, step: float = 2e-3) -> float:
    """GPa, from uniform strain."""
    uniform = step * np.array([1.0, 1, 1, 0, 0, 0])
    return float(np.mean((stress(uniform) - stress(-uniform))[:3]) / (6 * step))


def pressures(frames: list[Atoms], calculator: object) -> np.ndarray:
    """GPa, without the kinetic part."""
    found = []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        found.append(-atoms.get_stress()[:3].mean() / GPa)
    return np.array(found)


def table_of_elasticity(ideal: Atoms, crystal: Crystal) -> None:
    """Elastic constants of a model that has seen forces in one cell."""
    expansion = build_expansion(crystal, {2: 5.0, 3: 4.0, 4: 4.0})
    labels = random_labels(ideal, 6, 0.003, 0.0)
    model = fit_structures(expansion, labels, targets=["forces"])
    calculators = {
        "reference": make_calculator("tersoff-silicon"),
        "anharm": LatticeCalculator(model, maximum_strain=0.05),
    }
    found = {
        name: elastic_constants(lagrangian_stress(ideal, calculator))
        for name, calculator in calculators.items()
    }
    print("\nElastic constants at fixed internal coordinates, GPa\n")
    print("| |", " | ".join(found["reference"]), "|")
    print("|---" * (1 + len(found["reference"])) + "|")
    for name, values in found.items():
        print(f"| {name} |", " | ".join(f"{value:.1f}" for value in values.values()), "|")


def table_of_expansions(
    ideal: Atoms, crystal: Crystal, labels: list[Atoms], frames: dict[int, list[Atoms]]
) -> None:
    """Where the thermal pressure of several expansions comes from."""
    reference = make_calculator("tersoff-silicon")
    modulus = bulk_modulus(lagrangian_stress(ideal, reference))
    true = {temperature: pressures(some, reference) for temperature, some in frames.items()}
    print(f"\nModels of the same {len(labels)} labels\n")
    print("| cutoffs | parameters | bulk modulus, GPa | mean Grueneisen parameter |", end="")
    print("".join(f" {temperature} K |" for temperature in frames))
    print("|---" * (4 + len(frames)) + "|")
    gamma = grueneisen_parameters(ideal, reference)[1].mean()
    print(f"| reference | | {modulus:.1f} | {gamma:.3f} |" + " |" * len(frames))
    for cutoffs in EXPANSIONS:
        model: BayesianModel = fit_structures(build_expansion(crystal, cutoffs), labels)
        calculator = LatticeCalculator(model, maximum_strain=0.05)
        cells = []
        for temperature, some in frames.items():
            difference = pressures(some, calculator) - true[temperature]
            error = difference.std(ddof=1) / np.sqrt(len(some))
            shift = np.array([difference.mean(), error]) / (3 * modulus) * 5.44
            cells.append(f"{1e3 * difference.mean():+.1f} MPa, {1e5 * shift[0]:+.0f} ± "
                         f"{1e5 * shift[1]:.0f}")  # fmt: skip
        own = bulk_modulus(lagrangian_stress(ideal, calculator))
        gamma = grueneisen_parameters(ideal, calculator)[1].mean()
        shown = ", ".join(f"{order}: {cutoff}" for order, cutoff in cutoffs.items())
        print(
            f"| {shown} | {model.expansion.n_parameters} | {own:.1f} | {gamma:.3f} | "
            + " | ".join(cells)
            + " |",
            flush=True,
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=200, help="per temperature, to judge with")
    parser.add_argument("--labels", type=int, default=30, help="per temperature, to learn from")
    arguments = parser.parse_args()
    crystal = Crystal.from_atoms(read(INPUTS / "primitive.xyz"))
    ideal = Supercell(crystal, MATRIX).to_atoms()
    table_of_elasticity(ideal, crystal)
    labels, frames = random_labels(ideal, 6, 0.05, 0.02), {}
    with tempfile.TemporaryDirectory() as folder:
        lammps = Lammps(Path(folder))
        for temperature, constant in LATTICE_CONSTANTS.items():
            known = lammps.frames(ideal, temperature, arguments.labels, "iso 0 0 0.5")
            labels += [labelled(frame) for frame in known]
            cell = strained(ideal, 2 * constant / ideal.cell[0, 0] * np.eye(3))
            frames[temperature] = lammps.frames(cell, temperature, arguments.frames)
    table_of_expansions(ideal, crystal, labels, frames)
    print("\nLast columns: error of the mean pressure at the reference's own mean cell, and of the")
    print("lattice constant that it implies, 1e-5 Angstrom")


if __name__ == "__main__":
    main()
