"""Time per MD step with the model inside i-PI's process, against a PES that does nothing.

    python benchmarks/ffdirect.py [--repeats 3]

Silicon, cutoffs 5.0/4.0/3.5 and 6.0/4.5/3.5 Angstrom, learnt from the Tersoff potential; both
force fields in one script, in turn. Times are CPU times of i-PI's process, so that waiting for
other programs is not counted; ratios are those of the fastest of fifty short blocks of steps.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from anharm.clients.calculators import make_calculator
from anharm.model import Crystal, Supercell, build_expansion, fit_structures, save_model

I_PI = Path(sys.executable).parent / "i-pi"
PRIMITIVE = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
CUTOFFS = ({2: 5.0, 3: 4.0, 4: 3.5}, {2: 6.0, 3: 4.5, 4: 3.5})
SYSTEMS = ((2, 32, 4), (2, 1, 50), (3, 1, 40))  # multiple of the cubic cell, beads, steps
BLOCKS = 50

DO_NOTHING = """
__DRIVER_NAME__ = "nothing"
__DRIVER_CLASS__ = "Nothing"


class Nothing:
    def __init__(self, **parameters):
        pass

    def __call__(self, cell, pos):
        if isinstance(cell, list):
            return [self(*one) for one in zip(cell, pos)]
        return 0.0, 0.0 * pos, 0.0 * cell, ""
"""

INPUT = """<simulation verbosity='low' safe_stride='1000'>
  <output prefix='speed'><properties stride='1000'> [ step, potential ] </properties></output>
  <total_steps> {steps} </total_steps>
  <ffdirect name='pes'>
    <pes> custom </pes> <pes_path> {path} </pes_path>
    <parameters> {parameters} </parameters> <batch_size> {beads} </batch_size>
  </ffdirect>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 100 </velocities>
    </initialize>
    <forces> <force forcefield='pes'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.5 </timestep>
        <thermostat mode='{thermostat}'><tau units='femtosecond'> 100 </tau></thermostat>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 100 </temperature> </ensemble>
  </system>
</simulation>
"""
# Without the start: the first steps compile, and i-PI reads its input.
RUN = """
import sys, time
from ipi.engine.simulation import Simulation
simulation = Simulation.load_from_xml(open("input.xml"))
simulation.tsteps = {warm}
simulation.run()
for _ in range({blocks}):
    simulation.step = simulation.tsteps
    simulation.tsteps += {steps}
    started = time.process_time()
    simulation.run(write_outputs=False)
    print("seconds", time.process_time() - started, file=sys.stderr)
"""


def write_model(folder: Path, cutoffs: dict[int, float]) -> Crystal:
    """Learnt from the Tersoff potential, three configurations of 216 atoms."""
    crystal = Crystal.from_atoms(bulk("Si", "diamond", a=5.432))
    supercell = Supercell(crystal, 3 * PRIMITIVE)
    labels = []
    for seed in range(3):
        atoms = Atoms(supercell.numbers, supercell.positions, cell=supercell.lattice, pbc=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = make_calculator("tersoff-silicon")
        atoms.get_forces()
        labels.append(atoms)
    model = fit_structures(build_expansion(crystal, cutoffs), labels)
    save_model(model, folder / "model.h5")
    return crystal


def write_structure(folder: Path, crystal: Crystal, multiple: int) -> int:
    supercell = Supercell(crystal, multiple * PRIMITIVE)
    lengths = np.linalg.norm(supercell.lattice, axis=1)
    lines = [
        str(supercell.n_atoms),
        "# CELL(abcABC): {:.10f} {:.10f} {:.10f} 90 90 90 positions{{angstrom}} "
        "cell{{angstrom}}".format(*lengths),
        *("Si {:.10f} {:.10f} {:.10f}".format(*position) for position in supercell.positions),
    ]
    (folder / "init.xyz").write_text("\n".join(lines) + "\n")
    return supercell.n_atoms


def seconds_per_step(folder: Path, path: Path, parameters: str, beads: int, steps: int) -> float:
    thermostat = "langevin" if beads == 1 else "pile_l"
    (folder / "input.xml").write_text(
        INPUT.format(
            steps=steps, path=path, parameters=parameters, beads=beads, thermostat=thermostat
        )
    )
    code = RUN.format(warm=20, blocks=BLOCKS, steps=steps)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(r"^seconds ([\d.e-]+)", done.stderr, re.MULTILINE)
    if len(found) != BLOCKS:
        raise SystemExit(done.stdout + done.stderr)
    return min(map(float, found)) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    import anharm.clients

    shim = Path(anharm.clients.__file__).with_name("ipi_pes.py")
    print("atoms beads cutoffs          nothing ms  no errors ms  ratio  with errors ms  ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nothing.py").write_text(DO_NOTHING)
        for cutoffs in CUTOFFS:
            crystal = write_model(folder, cutoffs)
            for multiple, beads, steps in SYSTEMS:
                if Supercell(crystal, multiple * PRIMITIVE).half_width < cutoffs[2]:
                    continue
                n_atoms = write_structure(folder, crystal, multiple)
                kinds = (
                    (Path("nothing.py"), "{ }"),
                    (shim, "{ model: model.h5, extras: none }"),
                    (shim, "{ model: model.h5, extras: force_std_max }"),
                )
                times = np.min(
                    [
                        [seconds_per_step(folder, *kind, beads, steps) for kind in kinds]
                        for _ in range(repeats)
                    ],
                    axis=0,
                )
                nothing, without, with_errors = 1e3 * times
                print(
                    f"{n_atoms:5d} {beads:5d} {'/'.join(map(str, cutoffs.values())):15s} "
                    f"{nothing:11.3f} {without:13.3f} {without / nothing:6.2f} "
                    f"{with_errors:15.3f} {with_errors / nothing:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
