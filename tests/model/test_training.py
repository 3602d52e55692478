"""Training on structures as users and codes deliver them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from anharm.errors import ModelError
from anharm.model import (
    Crystal,
    ForceField,
    StructurePredictor,
    Supercell,
    Trainer,
    build_expansion,
    fit_structures,
)
from anharm.model.lattice_sum import voigt
from anharm.model.training import virial_of_stress

DFT_CUTOFFS = {2: 5.0, 3: 4.0, 4: 3.5}


@pytest.fixture(scope="module")
def silicon_frames(laboratory) -> list[Atoms]:
    """The ideal crystal and eight displaced ones, of standard deviations 0.07 to 0.13 Angstrom."""
    frames: list[Atoms] = read(laboratory.data / "si64_qe_lda_gamma_20Ry.xyz", index=":")
    return frames


@pytest.fixture(scope="module")
def dft_expansion() -> Any:
    return build_expansion(Crystal.from_atoms(bulk("Si", "diamond", a=5.403)), DFT_CUTOFFS)


def labelled(atoms: Atoms, forces: np.ndarray, energy: float | None = None) -> Atoms:
    results = {"forces": forces} | ({} if energy is None else {"energy": energy})
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def synthetic(laboratory, name: str, n: int, noise: float = 0.0) -> tuple[Any, list[Atoms]]:
    """Structures labelled by a random model, listed in shuffled order, shifted and wrapped."""
    force_field: ForceField = laboratory.force_field(name)
    supercell = force_field.supercell
    random = np.random.default_rng(11)
    structures = []
    for _ in range(n):
        u = random.normal(0, 0.1, (supercell.n_atoms, 3))
        prediction = force_field.predict(u[None], errors=False)
        forces = prediction.forces[0] + noise * random.normal(size=u.shape)
        order = random.permutation(supercell.n_atoms)
        atoms = supercell.to_atoms()
        atoms.positions += u + random.uniform(-5, 5, 3)
        atoms = atoms[order]
        atoms.wrap()
        structures.append(labelled(atoms, forces[order], float(prediction.energies[0])))
    return force_field, structures


@pytest.mark.parametrize("name", ["silicon", "aluminium", "tin selenide"])
def test_a_model_learns_another_model_exactly(laboratory, name: str) -> None:
    teacher, structures = synthetic(laboratory, name, n=6)
    model = fit_structures(teacher.model.expansion, structures[:5])
    assert model.n_labels == 5
    assert model.energy_per_cell == pytest.approx(-1.5, abs=1e-6)
    result = StructurePredictor(model).predict(structures[5])
    truth = structures[5].calc.results
    assert np.abs(result["forces"] - truth["forces"]).max() < 1e-6
    assert result["energy"] == pytest.approx(truth["energy"], abs=1e-5)


def test_noise_and_errors_of_forces_are_calibrated(laboratory) -> None:
    """68 % of new noisy forces lie within the predictive std, of true ones within the epistemic."""
    noise = 0.05
    teacher, structures = synthetic(laboratory, "silicon", n=8, noise=noise)
    model = fit_structures(teacher.model.expansion, structures[:2])
    assert model.posterior.noise_std == pytest.approx(noise, rel=0.15)
    predictor, clean = StructurePredictor(model), StructurePredictor(teacher.model)
    epistemic, predictive = [], []
    for atoms in structures[2:]:
        result = predictor.predict(atoms)
        truth = clean.predict(atoms)["forces"]
        epistemic.append(np.abs(result["forces"] - truth) < result["force_std"])
        total = np.sqrt(result["force_std"] ** 2 + 1 / model.posterior.noise_precision)
        predictive.append(np.abs(result["forces"] - atoms.calc.results["forces"]) < total)
    assert np.mean(predictive) == pytest.approx(0.683, abs=0.04)
    # One fit is one draw of the parameters, so this fraction scatters more.
    assert 0.5 < np.mean(epistemic) < 0.85


def test_labels_from_different_supercells_teach_one_model(laboratory) -> None:
    teacher, structures = synthetic(laboratory, "polonium", n=2)
    expansion = teacher.model.expansion
    larger = ForceField(
        teacher.model, Supercell(expansion.crystal, np.array([[3, 0, 0], [1, 3, 0], [0, 0, -4]]))
    )
    u = np.random.default_rng(0).normal(0, 0.1, (larger.supercell.n_atoms, 3))
    atoms = larger.supercell.to_atoms()
    atoms.positions += u
    prediction = larger.predict(u[None])
    structures.append(labelled(atoms, prediction.forces[0], float(prediction.energies[0])))
    model = fit_structures(expansion, structures)
    np.testing.assert_allclose(model.posterior.mean, teacher.model.posterior.mean, atol=1e-6)


def test_the_order_of_labels_does_not_matter(silicon_frames, dft_expansion) -> None:
    forward = fit_structures(dft_expansion, silicon_frames[1:4])
    backward = fit_structures(dft_expansion, silicon_frames[3:0:-1])
    np.testing.assert_allclose(forward.posterior.mean, backward.posterior.mean, rtol=1e-6)


def force_rmse(model: Any, frames: list[Atoms]) -> float:
    predictor = StructurePredictor(model)
    errors = [predictor.predict(f)["forces"] - f.calc.results["forces"] for f in frames]
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dft_forces_are_predicted_no_worse_than_by_hiphive(silicon_frames, dft_expansion) -> None:
    """Six displaced frames of silicon to learn from, two to predict."""
    hiphive = pytest.importorskip("hiphive", reason="an independent code, to compare with")
    linear_model = pytest.importorskip("sklearn.linear_model")
    training, held_out = silicon_frames[1:7], silicon_frames[7:]
    ours = force_rmse(fit_structures(dft_expansion, training), held_out)
    space = hiphive.ClusterSpace(bulk("Si", "diamond", a=5.403), list(DFT_CUTOFFS.values()))
    container = hiphive.StructureContainer(space)
    for frame in silicon_frames[1:]:
        structure = silicon_frames[0].copy()
        displacements = frame.positions - structure.positions
        displacements -= displacements.mean(axis=0)
        structure.new_array("displacements", displacements)
        structure.new_array("forces", frame.calc.results["forces"])
        container.add_structure(structure)
    ridge = linear_model.BayesianRidge(fit_intercept=False)
    ridge.fit(*container.get_fit_data(range(6)))
    rows, targets = container.get_fit_data(range(6, 8))
    theirs = float(np.sqrt(np.mean((rows @ ridge.coef_ - targets) ** 2)))
    assert ours < 1.02 * theirs


def test_dft_energies_follow_although_only_forces_were_fitted(
    silicon_frames, dft_expansion
) -> None:
    model = fit_structures(dft_expansion, silicon_frames[1:7])
    predictor = StructurePredictor(model)
    for frame in silicon_frames[7:]:
        energy = predictor.predict(frame)["energy"]
        assert energy == pytest.approx(frame.calc.results["energy"], abs=64 * 0.005)


def test_dft_stress_follows_the_displacements(silicon_frames, dft_expansion) -> None:
    """Stress relative to the ideal crystal's, in eV/Angstrom^3; 0.001 is 1.6 kbar."""
    predictor = StructurePredictor(fit_structures(dft_expansion, silicon_frames[1:7]))
    ideal = silicon_frames[0].calc.results["stress"]
    found, truth = [], []
    for frame in silicon_frames[1:]:
        found.append(predictor.predict(frame)["stress"])
        truth.append(frame.calc.results["stress"] - ideal)
    error = np.sqrt(np.mean(np.square(np.subtract(found, truth))))
    assert error < 0.3 * np.sqrt(np.mean(np.square(truth)))


def test_structures_that_cannot_be_used_are_named(laboratory) -> None:
    teacher, structures = synthetic(laboratory, "polonium", n=2)
    expansion = teacher.model.expansion
    unlabelled = structures[1].copy()
    with pytest.raises(ModelError, match=r"structure 1 .* forces"):
        fit_structures(expansion, [structures[0], unlabelled])
    with pytest.raises(ModelError, match=r"structure 1: .* atoms"):
        fewer = structures[1][:-1]
        fit_structures(expansion, [structures[0], labelled(fewer, np.zeros((26, 3)))])
    with pytest.raises(ModelError, match=r"structure 0: .*finite"):
        fit_structures(expansion, [labelled(unlabelled, np.full((27, 3), np.nan))])
    with pytest.raises(ModelError, match=r"structure 0: .*not a supercell"):
        strained = structures[0].copy()
        strained.set_cell(strained.cell[:] * 1.06, scale_atoms=True)
        fit_structures(expansion, [labelled(strained, np.ones((27, 3)))])
    with pytest.raises(ModelError, match="no labels"):
        fit_structures(expansion, [])
    with pytest.raises(ModelError, match="shape"):
        Trainer(expansion).add(structures[0].cell[:], structures[0].positions, np.zeros((26, 3)))


def test_a_supercell_too_small_for_the_cutoffs_is_refused(laboratory) -> None:
    expansion = laboratory.expansion("polonium")
    small = Supercell(expansion.crystal, np.diag([2, 2, 2])).to_atoms()
    with pytest.raises(ModelError, match=r"structure 0: .*largest cutoff that fits .* 3\.35 "):
        fit_structures(expansion, [labelled(small, np.ones((8, 3)))])


def test_the_stress_of_the_ideal_crystal_is_learnt_from_the_labels_stresses(
    silicon_frames, dft_expansion
) -> None:
    model = fit_structures(dft_expansion, silicon_frames[:7])
    predictor = StructurePredictor(model)
    for frame in silicon_frames[7:]:
        error = predictor.predict(frame)["stress"] - frame.get_stress()
        assert np.sqrt(np.mean(error**2)) < 0.25 * np.abs(frame.get_stress()[:3]).mean()
    assert model.virial_per_cell == pytest.approx(
        np.eye(3) * model.virial_per_cell[0, 0], abs=1e-12
    )


def with_stress(teacher: ForceField, structures: list[Atoms]) -> list[Atoms]:
    """The same structures with the stresses that the random model gives them."""
    predictor = StructurePredictor(teacher.model)
    for atoms in structures:
        atoms.calc.results["stress"] = predictor.predict(atoms)["stress"]
    return structures


@pytest.mark.parametrize(
    ("targets", "n", "tolerance"),
    [(["virials"], 12, 1e-4), (["energies", "virials"], 12, 1e-4), (["energies"], 70, 1e-3)],
)
def test_energies_or_stresses_alone_teach_all_parameters(
    laboratory, targets: list[str], n: int, tolerance: float
) -> None:
    teacher, structures = synthetic(laboratory, "polonium", n=n)
    model = fit_structures(
        teacher.model.expansion, with_stress(teacher, structures), targets=targets
    )
    truth = teacher.model.posterior.mean
    error = np.linalg.norm(model.posterior.mean - truth) / np.linalg.norm(truth)
    assert error < tolerance
    assert list(model.posterior.noise_precisions) == targets


def test_labels_may_give_different_targets(laboratory) -> None:
    teacher, structures = synthetic(laboratory, "silicon", n=5)
    with_stress(teacher, structures)
    for atoms, missing in zip(structures, ("forces", "energy", "stress"), strict=False):
        del atoms.calc.results[missing]
    model = fit_structures(teacher.model.expansion, structures[:4])
    result = StructurePredictor(model).predict(structures[4])
    truth = structures[4].calc.results
    assert np.abs(result["forces"] - truth["forces"]).max() < 1e-5
    assert result["energy"] == pytest.approx(truth["energy"], abs=1e-5)
    assert np.abs(result["stress"] - truth["stress"]).max() < 1e-6


def test_the_noise_of_each_kind_is_found(laboratory) -> None:
    teacher, structures = synthetic(laboratory, "polonium", n=60)
    random = np.random.default_rng(5)
    volume, root = structures[0].get_volume(), np.sqrt(len(structures[0]))
    for atoms in with_stress(teacher, structures):
        results = atoms.calc.results
        results["forces"] = results["forces"] + random.normal(0, 0.3, results["forces"].shape)
        results["energy"] += random.normal(0, 0.02 * root)
        results["stress"] = results["stress"] + random.normal(0, 0.5 * root / volume, 6)
    model = fit_structures(teacher.model.expansion, structures)
    found = {kind: beta**-0.5 for kind, beta in model.posterior.noise_precisions.items()}
    assert found["forces"] == pytest.approx(0.3, rel=0.1)
    assert found["energies"] == pytest.approx(0.02, rel=0.3)
    assert found["virials"] == pytest.approx(0.5, rel=0.2)


def test_errors_of_energy_and_stress_are_calibrated(laboratory) -> None:
    """68 % of new noisy energies and stresses lie within their predictive errors."""
    inside: dict[str, list[np.ndarray]] = {"energy": [], "stress": []}
    teacher, structures = synthetic(laboratory, "polonium", n=100, noise=0.3)
    random = np.random.default_rng(6)
    volume, root = structures[0].get_volume(), np.sqrt(len(structures[0]))
    for atoms in with_stress(teacher, structures):
        atoms.calc.results["energy"] += random.normal(0, 0.02 * root)
        atoms.calc.results["stress"] += random.normal(0, 0.5 * root / volume, 6)
    predictor = StructurePredictor(fit_structures(teacher.model.expansion, structures[:40]))
    for atoms in structures[40:]:
        result = predictor.predict(atoms)
        for name, found in inside.items():
            error = np.abs(result[name] - atoms.calc.results[name])
            found.append(np.ravel(error < result[f"{name}_std_predictive"]))
            assert np.all(result[f"{name}_std"] < result[f"{name}_std_predictive"])
    assert np.mean(inside["energy"]) == pytest.approx(0.683, abs=0.15)
    assert np.mean(inside["stress"]) == pytest.approx(0.683, abs=0.08)


def test_one_energy_fixes_the_energy_of_the_ideal_crystal_and_nothing_else(laboratory) -> None:
    teacher, structures = synthetic(laboratory, "silicon", n=3, noise=0.1)
    for atoms in structures[1:]:
        del atoms.calc.results["energy"]
    model = fit_structures(teacher.model.expansion, structures)
    without = fit_structures(teacher.model.expansion, structures, targets=["forces"])
    np.testing.assert_allclose(model.posterior.mean, without.posterior.mean, rtol=1e-5, atol=1e-9)
    result = StructurePredictor(model).predict(structures[0])
    assert result["energy"] == pytest.approx(structures[0].calc.results["energy"], abs=1e-6)
    assert without.energy_per_cell == 0


def test_unknown_targets_and_labels_without_any_are_refused(laboratory) -> None:
    teacher, structures = synthetic(laboratory, "polonium", n=1)
    with pytest.raises(ModelError, match="charges"):
        Trainer(teacher.model.expansion, targets=["charges"])
    with pytest.raises(ModelError, match="none of the virials"):
        fit_structures(teacher.model.expansion, structures, targets=["virials"])
    structures[0].calc.results["energy"] = np.nan
    with pytest.raises(ModelError, match="finite"):
        fit_structures(teacher.model.expansion, structures)


def test_stress_and_virial_have_opposite_signs_and_ase_order() -> None:
    stress = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    virial = virial_of_stress(stress, 10.0)
    assert virial is not None
    assert np.array_equal(voigt(virial), -10.0 * stress)
    assert np.array_equal(virial, virial_of_stress(-virial / 10.0, 10.0))
    assert virial_of_stress(None, 1.0) is None
