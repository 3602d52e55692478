"""Trajectories in files: those that i-PI wrote, and any that ASE reads."""

from __future__ import annotations

from pathlib import Path

from anharm.errors import ConfigurationError
from anharm.ipi_frames import frame_texts, is_of_ipi, read_frame
from anharm.server.replay import Trajectory, evenly
from anharm.structures import read_structures


def read_trajectory(path: Path, largest: int) -> Trajectory:
    """Read a file of configurations, at most so many of them, evenly chosen.

    Parameters
    ----------
    path : Path
        i-PI's own xyz with the cell and the units in the comment line, or what ASE reads.
    largest : int

    Raises
    ------
    ConfigurationError
        If the file is missing or cannot be read.
    """
    if not is_of_ipi(path):
        structures = read_structures(path)
        chosen = evenly(len(structures), largest)
        return Trajectory(path.name, [structures[i] for i in chosen], len(structures))
    with path.open() as file:
        n_frames = sum(1 for _ in frame_texts(file))
    chosen = evenly(n_frames, largest)
    with path.open() as file:
        wanted = set(chosen)
        frames = [read_frame(path, b) for n, b in enumerate(frame_texts(file)) if n in wanted]
    if not frames:
        raise ConfigurationError(f"{path} holds no complete configuration yet")
    return Trajectory(path.name, frames, n_frames)
