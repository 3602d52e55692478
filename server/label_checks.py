"""Whether an answer of a reference client can be a label, as a pure function.

A DFT code that failed often answers all the same. What no code could honestly answer is
sorted out here, with the reason in words; the limits are wide, for a label that is only
unusual must pass.
"""

import json
from dataclasses import dataclass

import numpy as np

from anharm.wire.driver_protocol import Configuration, Evaluation


@dataclass(frozen=True)
class LabelLimits:
    """What a label may look like.

    Attributes
    ----------
    net_force, net_force_floor : float
        The forces of a crystal add up to zero. Their mean may be this fraction of the rms
        force, plus a floor (eV/Angstrom) for the grids of DFT codes. Plane-wave codes stay
        a hundred times below; forces of an SCF that stopped early do not.
    force : float
        Largest force on an atom (eV/Angstrom); atoms that are pushed harder are on top of
        each other.
    energy_per_atom : float
        Largest absolute energy per atom (eV); all-electron energies of the heaviest elements
        stay below.
    virial_per_atom : float
        Largest component of the virial per atom (eV); at 20 cubic Angstrom per atom it is
        1600 GPa.
    virial_asymmetry : float
        Largest antisymmetric part of the virial, which is a torque, as a fraction of its
        largest component.
    moved : float
        From this displacement on (Angstrom), an atom of a crystal feels a force.
    """

    net_force: float = 0.1
    net_force_floor: float = 0.02
    force: float = 200.0
    energy_per_atom: float = 1e6
    virial_per_atom: float = 200.0
    virial_asymmetry: float = 0.02
    moved: float = 1e-3


DEFAULT_LIMITS = LabelLimits()


def check_label(
    configuration: Configuration,
    evaluation: Evaluation,
    limits: LabelLimits = DEFAULT_LIMITS,
    *,
    ideal: Configuration | None = None,
) -> list[str]:
    """Return the reasons to put a label into quarantine; none if it is sound.

    Parameters
    ----------
    configuration : Configuration
        What was asked.
    evaluation : Evaluation
        What was answered.
    limits : LabelLimits
    ideal : Configuration, optional
        The ideal crystal, whose forces may vanish; any other configuration's may not.
    """
    forces, virial = evaluation.forces, evaluation.virial
    number_of_atoms = len(configuration.positions)
    if forces.shape != (number_of_atoms, 3) or virial.shape != (3, 3):
        return [
            f"forces of shape {forces.shape} and a virial of shape {virial.shape} for "
            f"{number_of_atoms} atoms"
        ]
    if not (np.isfinite(evaluation.energy) and np.isfinite(forces).all()):
        return ["the energy or a force is not a finite number"]
    if not np.isfinite(virial).all():
        return ["the virial holds numbers that are not finite"]
    return [
        *_check_forces(forces, limits),
        *_check_energy_and_virial(evaluation, number_of_atoms, limits),
        *_check_vanishing_forces(configuration, forces, ideal, limits),
        *_check_convergence(evaluation.extras),
    ]


def has_virial(evaluation: Evaluation) -> bool:
    """Tell whether the virial was computed: codes that cannot, send zeros."""
    return bool(np.any(evaluation.virial))


def _check_forces(forces: np.ndarray, limits: LabelLimits) -> list[str]:
    reasons = []
    norms = np.linalg.norm(forces, axis=1)
    atom = int(np.argmax(norms))
    if norms[atom] > limits.force:
        reasons.append(
            f"the force on atom {atom} is {norms[atom]:.4g} eV/A, above {limits.force:g} eV/A: "
            "atoms on top of each other, or forces in another unit"
        )
    mean = float(np.linalg.norm(forces.mean(axis=0)))
    rms = float(np.sqrt(np.mean(norms**2)))
    largest = limits.net_force * rms + limits.net_force_floor
    if mean > largest:
        reasons.append(
            f"the forces do not add up to zero: {mean:.4g} eV/A per atom, above {largest:.4g} "
            f"({limits.net_force:g} of the rms force {rms:.4g} eV/A, plus "
            f"{limits.net_force_floor:g} eV/A)"
        )
    return reasons


def _check_energy_and_virial(
    evaluation: Evaluation, number_of_atoms: int, limits: LabelLimits
) -> list[str]:
    reasons = []
    energy = evaluation.energy / number_of_atoms
    if abs(energy) > limits.energy_per_atom:
        reasons.append(
            f"the energy is {energy:.4g} eV per atom, beyond {limits.energy_per_atom:g} eV"
        )
    largest = float(np.abs(evaluation.virial).max())
    if largest > limits.virial_per_atom * number_of_atoms:
        reasons.append(
            f"the virial has a component of {largest / number_of_atoms:.4g} eV per atom, above "
            f"{limits.virial_per_atom:g} eV"
        )
    asymmetry = float(np.abs(evaluation.virial - evaluation.virial.T).max()) / 2
    if asymmetry > limits.virial_asymmetry * largest:
        reasons.append(
            f"the virial is not symmetric: {asymmetry:.4g} eV of {largest:.4g} eV, above "
            f"{limits.virial_asymmetry:g}"
        )
    return reasons


def _check_vanishing_forces(
    configuration: Configuration,
    forces: np.ndarray,
    ideal: Configuration | None,
    limits: LabelLimits,
) -> list[str]:
    if ideal is None or np.any(forces):
        return []
    moved = float(np.abs(configuration.positions - ideal.positions).max())
    if moved < limits.moved:
        return []
    return [f"all forces are exactly zero, although atoms have moved by up to {moved:.4g} A"]


def _check_convergence(extras: str) -> list[str]:
    """Believe a code that says itself, in JSON, that it has not converged."""
    try:
        content = json.loads(extras)
    except (ValueError, RecursionError):
        return []
    if isinstance(content, dict) and content.get("converged") is False:
        return ["the reference says that it has not converged"]
    return []
