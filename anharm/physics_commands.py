"""The subcommands of `anharm` that take physics out of a trained model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from anharm.command_output import AS_JSON, say_written, show

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
SAMPLES = click.option(
    "--samples", default=100, show_default=True, help="Drawn from the posterior."
)
PROBABILITY = click.option(
    "--probability", default=0.95, show_default=True, help="Of the credible interval."
)
DENSITY = click.option(
    "--dos/--no-dos", "density", default=True, show_default=True, help="The density of states."
)


@click.command(name="phonons")
@MODEL_FILE
@click.option(
    "--output", type=PATH, required=True, help="Picture (.pdf, .png, .svg) or table (.csv)."
)
@SUPERCELL
@SPECIAL_POINTS
@SAMPLES
@PROBABILITY
@DENSITY
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


@click.command(name="anharmonicity")
@MODEL_FILE
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="CONFIGS.xyz...")
@click.option(
    "--harmonic",
    type=PATH,
    metavar="PHONOPY.yaml",
    help="Take the harmonic forces from phonopy's force constants of the same supercell, instead "
    "of the model's second order.",
)
@SAMPLES
@PROBABILITY
@click.option("--output", type=PATH, help="Picture (.pdf, .png, .svg).")
@AS_JSON
def anharmonicity_command(
    model_file: Path,
    files: tuple[Path, ...],
    harmonic: Path | None,
    samples: int,
    probability: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Anharmonicity measure of thermal configurations, by order of the expansion."""
    from anharm import anharmonicity_command as command

    found = command.find_anharmonicity(model_file, files, harmonic, samples, probability, output)
    show(as_json, partial(command.as_dict, found), partial(command.print_anharmonicity, found))
    say_written(output, as_json)


@click.command(name="conductivity")
@MODEL_FILE
@click.option("--temperatures", default="300", show_default=True, help='K, such as "200 300 600".')
@click.option(
    "--mesh",
    default="35",
    show_default=True,
    help='Wave vectors: "11 11 11", or a length in Angstrom. Converge it.',
)
@click.option(
    "--direct", is_flag=True, help="Solve the linearised Boltzmann equation, not relaxation times."
)
@click.option("--isotopes", is_flag=True, help="Scattering by the natural mixture of isotopes.")
@SUPERCELL
@click.option(
    "--samples", default=0, show_default=True, help="Drawn from the posterior; each costs as much."
)
@PROBABILITY
@click.option(
    "--compare",
    type=PATH,
    metavar="PHONO3PY.yaml",
    help="Force constants of the same crystal by phono3py, such as from its displacements; in the "
    "file or beside it.",
)
@click.option("--output", type=PATH, help="Picture (.pdf, .png, .svg).")
@AS_JSON
def conductivity_command(
    model_file: Path,
    temperatures: str,
    mesh: str,
    direct: bool,
    isotopes: bool,
    supercell: str | None,
    samples: int,
    probability: float,
    compare: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Lattice thermal conductivity from orders 2 and 3, by phono3py."""
    from anharm import conductivity_command as command

    request = command.ConductivityRequest(
        temperatures, mesh, direct, isotopes, supercell, samples, probability, compare
    )
    found = command.find_conductivity(model_file, request, output)
    show(
        as_json,
        partial(command.as_dict, found, probability),
        partial(command.print_conductivity, found, probability),
    )
    say_written(output, as_json)


@click.command(name="effective-phonons")
@MODEL_FILE
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="CONFIGS.xyz...")
@click.option("--output", type=PATH, required=True, help="Picture (.pdf, .png, .svg).")
@click.option(
    "--forces",
    type=click.Choice(["reference", "model"]),
    default="reference",
    show_default=True,
    help="Fit to the forces in the files, or to the model's own.",
)
@SPECIAL_POINTS
@SAMPLES
@PROBABILITY
@DENSITY
@MESH
@click.option("--save", type=PATH, metavar="DIR", help="Keep the effective models there (.h5).")
@AS_JSON
def effective_command(
    model_file: Path,
    files: tuple[Path, ...],
    output: Path,
    forces: str,
    path: str | None,
    samples: int,
    probability: float,
    density: bool,
    mesh: str,
    save: Path | None,
    as_json: bool,
) -> None:
    """Harmonic phonons that fit the forces of thermal configurations best, beside those at rest."""
    from anharm import effective_command as command

    from_model = forces == "model"
    request = command.EffectiveRequest(from_model, path, samples, probability, density, mesh, save)
    found = command.find_effective(model_file, files, output, request)
    show(
        as_json,
        partial(command.as_dict, found, probability),
        partial(command.print_effective, found, probability),
    )
    say_written(output, as_json)


COMMANDS = (phonons_command, anharmonicity_command, conductivity_command, effective_command)
