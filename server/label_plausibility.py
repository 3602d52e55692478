"""Whether an answer can be true, judged by physics and by what the model has learnt.

Wrong units, wrong signs and atoms in another order give forces that are finite, add up to zero
and have a plausible size. What gives them away is what the forces belong to: a crystal pushes its
atoms back, and the model of earlier labels knows roughly how hard.
"""

import numpy as np

from anharm.wire.driver_protocol import Configuration, Evaluation

# Forces of a code that were read in another unit, or with another sign, by their ratio.
KNOWN_RATIOS = {
    -1.0: "the sign is wrong: a gradient instead of a force?",
    51.422: "Hartree/bohr read as eV/Angstrom?",
    1 / 51.422: "eV/Angstrom read as Hartree/bohr?",
    25.711: "Rydberg/bohr read as eV/Angstrom?",
    1 / 25.711: "eV/Angstrom read as Rydberg/bohr?",
    2.0: "Hartree and Rydberg, or bohr and Angstrom, mixed up?",
    0.5: "Hartree and Rydberg, or bohr and Angstrom, mixed up?",
    27.211: "Hartree read as eV?",
    1 / 27.211: "eV read as Hartree?",
}
LEAST_RESTORING = 0.1  # of the cosine between forces and displacements; crystals have 0.5 to 1
LARGEST_STIFFNESS = 300.0  # eV/Angstrom^2; the strongest bonds have half of it
LEAST_CORRELATION = 0.9  # from which on the ratio of two sets of forces means something
LARGEST_RATIO = 1.7
LEAST_SURPRISE = 3.0  # predictive standard deviations; a model that is not sure refuses nothing
CONFIDENT = 0.2  # predictive error relative to the forces
UNRELATED = 0.3  # correlation


def check_restoring(
    configuration: Configuration, evaluation: Evaluation, ideal: Configuration
) -> list[str]:
    """Return what speaks against the forces of a slightly displaced crystal.

    Such a crystal pushes its atoms back on the whole: minus F.u is twice its energy, and positive.

    Parameters
    ----------
    configuration, ideal : Configuration
        What was asked, and the ideal crystal, which must not feel forces.
    evaluation : Evaluation
        What was answered.
    """
    displacements = configuration.positions - ideal.positions
    displacements = displacements - displacements.mean(axis=0)
    forces = evaluation.forces - evaluation.forces.mean(axis=0)
    size, force = float(np.linalg.norm(displacements)), float(np.linalg.norm(forces))
    if size == 0 or force == 0 or not np.allclose(configuration.cell, ideal.cell, atol=1e-6):
        return []
    work = -float(np.sum(forces * displacements))
    cosine, stiffness = work / (size * force), work / size**2
    if cosine < LEAST_RESTORING:
        return [
            f"the forces do not push the atoms back to their sites (cosine {cosine:.2f} between "
            f"the forces and the way back, expected above {LEAST_RESTORING:g}): a wrong sign, or "
            "atoms in another order"
        ]
    if stiffness > LARGEST_STIFFNESS:
        return [
            f"the crystal would be {stiffness:.3g} eV/A^2 stiff, which nothing is (limit "
            f"{LARGEST_STIFFNESS:g}): forces in another unit"
        ]
    return []


def check_against_prediction(
    forces: np.ndarray, predicted: np.ndarray, predictive_std: np.ndarray
) -> list[str]:
    """Return what speaks against forces in the light of the model before it learns them.

    Parameters
    ----------
    forces, predicted : ndarray, shape (N, 3)
        eV/Angstrom.
    predictive_std : ndarray, shape (N, 3)
        The standard deviation that the model expects of their difference, eV/Angstrom.
    """
    scale, size = float(np.linalg.norm(predicted)), float(np.linalg.norm(forces))
    expected = float(np.linalg.norm(predictive_std))
    is_expected = float(np.linalg.norm(forces - predicted)) <= LEAST_SURPRISE * expected
    if scale == 0 or size == 0 or is_expected:
        return []
    correlation = float(np.sum(forces * predicted)) / (scale * size)
    ratio = correlation * size / scale
    if abs(correlation) > LEAST_CORRELATION and not 1 / LARGEST_RATIO < ratio < LARGEST_RATIO:
        return [
            f"the forces are {ratio:.4g} times those that the model expects (correlation "
            f"{correlation:.3f}){_explanation(ratio)}"
        ]
    if expected < CONFIDENT * scale and correlation < UNRELATED:
        return [
            "the forces have nothing to do with those that the model expects to within "
            f"{expected / scale:.0%} (correlation {correlation:.2f}): atoms in another order?"
        ]
    return []


def _explanation(ratio: float) -> str:
    for known, words in KNOWN_RATIOS.items():
        if abs(ratio / known - 1) < 0.15:
            return f": {words}"
    return ": another unit?"
