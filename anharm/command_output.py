"""How commands show what they found: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 180  # characters, where no terminal would cut the lines

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def show(
    as_json: bool, as_dict: Callable[[], dict[str, Any]], print_to: Callable[[Console], None]
) -> None:
    """Print the one or the other."""
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(as_dict(), indent=2))
    else:
        print_to(Console(width=None if sys.stdout.isatty() else _WIDTH))


def say_written(output: Path | None, as_json: bool, what: str = "") -> None:
    """Say where a file went; JSON has the standard output for itself."""
    if output is not None:
        click.echo(f"{what}written to {output}", err=as_json)
