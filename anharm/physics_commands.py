"""The subcommands of `anharm` that take physics out of a trained model."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
MODEL_FILE = click.argument("model_file", type=PATH, metavar="MODEL.h5")
SUPERCELL = click.option("--supercell", help="As for `anharm export`; phonons do not depend on it.")
SPECIAL_POINTS = click.option(
    "--path", help='Special points, such as "GXWKGL"; the standard path by default.'
)
MESH = click.option(
    "--mesh",
    default="50",
    show_default=True,
    help='Wave vectors of the density of states: "20 20 20", or a length in Angstrom.',
)
PROBABILITY = click.option(
    "--probability", default=0.95, show_default=True, help="Of the credible interval."
)


@click.command(name="phonons")
@MODEL_FILE
@click.option(
    "--output", type=PATH, required=True, help="Picture (.pdf, .png, .svg) or table (.csv)."
)
@SUPERCELL
@SPECIAL_POINTS
@click.option("--samples", default=100, show_default=True, help="Drawn from the posterior.")
@PROBABILITY
@click.option(
    "--dos/--no-dos", "density", default=True, show_default=True, help="The density of states."
)
@MESH
@click.option(
    "--compare",
    type=PATH,
    metavar="PHONOPY.yaml",
    help="Phonons of the same crystal by phonopy, such as from finite displacements; FORCE_SETS or "
    "FORCE_CONSTANTS in the file or beside it.",
)
def phonons_command(
    model_file: Path,
    output: Path,
    supercell: str | None,
    path: str | None,
    samples: int,
    probability: float,
    density: bool,
    mesh: str,
    compare: Path | None,
) -> None:
    """Phonon bands and density of states with credible intervals."""
    from anharm.phonons_command import PhononsRequest, phonons

    request = PhononsRequest(supercell, path, samples, probability, density, mesh, compare)
    click.echo(phonons(model_file, output, request))


COMMANDS = (phonons_command,)
