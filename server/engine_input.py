"""The user's i-PI input, read and never changed.

Whatever would make i-PI stop, or wait for ever, because its input does not fit the run
is found here, before any process is started.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import ase

from anharm.errors import ConfigurationError
from anharm.server.engine_files import referenced_files
from anharm.server.engine_quantities import temperature, timestep
from anharm.server.engine_structure import initial_structure

LARGEST_INPUT = 200_000_000  # bytes; checkpoints of large systems are inputs too
DEFAULT_SOCKETS_PREFIX = "/tmp/ipi_"


@dataclass(frozen=True, eq=False)
class EngineInput:
    """What anharm needs to know of an i-PI input.

    Attributes
    ----------
    path : Path
        The XML file.
    forcefield : str
        Name of the <ffsocket> that anharm serves.
    address : str
        Its address: `unix:NAME`, `unix:/PATH` where <simulation> has a sockets_prefix of
        its own, or `tcp://HOST:PORT`.
    batch_size : int
        Structures that i-PI sends together.
    concurrency : int
        Configurations that i-PI may ask of this socket at the same time: beads and systems.
    total_steps : int
    timestep : float or None
        fs; None without dynamics.
    temperature : float or None
        K; None if the ensemble has none.
    number_of_beads, number_of_systems : int
        Of the systems that use the socket.
    evaluations_per_step : int
        Beads of all these systems, those that a contraction leaves out not counted.
    structure : ase.Atoms
        Their first one's initial structure (Angstrom), in the user's order of atoms.
    output_prefix : str
    files : tuple of Path
        Files that the input names, relative to its folder, to be copied with it.
    checkpoint_stride : int or None
        Steps between checkpoints; None without them.
    changes_cell : bool
        Whether a system that uses the socket has a barostat.
    """

    path: Path
    forcefield: str
    address: str
    batch_size: int
    concurrency: int
    total_steps: int
    timestep: float | None
    temperature: float | None
    number_of_beads: int
    number_of_systems: int
    evaluations_per_step: int
    structure: ase.Atoms
    output_prefix: str
    files: tuple[Path, ...]
    checkpoint_stride: int | None
    changes_cell: bool

    @property
    def has_checkpoint(self) -> bool:
        """Whether i-PI writes checkpoints, from which a run can go on."""
        return self.checkpoint_stride is not None


def read_engine_input(
    path: str | Path, forcefield: str | None = None, others: Collection[str] = ()
) -> EngineInput:
    """Read an i-PI input and check the parts that anharm depends on.

    Parameters
    ----------
    path : str or Path
        The XML file.
    forcefield : str, optional
        Name of the <ffsocket> to serve; needed if there are several.
    others : collection of str
        Names of those that are served otherwise.

    Returns
    -------
    EngineInput

    Raises
    ------
    ConfigurationError
        Naming the file, the element, the value seen and the remedy.
    """
    path = Path(path).absolute()
    root = _parse(path)
    systems = _systems(path, root)
    socket = _choose_socket(path, root, forcefield, others)
    served = _served(path, root, systems, socket)
    beads = [_beads(path, root, system, socket) for system in served]
    first = served[0]
    initialize = first.find("initialize")
    counted = initialize if initialize is not None else first.find("beads")
    number_of_beads = _positive(path, counted, "nbeads")
    structure = _common_structure(path, served)
    _check_all_atoms_are_active(path, socket, len(structure))
    return EngineInput(
        path=path,
        forcefield=_name(socket),
        address=_address(path, root, socket),
        batch_size=_integer(path, socket, "batch_size", 1),
        concurrency=sum(map(sum, beads)),
        total_steps=_integer(path, root, "total_steps", 1000),
        timestep=timestep(path, first),
        temperature=temperature(path, first),
        number_of_beads=number_of_beads,
        number_of_systems=len(served),
        evaluations_per_step=sum(map(max, beads)),
        structure=structure,
        output_prefix=_output(root).get("prefix", "i-pi"),
        files=referenced_files(path, root),
        checkpoint_stride=_checkpoint_stride(path, root),
        changes_cell=any(_has_barostat(system) for system in served),
    )


def _parse(path: Path) -> Element:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_INPUT + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(f"the i-PI input {path} does not exist") from error
    except OSError as error:
        raise ConfigurationError(f"the i-PI input {path} cannot be read: {error}") from error
    if len(content) > LARGEST_INPUT:
        raise ConfigurationError(f"{path} has more than {LARGEST_INPUT} bytes: is it i-PI's input?")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ConfigurationError(
            f"{path}: document types and entities have no use here; remove them"
        )
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ConfigurationError(f"{path} is not XML: {error}") from error
    if root.tag != "simulation":
        raise ConfigurationError(
            f"{path}: the outermost element is <{root.tag}>, expected i-PI's <simulation>"
        )
    return root


def _systems(path: Path, root: Element) -> list[Element]:
    """Return all systems, those of templates with their labels filled in as i-PI does."""
    systems = list(root.findall("system"))
    for template in root.findall("system_template"):
        labels = _words(template.findtext("labels"))
        body = template.find("template/system")
        if body is None:
            raise ConfigurationError(f"{path}: <system_template> has no <template> with a <system>")
        for instance in template.findall("instance"):
            text = ElementTree.tostring(body, encoding="unicode")
            values = _words(instance.text)
            if len(values) != len(labels):
                raise ConfigurationError(
                    f"{path}: <instance> {values} has {len(values)} values for the "
                    f"{len(labels)} <labels> {labels}"
                )
            for label, value in sorted(zip(labels, values, strict=True), reverse=True):
                text = text.replace(label, value)
            systems.append(ElementTree.fromstring(text))
    if not systems:
        raise ConfigurationError(f"{path}: there is no <system> to simulate")
    return systems


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").strip().strip("[]").split(",") if word.strip()]


def _choose_socket(
    path: Path, root: Element, forcefield: str | None, others: Collection[str]
) -> Element:
    sockets = [socket for socket in root.iter("ffsocket") if _name(socket) not in others]
    names = [_name(socket) for socket in sockets]
    if not sockets:
        raise ConfigurationError(
            f"{path}: there is no <ffsocket>, through which i-PI asks anharm for forces; add\n"
            "<ffsocket name='anharm' mode='unix' pbc='False'><address> anharm </address>"
            "</ffsocket>\nand name it in <force forcefield='anharm'/>"
        )
    if forcefield is None:
        if len(sockets) > 1:
            raise ConfigurationError(
                f"{path}: there are {len(sockets)} <ffsocket>s ({', '.join(names)}): say in "
                "run.toml which one anharm serves, engine.forcefield = "
                f'"{names[0]}" for example'
            )
        return sockets[0]
    if forcefield not in names:
        raise ConfigurationError(
            f"{path}: there is no <ffsocket name='{forcefield}'> (engine.forcefield = "
            f'"{forcefield}"); present: {", ".join(names)}'
        )
    return sockets[names.index(forcefield)]


def _name(forcefield: Element) -> str:
    return forcefield.get("name", "").strip()


def _served(path: Path, root: Element, systems: list[Element], socket: Element) -> list[Element]:
    """Check that every <force> names a force field, and return the systems that use ours."""
    serving = {_name(element): element for element in root if element.tag.startswith("ff")}
    used = [
        force.get("forcefield", "").strip()
        for system in systems
        for force in system.iterfind("forces/force")
    ]
    for name in used:
        if name not in serving:
            raise ConfigurationError(
                f"{path}: <force forcefield='{name}'/> refers to no force field; present: "
                f"{', '.join(serving) or 'none'}"
            )
    ours = _names_of(root, socket)
    if not ours.intersection(used):
        raise ConfigurationError(
            f"{path}: no <force> of a <system> uses the <ffsocket name='{_name(socket)}'>, so it "
            f"would have nothing to do; add <force forcefield='{_name(socket)}'/>"
        )
    return [
        system
        for system in systems
        if any(
            force.get("forcefield", "").strip() in ours for force in system.iterfind("forces/force")
        )
    ]


def _names_of(root: Element, socket: Element) -> set[str]:
    """The force fields that a socket serves: itself, and what it is part of."""
    return {_name(one) for one in root if one.tag.startswith("ff") and socket in one.iter()}


def _beads(path: Path, root: Element, system: Element, socket: Element) -> list[int]:
    """On how many beads of a system each of its forces of a socket is computed."""
    initialize, ours = system.find("initialize"), _names_of(root, socket)
    every = _positive(
        path, initialize if initialize is not None else system.find("beads"), "nbeads"
    )
    return [
        int(own) if own.isdecimal() and int(own) > 0 else every
        for force in system.iterfind("forces/force")
        if force.get("forcefield", "").strip() in ours
        for own in [force.get("nbeads", "0").strip()]
    ]


def _common_structure(path: Path, systems: list[Element]) -> ase.Atoms:
    """Return the first system's initial structure; the others must have the same atoms."""
    first = initial_structure(path, systems[0])
    for number, system in enumerate(systems[1:], start=2):
        other = initial_structure(path, system)
        if other.get_chemical_symbols() != first.get_chemical_symbols():
            raise ConfigurationError(
                f"{path}: system {number} has {other.get_chemical_formula()}, in that order of "
                f"atoms, and the first one {first.get_chemical_formula()}: systems that share "
                "an <ffsocket> must be the same supercell with the same order of atoms"
            )
    return first


def _check_all_atoms_are_active(path: Path, socket: Element, n_atoms: int) -> None:
    """A lattice model needs the displacements of all atoms, and gives the forces on all."""
    active = {word for word in _words(socket.findtext("activelist")) if word != "-1"}
    if active and active != {str(number) for number in range(n_atoms)}:
        raise ConfigurationError(
            f"{path}: <ffsocket name='{_name(socket)}'> has an <activelist> of {len(active)} of "
            f"{n_atoms} atoms: the model describes the whole crystal, so remove it (atoms that "
            "shall not move belong into <fixatoms> of the <motion>)"
        )


def _address(path: Path, root: Element, socket: Element) -> str:
    where = f"{path}: <ffsocket name='{_name(socket)}'>"
    mode = socket.get("mode", "inet").strip()
    address = (socket.findtext("address") or "").strip()
    if mode == "shm":
        raise ConfigurationError(
            f"{where} has mode='shm', shared memory, which is not supported yet: use mode='unix'"
        )
    if mode not in ("unix", "inet"):
        raise ConfigurationError(f"{where} has mode='{mode}', expected 'unix' or 'inet'")
    if not address:
        example = "anharm" if mode == "unix" else "127.0.0.1"
        raise ConfigurationError(
            f"{where} has no address; add <address> {example} </address> inside"
        )
    if mode == "unix":
        prefix = root.get("sockets_prefix", DEFAULT_SOCKETS_PREFIX)
        if prefix == DEFAULT_SOCKETS_PREFIX:
            return f"unix:{address}"
        return f"unix:{Path(prefix + address).absolute()}"
    port = _integer(path, socket, "port", 65535)
    if port > 65535:
        raise ConfigurationError(f"{where} has <port> {port}, expected 1 to 65535")
    return f"tcp://{address}:{port}"


def _integer(path: Path, parent: Element, tag: str, default: int) -> int:
    text = parent.findtext(tag)
    if text is None:
        return default
    return _whole_number(text, f"{path}: <{parent.tag}> has <{tag}>")


def _positive(path: Path, element: Element | None, attribute: str) -> int:
    if element is None:
        raise ConfigurationError(f"{path}: <system> has no <initialize>")
    text = element.get(attribute)
    if text is None:
        raise ConfigurationError(
            f"{path}: <{element.tag}> has no {attribute}; add {attribute}='1' for classical nuclei"
        )
    return _whole_number(text, f"{path}: <{element.tag}> has {attribute} =")


def _whole_number(text: str, where: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigurationError(f"{where} {text.strip()!r}, expected a whole number of at least 1")
    return number


def _has_barostat(system: Element) -> bool:
    """Whether the cell changes; checkpoints of other ensembles hold a barostat "dummy"."""
    ensembles = {dynamics.get("mode", "nve").strip() for dynamics in system.iter("dynamics")}
    barostats = {barostat.get("mode", "dummy").strip() for barostat in system.iter("barostat")}
    return bool(ensembles & {"npt", "nst", "scnpt"} and barostats - {"dummy"})


def _output(root: Element) -> Element:
    output = root.find("output")
    return output if output is not None else Element("output")


def _checkpoint_stride(path: Path, root: Element) -> int | None:
    if root.find("output") is None:
        return 1000  # i-PI's default outputs include a checkpoint
    strides = [
        _whole_number(element.get("stride", "1"), f"{path}: <checkpoint> has stride =")
        for element in root.iterfind("output/checkpoint")
    ]
    return min(strides, default=None)
