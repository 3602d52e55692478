"""Files that commands read and write: what is wrong with them is said with their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anharm.errors import ConfigurationError, ModelError, RunFailed

PICTURES = (".pdf", ".png", ".svg")
TABLE = ".csv"


def check_output(output: Path, endings: Sequence[str] = (), option: str = "--output") -> None:
    """Refuse the name of a file that cannot be written, before anything is computed.

    Parameters
    ----------
    output : Path
    endings : sequence of str
        Those that the name may have, if not any.
    option : str
        By which the user gave the name.

    Raises
    ------
    ConfigurationError
    """
    if endings and output.suffix not in endings:
        raise ConfigurationError(f"{option} {output}: end its name in {', '.join(endings)}")
    if output.is_dir():
        raise ConfigurationError(f"{option} {output} is a folder: name a file in it")
    if not output.parent.is_dir():
        raise ConfigurationError(
            f"{option} {output}: the folder {output.parent} does not exist: make it, or name a "
            "file elsewhere"
        )


@contextmanager
def saving(output: Path) -> Iterator[None]:
    """Say which file cannot be written.

    Raises
    ------
    RunFailed
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(f"cannot write {output}: {error.strerror or error}") from error


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Say which file holds the structures that a model cannot use.

    Raises
    ------
    ModelError
    """
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
