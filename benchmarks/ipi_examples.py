"""i-PI's own examples, changed only in the force provider and in what belongs to their molecules.

    git clone https://github.com/i-pi/i-pi
    python benchmarks/ipi_examples.py i-pi/examples/features [--folder FOLDER] [--only TEXT ...]
                                      [--limit SECONDS]

Every <ffsocket>, <ffdirect> and <fflj> becomes a socket of ours with its name, a committee one that
sends its members as JSON. Silicon of inputs/si (64 atoms) takes the place of the structure; so do
its cell that of a barostat, its dynamical matrix that of vibrations, its element that of bosons.
Outputs of extras of other codes (dipoles) are left out. All runs are made 20 steps long and trained
on the Tersoff potential as they go. One line per example says how it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import ase
import ase.units
import numpy as np
from ipi.utils.units import unit_to_internal

from anharm.clients.calculators import make_calculator
from anharm.server.engine_input import read_engine_input

SILICON = Path(__file__).parents[1] / "inputs" / "si"
STEPS = 20
LARGEST_FILE = 2_000_000  # bytes, of files that lie beside an example
REPLACED = ("ffsocket", "ffdirect", "fflj")
NOT_OURS = {
    "ffcavphsocket": "a cavity's photon is added to the atoms",
    "ffplumed": "needs PLUMED",
    "ffsgdml": "a potential of its own",
    "ffyaff": "a potential of its own",
    "ffdmd": "a force that changes in time",
    "ffmpi": "no socket",
    "ffrotations": "turns the crystal, which a model about fixed sites cannot follow",
}
EXTRAS = {"force_std", "force_std_max", "force_std_mean", "model_version", "raw"}
COMMITTEE = {"committee_pot", "committee_force", "committee_virial"}
_OF_COMMITTEE = COMMITTEE | {"committee_uncertainty", "wb_mixing"}
_OF_COMMITTEE |= {"baseline_pot", "baseline_force", "baseline_virial"}


class NotForUs(Exception):
    """Why an example cannot be adapted."""


@dataclass
class Adapted:
    """An example's XML with our forces, and what had to be changed besides."""

    root: Element
    tag: str
    sockets: list[str] = field(default_factory=list)
    has_committee: bool = False
    sends_members: bool = False
    notes: dict[str, None] = field(default_factory=dict)

    def serve(self, parent: Element, forcefield: Element) -> None:
        """Put a socket of ours in the place of a force field; a socket keeps its settings."""
        name = forcefield.get("name", "")
        if forcefield.tag != "ffsocket":
            index = list(parent).index(forcefield)
            parent.remove(forcefield)
            forcefield = Element("ffsocket", name=name)
            parent.insert(index, forcefield)
        forcefield.set("mode", "unix")
        for child in [*forcefield.findall("address"), *forcefield.findall("port")]:
            forcefield.remove(child)
        self.sockets.append(name)
        address = f"example-{os.getpid()}-{self.tag}-{len(self.sockets)}"[-90:]
        SubElement(forcefield, "address").text = address

    def serve_committee(self, committee: Element) -> None:
        """One socket sends all members; the baseline, if there is one, is another."""
        inner = [child for child in committee if child.tag in REPLACED]
        baseline = (committee.findtext("baseline_name") or "").strip()
        members = [child for child in inner if child.get("name") != baseline]
        for child in inner:
            if child in members[1:]:
                committee.remove(child)
            else:
                self.serve(committee, child)
        for child in committee.findall("weights"):
            committee.remove(child)
        if committee.find("parse_json") is None:
            SubElement(committee, "parse_json").text = "True"
        self.has_committee = True
        self.notes["committee in one socket"] = None


def adapt(path: Path, folder: Path, tag: str) -> Adapted:
    """Read an example and change what must be changed.

    Raises
    ------
    NotForUs
        If there is nothing to serve.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise NotForUs(f"not XML: {error}") from error
    if root.tag != "simulation":
        raise NotForUs(f"<{root.tag}>, no <simulation>")
    adapted = Adapted(root, tag)
    for child in list(root):
        if child.tag in NOT_OURS:
            raise NotForUs(f"<{child.tag}>: {NOT_OURS[child.tag]}")
        if child.tag in REPLACED:
            adapted.serve(root, child)
        elif child.tag == "ffcommittee":
            adapted.serve_committee(child)
    if not adapted.sockets:
        raise NotForUs("no socket to serve")
    beads = 1
    for initialize in root.iter("initialize"):
        beads = int(initialize.get("nbeads", "1"))
        is_path = any(motion.get("mode") == "neb" for motion in root.iter("motion"))
        change_structure(initialize, path_of(beads, folder) if is_path else "init.xyz")
    for parent in list(root.iter()):
        for child in list(parent):
            change(adapted, parent, child, folder)
    if (folder / "bec.txt").exists():
        charges = np.where(np.arange(64) % 2, -1.0, 1.0)
        np.savetxt(folder / "bec.txt", np.tile(np.kron(charges[:, None], np.eye(3)), (beads, 1)))
        adapted.notes["Born charges of 64 atoms"] = None
    return adapted


def path_of(beads: int, folder: Path) -> str:
    """A file with beads along which one atom leaves its site, as a band between two states."""
    lines = (SILICON / "init.xyz").read_text().splitlines()
    atom = lines[2].split()
    frames = []
    for bead in range(beads):
        moved = f"{atom[0]} {float(atom[1]) + 0.02 * bead} {atom[2]} {atom[3]}"
        frames += [*lines[:2], moved, *lines[3:]]
    (folder / "path.xyz").write_text("\n".join(frames) + "\n")
    return "path.xyz"


def change_structure(initialize: Element, name: str) -> None:
    """Silicon with thermal velocities in the place of what was there."""
    for child in list(initialize):
        if not (child.tag == "velocities" and child.get("mode") == "thermal"):
            initialize.remove(child)
    file = Element("file", mode="xyz")
    file.text = name
    initialize.insert(0, file)


def change(adapted: Adapted, parent: Element, child: Element, folder: Path) -> None:
    """Change one element that belongs to the example's molecule."""
    known = EXTRAS | (_OF_COMMITTEE if adapted.has_committee else COMMITTEE)
    if child.tag == "h0":
        child.text = str((np.array(silicon().cell[:]).T / ase.units.Bohr).ravel().tolist())
    elif child.tag == "total_steps":
        child.text = str(STEPS)
    elif child.tag == "bosons" and child.get("id") == "label":
        child.text = "['Si']"
    elif child.tag == "open_paths":
        child.text = "[ 0, 3 ]"
    elif child.tag == "properties" and re.search(r"atom_\w+\(", child.text or ""):
        child.text = re.sub(r"(atom_\w+)\(\d+", r"\1(1", child.text or "")
    elif child.tag in ("dynmat", "hessian") or child.tag == "instanton":
        give_matrix(adapted, child, folder)
    elif child.tag == "motion" and child.get("mode") == "replay":
        file = child.find("file")
        if file is not None:
            file.set("mode", "xyz")
            file.text = "init.xyz"
            adapted.notes["replays our structure"] = None
    elif child.tag in ("trajectory", "interpolate_extras"):
        words = child.get("extra_type", "") if child.tag == "trajectory" else child.text or ""
        wanted = {word.strip(" '\n") for word in words.strip("[] \n").split(",")} - {""}
        adapted.sends_members |= bool(wanted & COMMITTEE)
        if not wanted <= known:
            parent.remove(child)
            adapted.notes[f"without extras {' '.join(sorted(wanted - known))}"] = None


def give_matrix(adapted: Adapted, child: Element, folder: Path) -> None:
    """Force constants of silicon, or its dynamical matrix, where a motion begins with one."""
    if child.tag == "instanton":
        for own in [*child.findall("hessian"), *child.findall("hessian_init")]:
            child.remove(own)
        child = SubElement(child, "hessian")
    child.attrib.update(mode="file", shape="(192, 192)")
    if child.tag == "dynmat":
        child.attrib.pop("shape")
    child.text = f"{child.tag}.dat"
    matrix = force_constants()
    if child.tag == "dynmat":
        matrix = matrix / unit_to_internal("mass", "dalton", silicon().get_masses()[0])
    np.savetxt(folder / child.text, matrix)
    adapted.notes[f"{child.tag} of 64 atoms"] = None


@cache
def silicon() -> ase.Atoms:
    """The structure of inputs/si."""
    return read_engine_input(SILICON / "input.xml").structure


@cache
def force_constants() -> np.ndarray:
    """Of the Tersoff potential, (192, 192) in atomic units."""
    atoms, step = silicon().copy(), 0.01
    atoms.calc = make_calculator("tersoff-silicon")
    rows = []
    for index in range(atoms.positions.size):
        forces = []
        for sign in (1, -1):
            atoms.positions.flat[index] += sign * step
            forces.append(atoms.get_forces().ravel())
            atoms.positions.flat[index] -= sign * step
        rows.append((forces[1] - forces[0]) / (2 * step))
    matrix = np.array(rows) / ase.units.Hartree * ase.units.Bohr**2
    return (matrix + matrix.T) / 2


def prepare(path: Path, folder: Path, tag: str) -> Adapted:
    """A folder with everything that the run needs."""
    folder.mkdir(parents=True)
    for file in path.parent.iterdir():
        if file.is_file() and file.suffix != ".xml" and file.stat().st_size < LARGEST_FILE:
            shutil.copy(file, folder)
    for name in ("init.xyz", "primitive.xyz"):
        shutil.copy(SILICON / name, folder)
    adapted = adapt(path, folder, tag)
    ElementTree.ElementTree(adapted.root).write(folder / "input.xml")
    text = (SILICON / "run.toml").read_text()
    text = text.replace(
        'input = "input.xml"', f'input = "input.xml"\nforcefield = {json.dumps(adapted.sockets)}'
    ).replace("audit_interval = 250", "audit_interval = 0")
    if adapted.has_committee or adapted.sends_members:
        text += f"\n[client]\nextras = {json.dumps(sorted(COMMITTEE))}\n"
    (folder / "run.toml").write_text(text)
    return adapted


def run(path: Path, name: str, root: Path, limit: float) -> str:
    """One example; returns how it ended."""
    tag = re.sub(r"\W", "_", name)
    folder = root / tag
    try:
        adapted = prepare(path, folder, tag)
    except NotForUs as error:
        return f"left out  {name}: {error}"
    notes = f" ({'; '.join(adapted.notes)})" if adapted.notes else ""
    started = time.monotonic()
    words = [sys.executable, "-m", "anharm", "run", str(folder / "run.toml")]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"not ended {name}{notes}: after {limit:g} s"
    seconds = time.monotonic() - started
    if done.returncode == 0:
        return f"done      {name}{notes}: {seconds:.0f} s"
    said = (done.stderr.strip().splitlines() or [""])[-1]
    return f"failed    {name}{notes}: {said[:300]}"


def main() -> None:
    """Run all, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names")
    parser.add_argument("--limit", type=float, default=300, help="seconds per example")
    words = parser.parse_args()
    root = words.folder or Path(tempfile.mkdtemp(prefix="ipi-examples-"))
    for path in sorted(words.examples.rglob("*.xml")):
        name = str(path.relative_to(words.examples))
        if any(part in name for part in words.only):
            print(run(path, name, root, words.limit), flush=True)


if __name__ == "__main__":
    main()
