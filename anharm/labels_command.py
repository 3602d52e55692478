"""`anharm labels`: why each label of a run was taken, and what became of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from anharm.errors import ConfigurationError
from anharm.server.record import Label, Record


@dataclass(frozen=True)
class LabelLine:
    """One label and the decision that asked for it.

    Attributes
    ----------
    number : int
    trajectory, step : str, int or None
        Where it was taken; None for initial configurations.
    rule : str
        The rule that decided, "initial", or "harvested" where i-PI itself wanted the answer.
    value, threshold : float or None
        The Bayesian error of the step and what it was compared with, eV/Angstrom; an audit
        compares with nothing.
    mean : float or None
        The trajectory's average error at that step, eV/Angstrom.
    model_version : int or None
        The model that drove the step.
    force_rmse : float or None
        Error of the model's forces before the label was learnt, eV/Angstrom.
    foretold_by : int or None
        The model version whose error that is.
    client : str
        The reference client that computed it.
    seconds : float
    """

    number: int
    trajectory: str | None
    step: int | None
    rule: str
    value: float | None
    threshold: float | None
    mean: float | None
    model_version: int | None
    force_rmse: float | None
    foretold_by: int | None
    client: str
    seconds: float


@dataclass(frozen=True)
class LabelList:
    """The labels of a run, and how many are missing."""

    labels: list[LabelLine]
    quarantined: int
    pending: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for --json."""
        return asdict(self)


def list_labels(directory: Path, export: Path | None = None) -> LabelList:
    """Read the labels of a run, and write them as extended XYZ if a file is named.

    Raises
    ------
    AnharmError
        If there is no readable record, or the file cannot be written.
    """
    with Record.open(directory, read_only=True) as record:
        if export is not None:
            _export(record, directory, export)
        counts = record.request_counts()
        return LabelList(
            labels=[_line(record, label) for label in record.labels()],
            quarantined=sum(1 for _ in record.rejected_labels()),
            pending=sum(number for state, number in counts.items() if state != "labelled"),
        )


def _export(record: Record, directory: Path, path: Path) -> None:
    symbols = record.metadata().get("symbols", "").split()
    if not symbols:
        raise ConfigurationError(
            f"the record in {directory} does not know the species of its atoms, as it was begun "
            "by an earlier version of anharm: resume the run once, and it will"
        )
    record.export_extended_xyz(path, symbols)


def _line(record: Record, label: Label) -> LabelLine:
    request, prediction = label.request, label.prediction
    decision = None if request.decision_id is None else record.decision(request.decision_id)
    return LabelLine(
        number=label.id,
        trajectory=request.trajectory,
        step=request.step,
        rule=decision.rule if decision else request.origin,
        value=decision.value if decision else None,
        threshold=decision.threshold if decision else None,
        mean=decision.mean if decision else None,
        model_version=decision.model_version if decision else None,
        force_rmse=prediction.force_rmse if prediction else None,
        foretold_by=prediction.model_version if prediction else None,
        client=label.answer.client,
        seconds=label.answer.seconds,
    )


def print_labels(found: LabelList, console: Console) -> None:
    """Print one line per label."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("label", "trajectory", "step", "rule"):
        table.add_column(name, justify="right" if name in ("label", "step") else "left")
    for name in ("error\neV/A", "threshold\neV/A", "model", "force RMSE\neV/A", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("client")
    for line in found.labels:
        table.add_row(
            str(line.number),
            line.trajectory or "",
            "" if line.step is None else str(line.step),
            line.rule,
            _number(line.value),
            _number(line.threshold),
            "" if line.model_version is None else str(line.model_version),
            _number(line.force_rmse),
            f"{line.seconds:.2f}",
            line.client,
        )
    console.print(table)
    console.print(
        "error: the model's own, at that step; force RMSE: the true one, before the label was "
        "learnt"
    )
    if found.quarantined:
        console.print(f"{found.quarantined} answers of the reference are in quarantine")
    if found.pending:
        console.print(f"{found.pending} labels were asked for and have not come")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
