"""The lattice client: i-PI asks for forces, the model answers, the broker watches the errors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

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
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation
from anharm.wire.messages import (
    ConfigurationSent,
    Message,
    NewModel,
    Observation,
    Observations,
    Proceed,
    SendConfiguration,
    digest_of,
)

logger = logging.getLogger(__name__)

DEFAULT_CHOICE = ExtrasChoice()
TOGETHER = 8  # configurations of a batch that are evaluated, and observed, at a time
STEP_LIMIT = 0.1  # Angstrom: no atom, or end of a cell vector, moves further in a step


@dataclass(frozen=True)
class Asked:
    """Configurations that i-PI asks about, of one cell.

    Attributes
    ----------
    cell : (3, 3) float
    positions : (n_configurations, n_atoms, 3) float
        Angstrom, as i-PI gave them.
    placed : Placed
    """

    cell: FloatArray
    positions: FloatArray
    placed: Placed

    @property
    def ranges(self) -> list[slice]:
        """Of the configurations that are observed together."""
        return [slice(i, i + TOGETHER) for i in range(0, len(self.positions), TOGETHER)]

    @property
    def parts(self) -> list[Placed]:
        """The configurations that are observed together."""
        return [self.placed[part] for part in self.ranges]

    @property
    def digests(self) -> list[bytes]:
        """By which configurations that come again are known."""
        return [digest_of(self.cell, one) for one in self.positions]

    def is_near(self, other: Asked) -> bool:
        """Whether this can be the step of dynamics after another one."""
        ours, others = self.placed.displacements, other.placed.displacements
        if ours.shape != others.shape or np.abs(self.cell - other.cell).max() >= STEP_LIMIT:
            return False
        return bool(np.abs(ours - others).max() < STEP_LIMIT)


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
        self._is_calm = False
        self._last: Asked | None = None
        self._unreported: tuple[Asked, Prediction] | None = None
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

        They come once the broker agrees; or at once, if the step before was calm, and then the
        broker hears of it in `report`.

        Raises
        ------
        AnharmError
            If an atom left its site, the cell is strained too far, or the run ends.
        """
        return self._evaluate(configuration.cell, configuration.positions[None])[0]

    def evaluate_batch(self, batch: Batch) -> list[Evaluation]:
        """The same for the configurations of a batch; those of one cell are evaluated together.

        A new model that comes in between answers for all of them.
        """
        if (batch.cells == batch.cells[0]).all():
            return self._evaluate(batch.cells[0], batch.positions)
        return [self.evaluate(configuration) for configuration in batch.configurations]

    def _evaluate(self, cell: FloatArray, positions: FloatArray) -> list[Evaluation]:
        """(n_configurations, n_atoms, 3) positions in one cell; one observation for each.

        Where the broker expects nothing of this step, i-PI is answered first.
        """
        self.report()
        asked = Asked(cell, positions, self._evaluator.place(cell, positions))
        is_near = self._last is not None and asked.is_near(self._last)
        self._last = asked
        if not (self._is_calm and is_near):
            results = self._agree(asked)
        else:
            results = [self._evaluator.predict(asked.placed, self._sends_errors)]
            self._unreported = asked, results[0]
        parts = asked.parts if len(results) > 1 else [asked.placed]
        answers = map(self._evaluator.evaluations, parts, results)
        return [evaluation for answer in answers for evaluation in answer]

    def report(self) -> None:
        """Let the broker hear of what was answered before it had been observed.

        Here, between two steps, a label is waited for if one is wanted after all.
        """
        if self._unreported is None:
            return
        (asked, result), self._unreported = self._unreported, None
        self._agree(asked, self._evaluator.with_errors(asked.placed, result))

    def _agree(self, asked: Asked, known: Prediction | None = None) -> list[Prediction]:
        """Observe configurations until the broker agrees to all; the predictions of each part.

        While the broker looks at some of them, the next ones are evaluated; if a new model comes,
        it answers for all.
        """
        first, agreed, count = self._sequence + 1, 0, len(asked.positions)
        parts, digests = asked.parts, asked.digests
        results = [None if known is None else known[part] for part in asked.ranges]
        self._is_calm = True
        while agreed < count:
            number, begin = divmod(agreed, TOGETHER)
            result = results[number] or self._evaluator.predict(parts[number])
            results[number] = result
            self._link.tell(self._observations(result, begin, first + agreed, digests[agreed:]))
            if number + 1 < len(parts) and results[number + 1] is None:
                results[number + 1] = self._evaluator.predict(parts[number + 1])
            reply = self._link.receive()
            if isinstance(reply, SendConfiguration):
                agreed = self._agreed(reply, first, count) - 1
                reply = self._link.ask(
                    ConfigurationSent.of(
                        self._link.name, first + agreed, asked.cell, asked.positions[agreed]
                    )
                )
            if isinstance(reply, Proceed):
                agreed = self._agreed(reply, first, count)
                self._sequence = first + agreed - 1
                self._is_calm &= reply.calm
                continue
            self._take_model(reply)
            results = [None] * len(parts)
        return [
            result or self._evaluator.predict(part)  # a new model came after it
            for part, result in zip(parts, results, strict=True)
        ]

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

    def _observations(
        self, result: Prediction, begin: int, sequence: int, digests: list[bytes]
    ) -> Observation | Observations:
        """What the broker is told of a part's configurations from `begin` on."""
        name, version = self._link.name, self._evaluator.version
        errors, energies = result.error_statistics[begin:], result.energies[begin:]
        if len(energies) == 1:
            largest, mean, rms = errors[0].tolist()
            energy = float(energies[0])
            return Observation(name, sequence, digests[0], version, largest, mean, rms, energy)
        values = np.column_stack([errors, energies])
        return Observations.of(name, sequence, version, digests[: len(values)], values)

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
            client.report()
        failure = ""
    except RunEnded as ending:
        failure = ""
        logger.info("the broker ended the run: %s", ending)
    except AnharmError as error:
        failure = str(error)
        raise
    finally:
        link.leave(failure)
