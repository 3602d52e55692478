"""What a run directory says about its run, beside the record itself."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from anharm.configuration import TrainingSection
from anharm.errors import ConfigurationError
from anharm.server.record_database import FILE_NAME, LOCK_NAME

_REMOTE_SECONDS = 60.0


@dataclass(frozen=True)
class RunSettings:
    """The part of a run's configuration that is needed to look at it later.

    Attributes
    ----------
    training : TrainingSection
    maximum_displacement : float or None
        Angstrom.
    engine_inputs : tuple of str
        i-PI's inputs, relative to the run directory.
    synchronous : bool
    text : str
        The whole run.toml.
    """

    training: TrainingSection
    maximum_displacement: float | None
    engine_inputs: tuple[str, ...]
    synchronous: bool
    text: str


def run_settings(directory: Path, metadata: Mapping[str, str]) -> RunSettings:
    """Read the settings of a run from its record's metadata.

    Raises
    ------
    ConfigurationError
        If this version of anharm cannot read them.
    """
    text = metadata.get("configuration", "")
    try:
        table = tomllib.loads(text)
        training = TrainingSection.model_validate(table.get("training", {}))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigurationError(
            f"the configuration that the record in {directory} keeps cannot be read by this "
            f"version of anharm: {error}"
        ) from error
    return RunSettings(
        training=training,
        maximum_displacement=table.get("crystal", {}).get("maximum_displacement"),
        engine_inputs=_engine_inputs(table.get("engine", {}).get("input", [])),
        synchronous=table.get("run", {}).get("mode", "synchronous") == "synchronous",
        text=text,
    )


def is_running(directory: Path) -> bool:
    """Whether a broker holds the run directory.

    The lock is only looked at, never taken, so that a broker that starts meanwhile is not
    disturbed. On another host, a broker lives that has written within the last minute.
    """
    path = directory / LOCK_NAME
    try:
        owner = path.read_text(encoding="ascii", errors="replace").split()
        inode = path.stat().st_ino
    except OSError:
        return False
    if not owner or not owner[0].isdigit():
        return False
    if len(owner) > 2 and owner[2] != os.uname().nodename:
        return time.time() - _last_change(directory) < _REMOTE_SECONDS
    try:
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return _is_alive(int(owner[0]))
    # For example: 1: FLOCK  ADVISORY  WRITE 708 fd:00:131117 0 EOF
    return any(
        words[1] == "FLOCK" and words[5].rsplit(":", 1)[-1] == str(inode)
        for words in map(str.split, locks)
        if len(words) > 5 and words[1] != "->"
    )


def _last_change(directory: Path) -> float:
    """When the record was written last, seconds since 1970."""
    paths = [directory / (FILE_NAME + end) for end in ("", "-wal")]
    return max(path.stat().st_mtime for path in paths if path.exists())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _engine_inputs(entry: str | list[str]) -> tuple[str, ...]:
    """The inputs, relative to the run directory, where each of several has a folder."""
    paths = [Path(entry)] if isinstance(entry, str) else [Path(one) for one in entry]
    return tuple(str(Path(p.stem) / p.name) if len(paths) > 1 else p.name for p in paths)
