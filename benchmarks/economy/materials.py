"""The crystals of the learning economy, read from materials.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from anharm.clients.calculators import make_calculator
from anharm.model import Crystal, Expansion, Supercell, build_expansion
from anharm.model.crystal import as_supercell_matrix

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Material:
    """A crystal with its expansion, its reference and the lengths of its dynamics.

    Attributes
    ----------
    name : str
    primitive : Path
        Structure file, relaxed with the reference.
    supercell : list
        As in run.toml.
    cutoffs : dict
        Order -> Angstrom; order 2 may have "supercell".
    calculator, parameters : str, dict
        ASE calculator as in run.toml.
    temperature : float
        K.
    timestep : float
        fs, of all dynamics.
    outer : int
        Steps between two calls of the reference in its own dynamics.
    reference_frames, reference_stride : int
        Stored configurations of a trajectory, and calls between two of them.
    steps : int
        Of a whole run.
    threshold : float
        Of the rule "fixed", eV/Angstrom.
    """

    name: str
    primitive: Path
    supercell: list[Any]
    cutoffs: dict[int, float | str]
    calculator: str
    parameters: dict[str, Any]
    temperature: float
    timestep: float
    outer: int
    reference_frames: int
    reference_stride: int
    steps: int
    threshold: float

    def crystal_supercell(self) -> Supercell:
        """The supercell of the expansion's crystal."""
        return Supercell(self.expansion().crystal, as_supercell_matrix(self.supercell))

    def ideal(self) -> Atoms:
        """The ideal supercell."""
        return self.crystal_supercell().to_atoms()

    def expansion(self) -> Expansion:
        """The expansion, built once."""
        supercell = tuple(map(tuple, as_supercell_matrix(self.supercell)))
        return _expansion(self.primitive, tuple(self.cutoffs.items()), supercell)

    def reference(self) -> Any:
        """The ASE calculator that gives labels, on one thread."""
        calculator = make_calculator(self.calculator, self.parameters)
        _one_thread()
        return calculator


@cache
def _expansion(
    primitive: Path, cutoffs: tuple[tuple[int, float | str], ...], supercell: tuple[Any, ...]
) -> Expansion:
    crystal = Crystal.from_atoms(ase.io.read(primitive))
    return build_expansion(crystal, dict(cutoffs), supercell=supercell)


def _one_thread() -> None:
    """PyTorch does not listen to OMP_NUM_THREADS in every version."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def read_materials(path: Path = HERE / "materials.toml") -> dict[str, Material]:
    """All tables of a file of materials, by name."""
    with path.open("rb") as file:
        tables = tomllib.load(file)
    found = {}
    for name, table in tables.items():
        table["primitive"] = path.parent / table["primitive"]
        table["cutoffs"] = {int(order): value for order, value in table["cutoffs"].items()}
        table.setdefault("parameters", {})
        found[name] = Material(name=name, **table)
    return found
