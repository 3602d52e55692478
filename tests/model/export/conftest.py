"""Models whose force constants are known from elsewhere, and models of every symmetry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from anharm.model import BayesianModel, Crystal, Trainer, build_expansion
from anharm.model.crystal import FloatArray


@dataclass
class OracleModel:
    """A model fitted to the forces of a force field that another code made."""

    model: BayesianModel
    primitive: Atoms
    ideal: Atoms
    data: dict[str, Any]

    def tensors(self, order: int) -> dict[tuple[int, ...], FloatArray]:
        """The other code's force constants by sorted atoms of its supercell."""
        clusters, tensors = self.data[f"clusters_{order}"], self.data[f"fc_{order}"]
        return {
            tuple(int(atom) for atom in cluster): tensor
            for cluster, tensor in zip(clusters, tensors, strict=True)
        }


@pytest.fixture(scope="session")
def oracle(laboratory) -> OracleModel:
    with np.load(laboratory.data / "Si64_o4.npz") as stored:
        data = {key: stored[key] for key in stored.files}
    ideal = read(laboratory.data / "Si64_o4_supercell.xyz")
    primitive = read(laboratory.data / "Si64_o4_primitive.xyz")
    expansion = build_expansion(Crystal.from_atoms(primitive), {2: 5.0, 3: 4.0, 4: 3.5})
    trainer = Trainer(expansion)
    for index in range(3):
        trainer.add(
            ideal.cell[:],
            ideal.positions + data["displacements"][index],
            data["forces"][index],
            float(data["energies"][index]),
            ideal.numbers,
        )
    return OracleModel(trainer.fit(), primitive, ideal, data)


@pytest.fixture(scope="session")
def random_model(laboratory):
    """A random model of one of the laboratory's crystals."""
    return lambda name: laboratory.random_model(laboratory.expansion(name))


def only_orders(model: BayesianModel, *orders: int) -> BayesianModel:
    """The same model with the parameters of all other orders set to zero."""
    kept = np.isin(model.expansion.parameter_orders, orders)
    posterior = replace(model.posterior, mean=np.where(kept, model.posterior.mean, 0.0))
    return replace(model, posterior=posterior)


@pytest.fixture(scope="session")
def restrict():
    return only_orders
