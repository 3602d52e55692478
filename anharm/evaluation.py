"""`anharm evaluate`: predictions for a file of structures, compared with labels it may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from anharm.errors import ModelError
from anharm.files import saving
from anharm.model import BayesianModel, StructurePredictor


def evaluate_structures(
    model: BayesianModel, structures: list[Atoms], output: Path
) -> dict[str, Any]:
    """Write predictions as extended XYZ and return statistics.

    Parameters
    ----------
    model : BayesianModel
    structures : list of ase.Atoms
        In any order of the atoms; answers keep it.
    output : Path
        Standard keys energy, forces, stress, and the arrays `force_std` (epistemic) and
        `force_std_predictive` (with what the expansion leaves out), eV/Angstrom; likewise
        `energy_std` (eV), `stress_std` (eV/Angstrom^3) and their predictive counterparts as
        numbers of each frame.

    Returns
    -------
    dict
        Number of structures and errors in eV/Angstrom; if there are labels, the force RMSE and the
        fractions of force components within 1 and 1.96 predictive standard deviations.

    Raises
    ------
    ModelError
        Naming the structure that cannot be predicted.
    RunFailed
        If the output cannot be written.
    """
    predictor = StructurePredictor(model)
    answers, squares, scores, largest = [], [], [], 0.0
    for index, atoms in enumerate(structures):
        try:
            results = predictor.predict(atoms)
        except ModelError as error:
            raise ModelError(f"structure {index}: {error}") from error
        known = atoms.calc.results if atoms.calc is not None else {}
        if "forces" in known:
            errors = results["forces"] - known["forces"]
            squares.append(np.mean(errors**2))
            scores.append(np.abs(errors / results["force_std_predictive"]).ravel())
        answers.append(_with_results(atoms, results))
        largest = max(largest, float(results["force_std"].max()))
    with saving(output):
        write(output, answers, format="extxyz")
    statistics: dict[str, Any] = {
        "structures": len(structures),
        "largest_force_std": largest,
    }
    if squares:
        statistics["labelled_structures"] = len(squares)
        statistics["force_rmse"] = float(np.sqrt(np.mean(squares)))
        every = np.concatenate(scores)
        statistics["coverage_68"] = float(np.mean(every < 1))
        statistics["coverage_95"] = float(np.mean(every < 1.96))
    return statistics


def _with_results(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    answer = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    for name in ("force_std", "force_std_predictive"):
        answer.arrays[name] = results[name]
    for name in ("energy_std", "energy_std_predictive", "stress_std", "stress_std_predictive"):
        if name in results:
            answer.info[name] = results[name]
    answer.calc = SinglePointCalculator(
        answer, energy=results["energy"], forces=results["forces"], stress=results["stress"]
    )
    return answer
