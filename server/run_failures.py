"""What the user is told of a run that did not come to its end, and how to go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anharm.configuration import RunConfiguration
from anharm.errors import AnharmError, ConfigurationError, RunFailed
from anharm.server.processes import ManagedProcess
from anharm.server.record_database import FILE_NAME


class Interrupted(RunFailed):
    """The user stopped the run."""


def interrupted(configuration: RunConfiguration) -> Interrupted:
    """The error of a run that the user stopped, told when no child can change it any more."""
    again = f"`anharm run {configuration.path}"
    if (configuration.run.directory / FILE_NAME).exists():
        return Interrupted(f"interrupted; all labels are kept, and {again} --resume` continues")
    return Interrupted(f"interrupted before anything was computed; {again}` begins again")


def died(child: ManagedProcess, run_file: Path) -> AnharmError:
    """The error of a child that ended before its time."""
    go_on = (
        "All labels are kept; put right what is wrong, and continue with `anharm run "
        f"{run_file} --resume`"
    )
    error = child.last_error()
    if error:  # of our own making, so it says what to do
        kind = ConfigurationError if child.exit_code == 2 else RunFailed
        return kind(f"{child.name}: {error}\n{go_on}")
    words = child.last_words()
    end = f"The end of {child.log}:\n{words}" if words else f"It printed nothing ({child.log})"
    command = " ".join(child.command)
    return RunFailed(f"{child.name} {child.how_it_ended} ({command}). {go_on}. {end}")


def words_of_references(references: Sequence[ManagedProcess], run_file: Path) -> str:
    """What the reference clients said last, and how to go on."""
    ends = [
        f"\n{child.name} said last ({child.log}):\n{child.last_error() or child.last_words(3)}"
        for child in references
    ]
    return (
        f". Put right what is wrong, and continue with `anharm run {run_file} "
        f"--resume`; all labels are kept.{''.join(ends)}"
    )
