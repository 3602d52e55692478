"""The subcommands of `anharm` that start one process each, for runs put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from anharm.configuration import RunConfiguration

RUN_FILE = click.argument("run_file", type=click.Path(path_type=Path), metavar="RUN.toml")


def echo_summary(configuration: RunConfiguration) -> None:
    """Say what a run has reached."""
    from anharm.server.summary import format_summary, summarise

    directory, training = configuration.run.directory, configuration.training
    click.echo(format_summary(summarise(directory, training.window), directory, training.rule))


@click.command()
@RUN_FILE
@click.option("--resume", is_flag=True, help="Continue the record in the run directory.")
def broker(run_file: Path, resume: bool) -> None:
    """Run the uncertainty broker alone."""
    from anharm.configuration import load_configuration
    from anharm.server.broker_process import run_broker

    configuration = load_configuration(run_file)
    run_broker(configuration, resume)
    echo_summary(configuration)


@click.command()
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


@click.command()
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


@click.command(
    name="i-pi", context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="INPUT.xml")
def engine_command(arguments: tuple[str, ...]) -> None:
    """Run i-PI so that it survives clients that die; arguments are i-PI's own."""
    from anharm.server.engine_launcher import run_engine

    run_engine(arguments)


@click.command()
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


@click.command()
@RUN_FILE
def cluster(run_file: Path) -> None:
    """Start reference clients on other nodes through Parsl: [reference.cluster]."""
    from anharm.configuration import load_configuration
    from anharm.server.cluster import run_cluster

    run_cluster(load_configuration(run_file))


@click.command()
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


COMMANDS = (broker, client, relay, engine_command, reference, cluster, keys)
