"""`anharm run`: starts i-PI, the broker and the clients, watches them, and ends them together."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from anharm.configuration import RunConfiguration
from anharm.errors import AnharmError, ConfigurationError, RunFailed
from anharm.server.cluster import CLUSTER
from anharm.server.engine_end import why_incomplete
from anharm.server.engine_runs import EngineRun
from anharm.server.preflight import (
    REFERENCE_FOLDER,
    Preparation,
    check_sockets_free,
    prepare,
    prepare_directory,
    prepare_reference_directory,
    search_path,
)
from anharm.server.processes import (
    ManagedProcess,
    interruptions_deferred,
    wait_until_ended,
)
from anharm.server.record_database import FILE_NAME
from anharm.server.restarts import Restarts
from anharm.server.run_failures import died, interrupted, words_of_references
from anharm.server.status_line import StatusLine
from anharm.wire.messages import Status

logger = logging.getLogger(__name__)

Show = Callable[[Status], None]
Tell = Callable[[str], None]

_LOOK_SECONDS = 0.3
_START_SECONDS = 60.0
_END_SECONDS = 30.0
_LAST_WORD_SECONDS = 10.0
_LAST_STEP_SECONDS = 5.0
_CANCEL_SECONDS = 60.0  # for giving back the nodes of a cluster
_RESTARTS = 3
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
# pw.x of some distributions refuses to run as root (in a container, say) without these.
_ALLOW_MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def supervise(configuration: RunConfiguration, resume: bool, show: Show, tell: Tell) -> None:
    """Run the whole job in this process's children.

    Parameters
    ----------
    configuration : RunConfiguration
    resume : bool
    show : callable
        Called with the broker's status a few times per second.
    tell : callable
        Called with a sentence when something has happened that the user should know.

    Raises
    ------
    AnharmError
        If the run cannot start, fails, or is interrupted. No child is left in any case.
    """
    preparation = prepare(configuration)
    check_sockets_free(preparation)
    engine_inputs = prepare_directory(preparation, resume)
    supervisor = _Supervisor(preparation, engine_inputs, resume, show, tell)
    is_interrupted = False
    try:
        supervisor.run()
    except KeyboardInterrupt:
        is_interrupted = True
        supervisor.interrupt()
    finally:
        supervisor.end_all()
    if is_interrupted:
        raise interrupted(configuration)


class _Supervisor:
    """The children of one run."""

    def __init__(
        self,
        preparation: Preparation,
        engine_inputs: dict[str, Path],
        resume: bool,
        show: Show,
        tell: Tell,
    ) -> None:
        self.preparation = preparation
        self.configuration = preparation.configuration
        self.directory = self.configuration.run.directory
        self.engine_inputs = engine_inputs
        self.resume = resume
        self.show = show
        self.children: list[ManagedProcess] = []
        self.references: list[ManagedProcess] = []
        self._ended: list[ManagedProcess] = []
        self.broker: ManagedProcess | None = None
        self.clients: list[ManagedProcess] = []
        self.engines: list[ManagedProcess] = []
        self._is_over = False  # i-PI has ended, or the broker has ended the run
        reference = self.configuration.reference
        assert reference is not None
        # A code that dies of a configuration may do so as often as a label may be tried.
        self._restarts = Restarts(tell, {"reference": max(_RESTARTS, reference.attempts)})
        self._line = StatusLine(self.configuration.run.broker_endpoint, self.configuration.run.keys)

    def run(self) -> None:
        """Start everything, watch it, and return when i-PI and the broker have ended."""
        self.broker = self._start_broker(self.resume)
        self._await_broker()
        for number in range(1, len(self.preparation.reference_commands) + 1):
            prepare_reference_directory(self.configuration, number)
            self.references.append(self._start_reference(number))
        if self._is_on_cluster:
            self.references.append(self._start_reference(1))
        runs = [run for run in self.preparation.engines if run.name in self.engine_inputs]
        for run in runs:
            self._start_clients(run)
        self._await_first_model()
        for run in runs:
            self._start_relays(run)
            command = (*self.preparation.engine_command, self.engine_inputs[run.name].name)
            folder = run.folder(self.directory)
            self.engines.append(self._start(run.label, command, folder))
        self._watch()
        self._check_complete()

    def _start_broker(self, resume: bool) -> ManagedProcess:
        return self._start("broker", self._own("broker", *(["--resume"] if resume else [])))

    def _start_clients(self, run: EngineRun) -> None:
        """The lattice clients of one i-PI, for each of its sockets."""
        section = self.configuration.engine
        assert section is not None
        is_only = len(self.preparation.trajectories) == 1
        for trajectory in run.trajectories:
            words = () if is_only else ("--trajectory", trajectory.name)
            name = "client" if is_only else f"client-{trajectory.name}"
            for number in range(1, section.clients + 1):
                label = name if section.clients == 1 else f"{name}-{number}"
                self.clients.append(self._start(label, self._own("client", *words)))

    def _start_relays(self, run: EngineRun) -> None:
        """As many relays as can have an answer computed, or a question to pass on, at a time."""
        reference = self.configuration.reference
        assert reference is not None
        n_references = len(reference.command_lines) or reference.clients
        for socket in run.relayed:
            for number in range(1, min(socket.concurrency, n_references) + 1):
                label = f"relay-{socket.label}-{number}"
                command = self._own("relay", "--forcefield", socket.label)
                self.clients.append(self._start(label, command))

    @property
    def _is_on_cluster(self) -> bool:
        reference = self.configuration.reference
        return reference is not None and reference.cluster is not None

    def _start_reference(self, number: int) -> ManagedProcess:
        """A reference client, or the launcher that starts all of them elsewhere."""
        if self._is_on_cluster:
            return self._start(CLUSTER, self._own("cluster"))
        command = self.preparation.reference_commands[number - 1]
        folder = self.directory / REFERENCE_FOLDER.format(number)
        return self._start(f"reference-{number}", command, folder)

    def _own(self, *words: str) -> tuple[str, ...]:
        """A command of ours, in this Python."""
        path = str(self.configuration.path)
        return (sys.executable, "-m", "anharm", words[0], path, *words[1:])

    def _start(
        self, name: str, command: tuple[str, ...], folder: Path | None = None
    ) -> ManagedProcess:
        environment = {"PATH": search_path(), "PYTHONUNBUFFERED": "1", **_ALLOW_MPI_AS_ROOT}
        if not name.startswith(("reference-", CLUSTER)):
            environment |= _ONE_THREAD
        log = self.directory / "logs" / f"{name}.log"
        with interruptions_deferred():
            child = ManagedProcess(name, command, folder or self.directory, log, environment)
            self.children.append(child)
        return child

    def _await_broker(self) -> None:
        """Until the broker answers: reference codes do not wait for their server."""
        deadline = time.monotonic() + _START_SECONDS
        while self._line.ask(_LOOK_SECONDS) is None:
            self._check_broker_runs()
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"the broker did not answer within {_START_SECONDS:.0f} s; see "
                    f"{self.directory / 'logs' / 'broker.log'}"
                )

    def _await_first_model(self) -> None:
        """Until the initial labels are learnt; i-PI has nothing to do before."""
        while True:
            status = self._look()
            self._check_broker_runs()
            if status and status.model_version > 0 and status.phase != "initial labels":
                return
            time.sleep(_LOOK_SECONDS)

    def _watch(self) -> None:
        """Until i-PI has ended, or the broker has ended the run."""
        assert self.broker is not None
        while any(engine.is_running for engine in self.engines) and (
            self.broker.is_running or self.broker.was_killed
        ):
            self._look()
            time.sleep(_LOOK_SECONDS)
        self._is_over = True
        if any(engine.is_running for engine in self.engines):
            self._check_broker()
            for engine in self.engines:
                engine.ask_to_end()  # training has converged: i-PI writes its RESTART
            wait_until_ended(self.engines, _END_SECONDS)
        else:
            self._check_engines()
        self._await_last_labels()
        wait_until_ended([*self.clients, self.broker], _END_SECONDS)
        self._check_broker()

    def _await_last_labels(self) -> None:
        """Without waiting for labels, i-PI may end before them; the broker bounds their time."""
        assert self.broker is not None
        deadline = time.monotonic() + _END_SECONDS
        while self.broker.is_running and time.monotonic() < deadline:
            status = self._look()
            if status is not None and status.pending:
                deadline = time.monotonic() + _END_SECONDS
            time.sleep(_LOOK_SECONDS)

    def _check_complete(self) -> None:
        """i-PI ends in good order, too, when somebody stops it or its own time limit is over."""
        if self.configuration.run.stop_when_converged:
            return
        runs = {run.label: run for run in self.preparation.engines}
        for engine in self.engines:
            why = why_incomplete(runs[engine.name], self.directory, engine.has_printed)
            if why:
                again = f"`anharm run {self.configuration.path} --resume` continues"
                raise RunFailed(f"{why}; {again}")

    def _look(self) -> Status | None:
        """Show how the run stands, and find what has gone wrong."""
        if not self._line.is_waiting:
            # Whoever ended before the broker was asked did not end because the run did.
            self._ended = [child for child in self.references if child.exit_code is not None]
        status = self._line.ask(_LOOK_SECONDS)
        if status is not None:
            self.show(status)
            self._look_after_references(status, self._ended)
        self._check_engines()
        self._look_after_broker()
        self._look_after_clients()
        return status

    def _look_after_broker(self) -> None:
        """Start a broker that was killed again: it goes on where it was."""
        assert self.broker is not None
        if self.broker.was_killed:
            has_begun = (self.directory / FILE_NAME).exists()
            again = self._restarts.revive(self.broker, lambda: self._start_broker(has_begun))
            if again is None:
                raise self._died(self.broker)
            self.broker = again
        self._check_broker()

    def _look_after_clients(self) -> None:
        """Start lattice clients that were killed again, for an i-PI that survives this."""
        assert self.broker is not None
        for index, client in enumerate(self.clients):
            if client.exit_code in (None, 0):
                continue
            again: ManagedProcess | None = None
            if not client.was_killed:  # it has told the broker why, which ends the run
                self.broker.wait(_LAST_WORD_SECONDS)
            elif self.preparation.survives_clients:
                start = partial(self._start, client.name, client.command)
                again = self._restarts.revive(client, start)
            if again is None:
                self._check_broker()
                raise self._died(client)
            self.clients[index] = again

    def _look_after_references(self, status: Status, ended: list[ManagedProcess]) -> None:
        """Start reference clients that ended again, while there is a broker to serve."""
        if status.phase == "stopped":
            return
        for index, child in enumerate(self.references):
            if child in ended and not _is_final(child):
                start = partial(self._start_reference, index + 1)
                self.references[index] = self._restarts.revive(child, start) or child
        is_given_up = [_is_final(c) or self._restarts.is_given_up(c) for c in self.references]
        if self.references and all(is_given_up) and status.pending:
            self._check_broker()
            raise self._died(self.references[0])

    def _check_engines(self) -> None:
        for engine in self.engines:
            if engine.exit_code not in (None, 0):
                self._check_broker()
                raise self._died(engine)

    def _check_broker(self) -> None:
        """The broker knows best why a run failed, unless i-PI was killed."""
        assert self.broker is not None
        if self.broker.exit_code in (None, 0) or (self.broker.was_killed and not self._is_over):
            return
        for engine in self.engines:
            if engine.was_killed:  # the broker only knows that it broke off
                raise self._died(engine)
        error = self.broker.last_error()
        if not error:
            raise self._died(self.broker)
        if "could not be computed" in error:
            error += words_of_references(self.references, self.configuration.path)
        raise ConfigurationError(error) if self.broker.exit_code == 2 else RunFailed(error)

    def _check_broker_runs(self) -> None:
        """Before i-PI runs, the broker has no reason to end."""
        self._look_after_broker()
        assert self.broker is not None
        if self.broker.exit_code == 0:
            raise self._died(self.broker)

    def _died(self, child: ManagedProcess) -> AnharmError:
        return died(child, self.configuration.path)

    def interrupt(self) -> None:
        """Let i-PI finish its step and write its RESTART, if no label keeps it waiting."""
        for engine in self.engines:
            engine.ask_to_end()
        wait_until_ended(self.engines, _LAST_STEP_SECONDS)

    def end_all(self) -> None:
        """End every child that is left; a second Ctrl-C does not keep it from that.

        All are asked at once, i-PI first: it can end only when its client answers or leaves.
        """
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for child in reversed(self.children):
            child.ask_to_end()
        for child in reversed(self.children):
            child.end(_CANCEL_SECONDS if child.name == CLUSTER else _LAST_WORD_SECONDS)
        self._line.close()
        signal.signal(signal.SIGINT, previous)


def _is_final(child: ManagedProcess) -> bool:
    """Whether a reference client ended for a reason that another start would not cure.

    2 means that what it was told to do cannot be done. The launcher of a cluster has tried again
    itself before it fails.
    """
    return child.exit_code == 2 or (child.name == CLUSTER and child.exit_code == 1)
