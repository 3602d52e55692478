"""The physics that the manual shows: phonons, anharmonicity, effective phonons, conductivity.

    python benchmarks/physics.py prepare FOLDER [si] [bas] [snse]
    python benchmarks/physics.py PART FOLDER [si] ...   (phonons, anharmonicity, effective, ...)

`prepare` relaxes the crystals, learns models from snapshots of their own dynamics, labels snapshots
at 300 and 600 K, and lets phonopy and phono3py displace atoms in the same reference; the others run
the commands of the manual on that, print what they say, and leave their pictures in FOLDER.
BAs and SnSe need the packages `chgnet` and `sevenn`.
"""

from __future__ import annotations

import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import phono3py
import phonopy
from ase import Atoms
from ase.build import make_supercell
from physics_references import (
    MATERIALS,
    TEMPERATURES,
    Reference,
    cold_model,
    crystal,
    make_model,
    snapshots_file,
)

DISPLACEMENT = 0.01, 0.03  # Angstrom, of second and third order
CONDUCTORS = ("si", "bas")


def main() -> None:
    """Run one part for some of the materials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {
        "prepare": prepare,
        "phonons": phonons,
        "anharmonicity": anharmonicity,
        "effective": effective,
        "conductivity": conductivity,
        "curvature": curvature,
    }
    parser.add_argument("part", choices=parts)
    parser.add_argument("folder", type=Path)
    parser.add_argument("materials", nargs="*", choices=[*MATERIALS, []])
    chosen = parser.parse_args()
    for name in chosen.materials or MATERIALS:
        parts[chosen.part](name, chosen.folder)


def prepare(name: str, folder: Path) -> None:
    """Everything that needs the reference."""
    start = time.process_time()
    make_model(name, folder)
    for temperature in TEMPERATURES:
        snapshots_file(name, temperature, folder)
    displace(name, folder)
    print(f"{name}: {time.process_time() - start:.0f} s of processor time")


def displace(name: str, folder: Path) -> None:
    """Finite displacements of the reference, in files of phonopy and phono3py."""
    primitive = crystal(name, folder)
    cell = phonopy.structure.atoms.PhonopyAtoms(
        numbers=primitive.numbers, cell=primitive.cell[:], positions=primitive.positions
    )
    matrix = MATERIALS[name].matrix.T  # its columns are the new vectors
    reference = Reference(name)
    second = phonopy.Phonopy(cell, matrix, np.eye(3))
    second.generate_displacements(distance=DISPLACEMENT[0])
    second.forces = _forces(reference, second.supercells_with_displacements)
    second.save(folder / f"{name}_phonopy.yaml")
    calls = reference.calls
    if name in CONDUCTORS:
        third = phono3py.Phono3py(cell, matrix, np.eye(3))
        third.generate_displacements(distance=DISPLACEMENT[1])
        third.forces = _forces(reference, third.supercells_with_displacements)
        third.save(folder / f"{name}_phono3py.yaml")
    print(f"{name}: {calls} displaced cells for phonopy, {reference.calls - calls} for phono3py")


def _forces(reference: Reference, cells: Any) -> list[np.ndarray]:
    return [
        reference.forces(Atoms(one.symbols, one.positions, cell=one.cell, pbc=True))
        for one in cells
    ]


def phonons(name: str, folder: Path) -> None:
    """Bands and density of states beside finite displacements, of the cold labels alone, too."""
    other = folder / f"{name}_phonopy.yaml"
    picture = folder / f"phonons_{name}.png"
    anharm("phonons", folder / f"{name}.h5", "--compare", other, "--output", picture)
    cold = picture.with_stem(f"{picture.stem}_cold")
    anharm("phonons", cold_model(name, folder), "--compare", other, "--output", cold)


def anharmonicity(name: str, folder: Path) -> None:
    """sigma_A at both temperatures, with the harmonic forces of the model and of phonopy."""
    files = [snapshots_file(name, temperature, folder) for temperature in TEMPERATURES]
    picture = folder / f"anharmonicity_{name}.png"
    anharm("anharmonicity", folder / f"{name}.h5", *files, "--output", picture)


def effective(name: str, folder: Path) -> None:
    """Effective phonons at both temperatures."""
    files = [snapshots_file(name, temperature, folder) for temperature in TEMPERATURES]
    picture = folder / f"effective_{name}.png"
    anharm("effective-phonons", folder / f"{name}.h5", *files, "--output", picture)


def conductivity(name: str, folder: Path) -> None:
    """Conductivity beside that of phono3py's own displacements."""
    if name not in CONDUCTORS:
        return
    words = ["conductivity", folder / f"{name}.h5", "--compare", folder / f"{name}_phono3py.yaml"]
    if name == "bas":  # some of its optical phonons find no three-phonon process
        words = [*words, "--isotopes", "--mesh", "11 11 11"]
    anharm(*words, "--temperatures", "300 600", "--output", folder / f"conductivity_{name}.png")
    anharm("conductivity", cold_model(name, folder), *words[2:])


def curvature(name: str, folder: Path) -> None:
    """Restoring force over displacement of one atom of each element: constant, if harmonic."""
    ideal = make_supercell(crystal(name, folder), MATERIALS[name].matrix)
    reference = Reference(name)
    for symbol in dict.fromkeys(ideal.symbols):
        atom = list(ideal.symbols).index(symbol)
        for size in (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1):
            pull = 0.0
            for sign in (1, -1):
                atoms = ideal.copy()
                atoms.positions[atom, 0] += sign * size
                pull -= sign * reference.forces(atoms)[atom, 0] / 2
            print(f"{symbol} {size:5.3f} A: {pull / size:.2f} eV/A^2")


def anharm(*words: object) -> None:
    """Run and show a command."""
    text = [str(word) for word in words]
    print("\n$ anharm", " ".join(f'"{one}"' if " " in one else one for one in text), flush=True)
    subprocess.run([sys.executable, "-m", "anharm", *text], check=True)


if __name__ == "__main__":
    main()
