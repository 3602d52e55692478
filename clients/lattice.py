"""The lattice client: i-PI asks for forces, the model answers, the broker watches the errors."""

from __future__ import annotations

import logging
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
_TOGETHER = 8  # configurations of a batch that are evaluated, and observed, at a time


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
        first = link.join()
        if not isinstance(first, NewModel):
            raise RunFailed(f"the broker began with a {type(first).__name__}, not with a model")
        model = model_from_bytes(first.content, "the broker's model")
        supercell = Supercell(model.expansion.crystal, supercell_matrix)
        force_field = ForceField(model, supercell, threads, maximum_strain)
        self._evaluator = Evaluator(force_field, first.version, extras, maximum_displacement)
        self._warm_up()

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Energy, forces, virial and errors of one configuration, once the broker agrees.

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

        While the broker looks at some of them, the next ones are evaluated; if a new model comes,
        it answers for all.
        """
        placed = self._evaluator.place(cell, positions)
        digests = [digest_of(cell, one) for one in positions]
        first, agreed = self._sequence + 1, 0
        parts = [placed[begin : begin + _TOGETHER] for begin in range(0, len(positions), _TOGETHER)]
        results: list[Prediction | None] = [None] * len(parts)
        answers: list[list[Evaluation]] = [[] for _ in parts]
        while agreed < len(positions):
            number, begin = divmod(agreed, _TOGETHER)
            result = results[number] or self._evaluator.predict(parts[number])
            self._link.tell(self._observations(result, begin, first + agreed, digests[agreed:]))
            answers[number] = answers[number] or self._evaluator.evaluations(parts[number], result)
            if number + 1 < len(parts):
                results[number + 1] = self._evaluator.predict(parts[number + 1])
            reply = self._link.receive()
            if isinstance(reply, SendConfiguration):
                agreed = self._agreed(reply, first, len(positions)) - 1
                reply = self._link.ask(
                    ConfigurationSent.of(self._link.name, first + agreed, cell, positions[agreed])
                )
            if isinstance(reply, Proceed):
                agreed = self._agreed(reply, first, len(positions))
                self._sequence = first + agreed - 1
                continue
            self._take_model(reply)
            results, answers = [None] * len(parts), [[] for _ in parts]
        for number, part in enumerate(parts):
            if not answers[number]:  # a new model came after it
                result = self._evaluator.predict(part)
                answers[number] = self._evaluator.evaluations(part, result)
        return [evaluation for answer in answers for evaluation in answer]

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
            serve_engine(connection, client, engine_address)
        failure = ""
    except RunEnded as ending:
        failure = ""
        logger.info("the broker ended the run: %s", ending)
    except AnharmError as error:
        failure = str(error)
        raise
    finally:
        link.leave(failure)
