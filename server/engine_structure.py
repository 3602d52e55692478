"""The structure that an i-PI input starts from, read by i-PI's own initialiser.

i-PI has several modes, units in comment lines, and cells given apart; asking i-PI
itself makes sure that what is checked is what will run.
"""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import ase
import numpy as np
from ase.data import atomic_numbers
from ipi.engine.beads import Beads
from ipi.engine.cell import Cell
from ipi.engine.initializer import init_chk
from ipi.inputs.initializer import InputInitializer
from ipi.utils.io.inputs.io_xml import xml_parse_string
from ipi.utils.units import UnitMap, unit_to_user

from anharm.errors import ConfigurationError

FILE_MODES = ("xyz", "pdb", "ase", "chk")
NO_CELL = (
    "Give the cell in the comment line of an xyz file: "
    "# CELL(abcABC): a b c alpha beta gamma cell{angstrom} positions{angstrom}"
)
_STRUCTURAL = ("positions", "cell", "masses", "labels")


def initial_structure(path: Path, system: ElementTree.Element) -> ase.Atoms:
    """Return the structure at which a <system> starts, its first bead.

    Parameters
    ----------
    path : Path
        The i-PI input; files are looked for in its folder.
    system : Element
        Its <system>, with an <initialize>, or with <beads> if it is a checkpoint.

    Returns
    -------
    ase.Atoms
        In the file's order of atoms, Angstrom.

    Raises
    ------
    ConfigurationError
        Naming the file and the element that i-PI would stop at.
    """
    initialize = system.find("initialize")
    if initialize is None and system.find("beads") is None:
        raise ConfigurationError(
            f"{path}: <system> has no <initialize>; add for example\n"
            "<initialize nbeads='1'><file mode='xyz'> init.xyz </file></initialize>"
        )
    source = path if initialize is None else _source(path, initialize)
    try:
        # i-PI reports its progress on stdout, which belongs to the command's own output.
        with redirect_stdout(io.StringIO()):
            beads, cell = (
                init_chk(str(path))[:2]
                if initialize is None
                else _run_initialiser(path.parent, initialize)
            )
    except Exception as error:  # i-PI's readers raise almost any kind of exception
        raise ConfigurationError(
            f"{source}: i-PI cannot read the initial structure, named in {path}: "
            f"{str(error) or type(error).__name__}{_remedy(error)}"
        ) from error
    return _as_atoms(source, beads, cell)


def _source(path: Path, initialize: ElementTree.Element) -> Path:
    """Check that the files of an <initialize> exist, and return the first one."""
    files = []
    for element in initialize:
        if element.get("mode", "chk" if element.tag == "file" else "") in FILE_MODES:
            name = (element.text or "").strip()
            files.append(path.parent / name)
            if not name or not files[-1].is_file():
                raise ConfigurationError(
                    f"{path}: <{element.tag} mode='{element.get('mode', 'chk')}'> {name} "
                    f"</{element.tag}>: the file {files[-1]} does not exist; names are relative "
                    "to the folder of the i-PI input"
                )
    return files[0] if files else path


def _run_initialiser(folder: Path, initialize: ElementTree.Element) -> tuple[Beads, Cell]:
    """Let i-PI fill beads and cell as it does at the start of a run."""
    node = xml_parse_string(ElementTree.tostring(initialize, encoding="unicode"))
    parser = InputInitializer()
    parser.parse(node.fields[0][1])
    initialiser = parser.fetch()
    initialiser.queue = [item for item in initialiser.queue if item[0] in _STRUCTURAL]
    for _, item in initialiser.queue:
        if item.mode in FILE_MODES:
            item.value = str(folder / item.value.strip())
    system = SimpleNamespace(beads=Beads(0, 0), cell=Cell())
    initialiser.init_stage1(system)
    return system.beads, system.cell


def _remedy(error: Exception) -> str:
    """Say what to do about an error of i-PI's initialiser."""
    text = str(error)
    if "unit" in text:
        known = ", ".join(name for name in UnitMap["length"] if name)
        return (
            f". Lengths may be in: {known}; write positions{{angstrom}} cell{{angstrom}} in the "
            "comment line of an xyz file"
        )
    if "initialize the masses" in text:
        return (
            ". An atom has a name that i-PI does not know, or there are fewer atoms than the "
            "file's first line says"
        )
    if "initialize the cell" in text:
        return f". {NO_CELL}"
    return ""


def _as_atoms(source: Path, beads: Beads, cell: Cell) -> ase.Atoms:
    if beads.natoms == 0:
        raise ConfigurationError(f"{source}: the initial structure has no atoms")
    lattice = unit_to_user("length", "angstrom", np.array(cell.h, dtype=float).T)
    if abs(np.linalg.det(lattice)) < 1e-3:
        raise ConfigurationError(f"{source}: the cell has no volume. {NO_CELL}")
    positions = unit_to_user("length", "angstrom", np.array(beads.q[0], dtype=float))
    symbols = [_element(source, number, str(name)) for number, name in enumerate(beads.names)]
    return ase.Atoms(symbols, positions=positions.reshape(-1, 3), cell=lattice, pbc=True)


def _element(source: Path, number: int, name: str) -> str:
    """Return the element of one of i-PI's atom names, which may be isotopes (C13, D)."""
    element = {"D": "H", "T": "H"}.get(name, re.sub(r"\d+$", "", name))
    if element not in atomic_numbers or element == "X":
        raise ConfigurationError(f"{source}: atom {number} is {name!r}, which is no element")
    return element
