"""`anharm anharmonicity`: the anharmonicity measure sigma_A of files of configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from anharm.anharmonicity_figure import draw
from anharm.errors import ConfigurationError
from anharm.files import PICTURES, check_output, naming, saving
from anharm.model import load_model
from anharm.model.anharmonicity import Anharmonicity, Estimate, anharmonicity
from anharm.model.export.other_phonons import OtherHarmonicForces, load_phonopy
from anharm.options import check_probability
from anharm.structures import read_structures

Results = dict[str, Anharmonicity]


def find_anharmonicity(
    model_file: Path,
    files: Sequence[Path],
    harmonic: Path | None = None,
    n_samples: int = 100,
    probability: float = 0.95,
    output: Path | None = None,
) -> Results:
    """Measures by file name; drawn into `output` if one is given.

    Raises
    ------
    ConfigurationError
        If a file cannot be read or an option not be used.
    ModelError
        Naming the file, if its structures are not of the model's crystal.
    RunFailed
        If the picture cannot be written.
    """
    check_probability(probability)
    if n_samples < 2:
        raise ConfigurationError(f"--samples {n_samples} are too few for an interval: at least 2")
    if output is not None:
        check_output(output, PICTURES)
    model = load_model(model_file)
    second = OtherHarmonicForces(load_phonopy(harmonic)) if harmonic is not None else None
    results = {}
    for file in files:
        structures = read_structures(file)
        with naming(file):
            results[str(file)] = anharmonicity(model, structures, n_samples, probability, second)
    if output is not None:
        with saving(output):
            draw(results).savefig(output)
    return results


def as_dict(results: Results) -> dict[str, Any]:
    """Plain numbers and strings, for --json."""
    return {name: _plain(found) for name, found in results.items()}


def _plain(found: Anharmonicity) -> dict[str, Any]:
    return {
        "configurations": found.n_configurations,
        "rms_force": found.rms_force,
        "sigma_reference": None if found.reference is None else _estimate(found.reference),
        "sigma_model": _estimate(found.model),
        "remaining_after_order": {str(n): value for n, value in found.remaining.items()},
        "contribution_of_order": {str(n): value for n, value in found.contributions.items()},
        "sigma_by_element": found.by_element,
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "sampling_error": estimate.sampling_error,
        "interval": list(estimate.interval),
    }


def print_anharmonicity(results: Results, console: Console) -> None:
    """The measure of each file of configurations, and what each order has to do with it."""
    measures = Table(title="anharmonicity σ = rms(F - F2) / rms(F)", title_justify="left")
    for heading in ("file", "frames", "rms F", "F of the reference", "F of the model", "elements"):
        measures.add_column(heading)
    for name, found in results.items():
        measures.add_row(
            Path(name).stem,
            str(found.n_configurations),
            f"{found.rms_force:.3f}",
            "-" if found.reference is None else _text(found.reference),
            _text(found.model),
            " ".join(f"{symbol} {value:.3f}" for symbol, value in found.by_element.items()),
        )
    console.print(measures)
    orders = sorted({n for found in results.values() for n in found.contributions})
    by_order = Table(title="by order of the expansion", title_justify="left")
    for heading in ("file", "", *map(str, orders)):
        by_order.add_column(heading)
    for name, found in results.items():
        rows = {"share": found.contributions, "left": found.remaining}
        for kind, values in rows.items():
            if values:
                numbers = (f"{values[n]:.4f}" if n in values else "" for n in orders)
                by_order.add_row(Path(name).stem if kind == "share" else "", kind, *numbers)
    console.print(by_order)
    console.print(_EXPLANATION, style="dim")


def _text(estimate: Estimate) -> str:
    lower, upper = estimate.interval
    return f"{estimate.value:.3f} ± {estimate.sampling_error:.3f} [{lower:.3f}, {upper:.3f}]"


_EXPLANATION = (
    "rms F in eV/Angstrom; ± from the number of configurations, [] credible interval of the "
    "posterior. Share of order n: rms(F_n) / rms(F), both of the model. Left after order n: "
    "rms(F of the reference - the model's forces up to order n) / rms(F)."
)
