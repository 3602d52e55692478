"""How far atoms are from their sites as SnSe is heated, and what tells Pnma from Cmcm.

    python benchmarks/heating.py inputs/snse/run-heating.toml [--windows 11]
    python benchmarks/heating.py inputs/snse/run-600K.toml --frames FRAMES.xyz

Of the run's own trajectory (at fixed cell), or of other configurations: the rms displacement from
the sites, the largest, by how much the atoms of each element are shifted along the third axis
from where Cmcm would have them (multiples of half the lattice vector), with the sign of their site,
and by how much the two layers of the cell have slid against each other along that axis.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np

from anharm.configuration import load_configuration
from anharm.model import Crystal, Supercell
from anharm.model.sites import assign_sites
from anharm.server.engine_properties import read_properties
from anharm.server.engine_runs import read_engine_runs

FloatArray = np.ndarray


def main() -> None:
    """Print a line per window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run.toml")
    parser.add_argument("--windows", type=int, default=11)
    parser.add_argument("--frames", type=Path, help="extended XYZ, in the place of the trajectory")
    words = parser.parse_args()
    configuration = load_configuration(words.run)
    (run,) = read_engine_runs(configuration)
    crystal = Crystal.from_atoms(ase.io.read(configuration.crystal.primitive))
    supercell = Supercell(crystal, np.array(configuration.crystal.supercell))
    start = run.engine.structure
    sites = supercell.positions[
        assign_sites(supercell, start.positions, np.array(start.numbers)).sites
    ]
    directory = configuration.run.directory
    if words.frames:
        frames = ase.io.read(words.frames, ":")
        temperatures = np.full(len(frames), run.engine.temperature)
    else:
        (path,) = directory.glob(f"{run.engine.output_prefix}.pos_0.xyz")
        frames = ase.io.read(path, ":", format="xyz")
        wanted = "ensemble_temperature"
        tables = read_properties(directory, [run.engine.path.name], [wanted])
        temperatures = (
            tables[0].columns[wanted] if tables else np.full(len(frames), run.engine.temperature)
        )
    moved = np.array([frame.positions for frame in frames]) - sites
    moved -= np.round(moved @ np.linalg.inv(supercell.lattice)) @ supercell.lattice
    shifts = shifts_along_third_axis(crystal, sites)
    lower = sites[:, 0] % crystal.lattice[0, 0] < crystal.lattice[0, 0] / 2
    n_frames = min(len(frames), len(temperatures))  # a killed run may have written one of the two
    for window in np.array_split(np.arange(n_frames), 1 if words.frames else words.windows):
        distances = np.linalg.norm(moved[window], axis=2)
        mean = moved[window].mean(axis=0)[:, 2]
        text = [
            f"{symbol} {np.mean(np.sign(shifts[own]) * (shifts[own] + mean[own])):.2f}"
            for symbol in dict.fromkeys(start.get_chemical_symbols())
            for own in [np.array(start.get_chemical_symbols()) == symbol]
        ]
        slid = mean[lower].mean() - mean[~lower].mean()
        print(
            f"{temperatures[window[0]]:.0f} to {temperatures[window[-1]]:.0f} K: "
            f"rms displacement {np.sqrt(np.mean(distances**2)):.3f} Angstrom, "
            f"largest {distances.max():.2f}, beyond 0.9 Angstrom {np.mean(distances > 0.9):.2%}; "
            f"shift {', '.join(text)}; layers slid by {slid:.2f}"
        )


def shifts_along_third_axis(crystal: Crystal, sites: FloatArray) -> FloatArray:
    """Of each site from the nearest multiple of half the third lattice vector, Angstrom."""
    length = crystal.lattice[2, 2]
    halves = sites[:, 2] / (length / 2)
    shifts: FloatArray = (halves - np.round(halves)) * length / 2
    return shifts


if __name__ == "__main__":
    main()
