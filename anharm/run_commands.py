"""The subcommands of `anharm` that read the record of a run."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from anharm.command_output import AS_JSON, say_written, show
from anharm.files import PICTURES, check_output, saving

RUN_DIRECTORY = click.argument(
    "directory", type=click.Path(path_type=Path), metavar="RUN_DIRECTORY"
)


@click.command(name="labels")
@RUN_DIRECTORY
@AS_JSON
@click.option(
    "--xyz", "export", type=click.Path(path_type=Path), help="Write the labels there, extended XYZ."
)
def labels_command(directory: Path, as_json: bool, export: Path | None) -> None:
    """Show why each label of a run was taken: rule, error, threshold, and what it taught."""
    from anharm import labels_command as command

    if export is not None:
        check_output(export, option="--xyz")
    found = command.list_labels(directory, export)
    show(as_json, found.as_dict, partial(command.print_labels, found))
    say_written(export, as_json, f"{len(found.labels)} labels ")


@click.command(name="convergence")
@RUN_DIRECTORY
@click.option(
    "--configurations",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Replay these instead of the configurations that the record keeps: i-PI's own xyz, or "
    "what ASE reads; may be repeated.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Configurations per trajectory, evenly chosen.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Picture (.pdf, .png, .svg).")
@AS_JSON
def convergence_command(
    directory: Path, files: tuple[Path, ...], frames: int, output: Path | None, as_json: bool
) -> None:
    """Show how the error fell with the labels: every model version on the same configurations."""
    from anharm import convergence_command as command

    if output is not None:
        check_output(output, PICTURES)
    curve = command.find_convergence(directory, files, frames, show_progress=sys.stderr.isatty())
    show(as_json, curve.as_dict, partial(command.print_convergence, curve))
    if output is not None:
        with saving(output):
            command.draw(curve).savefig(output)
    say_written(output, as_json)


@click.command(name="report")
@RUN_DIRECTORY
@click.option(
    "--output", type=click.Path(path_type=Path), help="report.html in RUN_DIRECTORY by default."
)
@click.option(
    "--replay/--no-replay",
    default=True,
    show_default=True,
    help="Evaluate every model version on the recorded configurations (takes longest).",
)
def report_command(directory: Path, output: Path | None, replay: bool) -> None:
    """Write one HTML page about a run: errors, labels, convergence, calibration, timings."""
    from anharm.report_command import report

    click.echo(report(directory, output, replay))


@click.command(name="watch")
@RUN_DIRECTORY
@click.option("--once", is_flag=True, help="Show how the run stands now, and end.")
def watch_command(directory: Path, once: bool) -> None:
    """Watch a run in the terminal; q or Ctrl-C ends the watching, not the run."""
    from anharm.watch_command import watch

    try:
        watch(directory, once)
    except KeyboardInterrupt:
        click.echo("the run goes on; nobody watches it", err=True)


COMMANDS = (labels_command, convergence_command, report_command, watch_command)
