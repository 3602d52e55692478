"""Where i-PI goes on: the newest whole checkpoint in the run's directory.

i-PI writes RESTART when it ends in good order, and its <checkpoint> files as it goes. After a
kill RESTART is missing or old, and the file that was being written may be cut off.
"""

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from anharm.server.engine_input import LARGEST_INPUT

DEFAULT_PREFIX, DEFAULT_CHECKPOINT = "i-pi", "checkpoint"  # without <output>, as i-PI does
DEFAULT_FILE_NAME = "restart"  # of a <checkpoint> without a filename
RESUMED_INPUT = "resumed.xml"

_TOTAL_STEPS = re.compile(r"<total_steps>\s*(\d+)\s*</total_steps>")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its file, and the step that i-PI makes next."""

    path: Path
    step: int


def newest_checkpoint(directory: Path, engine_input: Path) -> Checkpoint | None:
    """Return the checkpoint that lies furthest in the run, or None if there is none.

    Parameters
    ----------
    directory : Path
        Where i-PI runs.
    engine_input : Path
        The i-PI input, which names the checkpoint files.
    """
    found = [
        Checkpoint(path, step)
        for path in _candidates(directory, engine_input)
        if (step := _step_of(path)) is not None
    ]
    return max(found, key=lambda c: (c.step, c.path.stat().st_mtime), default=None)


def _candidates(directory: Path, engine_input: Path) -> list[Path]:
    """RESTART and every <checkpoint> file, numbered ones (overwrite='False') included."""
    root = ElementTree.parse(engine_input).getroot()
    output = root.find("output")
    prefix, names = DEFAULT_PREFIX, [DEFAULT_CHECKPOINT]
    if output is not None:
        prefix = output.get("prefix", DEFAULT_PREFIX).strip()
        names = [c.get("filename", DEFAULT_FILE_NAME).strip() for c in output.iter("checkpoint")]
    paths = {directory / "RESTART"}
    for name in names:
        file = directory / (f"{prefix}.{name}" if prefix else name)
        numbered = file.parent.glob(f"{glob.escape(file.name)}_*")
        paths |= {file, *(p for p in numbered if p.name.rpartition("_")[2].isdigit())}
    return sorted(path for path in paths if path.is_file())


def _step_of(path: Path) -> int | None:
    """The step of a checkpoint; None if the file is not whole."""
    try:
        if path.stat().st_size > LARGEST_INPUT:
            return None
        root = ElementTree.parse(path).getroot()
        # i-PI counts from the step it stores; a checkpoint without one has made none.
        return int(root.findtext("step", "0")) if root.tag == "simulation" else None
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def without_total_steps(text: str) -> str:
    """An i-PI input with its number of steps blanked: a run may be made longer."""
    return _TOTAL_STEPS.sub("<total_steps/>", text)


def with_total_steps(text: str, total_steps: int) -> str:
    """A checkpoint that goes on to another number of steps."""
    return _TOTAL_STEPS.sub(f"<total_steps>{total_steps}</total_steps>", text)
