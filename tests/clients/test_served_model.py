"""A model that answers i-PI on its own finds supercell and sites from what i-PI sends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from anharm.clients.engine_pes import LatticePES
from anharm.clients.served_model import ServedModel, StandaloneClient
from anharm.errors import ConfigurationError, ModelError
from anharm.extras import ExtrasChoice
from anharm.model import BayesianModel, Crystal, StructurePredictor, build_expansion, save_model
from anharm.model.regression import Posterior
from anharm.wire.driver_protocol import BOHR, HARTREE, Batch, Configuration

NOTHING = ExtrasChoice(())


@pytest.fixture(scope="module")
def model() -> BayesianModel:
    expansion = build_expansion(Crystal.from_atoms(bulk("BAs", "zincblende", a=4.777)), {2: 3.0})
    random, n = np.random.default_rng(0), expansion.n_parameters
    factor = np.triu(random.standard_normal((n, n))) / 30
    posterior = Posterior(random.standard_normal(n), factor, {}, {"forces": 1.0}, {}, 0.0, 1, 1)
    return BayesianModel(expansion, posterior)


@pytest.fixture
def shuffled() -> Atoms:
    """A displaced and strained supercell, its atoms in no order."""
    atoms = bulk("BAs", "zincblende", a=4.777).repeat((3, 3, 3))
    atoms.rattle(0.03, seed=1)
    atoms.set_cell(atoms.cell.array * [1.01, 0.995, 1.0], scale_atoms=True)
    return atoms[np.random.default_rng(2).permutation(len(atoms))]


def test_species_decide_the_sites_of_atoms_in_any_order(model, shuffled) -> None:
    client = StandaloneClient(ServedModel(model, NOTHING, shuffled.numbers))
    found = client.evaluate(Configuration(shuffled.cell.array, shuffled.positions))
    expected = StructurePredictor(model).predict(shuffled)
    np.testing.assert_allclose(found.forces, expected["forces"], atol=1e-12)
    assert found.energy == pytest.approx(expected["energy"])


def test_a_crystal_of_two_species_needs_their_order(model) -> None:
    with pytest.raises(ConfigurationError, match="2 species, and i-PI sends positions without"):
        ServedModel(model, NOTHING)


def test_a_cell_of_another_crystal_is_refused(model, shuffled) -> None:
    client = StandaloneClient(ServedModel(model, NOTHING, shuffled.numbers))
    with pytest.raises(ModelError, match="is not a supercell of the crystal"):
        client.evaluate(Configuration(1.2 * shuffled.cell.array, 1.2 * shuffled.positions))


def test_a_batch_is_answered_bead_by_bead_in_arrays_that_i_pi_may_overwrite(
    model, shuffled, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model.h5")
    write(tmp_path / "start.xyz", shuffled, format="xyz")  # without a cell
    pes = LatticePES(
        model=str(tmp_path / "model.h5"), structure=str(tmp_path / "start.xyz"), extras="none",
        verbosity=False,
    )  # fmt: skip
    beads = shuffled.positions + np.random.default_rng(3).normal(0, 0.01, (4, len(shuffled), 3))
    beads[3] = beads[2]  # may be taken for padding, and needs an answer all the same
    cells = [shuffled.cell.array.T / BOHR] * 4
    answers = pes(cells, list(beads / BOHR))
    client = StandaloneClient(ServedModel(model, NOTHING, shuffled.numbers))
    expected = client.evaluate_batch(Batch(np.array([shuffled.cell.array] * 4), beads, 4))
    for (energy, forces, virial, extras), one in zip(answers, expected, strict=True):
        assert energy * HARTREE == pytest.approx(one.energy)
        np.testing.assert_allclose(forces * HARTREE / BOHR, one.forces, atol=1e-12)
        np.testing.assert_allclose(virial * HARTREE, one.virial, atol=1e-10)
        assert extras == ""
        forces[:], virial[:] = np.nan, np.nan


def test_in_another_program_than_i_pi_the_error_goes_to_the_caller(
    model, shuffled, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model.h5")
    write(tmp_path / "start.xyz", shuffled, format="xyz")
    pes = LatticePES(model=str(tmp_path / "model.h5"), structure=str(tmp_path / "start.xyz"))
    pes(shuffled.cell.array.T / BOHR, shuffled.positions / BOHR)
    shuffled.positions[5] += 1.0
    with pytest.raises(ModelError, match=r"atom 5 .* from its site"):
        pes(shuffled.cell.array.T / BOHR, shuffled.positions / BOHR)
