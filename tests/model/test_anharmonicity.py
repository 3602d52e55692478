"""The anharmonicity measure counts what no harmonic force is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner

from anharm.command_line import cli
from anharm.errors import ModelError
from anharm.model import BayesianModel, LatticeCalculator, Supercell, save_model
from anharm.model.anharmonicity import anharmonicity
from anharm.model.export.other_phonons import OtherHarmonicForces

MULTIPLES = np.diag([3, 3, 3])


@pytest.fixture(scope="module")
def model(laboratory) -> BayesianModel:
    """A random model of BAs with orders 2 to 4."""
    found = laboratory.random_model(laboratory.expansion("boron arsenide"))
    assert set(found.expansion.orders) >= {2, 3, 4}
    return found


def only(model: BayesianModel, *orders: int) -> BayesianModel:
    kept = np.isin(model.expansion.parameter_orders, orders)
    mean = np.where(kept, model.posterior.mean, 0.0)
    factor = np.where(kept[:, None], model.posterior.factor, 0.0)
    return replace(model, posterior=replace(model.posterior, mean=mean, factor=factor))


def displaced(model: BayesianModel, n: int, strain: float = 0.0) -> list[Atoms]:
    """Random displacements, the atoms in another order each time."""
    supercell = Supercell(model.expansion.crystal, MULTIPLES).to_atoms()
    found = []
    for seed in range(n):
        random = np.random.default_rng(seed)
        atoms = supercell[random.permutation(len(supercell))]
        atoms.set_cell(atoms.cell[:] @ np.diag([1, 1, 1 + strain]), scale_atoms=True)
        atoms.positions += random.normal(0, 0.1, (len(atoms), 3))
        found.append(atoms)
    return found


def labelled(model: BayesianModel, structures: list[Atoms], noise: float = 0.0) -> list[Atoms]:
    """The same structures with the model's forces, and noise of this standard deviation."""
    random = np.random.default_rng(5)
    calculator, found = LatticeCalculator(model), []
    for atoms in structures:
        forces = calculator.get_property("forces", atoms)
        copy = atoms.copy()
        noisy = forces + random.normal(0, noise, forces.shape)
        copy.calc = SinglePointCalculator(copy, forces=noisy)
        found.append(copy)
    return found


def test_a_harmonic_crystal_has_no_anharmonicity(model: BayesianModel) -> None:
    harmonic = only(model, 2)
    found = anharmonicity(harmonic, labelled(harmonic, displaced(model, 3)))
    assert found.reference is not None
    assert found.reference.value < 1e-10
    assert found.model.value < 1e-10
    assert max(found.model.interval) < 1e-10
    assert found.contributions[2] == pytest.approx(1)
    assert found.contributions[3] == found.contributions[4] == 0


@pytest.mark.parametrize("strain", [0.0, 0.02])
def test_the_orders_are_those_that_the_force_field_adds_up(
    model: BayesianModel, strain: float
) -> None:
    """Against the forces of the evaluation kernels, with one order after the other."""
    structures = labelled(model, displaced(model, 2, strain), noise=0.3)
    found = anharmonicity(model, structures, n_samples=2)
    total = np.concatenate([atoms.get_forces() for atoms in structures])
    own = np.zeros_like(total)
    for order in model.expansion.orders:
        calculator = LatticeCalculator(only(model, order))
        own += np.concatenate([calculator.get_property("forces", one) for one in structures])
        expected = np.sqrt(np.mean((total - own) ** 2) / np.mean(total**2))
        if order >= 2:
            assert found.remaining[order] == pytest.approx(expected, rel=1e-6)
        if order == 2:
            everything = np.concatenate(
                [LatticeCalculator(model).get_property("forces", one) for one in structures]
            )
            ratio = np.sqrt(np.mean((everything - own) ** 2) / np.mean(everything**2))
            assert found.model.value == pytest.approx(ratio, rel=1e-6)
    assert found.reference is not None
    assert found.reference.value == pytest.approx(found.remaining[2])
    assert found.rms_force == pytest.approx(np.sqrt(np.mean(total**2)))


def test_noise_of_the_reference_adds_in_squares(model: BayesianModel) -> None:
    structures = displaced(model, 10)
    quiet = anharmonicity(model, labelled(model, structures), n_samples=2)
    level = 0.3 * quiet.rms_force
    noisy = anharmonicity(model, labelled(model, structures, level), n_samples=2)
    assert quiet.reference is not None and noisy.reference is not None
    assert quiet.reference.value == pytest.approx(quiet.model.value, rel=1e-6)
    share = (quiet.reference.value**2 + 0.3**2) / (1 + 0.3**2)
    assert noisy.reference.value == pytest.approx(np.sqrt(share), rel=0.02)
    assert noisy.model.value == pytest.approx(quiet.model.value, rel=1e-6)


def test_the_interval_is_that_of_the_posterior(model: BayesianModel) -> None:
    certain = replace(model.posterior, factor=np.zeros_like(model.posterior.factor))
    found = anharmonicity(replace(model, posterior=certain), displaced(model, 2))
    assert found.reference is None and not found.has_reference
    assert found.model.interval == pytest.approx((found.model.value, found.model.value))
    wide = anharmonicity(model, displaced(model, 2))
    lower, upper = wide.model.interval
    assert lower < upper


def test_more_configurations_have_a_smaller_sampling_error(model: BayesianModel) -> None:
    few, many = (anharmonicity(model, displaced(model, n), n_samples=2) for n in (12, 108))
    assert many.model.sampling_error < 0.7 * few.model.sampling_error
    assert abs(many.model.value - few.model.value) < 4 * few.model.sampling_error


def test_forces_of_some_structures_alone_are_refused(model: BayesianModel) -> None:
    one, other = displaced(model, 2)
    with pytest.raises(ModelError, match="structure 1: some structures have forces"):
        anharmonicity(model, [*labelled(model, [one]), other])
    ideal = Supercell(model.expansion.crystal, MULTIPLES).to_atoms()
    with pytest.raises(ModelError, match="every force is zero"):
        anharmonicity(model, [ideal])
    ideal.positions += np.random.default_rng(0).normal(0, 1e-14, (len(ideal), 3))
    with pytest.raises(ModelError, match="every force is zero"):
        anharmonicity(model, [ideal])


def test_harmonic_forces_of_phonopy_are_those_of_the_model(
    model: BayesianModel, tmp_path: Path
) -> None:
    phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed")
    from anharm.model.export import to_phonopy

    exported = to_phonopy(model, MULTIPLES)
    assert isinstance(exported, phonopy.Phonopy)
    structures = displaced(model, 2)
    own = anharmonicity(model, structures, n_samples=2)
    theirs = anharmonicity(model, structures, 2, harmonic=OtherHarmonicForces(exported))
    assert theirs.model.value == pytest.approx(own.model.value, rel=1e-6)
    exported.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
    save_model(model, tmp_path / "model.h5")
    write(tmp_path / "thermal.xyz", labelled(model, structures), format="extxyz")
    files = [tmp_path / "model.h5", tmp_path / "thermal.xyz"]
    options = ["--samples", 5, "--output", tmp_path / "a.png"]
    harmonic = ["--harmonic", tmp_path / "phonopy_params.yaml"]
    words = ["anharmonicity", *files, *harmonic, *options]
    done = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout).values()
    assert found["sigma_reference"]["value"] == pytest.approx(own.model.value, rel=1e-5)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(cli, [*map(str, words)])
    assert "Left after order n" in " ".join(done.output.split())


def test_harmonic_forces_of_another_supercell_are_refused(model: BayesianModel) -> None:
    pytest.importorskip("phonopy", reason="phonopy is not installed")
    from anharm.model.export import to_phonopy

    with pytest.raises(ModelError, match="same supercell"):
        anharmonicity(
            model,
            displaced(model, 1),
            2,
            harmonic=OtherHarmonicForces(to_phonopy(model, [4, 4, 4])),
        )
