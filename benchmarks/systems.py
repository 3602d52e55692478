"""The crystals and expansions that the benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk

from anharm.model import BayesianModel, Crystal, Expansion, Supercell, build_expansion
from anharm.model.regression import Posterior

CONVENTIONAL = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])  # of a face-centred primitive cell


@dataclass(frozen=True)
class System:
    """A crystal, the cutoffs per order (Angstrom), and the supercell to work in."""

    name: str
    primitive: Atoms
    cutoffs: dict[int, float]
    matrix: np.ndarray

    def expansion(self) -> Expansion:
        """Build the expansion."""
        return build_expansion(Crystal.from_atoms(self.primitive), self.cutoffs)

    def supercell(self, expansion: Expansion) -> Supercell:
        """The supercell of the expansion's crystal."""
        return Supercell(expansion.crystal, self.matrix)


def silicon() -> Atoms:
    """Diamond, a = 5.43 Angstrom."""
    return bulk("Si", "diamond", a=5.43)


def boron_arsenide() -> Atoms:
    """Zincblende, a = 4.78 Angstrom."""
    atoms = bulk("GaAs", "zincblende", a=4.78)
    atoms.symbols = ["B", "As"]
    return atoms


def tin_selenide() -> Atoms:
    """Pnma, experimental lattice (11.50, 4.15, 4.44 Angstrom)."""
    sn, se = (0.1185, 0.25, 0.1035), (0.8548, 0.25, 0.4815)
    positions, symbols = [], []
    for symbol, (x, y, z) in (("Sn", sn), ("Se", se)):
        positions += [
            (x, y, z), (0.5 - x, y + 0.5, z + 0.5), (-x, y + 0.5, -z), (x + 0.5, y, 0.5 - z)
        ]  # fmt: skip
        symbols += [symbol] * 4
    return Atoms(symbols, scaled_positions=positions, cell=[11.50, 4.15, 4.44], pbc=True)


SILICON_64 = System("Si 64 [5.0, 4.0, 3.5]", silicon(), {2: 5.0, 3: 4.0, 4: 3.5},
                    2 * CONVENTIONAL)  # fmt: skip
SILICON_FOURTH = System("Si 64, order 4 alone, 3.5", silicon(), {4: 3.5},
                        2 * CONVENTIONAL)  # fmt: skip
SILICON_216 = System("Si 216 [6.0, 4.5, 3.5]", silicon(), {2: 6.0, 3: 4.5, 4: 3.5},
                     3 * CONVENTIONAL)  # fmt: skip
ARSENIDE_216 = System("BAs 216 [6.0, 4.5, 3.5]", boron_arsenide(), {2: 6.0, 3: 4.5, 4: 3.5},
                      3 * CONVENTIONAL)  # fmt: skip
ARSENIDE_64 = System("BAs 64 [4.7, 3.5, 3.5, 3.5, 3.5]", boron_arsenide(),
                     {2: 4.7, 3: 3.5, 4: 3.5, 5: 3.5, 6: 3.5}, 2 * CONVENTIONAL)  # fmt: skip
SELENIDE_72 = System("SnSe 72 [5.7, 4.5, 3.6, 3.2, 3.2]", tin_selenide(),
                     {2: 5.7, 3: 4.5, 4: 3.6, 5: 3.2, 6: 3.2}, np.diag([1, 3, 3]))  # fmt: skip


def random_model(expansion: Expansion, seed: int = 0) -> BayesianModel:
    """A model with random parameters and a full posterior, for timings."""
    random = np.random.default_rng(seed)
    n = expansion.n_parameters
    factor = np.triu(random.standard_normal((n, n))) / np.sqrt(n)
    posterior = Posterior(random.standard_normal(n), factor, {}, {"forces": 1.0}, {}, 0.0, 1, 1)
    return BayesianModel(expansion, posterior)
