"""`anharm report`: one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from anharm.convergence_command import ConvergenceCurve, find_convergence
from anharm.errors import AnharmError
from anharm.files import check_output, saving
from anharm.report_page import ReportInput, render
from anharm.server.engine_properties import read_properties
from anharm.server.run_data import read_run
from anharm.server.run_directory import is_running

_FRAMES = 40  # per trajectory, replayed for the convergence curve


def report(directory: Path, output: Path | None = None, with_replay: bool = True) -> str:
    """Write the page and return a line that says where it is.

    Parameters
    ----------
    directory : Path
        The run directory.
    output : Path, optional
        `report.html` in the run directory by default.
    with_replay : bool
        Whether to evaluate every model version on the recorded configurations.

    Raises
    ------
    AnharmError
        If there is no readable record, or the page cannot be written.
    """
    if output is not None:
        check_output(output)
    run = read_run(directory)
    curve, why = _replayed(directory) if with_replay else (None, "it was not asked for")
    page = render(
        ReportInput(
            run=run,
            is_running=is_running(directory),
            properties=read_properties(
                directory, run.settings.engine_inputs, ("temperature", "conserved")
            ),
            curve=curve,
            why_no_curve=why,
        )
    )
    output = output or directory / "report.html"
    unfinished = output.with_name(output.name + ".new")
    with saving(output):
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(output)
    return f"written to {output} ({len(page.encode()) / 1e6:.2f} MB)"


def _replayed(directory: Path) -> tuple[ConvergenceCurve | None, str]:
    """The curve, or why there is none; a report of a young or damaged run has its use, too."""
    try:
        return find_convergence(directory, largest=_FRAMES), ""
    except AnharmError as error:
        return None, str(error)
