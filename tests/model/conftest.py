"""Crystals, random models and supercells that the tests of the physics share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from anharm.model import (
    BayesianModel,
    Crystal,
    Expansion,
    ForceField,
    Posterior,
    Supercell,
    build_expansion,
)
from anharm.model.crystal import FloatArray, IntArray

DATA = Path(__file__).parents[1] / "data"


def _tin_selenide() -> Atoms:
    """Pnma, a layered crystal with free internal coordinates (experimental lattice)."""
    return Atoms(
        "Sn4Se4",
        scaled_positions=[
            (0.118, 0.25, 0.103), (0.382, 0.75, 0.603), (0.882, 0.75, 0.897), (0.618, 0.25, 0.397),
            (0.855, 0.25, 0.480), (0.645, 0.75, 0.980), (0.145, 0.75, 0.520), (0.355, 0.25, 0.020),
        ],
        cell=[11.50, 4.15, 4.44],
        pbc=True,
    )  # fmt: skip


def _triclinic() -> Atoms:
    return Atoms(
        "NaClK",
        scaled_positions=[(0.03, 0.11, 0.07), (0.52, 0.43, 0.61), (0.12, 0.63, 0.35)],
        cell=[[4.1, 0.2, -0.3], [0.7, 4.4, 0.1], [-0.4, 0.9, 4.9]],
        pbc=True,
    )


def _monoclinic() -> Atoms:
    """P2/m and two species: one twofold axis, so shells rarely merge."""
    return Atoms(
        "CuO2",
        scaled_positions=[(0, 0, 0), (0.31, 0, 0.42), (0.69, 0, 0.58)],
        cell=[[4.0, 0, 0], [0, 3.1, 0], [-0.9, 0, 4.3]],
        pbc=True,
    )


def _selenium() -> Atoms:
    """P3_121, trigonal: chains that wind about a screw axis, without inversion."""
    x, c = 0.2254, 4.9536
    return Atoms(
        "Se3",
        scaled_positions=[(x, 0, 1 / 3), (0, x, 2 / 3), (-x, -x, 0)],
        cell=[[4.3662, 0, 0], [-4.3662 / 2, 4.3662 * np.sqrt(3) / 2, 0], [0, 0, c]],
        pbc=True,
    )


CRYSTALS: dict[str, Callable[[], Atoms]] = {
    "silicon": lambda: bulk("Si", "diamond", a=5.43),
    "magnesium oxide": lambda: bulk("MgO", "rocksalt", a=4.21),
    "boron arsenide": lambda: bulk("BAs", "zincblende", a=4.777),
    "aluminium": lambda: bulk("Al", "fcc", a=4.05),
    "iron": lambda: bulk("Fe", "bcc", a=2.87),
    "polonium": lambda: bulk("Po", "sc", a=3.35),
    "magnesium": lambda: bulk("Mg", "hcp", a=3.21, c=5.21),
    "gallium nitride": lambda: bulk("GaN", "wurtzite", a=3.19, c=5.19, u=0.377),
    "tin selenide": _tin_selenide,
    "selenium": _selenium,
    "triclinic": _triclinic,
    "monoclinic": _monoclinic,
}

# Cutoffs that give a handful to a few hundred parameters in all orders that are named.
CUTOFFS: dict[str, dict[int, float | dict[int, float]]] = {
    "silicon": {2: 4.0, 3: 4.0, 4: 2.6, 5: 2.6, 6: 2.6},
    "magnesium oxide": {2: 3.1, 3: 3.1, 4: {2: 3.1, 3: 2.2}, 5: 2.2, 6: 2.2},
    "boron arsenide": {2: 4.0, 3: 3.5, 4: 2.2, 5: 2.2, 6: 2.2},
    "aluminium": {2: 4.2, 3: 3.0, 4: 3.0, 6: {2: 3.0, 3: 0.0}},
    "iron": {2: 3.0, 3: 3.0, 4: 2.6, 5: 2.6, 6: 2.6},
    "polonium": {2: 5.0, 3: 5.0, 4: 3.5, 5: 3.5, 6: 3.5},
    "magnesium": {2: 4.7, 3: 3.3, 4: {2: 3.3, 3: 3.21, 4: 0.0}},
    "gallium nitride": {2: 3.3, 3: 3.25, 4: 2.1, 5: 2.1},
    "tin selenide": {2: 3.6, 3: 3.0, 4: {2: 2.9, 3: 0.0}},
    "selenium": {2: 4.5, 3: 3.5, 4: 2.5},
    "triclinic": {2: 4.5, 3: {2: 3.6, 3: 3.5}, 4: {2: 3.3, 3: 0.0}},
    "monoclinic": {2: 4.1, 3: 3.2, 4: {2: 2.6, 3: 0.0}, 5: {2: 2.3, 3: 0.0}},
}


def random_model(expansion: Expansion, seed: int = 0, scale: float = 3.0) -> BayesianModel:
    """A model with random parameters, and a random posterior about them."""
    random = np.random.default_rng(seed)
    n = expansion.n_parameters
    posterior = Posterior(
        mean=scale * random.standard_normal(n),
        factor=np.triu(random.standard_normal((n, n))) / 10,
        prior_precisions=dict.fromkeys(expansion.orders, 1.0),
        noise_precisions={"forces": 100.0},
        effective_parameters=dict.fromkeys(expansion.orders, 1.0),
        log_evidence=0.0,
        n_targets=1,
        n_iterations=1,
    )
    return BayesianModel(expansion, posterior, energy_per_cell=-1.5)


def fitting_supercell(expansion: Expansion) -> Supercell:
    """The smallest supercell with parallel edges that the cutoffs fit into."""
    largest = max(max(by_bodies.values()) for by_bodies in expansion.cutoffs.values())
    lengths = np.linalg.norm(expansion.crystal.lattice, axis=1)
    multiples = np.maximum(np.ceil(2 * largest / lengths - 1e-9), 1).astype(int)
    supercell = Supercell(expansion.crystal, np.diag(multiples))
    while supercell.half_width < largest:
        multiples += 1
        supercell = Supercell(expansion.crystal, np.diag(multiples))
    return supercell


def permuted_tensors(
    clusters: IntArray, tensors: FloatArray
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Every distinct order of the atoms of every cluster, with its tensor's indices alike."""
    for cluster, tensor in zip(clusters, tensors, strict=True):
        seen = set()
        for order in permutations(range(len(cluster))):
            arranged = cluster[list(order)]
            if arranged.tobytes() not in seen:
                seen.add(arranged.tobytes())
                yield arranged, tensor.transpose(order)


def random_deformation(seed: int, size: float = 0.01) -> FloatArray:
    """Nine independent components: stretch, shear and rotation."""
    return np.eye(3) + np.random.default_rng(seed).uniform(-size, size, (3, 3))


def random_displacements(supercell: Supercell, size: float, seed: int) -> FloatArray:
    """Normally distributed, of mean zero."""
    u: FloatArray = np.random.default_rng(seed).normal(0, size, (supercell.n_atoms, 3))
    u -= u.mean(axis=0)
    return u


def slope(function: Callable[[float], float], step: float = 2e-3) -> float:
    """The derivative at zero, by nine-point central differences."""
    stencil = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    return sum(w * (function(k * step) - function(-k * step)) / step for k, w in stencil.items())


def gram_in_expected_sizes(expansion: Expansion) -> FloatArray:
    """Scalar products of the basis's columns, in units of (nearest / diameter)^p at each order.

    p = 5 for pairs at second order, and 8 at all others.
    """
    crystal, variables = expansion.crystal, expansion.monomials.variables
    fractional = expansion.bodies[:, :3] + crystal.fractional_positions[expansion.bodies[:, 3]]
    positions = fractional @ crystal.lattice
    weights = expansion.monomial_weights.tocsc()
    first_terms = weights.indices[weights.indptr[:-1]]
    diameters = []
    for term in first_terms:
        places = positions[variables[term][variables[term] >= 0] // 3]
        diameters.append(np.linalg.norm(places[:, None] - places, axis=2).max())
    orders = np.repeat(expansion.orders, list(expansion.unconstrained_per_order.values()))
    basis = expansion.constraint_basis.toarray()
    for order in expansion.orders:
        sizes = np.array(diameters)[orders == order]
        nearest = min(sizes[sizes > 0], default=1.0)
        ratios = np.maximum(sizes, nearest) / nearest
        basis[orders == order] *= ratios[:, None] ** (5 if order == 2 else 8)
    product: FloatArray = basis.T @ basis
    return product


class Laboratory:
    """What the tests ask for, built once per session."""

    data = DATA
    random_model = staticmethod(random_model)
    fitting_supercell = staticmethod(fitting_supercell)
    permuted_tensors = staticmethod(permuted_tensors)
    random_deformation = staticmethod(random_deformation)
    random_displacements = staticmethod(random_displacements)
    slope = staticmethod(slope)
    gram_in_expected_sizes = staticmethod(gram_in_expected_sizes)

    def __init__(self) -> None:
        self._expansions: dict[str, Expansion] = {}
        self._force_fields: dict[str, ForceField] = {}

    @staticmethod
    def atoms(name: str) -> Atoms:
        """A primitive cell."""
        return CRYSTALS[name]()

    def crystal(self, name: str) -> Crystal:
        """The crystal of that primitive cell."""
        return Crystal.from_atoms(self.atoms(name))

    def expansion(self, name: str) -> Expansion:
        """An expansion of orders two to at most six."""
        if name not in self._expansions:
            self._expansions[name] = build_expansion(self.crystal(name), CUTOFFS[name])
        return self._expansions[name]

    def force_field(self, name: str) -> ForceField:
        """A random model of that expansion on the smallest supercell."""
        if name not in self._force_fields:
            expansion = self.expansion(name)
            self._force_fields[name] = ForceField(
                random_model(expansion), fitting_supercell(expansion)
            )
        return self._force_fields[name]


@pytest.fixture(scope="session")
def laboratory() -> Laboratory:
    return Laboratory()
