"""What an expansion leaves out grows with the displacements, and its size is known."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.model import (
    ForceField,
    StructurePredictor,
    Supercell,
    build_expansion,
    fit_structures,
)
from anharm.model.crystal import Crystal, identify_supercell
from anharm.model.noise import estimate_noise, leave_out
from anharm.model.sites import assign_sites

DATA = Path(__file__).parents[1] / "data"


def powers(amplitudes: np.ndarray) -> np.ndarray:
    return amplitudes[:, None] ** np.arange(5)


def test_the_variance_law_of_synthetic_residuals_is_recovered() -> None:
    random = np.random.default_rng(1)
    amplitudes = random.uniform(0.1, 2, 40_000)
    true = 1e-4 + 3e-2 * amplitudes + 2e-2 * amplitudes**2
    known = random.uniform(0, 0.01, len(true))
    squares = (true + known) * random.standard_normal(len(true)) ** 2
    noise = estimate_noise(squares, powers(amplitudes), known)
    probe = np.linspace(0.4, 1.9, 12)
    expected = 1e-4 + 3e-2 * probe + 2e-2 * probe**2
    assert noise.variances(powers(probe)) == pytest.approx(expected, rel=0.06)


def test_intervals_hold_what_they_promise_with_normal_residuals_and_with_heavy_tails() -> None:
    random = np.random.default_rng(2)
    amplitudes = random.uniform(0.3, 1.5, 40_000)
    std = np.sqrt(1e-2 + 3e-2 * amplitudes**2)
    shapes = powers(amplitudes)
    for draws, bound in (
        (random.standard_normal(len(std)), 0.004),
        (np.sqrt(3 / 5) * random.standard_t(5, len(std)), 0.03),
    ):
        residuals = std * draws
        noise = estimate_noise(residuals**2, shapes, np.zeros(len(std)), heavy_tails=True)
        ratios = np.abs(residuals) / np.sqrt(noise.variances(shapes))
        assert np.mean(ratios < 1) == pytest.approx(0.683, abs=bound)
        assert np.mean(ratios < 1.96) == pytest.approx(0.95, abs=bound)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
@settings(max_examples=30, deadline=None)
def test_variances_are_positive_grow_with_the_amplitude_and_scale_with_the_forces(
    seed: int, unit: float
) -> None:
    random = np.random.default_rng(seed)
    amplitudes = random.uniform(0, 5, 500)
    squares = (1 + amplitudes) ** 2 * random.standard_normal(500) ** 2
    noise = estimate_noise(squares, powers(amplitudes), np.zeros(500))
    probe = powers(np.linspace(0, 10, 20))
    variances = noise.variances(probe)
    assert np.all(variances > 0) and np.all(np.diff(variances) >= 0)
    scaled = estimate_noise(squares * unit**2, powers(amplitudes), np.zeros(500))
    assert scaled.variances(probe) == pytest.approx(variances * unit**2, rel=1e-6)
    assert scaled.weights(probe) == pytest.approx(noise.weights(probe), rel=1e-6)


@pytest.mark.parametrize(("n_left_out", "n_parameters"), [(4, 9), (20, 9)])
def test_a_label_left_out_shows_what_a_fit_without_it_shows(
    n_left_out: int, n_parameters: int
) -> None:
    random = np.random.default_rng(n_left_out)
    rows = random.standard_normal((60, n_parameters))
    targets = rows @ random.standard_normal(n_parameters) + 0.3 * random.standard_normal(60)
    beta, alpha = 1 / 0.3**2, 0.7

    def fit(used: slice) -> tuple[np.ndarray, np.ndarray]:
        precision = alpha * np.eye(n_parameters) + beta * rows[used].T @ rows[used]
        covariance = np.linalg.inv(precision)
        return beta * covariance @ rows[used].T @ targets[used], covariance

    mean, covariance = fit(slice(None))
    chosen = slice(0, n_left_out)
    spread = np.sqrt(beta) * rows[chosen] @ np.linalg.cholesky(covariance)
    residuals = np.sqrt(beta) * (targets[chosen] - rows[chosen] @ mean)
    unseen, variances = leave_out(spread, residuals)
    mean, covariance = fit(slice(n_left_out, None))
    expected = targets[chosen] - rows[chosen] @ mean
    assert unseen / np.sqrt(beta) == pytest.approx(expected, rel=1e-5)
    epistemic = np.einsum("ij,jk,ik->i", rows[chosen], covariance, rows[chosen])
    assert variances / beta == pytest.approx(epistemic, rel=1e-5)


@pytest.fixture(scope="module")
def held_out_silicon():
    """Standardised errors of held-out DFT forces by displacement, for every split of 8 frames."""
    frames = read(DATA / "si64_qe_lda_gamma_20Ry.xyz", index=":")
    ideal, labelled = frames[0], frames[1:]
    half = 5.403 / 2
    lattice = half * (np.ones((3, 3)) - np.eye(3))
    crystal = Crystal(lattice, np.array([[0, 0, 0], [0.25] * 3]), np.array([14, 14]))
    expansion = build_expansion(crystal, {2: 5.0, 3: 4.0, 4: 3.5})
    supercell = Supercell(expansion.crystal, identify_supercell(crystal, ideal.cell[:]))
    assignment = assign_sites(supercell, ideal.positions, ideal.numbers)
    found: dict[float, list] = {}
    for left_out in combinations(range(len(labelled)), 2):
        train = [f for i, f in enumerate(labelled) if i not in left_out]
        force_field = ForceField(fit_structures(expansion, train), supercell)
        for index in left_out:
            frame = labelled[index]
            moved = assignment.displacements(frame.positions)[None]
            prediction = force_field.predict(moved, errors=False, virial=False)
            error = assignment.to_user_order(prediction.forces[0]) - frame.get_forces()
            std = assignment.to_user_order(force_field.predictive_force_std(moved)[0])
            found.setdefault(float(frame.info["std"]), []).append((error, std))
    return found


@pytest.mark.parametrize(
    ("displacement", "constant_noise"), [(0.07, 0.91), (0.10, 0.75), (0.13, 0.49)]
)
def test_held_out_dft_forces_lie_in_the_interval_more_honestly_than_with_constant_noise(
    held_out_silicon, displacement: float, constant_noise: float
) -> None:
    pairs = held_out_silicon[displacement]
    inside = np.mean([np.abs(error) < std for error, std in pairs])
    assert abs(inside - 0.683) < abs(constant_noise - 0.683)
    assert inside == pytest.approx(0.683, abs=0.08)
    within_95 = np.mean([np.abs(error) < 1.96 * std for error, std in pairs])
    assert within_95 == pytest.approx(0.95, abs=0.03)


def test_small_displacements_are_predicted_better_than_with_constant_weights(
    held_out_silicon,
) -> None:
    """With one weight for all targets the same splits give 0.0784 eV/A."""
    errors = np.stack([error for error, _ in held_out_silicon[0.07]])
    assert np.sqrt((errors**2).mean(axis=(1, 2))).mean() < 0.073


@pytest.mark.parametrize(
    ("name", "lattice_constant", "numbers", "cutoffs"),
    [
        ("si64_qe_lda_gamma_20Ry", 5.403, [14, 14], {2: 5.0, 3: 4.0, 4: 3.5}),
        ("bas64_qe_lda_gamma_40Ry", 4.718, [5, 33], {2: 4.6, 3: 3.5, 4: 2.5, 5: 2.5, 6: 2.5}),
    ],
)
def test_intervals_of_new_dft_frames_hold_at_small_and_large_displacements(
    name: str, lattice_constant: float, numbers: list[int], cutoffs: dict[int, float]
) -> None:
    """Of all frames of a size, in the mean over choices of those that are learnt from."""
    lattice = lattice_constant / 2 * (np.ones((3, 3)) - np.eye(3))
    crystal = Crystal(lattice, np.array([[0, 0, 0], [0.25] * 3]), np.array(numbers))
    expansion = build_expansion(crystal, cutoffs)
    learnt = read(DATA / f"{name}.xyz", index="1:")
    frames = learnt + read(DATA / "held_out" / f"{name}.xyz", index=":")
    sizes = np.array([float(frame.info["std"]) for frame in frames])
    random = np.random.default_rng(0)
    found: dict[int, list] = {}
    for _ in range(5):
        chosen: list[int] = []
        for size in np.unique(sizes):
            members = random.permutation(np.flatnonzero(sizes == size))
            chosen += members[: np.sum(sizes[: len(learnt)] == size)].tolist()
        predictor = StructurePredictor(fit_structures(expansion, [frames[i] for i in chosen]))
        for index in set(range(len(frames))).difference(chosen):
            result = predictor.predict(frames[index])
            error = result["forces"] - frames[index].get_forces()
            found.setdefault(index, []).append(np.abs(error) / result["force_std_predictive"])
    for size in np.unique(sizes):
        tested = [np.array(ratios) for index, ratios in found.items() if sizes[index] == size]
        within = [(np.mean(ratios < 1), np.mean(ratios < 1.96)) for ratios in tested]
        assert np.mean(within, axis=0)[0] == pytest.approx(0.683, abs=0.05)
        assert np.mean(within, axis=0)[1] == pytest.approx(0.95, abs=0.03)


def test_a_target_that_alone_determines_a_parameter_is_left_out_in_spite_of_rounding():
    """The energy of the ideal crystal is such a target: its leverage is 1, or a little more."""
    spread = np.diag([1.0 + 1e-7, 0.5, 0.25])
    unseen, variances = leave_out(spread, np.array([0.0, 0.75, 1.0]))
    expected = [0.75 / (1 - 0.5**2), 1.0 / (1 - 0.25**2)]
    np.testing.assert_allclose(unseen, [0.0, *expected], rtol=1e-6)
    np.testing.assert_allclose(variances[1:], [1 / 0.75 - 1, 1 / 0.9375 - 1], rtol=1e-6)
    assert variances[0] > 1e6


def test_few_residuals_are_not_too_sure_of_displacements_larger_than_theirs():
    """The likeliest sum of powers is: its intervals of 95 % hold 93 % here."""
    random = np.random.default_rng(2)
    stds = []
    for _ in range(200):
        amplitudes = random.uniform(0.1, 1, 30)
        variances = 0.01 + amplitudes + amplitudes**3
        squares = variances * random.standard_normal(30) ** 2
        noise = estimate_noise(squares, powers(amplitudes), np.zeros(30))
        stds.append(np.sqrt(noise.variances(powers(np.array([1.2])))[0]))
    errors = np.sqrt(0.01 + 1.2 + 1.2**3) * random.standard_normal((100, 200))
    assert np.mean(np.abs(errors) < 1.96 * np.array(stds)) > 0.95
