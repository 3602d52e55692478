"""The broker as a process: ZeroMQ towards lattice clients, the i-PI protocol towards references."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import zmq

from anharm.configuration import RunConfiguration
from anharm.errors import AnharmError, ConfigurationError, RunFailed
from anharm.server.beads import BeadCounts
from anharm.server.broker import Broker
from anharm.server.broker_socket import broker_socket, send_to
from anharm.server.convergence_record import has_converged
from anharm.server.engine_runs import bead_counts, ideal_configuration, read_engine_runs
from anharm.server.flood_limit import FloodLimit
from anharm.server.given_labels import commit_given_labels, read_given_labels
from anharm.server.initial_configurations import InitialConfigurations
from anharm.server.labelling import (
    AttemptFailed,
    AttemptStarted,
    ClientJoined,
    ClientLeft,
    LabellingServer,
    LabelReceived,
    RequestFailed,
)
from anharm.server.learner import Learner, System, build_system
from anharm.server.observing import Reply
from anharm.server.record import Record
from anharm.server.record_schema import content_hash
from anharm.wire.addresses import parse_address
from anharm.wire.driver_protocol import Configuration
from anharm.wire.messages import (
    BadMessage,
    Message,
    NewModel,
    decode,
    encode,
    largest_client_frame,
)

logger = logging.getLogger(__name__)
logger.addFilter(FloodLimit())

_POLL_SECONDS = 0.5
_REASSURE_SECONDS = 2.0
_WRITE_SECONDS = 1.0
_SILENCE_SECONDS = 20.0  # clients say every two seconds that they are alive


def run_broker(configuration: RunConfiguration, resume: bool) -> None:
    """Serve one run until i-PI ends, the run is stopped, or it fails.

    Parameters
    ----------
    configuration : RunConfiguration
    resume : bool
        Continue the record in the run directory instead of beginning one.

    Raises
    ------
    AnharmError
        With the reason why the run cannot start or go on.
    """
    configuration.require("engine", "reference")
    engines = read_engine_runs(configuration)
    system = build_system(configuration)
    directory = configuration.run.directory
    ideal = ideal_configuration(engines, system)
    symbols = engines[0].engine.structure.get_chemical_symbols()
    file, limit = configuration.training.initial_labels, configuration.crystal.maximum_displacement
    given = [] if file is None else read_given_labels(file, symbols, system, limit)
    initial = InitialConfigurations.of(configuration, engines, system, ideal)
    with open_record(configuration, ideal, directory, resume) as record:
        record.set_metadata({"symbols": " ".join(symbols)})
        commit_given_labels(record, given)
        beads = bead_counts(engines)
        record.set_metadata(beads.as_metadata())
        _BrokerProcess(configuration, initial, system, record, beads).run()


def open_record(
    configuration: RunConfiguration, ideal: Configuration, directory: Path, resume: bool
) -> Record:
    """Create the record of a new run, or open that of the run to resume.

    Raises
    ------
    ConfigurationError
        If crystal, expansion or the order of the atoms changed since the run began.
    """
    essential = essential_settings(configuration, ideal)
    if not resume:
        return Record.open(
            directory, create=True, metadata={"configuration": configuration.text, **essential}
        )
    record = Record.open(directory)
    known = record.metadata()
    for key, value in essential.items():
        if known.get(key, value) != value:
            record.close()
            raise ConfigurationError(
                f"{configuration.path}: {key} has changed since the run in {directory} began"
                f"{_then_and_now(known[key], value)}; its labels and models belong to what was "
                "there before: restore it, or use another run.directory"
            )
    # A run that was killed as it began may not know its essential settings yet.
    essential["configuration"] = configuration.text
    record.set_metadata({**essential, "ended": "", "failure": ""})
    record.log("resumed")
    return record


def essential_settings(configuration: RunConfiguration, ideal: Configuration) -> dict[str, str]:
    """What must not change between a run and its continuation, by its name for messages."""
    primitive = configuration.crystal.primitive
    return {
        f"the structure in crystal.primitive ({primitive.name})": primitive.read_text(
            errors="replace"
        ),
        "crystal.supercell": str(configuration.crystal.supercell),
        "expansion.cutoffs": str(configuration.expansion.cutoffs),
        "expansion.first_order": str(configuration.expansion.first_order),
        "expansion.rotational_sum_rules": str(configuration.expansion.rotational_sum_rules),
        "the cell or the order of the atoms in engine.input": content_hash(
            ideal.positions, ideal.cell
        ),
    }


def _then_and_now(then: str, now: str) -> str:
    """Both values, where they are settings and not files or hashes."""
    return f" (then {then}, now {now})" if then.startswith(("(", "{", "True", "False")) else ""


def output_files(configuration: RunConfiguration) -> tuple[Path, ...]:
    """Files to which reference clients print.

    Over TCP nobody knows which process is at the other end, so the logs of all the clients that
    `anharm run` starts are looked at.
    """
    reference = configuration.reference
    assert reference is not None
    if parse_address(reference.address).kind == "unix":
        return reference.output_file
    folder = configuration.run.directory / "logs"
    numbers = range(1, len(reference.command_lines) + 1)
    return (*reference.output_file, *(folder / f"reference-{n}.log" for n in numbers))


class _BrokerProcess:
    """Sockets and clocks around a `Broker`."""

    def __init__(
        self,
        configuration: RunConfiguration,
        initial: InitialConfigurations,
        system: System,
        record: Record,
        beads: BeadCounts,
    ) -> None:
        ideal = initial.ideal
        reference = configuration.reference
        assert reference is not None
        self.configuration = configuration
        self.reference_limit = reference.connection_limit
        self.client_limit = configuration.run.connection_limit
        self.address = parse_address(reference.address)
        self.labelling = LabellingServer(
            self.address,
            number_of_atoms=len(ideal.positions),
            time_limit=reference.time_limit,
            attempts=reference.attempts,
            first_configuration=ideal if reference.first_geometry else None,
            allow_remote=reference.allow_remote,
            wrap_positions=reference.wrap_positions,
            reject_output=reference.reject_output,
            output_files=output_files(configuration),
        )
        learner = Learner(
            system,
            record,
            configuration.run.directory,
            configuration.crystal.maximum_displacement,
            configuration.training.targets,
            learns_harvested=configuration.training.harvest == "learn"
            and not has_converged(record, configuration.training),
        )
        self.record = record
        self.broker = Broker(configuration, record, learner, self.labelling, initial, beads)
        self.largest_frame = largest_client_frame(len(ideal.positions))
        self._model_frame = -1, zmq.Frame()
        self.stopping = ""
        self._deserted_since = time.monotonic()
        self._lonely_since = time.monotonic()

    def run(self) -> None:
        """Serve until the broker stops."""
        run = self.configuration.run
        self.labelling.start()
        try:
            with (
                broker_socket(run.broker_endpoint, run.keys, self.largest_frame) as socket,
                _signals(self),
            ):
                self._send(socket, self.broker.start())
                self._loop(socket)
        finally:
            self.labelling.close()
            self.broker.write()
            self.broker.write_status()
        if self.broker.failure:
            raise RunFailed(self.broker.failure)

    def _loop(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self.labelling.fileno(), zmq.POLLIN)
        reassured = written = time.monotonic()
        gc.collect()
        gc.freeze()  # what is there by now stays, and is not searched for garbage again and again
        while self.broker.phase != "stopped":
            ready = dict(poller.poll(int(_POLL_SECONDS * 1000)))
            now = time.monotonic()
            if socket in ready:
                self._receive(socket, now)
            if self.labelling.fileno() in ready:
                self._receive_labels(socket)
            if now - reassured > _REASSURE_SECONDS:
                self._send(socket, self.broker.reassure())
                reassured = now
            if now - written > _WRITE_SECONDS:
                self.broker.write()
                self.broker.write_status()
                written = now
            self._check_deadlines(socket, now)
            if self.stopping:
                self._send(socket, self.broker.stop("", self.stopping))

    def _receive(self, socket: zmq.Socket[bytes], now: float) -> None:
        """Take all messages that are there; what makes no sense is logged and dropped."""
        for _ in range(1000):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) != 2:
                logger.warning("a message of %d frames was dropped", len(frames))
                continue
            try:
                message = decode(frames[1], self.largest_frame)
                self._send(socket, self.broker.handle(frames[0], message, now))
            except BadMessage as error:
                logger.warning("a message was dropped: %s", error)

    def _receive_labels(self, socket: zmq.Socket[bytes]) -> None:
        for event in self.labelling.events():
            if isinstance(event, LabelReceived):
                try:
                    self._send(socket, self.broker.receive_label(event))
                except AnharmError as error:
                    self._send(socket, self.broker.fail(error))
            elif isinstance(event, RequestFailed):
                self.record.set_request_state(event.request_id, "failed")
                failure = f"label {event.request_id} could not be computed: {event.reason}"
                self._send(socket, self.broker.stop("", failure))
            elif isinstance(event, AttemptStarted):
                self.record.set_request_client(event.request_id, event.client)
            elif isinstance(event, AttemptFailed):
                self.record.set_request_client(event.request_id, "")
                self._log(
                    f"attempt {event.attempt} at label {event.request_id} by {event.client} "
                    f"failed: {event.reason}"
                )
            elif isinstance(event, ClientJoined):
                logger.info("reference client %s joined", event.client)
            elif isinstance(event, ClientLeft):
                logger.info("reference client %s left: %s", event.client, event.reason)

    def _log(self, text: str) -> None:
        logger.warning(text)
        self.record.log(text, "warning")

    def _check_deadlines(self, socket: zmq.Socket[bytes], now: float) -> None:
        """Nobody waits for ever: neither for a reference client nor for a lattice client."""
        if self.labelling.number_of_clients or not self.broker.n_pending:
            self._deserted_since = now
        elif now - self._deserted_since > self.reference_limit:
            error = no_reference_client(
                str(self.address), self.reference_limit, self.broker.n_pending
            )
            self._send(socket, self.broker.fail(error))
        limit = min(self.client_limit, _SILENCE_SECONDS)
        self._send(socket, self.broker.forget_silent(now, limit))
        if self.broker.clients or self.broker.n_pending:
            self._lonely_since = now
        elif now - self._lonely_since > self.client_limit:
            failure = (
                f"no lattice client has been there for {self.client_limit:.0f} s "
                "(run.connection_limit); start `anharm client RUN.toml` and i-PI, and resume"
            )
            self._send(socket, self.broker.stop("", failure))

    def _send(self, socket: zmq.Socket[bytes], replies: list[Reply]) -> None:
        for address, message in replies:
            delivery = send_to(socket, address, self._frame(message))
            if delivery == "full":
                self.broker.give_up(address)
            elif delivery == "gone":
                logger.debug("a client left before its answer")  # its silence will be noticed

    def _frame(self, message: Message) -> zmq.Frame:
        """A message to send; a model, which may be large, is held once for all who want it."""
        if not isinstance(message, NewModel):
            return zmq.Frame(encode(message))
        version, frame = self._model_frame
        if version != message.version:
            frame = zmq.Frame(encode(message))
            self._model_frame = message.version, frame
        return frame


@contextmanager
def _signals(process: _BrokerProcess) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into an orderly stop."""

    def stop(number: int, frame: FrameType | None) -> None:
        process.stopping = (
            f"the broker was stopped by {signal.Signals(number).name}; all labels are kept, and "
            "--resume continues"
        )

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def no_reference_client(address: str, seconds: float, pending: int) -> RunFailed:
    """The error of a run that waits for labels while nobody computes them."""
    return RunFailed(
        f"{pending} label(s) are wanted, and no reference client has been connected to {address} "
        f"for {seconds:.0f} s (reference.connection_limit); start one, for example "
        "`anharm reference RUN.toml` or your DFT code with this address, and resume"
    )
