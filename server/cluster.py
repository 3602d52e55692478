"""`anharm cluster`: reference clients on the nodes of a cluster, got and given back through Parsl.

Each client is one long task of Parsl's. A client that ends, or is lost with its block, is submitted
again while labels are wanted; its label went back to the broker when its connection broke.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from anharm.configuration import ReferenceSection, RunConfiguration
from anharm.errors import ConfigurationError, RunFailed
from anharm.server.cluster_blocks import FOLDER, Blocks, import_parsl
from anharm.server.cluster_client import ClientEnd
from anharm.server.preflight import prepare_reference_directory, reference_commands
from anharm.server.restarts import RestartPolicy
from anharm.server.status_line import StatusLine
from anharm.wire.messages import Status

logger = logging.getLogger(__name__)

CLUSTER = "cluster"
_LOOK_SECONDS = 0.5
_GOODBYE_SECONDS = 5.0
_RESTARTS = 3


def run_cluster(configuration: RunConfiguration) -> None:
    """Keep reference clients running on a cluster, until the broker has ended.

    Raises
    ------
    ConfigurationError
        If there is no [reference.cluster], or Parsl is missing.
    RunFailed
        If clients or blocks die at once and again, or no broker answers.
    """
    configuration.require("reference")
    assert configuration.reference is not None
    if configuration.reference.cluster is None:
        raise ConfigurationError(
            f"{configuration.path}: there is no [reference.cluster]; add one (docs/clusters.md), "
            'for example provider = "slurm", or start reference clients with `anharm run`'
        )
    import_parsl()
    launcher = _Launcher(configuration, configuration.reference)
    try:
        launcher.run()
    finally:
        with _uninterrupted():
            launcher.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Blocks must be given back, whatever the user presses meanwhile."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def clients_wanted(most: int, running: int, pending: int, idle: float, idle_limit: float) -> int:
    """How many clients shall run or wait for a block.

    Parameters
    ----------
    most : int
        The most clients.
    running : int
        Clients that run or wait now.
    pending : int
        Labels that are wanted and not there yet.
    idle : float
        For how long no label was wanted (s).
    idle_limit : float
        After how long without work the clients' nodes are given back (s).

    Returns
    -------
    int
        Never more new ones than there are labels; clients that are there stay until the limit.
    """
    if pending == 0 and idle > idle_limit:
        return 0
    return min(most, max(running, pending))


@dataclass
class _Client:
    """One reference client, and its task if it has one."""

    name: str
    command: list[str]
    folder: Path
    log: Path
    stop: Path
    policy: RestartPolicy
    future: Future[ClientEnd] | None = None
    due: float = 0.0
    given_up: str = ""
    ended_well: bool = field(default=False)

    @property
    def is_told_to_end(self) -> bool:
        return self.stop.exists()


class _Launcher:
    """The clients of one run, and Parsl."""

    def __init__(self, configuration: RunConfiguration, reference: ReferenceSection) -> None:
        self.configuration = configuration
        assert reference.cluster is not None
        self.cluster = reference.cluster
        directory = configuration.run.directory
        folder = directory / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (directory / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise RunFailed(f"{folder} cannot be written: {error.strerror}") from error
        self.restarts = max(_RESTARTS, reference.attempts)
        self.clients = []
        for number, command in enumerate(reference_commands(configuration, elsewhere=True), 1):
            name = f"reference-{number}"
            self.clients.append(
                _Client(
                    name=name,
                    command=list(command),
                    folder=prepare_reference_directory(configuration, number),
                    log=directory / "logs" / f"{name}.log",
                    stop=folder / f"stop-{name}",
                    policy=RestartPolicy(self.restarts),
                )
            )
        self._labels = 0
        self._last_word = self._last_work = time.monotonic()
        self._line = StatusLine(configuration.run.broker_endpoint, configuration.run.keys)
        self.blocks: Blocks | None = None

    def run(self) -> None:
        """Until the broker has ended."""
        self._await_broker()
        reference = self.configuration.reference
        assert reference is not None
        folder = self.configuration.run.directory / FOLDER
        self.blocks = Blocks(reference, folder)
        logger.info("clients are started through Parsl, whose log is %s", self.blocks.log)
        while True:
            status = self._line.ask(_LOOK_SECONDS)
            now = time.monotonic()
            for client in self.clients:
                self._collect(client, now)
            if status is None:
                if self._is_over(now):
                    return
                continue
            self._heed(status, now)
            self.blocks.check()
            self._check_clients()
            if status.phase != "stopped":
                self._adjust(status.pending, now)
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """End the clients, give back the blocks."""
        try:
            for client in self.clients:
                if client.future is not None:
                    client.stop.touch()
            deadline = time.monotonic() + _GOODBYE_SECONDS
            while any(c.future and not c.future.done() for c in self.clients):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        finally:
            if self.blocks is not None:
                self.blocks.close()
            for client in self.clients:
                client.stop.unlink(missing_ok=True)
            self._line.close()

    def _await_broker(self) -> None:
        """Reference codes do not wait for their server, and nodes cost."""
        limit = self.configuration.run.connection_limit
        while self._line.ask(_LOOK_SECONDS) is None:
            if time.monotonic() - self._last_word > limit:
                raise RunFailed(
                    f"no broker answers at {self.configuration.run.broker_endpoint} for "
                    f"{limit:.0f} s (run.connection_limit); start `anharm broker "
                    f"{self.configuration.path}`, or everything with `anharm run`"
                )
        self._last_word = time.monotonic()

    def _is_over(self, now: float) -> bool:
        """Whether a broker that is silent has ended: it then told its clients to end."""
        silent = now - self._last_word
        if silent > _GOODBYE_SECONDS and all(c.future is None for c in self.clients):
            return any(c.ended_well for c in self.clients) or silent > self._patience
        if silent > self._patience:
            raise RunFailed(
                f"the broker is silent for {self._patience:.0f} s (run.connection_limit); its "
                "clients' nodes are given back"
            )
        return False

    @property
    def _patience(self) -> float:
        return self.configuration.run.connection_limit

    def _heed(self, status: Status, now: float) -> None:
        self._last_word = now
        if status.pending:
            self._last_work = now
        if status.labels > self._labels:  # whatever went wrong before, work gets done
            self._labels = status.labels
            for client in self.clients:
                client.policy = RestartPolicy(self.restarts)

    def _adjust(self, pending: int, now: float) -> None:
        """Submit clients that are wanted, tell others to end."""
        assert self.blocks is not None
        active = [c for c in self.clients if c.future is not None]
        idle = now - self._last_work
        wanted = clients_wanted(
            len(self.clients), len(active), pending, idle, self.cluster.idle_limit
        )
        if wanted == 0:
            for client in active:
                if not client.is_told_to_end:
                    logger.info("%s: no label was wanted for %.0f s; it ends", client.name, idle)
                    client.stop.touch()
        free = [c for c in self.clients if c.future is None and c.due <= now and not c.given_up]
        for client in free[: max(0, wanted - len(active))]:
            client.stop.unlink(missing_ok=True)
            client.future = self.blocks.submit(
                client.name, client.command, client.folder, client.log, client.stop
            )
            client.ended_well = False
            logger.info("%s submitted", client.name)

    def _collect(self, client: _Client, now: float) -> None:
        """See whether a client has ended, and why."""
        if client.future is None or not client.future.done():
            return
        future, client.future = client.future, None
        error = future.exception()
        if error is not None:
            reason = f"was lost with its block ({type(error).__name__}: {error})"
            self._count(client, f"{client.name} {reason}", now)
            return
        end = future.result()
        if client.is_told_to_end:
            logger.info("%s has ended", client.name)
            return
        client.ended_well = end["code"] == 0
        how = (
            f"{client.name} {end['how']} after {end['seconds']:.1f} s on {end['host']} "
            f"({' '.join(client.command)})"
        )
        said = f"The end of {client.log}:\n{end['words']}" if end["words"] else "It printed nothing"
        self._count(client, f"{how}. {said}", now, is_final=end["code"] == 2)

    def _count(self, client: _Client, what: str, now: float, is_final: bool = False) -> None:
        logger.warning("%s", what)
        pause = client.policy.pause_after_death(now)
        if pause is None or is_final:
            client.given_up = what
        else:
            client.due = now + pause

    def _check_clients(self) -> None:
        """Give up when every client has died too often."""
        if all(client.given_up for client in self.clients):
            client = self.clients[0]
            often = "" if client.policy.deaths == 1 else f", {client.policy.deaths} times"
            with suppress(OSError):
                client.stop.unlink(missing_ok=True)
            raise RunFailed(
                f"{client.given_up}\nThis happened{often} within "
                f"{client.policy.period / 60:.0f} minutes without a label; put right what is wrong"
            )
