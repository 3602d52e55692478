"""`anharm serve` and `anharm pes-path`: a finished model as i-PI's force field, with no broker."""

from __future__ import annotations

from pathlib import Path

import click

from anharm.errors import ConfigurationError

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model_file", type=PATH, metavar="MODEL.h5")
@click.option("--input", "engine_input", type=PATH, help="i-PI's input: address and species.")
@click.option("--forcefield", help="Name of the <ffsocket> in it, if there are several.")
@click.option(
    "--address", help="Where i-PI listens, without --input: unix:NAME or tcp://HOST:PORT."
)
@click.option(
    "--structure", type=PATH, help="Names the species in i-PI's order of atoms, without --input."
)
@click.option("--extras", help='Names separated by blanks, or "none".')
@click.option("--committee", type=int, help="Members, an even number (8 by default).")
@click.option("--maximum-displacement", type=click.FloatRange(0, 10, min_open=True))
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--connection-limit", type=click.FloatRange(0, 1e8), default=60.0, show_default=True)
def serve(
    model_file: Path,
    engine_input: Path | None,
    forcefield: str | None,
    address: str | None,
    structure: Path | None,
    extras: str | None,
    committee: int | None,
    maximum_displacement: float | None,
    threads: int,
    connection_limit: float,
) -> None:
    """Serve i-PI with a model file: production, with no broker and no training."""
    from anharm.clients.served_model import ServedModel, StandaloneClient, serve_model
    from anharm.extras import parse_extras
    from anharm.model import load_model
    from anharm.server.engine_input import read_engine_input
    from anharm.structures import read_species
    from anharm.wire.addresses import parse_address
    from anharm.wire.driver_protocol import Configuration

    if (engine_input is None) == (address is None):
        raise ConfigurationError(
            "give either --input, an i-PI input with its <ffsocket>, or --address, where it listens"
        )
    engine = None if engine_input is None else read_engine_input(engine_input, forcefield)
    numbers = None if structure is None else read_species(structure)
    if engine is not None:
        numbers = engine.structure.numbers
    client = StandaloneClient(
        ServedModel(
            load_model(model_file),
            parse_extras(extras, committee),
            numbers,
            maximum_displacement,
            threads,
        )
    )
    if engine is not None:  # what does not fit is found before i-PI waits for an answer
        start = engine.structure
        client.evaluate(Configuration(start.cell.array, start.positions))
    where = engine.address if engine is not None else str(address)
    serve_model(parse_address(where), client, connection_limit)


@click.command(name="pes-path")
def pes_path() -> None:
    """Print the path of the file for <pes_path> in i-PI's <ffdirect>."""
    import anharm.clients

    click.echo(Path(anharm.clients.__file__).with_name("ipi_pes.py"))
