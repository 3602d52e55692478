"""The subcommands of `anharm` that read the record of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

RUN_DIRECTORY = click.argument(
    "directory", type=click.Path(path_type=Path), metavar="RUN_DIRECTORY"
)


@click.command(name="labels")
@RUN_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.option(
    "--xyz", "export", type=click.Path(path_type=Path), help="Write the labels there, extended XYZ."
)
def labels_command(directory: Path, as_json: bool, export: Path | None) -> None:
    """Show why each label of a run was taken: rule, error, threshold, and what it taught."""
    from rich.console import Console

    from anharm import labels_command as command

    found = command.list_labels(directory, export)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        width = None if sys.stdout.isatty() else 160  # no terminal would cut the lines
        command.print_labels(found, Console(width=width))
    if export is not None:
        click.echo(f"{len(found.labels)} labels written to {export}", err=as_json)


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
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def convergence_command(
    directory: Path, files: tuple[Path, ...], frames: int, output: Path | None, as_json: bool
) -> None:
    """Show how the error fell with the labels: every model version on the same configurations."""
    from rich.console import Console

    from anharm import convergence_command as command

    if output is not None:
        command.check_picture_name(output)
    curve = command.find_convergence(directory, files, frames, show_progress=sys.stderr.isatty())
    if as_json:
        click.echo(json.dumps(curve.as_dict(), indent=2))
    else:
        command.print_convergence(curve, Console())
    if output is not None:
        command.write_picture(curve, output)
        click.echo(f"written to {output}", err=as_json)


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
