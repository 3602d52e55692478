"""Checks before anything starts: what would fail later fails here, within seconds."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anharm.configuration import RunConfiguration
from anharm.configuration_values import is_local
from anharm.errors import ConfigurationError, RunFailed
from anharm.server.cluster_blocks import import_parsl
from anharm.server.engine_check import check_i_pi_reads
from anharm.server.engine_consistency import check_consistency, read_dft_input
from anharm.server.engine_end import STOP_FILE, remove_stop_file
from anharm.server.engine_restart import (
    RESUMED_INPUT,
    newest_checkpoint,
    with_total_steps,
    without_total_steps,
)
from anharm.server.engine_runs import (
    EngineRun,
    Trajectory,
    ideal_configuration,
    read_engine_runs,
)
from anharm.server.labelling import REMOTE_WARNING
from anharm.server.learner import System, build_system
from anharm.server.record_database import FILE_NAME
from anharm.wire.addresses import SocketAddress, parse_address

logger = logging.getLogger(__name__)

REFERENCE_FOLDER = "reference-{}"


@dataclass(frozen=True)
class Preparation:
    """All that a run needs, found to be consistent."""

    configuration: RunConfiguration
    engines: tuple[EngineRun, ...]
    system: System
    engine_command: tuple[str, ...]
    reference_commands: tuple[tuple[str, ...], ...]

    @property
    def survives_clients(self) -> bool:
        """Whether i-PI goes on when its lattice client dies; as shipped, it hangs then."""
        return "i-pi" in self.engine_command[1:] and "anharm" in self.engine_command[0]

    @property
    def engine_executable(self) -> str:
        """The i-PI that runs in the end.

        Raises
        ------
        ConfigurationError
            If it is not there.
        """
        if self.survives_clients:
            return resolve_command("i-pi", "engine.command")[0]
        return self.engine_command[0]

    @property
    def trajectories(self) -> list[Trajectory]:
        """Those of all i-PI runs."""
        return [trajectory for run in self.engines for trajectory in run.trajectories]


def prepare(configuration: RunConfiguration) -> Preparation:
    """Read every input and compare them.

    Raises
    ------
    AnharmError
        Naming what is missing or inconsistent.
    """
    configuration.require("engine", "reference")
    assert configuration.engine is not None and configuration.reference is not None
    engines = read_engine_runs(configuration)
    system = build_system(configuration, "run")
    reference = configuration.reference
    if reference.cluster is not None:
        import_parsl()
    if not is_local(reference.address):
        logger.warning(REMOTE_WARNING, reference.address)
    dft = None
    if reference.input is not None:
        dft = read_dft_input(reference.input, reference.input_format)
    for run in engines:
        check_consistency(run.engine, system.supercell.to_atoms(), dft)
    ideal_configuration(engines, system)
    preparation = Preparation(
        configuration,
        engines,
        system,
        resolve_command(configuration.engine.command, "engine.command"),
        () if reference.cluster is not None else reference_commands(configuration),
    )
    logger.debug("i-PI is %s", preparation.engine_executable)
    if preparation.survives_clients:  # the i-PI of this Python reads them
        for run in engines:
            check_i_pi_reads(run.engine.path)
    return preparation


def reference_commands(
    configuration: RunConfiguration, elsewhere: bool = False
) -> tuple[tuple[str, ...], ...]:
    """Command lines of the reference clients, one each.

    Parameters
    ----------
    configuration : RunConfiguration
    elsewhere : bool
        Whether they run on other nodes, whose programs need not be here.
    """
    reference = configuration.reference
    assert reference is not None
    if reference.calculator is not None:
        own = (sys.executable, "-m", "anharm", "reference", str(configuration.path))
        return (own,) * reference.clients
    names = {"run": str(configuration.path)}
    if elsewhere:
        return tuple(split_command(line, names) for line in reference.command_lines)
    return tuple(
        resolve_command(line, "reference.command", names) for line in reference.command_lines
    )


def split_command(line: str, names: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Split a command line, and put values in the place of names in braces."""
    words = shlex.split(line)
    for name, value in (names or {}).items():
        words = [word.replace("{" + name + "}", value) for word in words]
    return tuple(words)


def resolve_command(line: str, key: str, names: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Split a command line and find its executable.

    Raises
    ------
    ConfigurationError
        If the executable is not there.
    """
    words = split_command(line, names)
    executable = shutil.which(words[0], path=search_path())
    if executable is None:
        raise ConfigurationError(
            f"{key}: the executable {words[0]!r} was not found on this machine; install it, or "
            "give its full path"
        )
    return (executable, *words[1:])


def search_path() -> str:
    """PATH with this Python's own folder first, where i-PI and anharm are installed."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def check_sockets_free(preparation: Preparation) -> None:
    """Refuse addresses at which somebody listens already.

    Raises
    ------
    ConfigurationError, RunFailed
        Naming the address and what to do.
    """
    configuration = preparation.configuration
    assert configuration.reference is not None
    addresses = {
        **{
            f"i-PI's <ffsocket> in {run.engine.path}"
            + (f" for {t.name}" if len(run.trajectories) > 1 else ""): t.address
            for run in preparation.engines
            for t in run.trajectories
        },
        **{
            f"i-PI's <ffsocket name='{relayed.name}'> in {run.engine.path}": relayed.address
            for run in preparation.engines
            for relayed in run.relayed
        },
        "reference.address": configuration.reference.address,
        "run.broker": configuration.run.broker_endpoint.replace("ipc://", "unix:"),
    }
    taken: dict[SocketAddress, str] = {}
    for what, text in addresses.items():
        address = parse_address(text)
        if address in taken:
            raise ConfigurationError(
                f"{what} and {taken[address]} are both {address}: each server needs an address "
                "of its own, so change one"
            )
        taken[address] = what
        if is_in_use(address):
            raise RunFailed(
                f"{what}: somebody listens at {address} already, perhaps another run; stop that "
                "process, or choose another address"
            )
    relayed = [socket.address for run in preparation.engines for socket in run.relayed]
    for text in [*(t.address for t in preparation.trajectories), *relayed]:
        address = parse_address(text)
        if address.kind == "unix" and Path(address.path).is_socket():
            Path(address.path).unlink()  # left behind by an i-PI that was killed


def is_in_use(address: SocketAddress) -> bool:
    """Whether a server answers at an address of this machine."""
    if address.kind == "unix":
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: str | tuple[str, int] = str(address.path)
    else:
        peer = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        target = (str(address.host), int(address.port or 0))
    with peer:
        peer.settimeout(2.0)
        try:
            peer.connect(target)
        except OSError:
            return False
        return True


def prepare_directory(preparation: Preparation, resume: bool) -> dict[str, Path]:
    """Make the run directory and give every i-PI its input in its folder there.

    Returns
    -------
    dict of Path
        What each i-PI is to read, by its name; those that have made all their steps are left out.

    Raises
    ------
    ConfigurationError
        If a run is there already and shall not be resumed, or the other way round, or an i-PI
        input has changed, or all steps are made.
    RunFailed
        If the directory cannot be written.
    """
    directory = preparation.configuration.run.directory
    record = directory / FILE_NAME
    if record.exists() and not resume:
        raise ConfigurationError(
            f"{directory} holds a run already; add --resume to continue it, or choose another "
            "run.directory"
        )
    if resume and not record.exists():
        raise ConfigurationError(
            f"{directory} holds no run to resume; leave out --resume to begin one"
        )
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        if resume:
            _check_layout(preparation)
            _compare_reference(preparation.configuration)
        inputs = {run.name: _prepare_engine(run, directory, resume) for run in preparation.engines}
    except OSError as error:
        raise RunFailed(
            f"the run directory {directory} cannot be written: {error.strerror}; choose another "
            "run.directory, or make it yours"
        ) from error
    found = {name: path for name, path in inputs.items() if path is not None}
    if not found:
        _refuse_complete(preparation)
    return found


def _check_layout(preparation: Preparation) -> None:
    """One i-PI runs in the run directory itself, several in folders there."""
    directory = preparation.configuration.run.directory
    for run in preparation.engines:
        source = run.engine.path
        other = directory / ("" if run.name else source.stem) / source.name
        if other.exists() and not (run.folder(directory) / source.name).exists():
            raise ConfigurationError(
                f"the run in {directory} began with {'one i-PI input' if run.name else 'several'}"
                f" (its copy is {other}), and engine.input lists "
                f"{'several' if run.name else 'one'} now: a resumed run goes on as it began, so "
                "restore engine.input, or use another run.directory"
            )


def _prepare_engine(run: EngineRun, directory: Path, resume: bool) -> Path | None:
    """What one i-PI is to read; None if it has made all its steps."""
    source, folder = run.engine.path, run.folder(directory)
    copy = folder / source.name
    if remove_stop_file(folder):
        logger.warning("removed %s, which would end i-PI at its first step", folder / STOP_FILE)
    if resume and copy.exists():
        _check_unchanged(source, copy, directory)
        return _where_to_continue(run, copy)
    for name in (Path(source.name), *run.engine.files):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, target)
    return copy


def _refuse_complete(preparation: Preparation) -> None:
    engine = preparation.engines[0].engine
    paths = " or ".join(str(run.engine.path) for run in preparation.engines)
    raise ConfigurationError(
        f"the run in {preparation.configuration.run.directory} has made all its "
        f"{engine.total_steps} steps; to go on, raise <total_steps> in {paths} and resume again"
    )


def _check_unchanged(source: Path, copy: Path, directory: Path) -> None:
    """A resumed i-PI input may differ in its number of steps only."""
    texts = [file.read_text(errors="replace") for file in (source, copy)]
    if without_total_steps(texts[0]) != without_total_steps(texts[1]):
        raise ConfigurationError(
            f"{source} has changed since the run in {directory} began, in more than its "
            f"<total_steps>; restore it (a copy is {copy}), or use another run.directory"
        )


def _compare_reference(configuration: RunConfiguration) -> None:
    """Warn where the DFT input changed: only the user knows whether that changes the forces."""
    assert configuration.reference is not None
    source = configuration.reference.input
    if source is None:
        return
    copy = configuration.run.directory / REFERENCE_FOLDER.format(1) / source.name
    if copy.exists() and copy.read_bytes() != source.read_bytes():
        logger.warning(
            "%s has changed since the run in %s began. Its labels are kept and more are added: if "
            "the change moves energies or forces, begin again in another run.directory",
            source,
            configuration.run.directory,
        )


def _where_to_continue(run: EngineRun, copy: Path) -> Path | None:
    """What i-PI is to read in a resumed run: its newest checkpoint, or its input again."""
    total = run.engine.total_steps
    checkpoint = newest_checkpoint(copy.parent, copy)
    if checkpoint is None:
        shutil.copyfile(run.engine.path, copy)
        return copy
    if checkpoint.step >= total:
        return None
    resumed = copy.parent / RESUMED_INPUT
    resumed.write_text(with_total_steps(checkpoint.path.read_text(), total))
    return resumed


def prepare_reference_directory(configuration: RunConfiguration, number: int) -> Path:
    """Make the working folder of a reference client and copy its files there.

    Raises
    ------
    RunFailed
        If it cannot be written.
    """
    assert configuration.reference is not None
    folder = configuration.run.directory / REFERENCE_FOLDER.format(number)
    files = list(configuration.reference.files)
    if configuration.reference.input is not None:
        files.append(configuration.reference.input)
    try:
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise RunFailed(f"{folder} cannot be written: {error.strerror}") from error
    return folder
