"""`anharm fit`: a model from labelled structures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anharm.configuration import load_configuration
from anharm.files import check_output, naming
from anharm.model import BayesianModel, fit_structures, save_model
from anharm.model.determination import (
    describe_determination,
    describe_lack_of_data,
    find_determination,
)
from anharm.server.learner import build_expansion_of
from anharm.structures import read_structures


@dataclass(frozen=True)
class FitReport:
    """What to tell about a fit, line by line."""

    lines: list[str]
    warnings: list[str]


def fit(run_file: Path, labels: Path, output: Path) -> FitReport:
    """Fit the model that [crystal] and [expansion] describe, and write it.

    Raises
    ------
    ConfigurationError
        If run.toml, the labels, or the name of the output cannot be used.
    ModelError
        Naming the structure that is not of this crystal, or if the model cannot be written.
    """
    check_output(output)
    configuration = load_configuration(run_file)
    structures = read_structures(labels)
    n_atoms = max(len(atoms) for atoms in structures)
    expansion = build_expansion_of(configuration, "fit", n_atoms, len(structures))
    with naming(labels):
        model = fit_structures(
            expansion,
            structures,
            configuration.crystal.maximum_displacement,
            {"labels": labels.name, "configuration": configuration.text},
            configuration.training.targets,
        )
    save_model(model, output)
    return _report(model, output)


def _report(model: BayesianModel, output: Path) -> FitReport:
    posterior, expansion = model.posterior, model.expansion
    found = find_determination(posterior, expansion.parameter_orders)
    units = {"forces": "eV/A"}
    noise = [
        f"noise of {kind} {precision**-0.5:.4g} "
        + units.get(kind, "eV per square root of the number of atoms")
        for kind, precision in posterior.noise_precisions.items()
    ]
    lines = [
        f"{model.n_labels} labels, {expansion.n_parameters} parameters",
        *describe_determination(found),
        *noise,
        f"log evidence {posterior.log_evidence:.1f}",
        f"written to {output}",
    ]
    return FitReport(lines, [f"warning: {line}" for line in describe_lack_of_data(found)])
