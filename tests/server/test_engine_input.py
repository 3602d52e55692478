"""The i-PI input is read as i-PI reads it, and its faults are found before i-PI starts."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anharm.configuration import load_configuration
from anharm.errors import ConfigurationError
from anharm.server.engine_input import EngineInput, read_engine_input

SILICON = Path(__file__).parents[2] / "inputs" / "si"

SOCKET = "<ffsocket name='ours' mode='unix'><address> name </address></ffsocket>"
INPUT = f"""
<simulation>
  <output prefix='out'><checkpoint stride='20'/><checkpoint stride='50'/></output>
  <total_steps>7</total_steps>
  {SOCKET}
  <system>
    <initialize nbeads='4'><file mode='xyz'> init.xyz </file></initialize>
    <forces><force forcefield='ours'/></forces>
    <motion mode='dynamics'>
      <dynamics mode='nvt'><timestep units='picosecond'> 0.002 </timestep></dynamics>
    </motion>
    <ensemble><temperature units='kelvin'> 300 </temperature></ensemble>
  </system>
</simulation>
"""
CELL = "# CELL(abcABC): 4.0 5.0 6.0 90 90 90"


def write_xyz(folder: Path, comment: str, atoms: str = "B 0 0 0\nAs 1.0 2.0 3.0\n") -> None:
    (folder / "init.xyz").write_text(f"2\n{comment}\n{atoms}")


def read(folder: Path, text: str = INPUT, forcefield: str | None = None) -> EngineInput:
    (folder / "input.xml").write_text(text)
    return read_engine_input(folder / "input.xml", forcefield)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_xyz(tmp_path, f"{CELL} positions{{angstrom}} cell{{angstrom}}")
    return tmp_path


def test_what_the_run_needs_is_read(folder: Path) -> None:
    engine = read(folder)
    assert (engine.forcefield, engine.address) == ("ours", "unix:name")
    assert (engine.total_steps, engine.number_of_beads, engine.batch_size) == (7, 4, 1)
    assert engine.timestep == pytest.approx(2.0) and engine.temperature == pytest.approx(300)
    assert engine.output_prefix == "out"
    assert engine.has_checkpoint and engine.checkpoint_stride == 20
    assert engine.files == (Path("init.xyz"),)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (" 300 ", " -300 ", "<temperature> is -300 K, expected at least 0"),
        (" 300 ", " nan ", "nan </temperature>: the number is not finite"),
        (" 0.002 ", " 0 ", "<timestep> is 0 fs, expected a time above 0"),
    ],
)
def test_impossible_temperatures_and_timesteps_are_refused(
    folder: Path, old: str, new: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        read(folder, INPUT.replace(old, new))


def test_a_checkpoint_without_temperature_says_minus_one(folder: Path) -> None:
    text = INPUT.replace("<temperature units='kelvin'> 300 ", "<temperature> -1.00000000e+00 ")
    assert read(folder, text).temperature is None


def test_a_barostat_changes_the_cell_in_an_ensemble_that_has_one(folder: Path) -> None:
    barostat = "<barostat mode='isotropic'><tau> 200 </tau></barostat>"
    assert not read(folder).changes_cell
    still = INPUT.replace("</dynamics>", f"{barostat}</dynamics>")
    assert still != INPUT and not read(folder, still).changes_cell
    assert read(folder, still.replace("<dynamics mode='nvt'", "<dynamics mode='npt'")).changes_cell


def test_the_order_of_atoms_and_the_units_of_the_file_are_kept(folder: Path) -> None:
    structure = read(folder).structure
    assert structure.get_chemical_symbols() == ["B", "As"]
    np.testing.assert_allclose(structure.positions[1], [1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(structure.cell.lengths(), [4, 5, 6], atol=1e-6)


def test_without_units_lengths_are_in_bohr_as_i_pi_takes_them(folder: Path) -> None:
    write_xyz(folder, CELL)
    np.testing.assert_allclose(
        read(folder).structure.cell.lengths(), np.array([4, 5, 6]) * 0.529177, rtol=1e-5
    )


def test_a_cell_given_apart_counts(folder: Path) -> None:
    text = INPUT.replace(
        "</initialize>", "<cell mode='abc' units='angstrom'> [7, 8, 9] </cell></initialize>"
    )
    np.testing.assert_allclose(read(folder, text).structure.cell.lengths(), [7, 8, 9], atol=1e-6)


def test_isotopes_are_their_elements(folder: Path) -> None:
    write_xyz(folder, f"{CELL} cell{{angstrom}}", "D 0 0 0\nC13 1 1 1\n")
    assert read(folder).structure.get_chemical_symbols() == ["H", "C"]


def test_the_extended_xyz_of_ase_is_read(folder: Path) -> None:
    (folder / "init.extxyz").write_text(
        '1\nLattice="3 0 0 0 4 0 0 0 5" Properties=species:S:1:pos:R:3 pbc="T T T"\nSi 1 2 3\n'
    )
    text = INPUT.replace("mode='xyz'> init.xyz", "mode='ase'> init.extxyz")
    structure = read(folder, text).structure
    np.testing.assert_allclose(structure.positions, [[1, 2, 3]], atol=1e-6)
    np.testing.assert_allclose(structure.cell.lengths(), [3, 4, 5], atol=1e-6)


@pytest.mark.parametrize(
    ("socket", "address"),
    [
        ("mode='inet'><address> 127.0.0.1 </address><port> 31987 </port>", "tcp://127.0.0.1:31987"),
        ("><address>localhost</address>", "tcp://localhost:65535"),
        ("mode='unix'><address>a</address><batch_size> 8 </batch_size>", "unix:a"),
    ],
)
def test_sockets_of_both_kinds_have_an_address(folder: Path, socket: str, address: str) -> None:
    text = INPUT.replace(SOCKET, f"<ffsocket name='ours' {socket}</ffsocket>")
    engine = read(folder, text)
    assert engine.address == address and engine.batch_size == (8 if "batch" in socket else 1)


def test_a_prefix_of_sockets_is_part_of_the_address(folder: Path) -> None:
    text = INPUT.replace("<simulation>", "<simulation sockets_prefix='/run/me/ipi_'>")
    assert read(folder, text).address == "unix:/run/me/ipi_name"


def test_one_of_several_sockets_is_chosen_by_name(folder: Path) -> None:
    other = SOCKET.replace("ours", "dft").replace(" name ", " other ")
    text = INPUT.replace(SOCKET, SOCKET + other).replace(
        "</forces>", "<force forcefield='dft'/></forces>"
    )
    assert read(folder, text, "dft").address == "unix:other"
    with pytest.raises(ConfigurationError, match=r"2 <ffsocket>s \(ours, dft\).*forcefield"):
        read(folder, text)
    with pytest.raises(ConfigurationError, match=r"no <ffsocket name='qe'>.*present: ours, dft"):
        read(folder, text, "qe")


def test_beads_of_all_systems_and_of_a_contraction_make_a_step(folder: Path) -> None:
    assert read(folder).evaluations_per_step == 4
    force = "<force forcefield='ours'"
    assert force in INPUT
    assert read(folder, INPUT.replace(force, f"{force} nbeads='2'")).evaluations_per_step == 2
    system = INPUT[INPUT.index("<system>") : INPUT.index("</system>") + len("</system>")]
    assert read(folder, INPUT.replace(system, 2 * system)).evaluations_per_step == 8


def test_a_socket_inside_a_committee_is_used_through_it(folder: Path) -> None:
    text = INPUT.replace(SOCKET, f"<ffcommittee name='all'>{SOCKET}</ffcommittee>").replace(
        "forcefield='ours'", "forcefield='all'"
    )
    assert read(folder, text).forcefield == "ours"


def test_a_template_gives_one_system_per_instance(folder: Path) -> None:
    start, end = INPUT.index("<system>"), INPUT.index("</simulation>")
    system = INPUT[start:end].replace(" 300 ", " TEMP ")
    text = (
        INPUT[:start]
        + "<system_template><labels> [ TEMP ] </labels><instance> [ 200 ] </instance>"
        + f"<instance> [ 400 ] </instance><template>{system}</template></system_template>"
        + INPUT[end:]
    )
    engine = read(folder, text)
    assert engine.number_of_systems == 2 and engine.temperature == pytest.approx(200)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("</system>", "", r"input\.xml is not XML: mismatched tag: line 14"),
        ("<simulation>", "<!DOCTYPE a [<!ENTITY b 'c'>]><simulation>", "entities have no use"),
        ("simulation", "simulator", "<simulator>, expected i-PI's <simulation>"),
        (SOCKET, "", r"no <ffsocket>(.|\n)*<force forcefield='anharm'/>"),
        ("<address> name </address>", "", r"no address; add <address> anharm </address>"),
        ("mode='unix'", "mode='shm'", "mode='shm', shared memory, which is not supported"),
        ("mode='unix'", "mode='pipe'", "mode='pipe', expected 'unix' or 'inet'"),
        ("forcefield='ours'", "forcefield='their'", "'their'/> refers to no force field.*ours"),
        ("<force forcefield='ours'/>", "", "no <force> of a <system> uses"),
        ("init.xyz", "absent.xyz", r"<file mode='xyz'> absent\.xyz </file>.*does not exist"),
        ("nbeads='4'", "", "<initialize> has no nbeads"),
        ("nbeads='4'", "nbeads='0'", "whole number of at least 1"),
        ("total_steps>7", "total_steps>many", "<total_steps> 'many', expected a whole number"),
        ("picosecond", "fortnight", "<timestep units='fortnight'> 0.002"),
        ("> 300 <", "> warm <", "warm"),
        ("<file mode='xyz'> init.xyz </file>", "", "i-PI cannot read the initial structure|atoms"),
    ],
)
def test_a_fault_is_named(folder: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        read(folder, INPUT.replace(old, new))


@pytest.mark.parametrize(
    ("comment", "atoms", "expected"),
    [
        (f"{CELL} cell{{furlong}}", "B 0 0 0\nAs 1 2 3\n", "furlong(.|\n)*angstrom"),
        ("no cell", "B 0 0 0\nAs 1 2 3\n", "cell(.|\n)*Give the cell in the comment"),
        (CELL, "B 0 0 0\n", "fewer atoms than"),
        (CELL, "B 0 0 0\nQq 1 2 3\n", "a name that i-PI does not know"),
        (CELL, "B 0 0\nAs 1 2 3\n", r"init\.xyz: i-PI cannot read"),
    ],
)
def test_a_faulty_structure_is_named(folder: Path, comment: str, atoms: str, expected: str) -> None:
    write_xyz(folder, comment, atoms)
    with pytest.raises(ConfigurationError, match=expected):
        read(folder)


def test_a_file_outside_the_folder_cannot_be_copied_with_the_input(folder: Path) -> None:
    (folder / "deeper").mkdir()
    with pytest.raises(ConfigurationError, match=r"\.\./init\.xyz lies outside the folder"):
        read(folder / "deeper", INPUT.replace("init.xyz", "../init.xyz"))
    whole = read(folder / "deeper", INPUT.replace("init.xyz", str(folder / "init.xyz")))
    assert whole.files == () and len(whole.structure) == 2


def test_a_socket_that_leaves_atoms_out_is_refused(folder: Path) -> None:
    def with_active(text: str) -> str:
        assert "</ffsocket>" in INPUT
        return INPUT.replace("</ffsocket>", f"<activelist> {text} </activelist></ffsocket>")

    with pytest.raises(ConfigurationError, match=r"<activelist> of 1 of 2 atoms"):
        read(folder, with_active("[ 1 ]"))
    for everybody in ("[ -1 ]", "[0, 1]"):
        assert len(read(folder, with_active(everybody)).structure) == 2


def test_an_absent_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"input\.xml does not exist"):
        read_engine_input(tmp_path / "input.xml")


EINSTEIN_CRYSTAL = """
import json
from ipi.pes.dummy import Dummy_driver

__DRIVER_NAME__ = "custom"
__DRIVER_CLASS__ = "EinsteinCrystal"


class EinsteinCrystal(Dummy_driver):
    sites = None

    def compute_structure(self, cell, pos):
        if self.sites is None:
            self.sites = pos.copy()
        shift = pos - self.sites
        extras = json.dumps({"force_std_max": 0.01})
        return 0.01 * (shift**2).sum(), -0.02 * shift, cell * 0.0, extras
"""


@pytest.fixture(scope="module")
def silicon_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run i-PI on the silicon input, shortened, with an Einstein crystal as its client."""
    folder = tmp_path_factory.mktemp("silicon")
    shutil.copytree(SILICON, folder, dirs_exist_ok=True)
    name = f"anharm-test-{os.getpid()}"
    text = (folder / "input.xml").read_text()
    text = text.replace("> 4000 <", "> 20 <").replace("anharm-silicon", name)
    (folder / "input.xml").write_text(text.replace("stride='100'", "stride='10'"))
    (folder / "einstein.py").write_text(EINSTEIN_CRYSTAL)
    scripts = Path(sys.executable).parent
    engine = subprocess.Popen([scripts / "i-pi", "input.xml"], cwd=folder)
    driver = None
    try:
        socket, deadline = Path(f"/tmp/ipi_{name}"), time.monotonic() + 60
        while not socket.exists() and engine.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        driver = subprocess.Popen(
            [scripts / "i-pi-py_driver", "-m", "custom", "-P", "einstein.py", "-u", "-a", name],
            cwd=folder,
        )
        assert engine.wait(timeout=120) == 0
    finally:
        for process in filter(None, (driver, engine)):
            process.kill()
            process.wait()
    return folder


def test_i_pi_accepts_the_silicon_input(silicon_run: Path) -> None:
    errors = (silicon_run / "silicon.force_std_max_0").read_text()
    assert errors.count("1.00000000e-02") == 3
    assert (silicon_run / "silicon.pos_0.xyz").read_text().count("CELL") == 3


def test_a_checkpoint_is_an_input_too(silicon_run: Path) -> None:
    original = read_engine_input(silicon_run / "input.xml")
    restarted = read_engine_input(silicon_run / "RESTART")
    assert restarted.address == original.address and restarted.number_of_beads == 1
    assert str(restarted.structure.symbols) == str(original.structure.symbols)
    shift = restarted.structure.positions - original.structure.positions
    assert 0 < np.abs(shift).max() < 1.0


def test_the_silicon_input_matches_its_run_toml() -> None:
    configuration = load_configuration(SILICON / "run.toml")
    assert configuration.engine is not None
    engine = read_engine_input(configuration.engine.input[0])
    assert engine.total_steps == 4000 and engine.timestep == pytest.approx(1.0)
    assert len(engine.structure) == 64 and engine.checkpoint_stride == 100
