"""The `anharm` command: one subcommand per process or task."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from anharm import physics_commands, process_commands, run_commands
from anharm._version import __version__
from anharm.command_output import AS_JSON
from anharm.errors import AnharmError
from anharm.process_commands import RUN_FILE, echo_summary
from anharm.serve_command import pes_path, serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anharm")
def cli() -> None:
    """Bayesian lattice-dynamics force fields, trained while i-PI runs."""


def main() -> None:
    """Run the command line; every error a user can cause is one message and an exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    try:
        cli(standalone_mode=False)
    except AnharmError as error:
        click.echo(f"anharm: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as ending:
        sys.exit(ending.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted")
    except OSError as error:  # such as a full disk behind the standard output
        _end(str(error))
    except ImportError as error:  # what compiled modules make of an interruption
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        _end("interrupted")


def _end(why: str) -> NoReturn:
    click.echo(f"anharm: {why}", err=True)
    sys.exit(1)


def _interrupt(number: int, frame: object) -> None:
    """End as after Ctrl-C, so that i-PI, the broker and the clients part in good order."""
    raise KeyboardInterrupt


@cli.command()
@RUN_FILE
@AS_JSON
def plan(run_file: Path, as_json: bool) -> None:
    """Say what RUN.toml asks for: parameters, memory, cost, what is reachable."""
    from anharm.configuration import load_configuration
    from anharm.server.plan import format_plan, make_plan

    found = make_plan(load_configuration(run_file))
    click.echo(json.dumps(found, indent=2) if as_json else format_plan(found))


@cli.command()
@RUN_FILE
@click.option("--resume", is_flag=True, help="Continue the run in the run directory.")
def run(run_file: Path, resume: bool) -> None:
    """Train a force field during an i-PI run, everything supervised."""
    from anharm.configuration import load_configuration
    from anharm.errors import RunFailed
    from anharm.progress import Progress
    from anharm.server.learner import MODEL_FOLDER
    from anharm.server.supervisor import supervise

    logging.getLogger().setLevel(logging.WARNING)
    configuration = load_configuration(run_file)
    directory = configuration.run.directory
    try:
        with Progress() as progress:
            supervise(configuration, resume, progress.show, progress.tell)
    except RunFailed:
        if (directory / MODEL_FOLDER).exists():
            echo_summary(configuration)
        raise
    echo_summary(configuration)


@cli.command()
@RUN_FILE
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    required=True,
    help="Labelled structures (extended XYZ with energy and forces).",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Model file.")
def fit(run_file: Path, labels: Path, output: Path) -> None:
    """Fit a model to labelled structures; needs only [crystal] and [expansion]."""
    from anharm.fit_command import fit as fit_labels

    report = fit_labels(run_file, labels, output)
    for line in report.lines:
        click.echo(line)
    for line in report.warnings:
        click.echo(line, err=True)


@cli.command()
@click.argument("model_file", type=click.Path(path_type=Path), metavar="MODEL.h5")
@click.argument("structures", type=click.Path(path_type=Path), metavar="CONFIGS.xyz")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Extended XYZ.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable statistics.")
def evaluate(model_file: Path, structures: Path, output: Path, as_json: bool) -> None:
    """Energy, forces, stress and force errors of structures in any order of the atoms."""
    from anharm.evaluation import evaluate_structures
    from anharm.files import check_output, naming
    from anharm.model import load_model
    from anharm.structures import read_structures

    check_output(output)
    model, configurations = load_model(model_file), read_structures(structures)
    with naming(structures):
        statistics: dict[str, Any] = evaluate_structures(model, configurations, output)
    if as_json:
        click.echo(json.dumps(statistics, indent=2))
        return
    for key, value in statistics.items():
        click.echo(f"{key.replace('_', ' ')}: {value:.6g}" if value is not None else key)


@cli.command(name="export")
@click.argument("model_file", type=click.Path(path_type=Path), metavar="MODEL.h5")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["phonopy", "phono3py", "shengbte"]),
    required=True,
    help="The program that will read the force constants.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder.")
@click.option(
    "--supercell",
    help="Three multiples or nine integers (rows are the new vectors), in units of the model's "
    "lattice vectors; the smallest that the cutoffs fit into by default.",
)
def export_command(model_file: Path, file_format: str, output: Path, supercell: str | None) -> None:
    """Write the force constants of a model for phonopy, phono3py or ShengBTE."""
    from anharm.export_command import export

    click.echo(export(model_file, file_format, output, supercell))


for command in (
    *process_commands.COMMANDS,
    *run_commands.COMMANDS,
    *physics_commands.COMMANDS,
    serve,
    pes_path,
):
    cli.add_command(command)
