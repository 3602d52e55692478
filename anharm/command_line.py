"""The `anharm` command: one subcommand per process or task."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anharm import physics_commands
from anharm._version import __version__
from anharm.errors import AnharmError
from anharm.serve_command import pes_path, serve

if TYPE_CHECKING:
    from anharm.configuration import RunConfiguration

RUN_FILE = click.argument("run_file", type=click.Path(path_type=Path), metavar="RUN.toml")
RUN_DIRECTORY = click.argument(
    "directory", type=click.Path(path_type=Path), metavar="RUN_DIRECTORY"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anharm")
def cli() -> None:
    """Bayesian lattice-dynamics force fields, trained while i-PI runs."""


cli.add_command(serve)
cli.add_command(pes_path)


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
            _echo_summary(configuration)
        raise
    _echo_summary(configuration)


def _echo_summary(configuration: RunConfiguration) -> None:
    from anharm.server.summary import format_summary, summarise

    directory = configuration.run.directory
    click.echo(format_summary(summarise(directory, configuration.training.window), directory))


@cli.command()
@RUN_FILE
@click.option("--resume", is_flag=True, help="Continue the record in the run directory.")
def broker(run_file: Path, resume: bool) -> None:
    """Run the uncertainty broker alone."""
    from anharm.configuration import load_configuration
    from anharm.server.broker_process import run_broker

    configuration = load_configuration(run_file)
    run_broker(configuration, resume)
    _echo_summary(configuration)


@cli.command()
@RUN_FILE
@click.option("--trajectory", help="Name of this MD run, needed if there are several.")
def client(run_file: Path, trajectory: str | None) -> None:
    """Run a lattice client alone: it serves i-PI with the broker's model."""
    import numpy as np

    from anharm.clients.lattice import run_lattice_client
    from anharm.configuration import load_configuration
    from anharm.server.engine_runs import address_of, extras_sent, read_engine_runs
    from anharm.wire.addresses import parse_address

    configuration = load_configuration(run_file)
    runs = read_engine_runs(configuration)
    name, address = address_of(runs, trajectory)
    run_lattice_client(
        parse_address(address),
        configuration.run.broker_endpoint,
        np.array(configuration.crystal.supercell),
        trajectory=name,
        maximum_displacement=configuration.crystal.maximum_displacement,
        connection_limit=configuration.run.connection_limit,
        keys=configuration.run.keys,
        threads=configuration.run.threads,
        extras=extras_sent(configuration, runs),
        maximum_strain=configuration.crystal.maximum_strain,
    )


@cli.command()
@RUN_FILE
@click.option("--forcefield", help="Name of the <ffsocket>, needed if there are several.")
def relay(run_file: Path, forcefield: str | None) -> None:
    """Run a relay alone: it serves i-PI with the reference's forces, and records them."""
    from anharm.clients.relay import run_relay
    from anharm.configuration import load_configuration
    from anharm.server.engine_runs import read_engine_runs, relayed_socket
    from anharm.wire.addresses import parse_address

    configuration = load_configuration(run_file)
    socket = relayed_socket(read_engine_runs(configuration), forcefield)
    run_relay(
        parse_address(socket.address),
        configuration.run.broker_endpoint,
        socket.label,
        connection_limit=configuration.run.connection_limit,
        keys=configuration.run.keys,
    )


@cli.command(
    name="i-pi", context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="INPUT.xml")
def engine_command(arguments: tuple[str, ...]) -> None:
    """Run i-PI so that it survives clients that die; arguments are i-PI's own."""
    from anharm.server.engine_launcher import run_engine

    run_engine(arguments)


@cli.command()
@RUN_FILE
def reference(run_file: Path) -> None:
    """Run a reference client alone: the ASE calculator of [reference.calculator]."""
    from anharm.clients.calculators import make_calculator
    from anharm.clients.reference import run_reference_client
    from anharm.configuration import load_configuration
    from anharm.errors import ConfigurationError
    from anharm.server.engine_runs import read_engine_runs
    from anharm.wire.addresses import parse_address

    configuration = load_configuration(run_file)
    configuration.require("engine", "reference")
    assert configuration.reference is not None
    section = configuration.reference
    if section.calculator is None:
        raise ConfigurationError(
            f"{run_file}: there is no [reference.calculator] for `anharm reference` to run; add "
            'one, for example name = "tersoff-silicon", or start your own code with address '
            f"{section.address}"
        )
    engine = read_engine_runs(configuration)[0].engine
    run_reference_client(
        parse_address(section.address),
        engine.structure,
        make_calculator(
            section.calculator.name, section.calculator.parameters, configuration.path.parent
        ),
        connection_deadline=section.connection_limit,
        failures_allowed=section.attempts - 1,
    )


@cli.command()
@RUN_FILE
def cluster(run_file: Path) -> None:
    """Start reference clients on other nodes through Parsl: [reference.cluster]."""
    from anharm.configuration import load_configuration
    from anharm.server.cluster import run_cluster

    run_cluster(load_configuration(run_file))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIRECTORY")
def keys(folder: Path) -> None:
    """Make the keys that a broker reachable from other hosts needs (run.keys)."""
    from anharm.wire.curve_keys import make_keys

    for file in make_keys(folder):
        click.echo(file)
    click.echo(
        "Another host that runs `anharm client` needs broker.key and client.key_secret; "
        "broker.key_secret stays with the broker."
    )


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


@cli.command(name="labels")
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


@cli.command(name="convergence")
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


@cli.command(name="report")
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


@cli.command(name="watch")
@RUN_DIRECTORY
@click.option("--once", is_flag=True, help="Show how the run stands now, and end.")
def watch_command(directory: Path, once: bool) -> None:
    """Watch a run in the terminal; q or Ctrl-C ends the watching, not the run."""
    from anharm.watch_command import watch

    try:
        watch(directory, once)
    except KeyboardInterrupt:
        click.echo("the run goes on; nobody watches it", err=True)


for physics_command in physics_commands.COMMANDS:
    cli.add_command(physics_command)
