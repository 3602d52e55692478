"""The reference client: ASE calculators over the wire, and what it refuses to send."""

import json
import logging
from threading import Thread

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketServer
from ase.io import write

from anharm.clients.calculators import make_calculator
from anharm.clients.reference import CalculationFailed, run_reference_client
from anharm.errors import RunFailed

PATIENCE = 60.0


def copper():
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    return atoms


class Moody(EMT):
    """EMT that fails on request."""

    def __init__(self, **results) -> None:
        super().__init__()
        self.spoilt = results

    def calculate(self, *arguments, **options) -> None:
        super().calculate(*arguments, **options)
        if "error" in self.spoilt:
            raise self.spoilt["error"]
        self.results.update(self.spoilt)


class WithoutStress(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 1.5, "forces": np.ones((len(atoms), 3))}


class Client:
    """A reference client in a thread, and how it ended."""

    def __init__(self, address, calculator, atoms=None, **options) -> None:
        self.ending: object = None
        self.options = {"connection_deadline": PATIENCE, **options}
        self.arguments = (address, atoms if atoms is not None else copper(), calculator)
        self.thread = Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.ending = run_reference_client(*self.arguments, **self.options)
        except RunFailed as error:
            self.ending = error

    def join(self) -> object:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.ending


@pytest.fixture
def server(address):
    with SocketServer(unixsocket=address.path.removeprefix("/tmp/ipi_"), timeout=PATIENCE) as ase:
        yield ase


def test_energy_forces_and_virial_reach_the_server_of_ase(server, address):
    client = Client(address, EMT())
    for seed in (3, 4):
        atoms = copper()
        atoms.rattle(0.05, seed=seed)
        results = server.calculate(atoms)
        atoms.calc = EMT()
        assert results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(results["forces"], atoms.get_forces(), atol=1e-6)
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        np.testing.assert_allclose(results["virial"], virial, atol=1e-4)
        assert json.loads(results["morebytes"].tobytes()) == {"has_virial": True}
    server.protocol.end()
    assert client.join() is None


def test_the_virial_is_minus_the_derivative_of_the_energy_by_the_strain(server, address):
    client = Client(address, EMT())
    energies = []
    for strain in (1e-4, -1e-4):
        atoms = copper()
        deformation = np.diag([1 + strain, 1, 1])
        atoms.set_cell(atoms.cell @ deformation, scale_atoms=True)
        energies.append(server.calculate(atoms)["energy"])
    virial = server.calculate(copper())["virial"]
    assert virial[0, 0] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, rel=1e-4)
    server.protocol.end()
    client.join()


def test_a_calculator_without_stress_sends_zeros_and_says_so(server, address, caplog):
    with caplog.at_level(logging.WARNING):
        client = Client(address, WithoutStress())
        results = [server.calculate(copper()) for _ in range(2)]
        server.protocol.end()
        assert client.join() is None
    for result in results:
        np.testing.assert_array_equal(result["virial"], 0)
        assert json.loads(result["morebytes"].tobytes()) == {"has_virial": False}
    assert caplog.text.count("gives no stress") == 1


@pytest.mark.parametrize(
    ("calculator", "message"),
    [
        (Moody(forces=np.full((8, 3), np.nan)), "not finite"),
        (Moody(energy=np.inf, free_energy=np.inf), "not finite"),
        (Moody(forces=np.zeros((7, 3))), "forces of shape"),
        (Moody(converged=False), "has not converged"),
        (Moody(error=ValueError("SCF diverged")), "ValueError: SCF diverged"),
    ],
)
def test_nothing_is_sent_that_could_not_be_trusted(server, address, calculator, message):
    client = Client(address, calculator)
    with pytest.raises(OSError):
        server.calculate(copper())
    ending = client.join()
    assert isinstance(ending, CalculationFailed)
    assert message in str(ending)


def test_another_number_of_atoms_is_refused_with_both_numbers(server, address):
    client = Client(address, EMT(), atoms=bulk("Cu", cubic=True))
    with pytest.raises(OSError):
        server.calculate(copper())
    ending = client.join()
    assert "sends 8 atoms" in str(ending) and "started for 4 (Cu4)" in str(ending)


IPI_INPUT = """<simulation verbosity='low'>
  <output prefix='out'>
    <properties filename='md' stride='1' flush='1'>
      [ step, conserved{{electronvolt}}, potential{{electronvolt}} ] </properties>
  </output>
  <total_steps> 10 </total_steps>
  <prng><seed> 7 </seed></prng>
  <ffsocket name='ff' mode='unix' pbc='False'>
    <address> {name} </address> <latency> 1e-5 </latency>
  </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='ase' units='automatic'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='ff'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 1.0 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


def test_ipi_conserves_the_energy_of_tersoff_silicon(address, tmp_path, start_ipi):
    atoms = bulk("Si", a=5.432, cubic=True)
    write(tmp_path / "init.xyz", atoms, format="extxyz")
    name = address.path.removeprefix("/tmp/ipi_")
    (tmp_path / "input.xml").write_text(IPI_INPUT.format(name=name))
    ipi = start_ipi("input.xml")
    calculator = make_calculator("tersoff-silicon")
    assert Client(address, calculator, atoms=atoms).join() is None
    assert ipi.wait(PATIENCE) == 0
    energies = np.loadtxt(tmp_path / "out.md")
    assert energies[0, 2] == pytest.approx(8 * -4.63, abs=0.05)
    assert np.ptp(energies[:, 2]) > 0.02
    assert np.ptp(energies[:, 1]) < 0.002


class Sometimes(EMT):
    """EMT whose first calculation fails."""

    calls = 0

    def calculate(self, *arguments, **options) -> None:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("the node ran out of memory")
        super().calculate(*arguments, **options)


def test_a_client_comes_back_after_a_failure_that_is_allowed(address, tmp_path, start_ipi):
    """Here i-PI, which asks again, plays the server."""
    write(tmp_path / "init.xyz", copper(), format="extxyz")
    name = address.path.removeprefix("/tmp/ipi_")
    (tmp_path / "input.xml").write_text(IPI_INPUT.format(name=name))
    ipi = start_ipi("input.xml")
    calculator = Sometimes()
    assert Client(address, calculator, failures_allowed=1).join() is None
    assert ipi.wait(PATIENCE) == 0
    assert calculator.calls == 12


def test_a_client_without_a_server_says_what_to_start(address):
    with pytest.raises(RunFailed, match="Start the server"):
        run_reference_client(address, copper(), EMT(), connection_deadline=0.1)
