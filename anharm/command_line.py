"""The `anharm` command: one subcommand per process or task."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import click

from anharm import physics_commands, process_commands, run_commands
from anharm._version import __version__
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
        click.echo("anharm: interrupted", err=True)
        sys.exit(1)


def _interrupt(number: int, frame: object) -> None:
    """End as after Ctrl-C, so that i-PI, the broker and the clients part in good order."""
    raise KeyboardInterrupt


@cli.command()
@RUN_FILE
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
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
    from anharm.configuration import load_configuration
    from anharm.model import fit_structures, save_model
    from anharm.model.determination import (
        describe_determination,
        describe_lack_of_data,
        find_determination,
    )
    from anharm.server.learner import build_expansion_of
    from anharm.structures import read_structures

    configuration = load_configuration(run_file)
    structures = read_structures(labels)
    n_atoms = max(len(atoms) for atoms in structures)
    expansion = build_expansion_of(configuration, "fit", n_atoms, len(structures))
    model = fit_structures(
        expansion,
        structures,
        configuration.crystal.maximum_displacement,
        {"labels": labels.name, "configuration": configuration.text},
        configuration.training.targets,
    )
    save_model(model, output)
    posterior = model.posterior
    click.echo(f"{model.n_labels} labels, {expansion.n_parameters} parameters")
    found = find_determination(posterior, expansion.parameter_orders)
    for line in describe_determination(found):
        click.echo(line)
    for line in describe_lack_of_data(found):
        click.echo(f"warning: {line}", err=True)
    for kind, precision in posterior.noise_precisions.items():
        unit = "eV/A" if kind == "forces" else "eV per square root of the number of atoms"
        click.echo(f"noise of {kind} {precision**-0.5:.4g} {unit}")
    click.echo(f"log evidence {posterior.log_evidence:.1f}")
    click.echo(f"written to {output}")


@cli.command()
@click.argument("model_file", type=click.Path(path_type=Path), metavar="MODEL.h5")
@click.argument("structures", type=click.Path(path_type=Path), metavar="CONFIGS.xyz")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Extended XYZ.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable statistics.")
def evaluate(model_file: Path, structures: Path, output: Path, as_json: bool) -> None:
    """Energy, forces, stress and force errors of structures in any order of the atoms."""
    from anharm.evaluation import evaluate_structures
    from anharm.model import load_model
    from anharm.structures import read_structures

    statistics: dict[str, Any] = evaluate_structures(
        load_model(model_file), read_structures(structures), output
    )
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
