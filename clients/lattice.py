"""The lattice client: i-PI asks for forces, the model answers, the broker watches the errors."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, thread_time

import numpy as np
from threadpoolctl import threadpool_limits

from anharm.clients.asked import LARGEST_MESSAGE, Asked
from anharm.clients.broker_link import BrokerLink, RunEnded
from anharm.clients.engine_connection import serve_engine
from anharm.clients.evaluator import Evaluator, Placed
from anharm.errors import AnharmError, RunFailed
from anharm.extras import ExtrasChoice
from anharm.model import ForceField, Supercell
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.force_field import Prediction
from anharm.model.storage import model_from_bytes
from anharm.wire.addresses import SocketAddress, connect
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation, Evaluations
from anharm.wire.messages import (
    DIGEST_BYTES,
    ConfigurationSent,
    Message,
    NewModel,
    Observations,
    Proceed,
    SendConfiguration,
)

logger = logging.getLogger(__name__)

DEFAULT_CHOICE = ExtrasChoice()
NOT_CALM = Proceed(0)
LONGEST_SILENCE = 0.25  # s until the broker hears of a step
LARGEST_LAG = 4  # steps until the errors of a calm one are known
LONGEST_WORK = 4e-4  # s of processor time, in which they are evaluated; i-PI might be waiting
FAR = 0.7  # of the error that the broker wants to hear of at once; below it, errors may lag


class LatticeClient:
    """Evaluates configurations with the broker's model, and asks the broker about each.

    Parameters
    ----------
    link : BrokerLink
        Joined here.
    supercell_matrix : (3, 3) int
        Supercell of the run.
    maximum_displacement : float, optional
        Atoms further than this from their site are an error, Angstrom.
    threads : int
        How many threads evaluate the model.
    extras : ExtrasChoice
        What i-PI is sent beside energy, forces and virial.
    maximum_strain : float, optional
        Cells strained further are an error; by default what the model was trained for.
    """

    def __init__(
        self,
        link: BrokerLink,
        supercell_matrix: IntArray,
        maximum_displacement: float | None,
        threads: int = 1,
        extras: ExtrasChoice = DEFAULT_CHOICE,
        maximum_strain: float | None = None,
    ) -> None:
        self._link = link
        self._sequence = -1
        self._sends_errors = extras.has_errors
        self._calm = NOT_CALM
        self._last: Asked | None = None
        self._unobserved: list[tuple[Asked, Prediction]] = []
        self._known = 0  # so many of them have their errors
        self._lag = 1
        self._told = monotonic()
        first = link.join()
        if not isinstance(first, NewModel):
            raise RunFailed(f"the broker began with a {type(first).__name__}, not with a model")
        model = model_from_bytes(first.content, "the broker's model")
        supercell = Supercell(model.expansion.crystal, supercell_matrix)
        force_field = ForceField(model, supercell, threads, maximum_strain)
        self._evaluator = Evaluator(force_field, first.version, extras, maximum_displacement)
        self._warm_up()

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Energy, forces, virial and errors of one configuration.

        They come once the broker agrees; or at once, if the steps before were calm, and then the
        broker hears of it in `report`.

        Raises
        ------
        AnharmError
            If an atom left its site, the cell is strained too far, or the run ends.
        """
        return self._evaluate(configuration.cell, configuration.positions[None])[0]

    def evaluate_batch(self, batch: Batch) -> Evaluations:
        """The same for the configurations of a batch; those of one cell are evaluated together.

        A new model that comes in between answers for all of them.
        """
        if (batch.cells == batch.cells[0]).all():
            return self._evaluate(batch.cells[0], batch.positions)
        return Evaluations.joined(
            [self._evaluate(one.cell, one.positions[None]) for one in batch.configurations]
        )

    def _evaluate(self, cell: FloatArray, positions: FloatArray) -> Evaluations:
        """(n_configurations, n_atoms, 3) positions in one cell; one observation for each.

        Where the broker expects nothing of this step, i-PI is answered first.
        """
        self.report()
        try:
            asked = Asked(cell, positions, self._evaluator.place(cell, positions))
        except AnharmError:
            self.observe()  # what went before it
            raise
        is_near = self._last is not None and asked.is_near(self._last)
        self._last = asked
        if is_near and len(self._unobserved) < self._calm.calm_steps:
            parts, results = [asked], [self._evaluator.predict(asked.placed, self._sends_errors)]
            self._unobserved.append((asked, results[0]))
        else:
            self.observe()
            self._lag = 1
            parts = asked.parts
            results = self._agree(parts)
        return Evaluations.joined(
            [
                self._evaluator.evaluations(part.placed, result)
                for part, result in zip(parts, results, strict=True)
            ]
        )

    def report(self) -> None:
        """Evaluate the errors of steps that were answered without; tell the broker if it is time.

        It is time after as many calm steps as the broker allows, and where a step stands out.
        """
        if not self._unobserved:
            return
        is_time = (
            len(self._unobserved) >= self._calm.calm_steps
            or monotonic() - self._told > LONGEST_SILENCE
        )
        if not is_time and len(self._unobserved) - self._known < self._lag:
            return
        if self._largest_error() > self._calm.calm_error or is_time:
            self.observe()

    def _largest_error(self) -> float:
        """Evaluate the errors that are not known yet; the largest of them, eV/Angstrom.

        Those of several steps in a row take less time than each by itself, which begins with what
        i-PI's work has left of it in the processor's caches. Far from what the broker wants to hear
        of at once, the next ones may wait for each other.
        """
        begin, largest = thread_time(), 0.0
        unknown = range(self._known, len(self._unobserved))
        for number in unknown:
            asked, result = self._unobserved[number]
            result = self._evaluator.with_errors(asked.placed, result)
            self._unobserved[number] = asked, result
            largest = max(largest, float(result.error_statistics[:, 0].max()))
        self._known = len(self._unobserved)
        if unknown:
            is_far = largest < FAR * self._calm.calm_error and not self._sends_errors
            most = LONGEST_WORK * len(unknown) / (thread_time() - begin + 1e-9)
            self._lag = max(1, min(LARGEST_LAG, int(most))) if is_far else 1
        return largest

    def observe(self) -> None:
        """Let the broker hear of all that was answered before it had been observed.

        Here, between two steps, a label is waited for if one is wanted after all.
        """
        unobserved, self._unobserved, self._known = self._unobserved, [], 0
        known = [self._evaluator.with_errors(asked.placed, result) for asked, result in unobserved]
        self._agree([asked for asked, _ in unobserved], known)

    def _agree(
        self, parts: list[Asked], known: Sequence[Prediction] | None = None
    ) -> list[Prediction]:
        """Observe configurations until the broker agrees to all; the predictions of each part.

        While the broker looks at some of them, the next ones are evaluated. If a new model comes,
        it answers for all; but it drives none that i-PI has been answered, whose predictions are
        `known`.
        """
        results: list[Prediction | None] = [*known] if known else [None] * len(parts)
        version, is_answered = self._evaluator.version, known is not None
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        first, agreed, count = self._sequence + 1, 0, starts[-1]
        while agreed < count:
            number = bisect_right(starts, agreed) - 1
            results[number] = results[number] or self._evaluator.predict(parts[number].placed)
            end = _end_of_message(parts, results, number)
            rows = slice(agreed - starts[number], None)
            digests, values = _rows(parts[number:end], results[number:end], rows)
            self._link.tell(
                Observations.of(
                    self._link.name, first + agreed, version, is_answered, digests, values
                )
            )
            if end < len(parts) and results[end] is None:
                results[end] = self._evaluator.predict(parts[end].placed)
            reply = self._link.receive()
            asked = -1
            while isinstance(reply, SendConfiguration) and reply.sequence > asked:
                asked = reply.sequence
                agreed = self._agreed(reply, first, count) - 1
                number = bisect_right(starts, agreed) - 1
                row = agreed - starts[number]
                reply = self._send_configuration(reply.sequence, parts[number], row)
            if isinstance(reply, Proceed):
                agreed = self._agreed(reply, first, count)
                self._sequence = first + agreed - 1
                self._calm = reply
                continue
            self._take_model(reply)
            if not is_answered:
                results, version = [None] * len(parts), self._evaluator.version
        self._told = monotonic()
        return [
            result or self._evaluator.predict(part.placed)  # a new model came after it
            for part, result in zip(parts, results, strict=True)
        ]

    def _send_configuration(self, sequence: int, part: Asked, row: int) -> Message:
        """Send what the broker wants to see of an observation; its answer."""
        return self._link.ask(
            ConfigurationSent.of(self._link.name, sequence, part.cell, part.positions[row])
        )

    @staticmethod
    def _agreed(reply: Proceed | SendConfiguration, first: int, count: int) -> int:
        """How many of a batch's configurations an answer is about."""
        agreed = reply.sequence - first + 1
        if not 0 < agreed <= count:
            raise RunFailed(
                f"the broker answered observation {reply.sequence}, which is none of "
                f"{first} to {first + count - 1}"
            )
        return agreed

    def _take_model(self, message: Message) -> None:
        if not isinstance(message, NewModel):
            raise RunFailed(f"the broker sent an unexpected {type(message).__name__}")
        model = model_from_bytes(message.content, "the broker's model")
        self._evaluator.use(model, message.version)
        logger.info("using model %d", message.version)

    def _warm_up(self) -> None:
        """Compile before i-PI waits for the first answer."""
        ideal = np.zeros((1, self._evaluator.force_field.supercell.n_atoms, 3))
        self._evaluator.predict(Placed(ideal, None))


def _end_of_message(parts: list[Asked], results: list[Prediction | None], begin: int) -> int:
    """The part after those that are observed together: `begin`, and what is known after it."""
    size, end = len(parts[begin]), begin + 1
    while end < len(parts) and results[end] is not None:
        size += len(parts[end])
        if size > LARGEST_MESSAGE:
            break
        end += 1
    return end


def _rows(
    parts: list[Asked], results: list[Prediction | None], rows: slice
) -> tuple[bytes, FloatArray]:
    """Digests, and (n, 4) errors and energies, of the chosen rows of parts that are known."""
    known = [result for result in results if result is not None]
    errors = np.concatenate([result.error_statistics for result in known])
    energies = np.concatenate([result.energies for result in known])
    digests = b"".join([part.digests for part in parts])
    return digests[rows.start * DIGEST_BYTES :], np.column_stack([errors, energies])[rows]


def run_lattice_client(
    engine_address: SocketAddress,
    broker_endpoint: str,
    supercell_matrix: IntArray,
    *,
    trajectory: str = "trajectory",
    maximum_displacement: float | None = None,
    connection_limit: float = 60.0,
    keys: Path | None = None,
    threads: int = 1,
    extras: ExtrasChoice = DEFAULT_CHOICE,
    maximum_strain: float | None = None,
) -> None:
    """Serve i-PI until it ends, with the broker's model.

    Parameters
    ----------
    engine_address : SocketAddress
        Where i-PI listens.
    broker_endpoint : str
        ZeroMQ endpoint of the broker.
    supercell_matrix : (3, 3) int
        Supercell of the run.
    trajectory : str
        Name under which errors are averaged.
    maximum_displacement : float, optional
        Angstrom.
    connection_limit : float
        Deadline for i-PI to appear, and longest silence of the broker, seconds.
    keys : Path, optional
        Folder of keys, for a broker that wants them.
    threads : int
        How many threads evaluate the model; each works without further ones of its own.
    extras : ExtrasChoice
        What i-PI is sent beside energy, forces and virial.
    maximum_strain : float, optional
        Cells strained further are an error; by default what the model was trained for.

    Raises
    ------
    AnharmError
        If i-PI or the broker does not appear or disappears, or the model cannot follow.
    """
    link = BrokerLink(broker_endpoint, trajectory, connection_limit, keys)
    failure = "it was interrupted"
    try:
        with threadpool_limits(1, user_api="blas"):
            client = LatticeClient(
                link, supercell_matrix, maximum_displacement, threads, extras, maximum_strain
            )
            connection = connect(engine_address, connection_limit)
            serve_engine(connection, client, engine_address, client.report)
            client.observe()
        failure = ""
    except RunEnded as ending:
        failure = ""
        logger.info("the broker ended the run: %s", ending)
    except AnharmError as error:
        failure = str(error)
        raise
    finally:
        link.leave(failure)
