"""Why an i-PI that ended in good order ended: its motion is done, or something stopped it.

i-PI exits with 0 in either case, so its own words tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anharm.server.engine_restart import newest_checkpoint
from anharm.server.engine_runs import EngineRun

STOP_FILE = "EXIT"  # i-PI ends when a file of this name is in its folder

_SUCCESS = "I-PI reports success"
_END = f"Exiting cleanly. {_SUCCESS}"  # of the steps, by EXIT or by <total_time>
_STOP_FILE_SEEN = "EXIT file detected"
_TIME_IS_OVER = ("Maximum wallclock time elapsed", "Wall clock time expired")


def why_incomplete(run: EngineRun, directory: Path, has_printed: Callable[[str], bool]) -> str:
    """Say why an i-PI made fewer steps than it was told to; empty if its motion is done.

    Parameters
    ----------
    run : EngineRun
    directory : Path
        Of the whole run.
    has_printed : callable
        Whether a text stands in i-PI's output.
    """
    folder, total = run.folder(directory), run.engine.total_steps
    reached = newest_checkpoint(folder, run.engine.path)
    if reached is None or reached.step >= total:
        return ""
    if has_printed(_SUCCESS) and not has_printed(_END):
        return ""  # an optimisation that converged, all phonons
    if has_printed(_STOP_FILE_SEEN):
        reason = f"a file named {STOP_FILE} was put into {folder}"
    elif any(map(has_printed, _TIME_IS_OVER)):
        reason = f"the <total_time> in {run.engine.path} was over"
    else:
        reason = "it was told to, by a signal or by its own kind of motion"
    return f"{run.label} ended after {reached.step} of {total} steps: {reason}"


def remove_stop_file(folder: Path) -> bool:
    """Remove what would end an i-PI that starts there at its first step; whether it was there.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    path = folder / STOP_FILE
    if not path.exists():
        return False
    path.unlink()
    return True
