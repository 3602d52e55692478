"""Path integrals of a finished model on real i-PI, and honest averages of what it writes.

Shared by `quantum_harmonic.py` and `mean_square_displacement.py`.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
from ipi.utils.units import Elements

from anharm.model import BayesianModel, ForceField, Supercell
from anharm.wire.addresses import connect, parse_address
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation, Evaluations

INPUT = """<simulation verbosity='quiet'>
  <output prefix='run'>
    <properties filename='out' stride='{stride}' flush='1000'>
      [ step, potential{{electronvolt}}, kinetic_cv{{electronvolt}} ] </properties>
  </output>
  <total_steps> {steps} </total_steps>
  <prng><seed> {seed} </seed></prng>
  <ffsocket name='lattice' mode='unix' pbc='False'>
    <address> {address} </address> <latency> 1e-5 </latency> <batch_size> {beads} </batch_size>
  </ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces> <force forcefield='lattice'/> </forces>
    <motion mode='dynamics'>
      <fixcom> True </fixcom>
      <dynamics mode='nvt' splitting='baoab'>
        <timestep units='femtosecond'> {timestep} </timestep>
        <thermostat mode='pile_l'><tau units='femtosecond'> 50 </tau></thermostat>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> {temperature} </temperature> </ensemble>
  </system>
</simulation>
"""
STRIDE = 5  # steps between samples
EQUILIBRATION = 1000.0  # fs


@dataclass(frozen=True, eq=False)
class Samples:
    """What a path-integral run gave after its equilibration, one entry per sample.

    Attributes
    ----------
    energies : (n,) float
        Potential plus centroid-virial kinetic energy of the vibrations, eV. i-PI's estimator adds
        3/2 kT for every atom, also for the centre of mass, which `fixcom` holds: it is taken off.
    squares : (n, n_atoms) float
        Square distances from the site per Cartesian component, averaged over the beads, each
        bead's centre of mass being at rest; Angstrom^2.
    differences : (n,) float
        Energy of `compared` minus that of the force field, averaged over the beads, eV.
    """

    energies: np.ndarray
    squares: np.ndarray
    differences: np.ndarray


def masses_of(supercell: Supercell) -> np.ndarray:
    """The masses that i-PI gives to the atoms, atomic mass units."""
    return np.array([Elements.mass_list[name] for name in supercell.to_atoms().symbols])


def harmonic_part(model: BayesianModel) -> BayesianModel:
    """The model without its parameters of orders above 2."""
    kept = model.expansion.parameter_orders == 2
    mean = np.where(kept, model.posterior.mean, 0.0)
    return replace(model, posterior=replace(model.posterior, mean=mean), energy_per_cell=0.0)


def sample(
    force_field: ForceField,
    temperature: float,
    beads: int,
    steps: int,
    timestep: float = 1.0,
    seed: int = 31415,
    compared: ForceField | None = None,
) -> Samples:
    """Run i-PI (PILE-L) with a force field, all beads of a step in one batch.

    Parameters
    ----------
    force_field : ForceField
    temperature : float
        K.
    beads, steps : int
    timestep : float
        fs.
    seed : int
        Runs with the same seed have the same random forces.
    compared : ForceField, optional
        Another one, whose energies are computed of the same configurations.
    """
    address = parse_address(f"unix:anharm-benchmark-{uuid4().hex}")
    server = _Server(force_field, compared, beads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_structure(folder / "init.xyz", force_field.supercell)
        text = INPUT.format(
            stride=STRIDE, steps=steps, seed=seed, beads=beads, temperature=temperature,
            timestep=timestep, address=address.path.removeprefix("/tmp/ipi_"),
        )  # fmt: skip
        (folder / "input.xml").write_text(text)
        engine = subprocess.Popen(
            [Path(sys.executable).parent / "i-pi", "input.xml"],
            cwd=folder, stdout=(folder / "log").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            serve(connect(address, 120), server.one, evaluate_batch=server.batch)
            if engine.wait(60) != 0:
                raise RuntimeError((folder / "log").read_text())
        finally:
            engine.kill()
            engine.wait()
            Path(address.path).unlink(missing_ok=True)
        table = np.loadtxt(folder / "run.out")
    table = table[1:]  # without step 0
    first = int(EQUILIBRATION / timestep) // STRIDE
    thermal = 8.617333262e-5 * temperature
    return Samples(
        (table[:, 1] + table[:, 2] - 1.5 * thermal)[first:],
        np.array(server.squares)[first:],
        np.array(server.differences)[first:],
    )


class _Server:
    """Answers i-PI, and notes at every sample what i-PI does not write."""

    def __init__(self, force_field: ForceField, compared: ForceField | None, beads: int) -> None:
        self.force_field, self.compared = force_field, compared
        self.n_beads, self.step = beads, 0
        self._beads: list[np.ndarray] = []  # of a step that came in several messages
        self._energies: list[float] = []
        self.squares: list[np.ndarray] = []
        self.differences: list[float] = []
        masses = masses_of(force_field.supercell)
        self._weights = masses / masses.sum()

    def one(self, configuration: Configuration) -> Evaluation:
        return self.batch(Batch(configuration.cell[None], configuration.positions[None], 1))[0]

    def batch(self, batch: Batch) -> Evaluations:
        u = batch.positions - self.force_field.supercell.positions
        found = self.force_field.predict(u, errors=False, virial=False)
        if np.abs(u).max() > 1e-6:  # at step 0 all beads stand on the sites, and look like padding
            self._gather(u, found.energies)
        n = len(u)
        return Evaluations(found.energies, found.forces, np.zeros((n, 3, 3)), [""] * n)

    def _gather(self, u: np.ndarray, energies: np.ndarray) -> None:
        """Put a step together: i-PI now and then sends its beads in two messages."""
        self._beads += list(u)
        self._energies += energies.tolist()
        if len(self._beads) > self.n_beads:
            raise RuntimeError(f"{len(self._beads)} beads in a step of {self.n_beads}")
        if len(self._beads) == self.n_beads:
            self.step += 1
            if self.step % STRIDE == 0:
                self._note(np.array(self._beads), np.array(self._energies))
            self._beads, self._energies = [], []

    def _note(self, u: np.ndarray, energies: np.ndarray) -> None:
        if self.compared is not None:
            other = self.compared.predict(u, errors=False, virial=False).energies
            self.differences.append(float(np.mean(other - energies)))
        u = u - np.einsum("a,bai->bi", self._weights, u)[:, None]
        self.squares.append(np.mean(u**2, axis=(0, 2)))


def _write_structure(path: Path, supercell: Supercell) -> None:
    atoms = supercell.to_atoms()
    cell = " ".join(f"{x:.10f}" for x in atoms.cell.cellpar())
    header = f"# CELL(abcABC): {cell} cell{{angstrom}} positions{{angstrom}}"
    lines = [f"{s} {x:.12f} {y:.12f} {z:.12f}"
             for s, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)]  # fmt: skip
    path.write_text("\n".join([str(len(atoms)), header, *lines]) + "\n")


def mean_and_error(series: np.ndarray) -> tuple[float, float]:
    """The mean of a correlated series and its standard error.

    The variance is multiplied by the integrated autocorrelation time, summed up to a window of six
    such times (A. Sokal, Monte Carlo Methods in Statistical Mechanics, 1996).
    """
    n = len(series)
    deviations = series - series.mean()
    spectrum = np.fft.rfft(deviations, 2 * n)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:n] / np.arange(n, 0, -1)
    if correlation[0] <= 0:
        return float(series.mean()), 0.0
    times = 2 * np.cumsum(correlation / correlation[0]) - 1
    beyond = np.arange(n) >= 6 * times
    time = max(float(times[np.argmax(beyond)] if beyond.any() else times[-1]), 1.0)
    return float(series.mean()), float(np.sqrt(correlation[0] * time / n))
