"""Against a random force field made with another code: hiphive 1.5, orders two to four."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ase.io import read

from anharm.model import (
    BayesianModel,
    Crystal,
    StructurePredictor,
    Supercell,
    Trainer,
    build_expansion,
)
from anharm.model.crystal import identify_supercell
from anharm.model.sites import assign_sites


class Oracle:
    """The stored force field, and a model fitted to some of its forces."""

    def __init__(self, folder: Any) -> None:
        with np.load(folder / "Si64_o4.npz") as stored:
            self.data = {key: stored[key] for key in stored.files}
        self.ideal = read(folder / "Si64_o4_supercell.xyz")
        primitive = read(folder / "Si64_o4_primitive.xyz")
        self.expansion = build_expansion(Crystal.from_atoms(primitive), {2: 5.0, 3: 4.0, 4: 3.5})
        self.model = self.fit(range(3))

    def fit(self, configurations: range) -> BayesianModel:
        trainer = Trainer(self.expansion)
        for index in configurations:
            trainer.add(
                self.ideal.cell[:],
                self.ideal.positions + self.data["displacements"][index],
                self.data["forces"][index],
                float(self.data["energies"][index]),
                self.ideal.numbers,
            )
        return trainer.fit()


@pytest.fixture(scope="module")
def oracle(laboratory) -> Oracle:
    return Oracle(laboratory.data)


def test_forces_and_energies_that_were_held_out_are_reproduced(oracle: Oracle) -> None:
    predictor = StructurePredictor(oracle.model)
    for index in (3, 4):
        atoms = oracle.ideal.copy()
        atoms.positions += oracle.data["displacements"][index]
        result = predictor.predict(atoms)
        assert np.abs(result["forces"] - oracle.data["forces"][index]).max() < 1e-9
        assert result["energy"] == pytest.approx(oracle.data["energies"][index], abs=1e-7)
        assert result["force_std"].max() < 1e-6


def test_one_configuration_determines_every_parameter(oracle: Oracle) -> None:
    model = oracle.fit(range(1))
    np.testing.assert_allclose(model.posterior.mean, oracle.model.posterior.mean, atol=1e-6)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_force_constants_agree_cluster_by_cluster(oracle: Oracle, laboratory, order: int) -> None:
    crystal = oracle.expansion.crystal
    supercell = Supercell(crystal, identify_supercell(crystal, oracle.ideal.cell[:]))
    sites = assign_sites(supercell, oracle.ideal.positions, oracle.ideal.numbers).sites
    atom_at_site = np.argsort(sites)
    clusters, tensors = oracle.model.force_constants(order)
    ours = {}
    for cell in supercell.cells:
        atoms = clusters[..., 3] * supercell.n_cells + supercell.cell_index(
            clusters[..., :3] + cell
        )
        for row, tensor in zip(atom_at_site[atoms], tensors, strict=True):
            arrangement = np.argsort(row, kind="stable")
            ours[tuple(row[arrangement].tolist())] = tensor.transpose(arrangement)
    theirs = {
        tuple(int(atom) for atom in cluster): tensor
        for cluster, tensor in zip(
            oracle.data[f"clusters_{order}"], oracle.data[f"fc_{order}"], strict=True
        )
    }
    scale = max(np.abs(tensor).max() for tensor in theirs.values())
    nothing = np.zeros([3] * order)
    for cluster in theirs.keys() | ours.keys():
        difference = ours.get(cluster, nothing) - theirs.get(cluster, nothing)
        assert np.abs(difference).max() < 1e-6 * scale


@pytest.mark.parametrize("order", [2, 3, 4])
def test_orders_do_not_mix(oracle: Oracle, order: int) -> None:
    """The parameters of one order give the forces and the energy of that order."""
    posterior = oracle.model.posterior
    only = np.where(oracle.expansion.parameter_orders == order, posterior.mean, 0.0)
    index = oracle.data["orders"].tolist().index(order)
    model = BayesianModel(oracle.expansion, _with_mean(posterior, only))
    atoms = oracle.ideal.copy()
    atoms.positions += oracle.data["displacements"][4]
    result = StructurePredictor(model).predict(atoms)
    expected = oracle.data["forces_by_order"][4, index]
    assert np.abs(result["forces"] - expected).max() < 1e-8
    assert result["energy"] == pytest.approx(oracle.data["energies_by_order"][4, index], abs=1e-7)


def _with_mean(posterior: Any, mean: np.ndarray) -> Any:
    return replace(posterior, mean=mean)
