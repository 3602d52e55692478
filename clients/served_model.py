"""A model from a file that answers i-PI on its own: production without a broker."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from anharm.clients.engine_connection import serve_engine
from anharm.clients.evaluator import Evaluator
from anharm.errors import ConfigurationError
from anharm.extras import ExtrasChoice
from anharm.model import BayesianModel, ForceField, Supercell
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.deformation import identify_strained_supercell
from anharm.wire.addresses import SocketAddress, connect
from anharm.wire.driver_protocol import Batch, Configuration, Evaluation, Evaluations

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """What is served, and how.

    Attributes
    ----------
    model : BayesianModel
    extras : ExtrasChoice
        What i-PI is sent beside energy, forces and virial. Errors cost time: they are computed
        only if they are sent.
    numbers : (n_atoms,) int or None
        Atomic numbers in i-PI's order, which i-PI does not send. Crystals of several species
        need them.
    maximum_displacement : float or None
        Atoms further than this from their site are an error, Angstrom; half the nearest-neighbour
        distance by default.
    threads : int

    Raises
    ------
    ConfigurationError
        If the crystal has several species and nothing tells their order.
    """

    model: BayesianModel
    extras: ExtrasChoice
    numbers: IntArray | None = None
    maximum_displacement: float | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        species = np.unique(self.model.expansion.crystal.numbers)
        if self.numbers is None and len(species) > 1:
            raise ConfigurationError(
                f"the model's crystal has {len(species)} species, and i-PI sends positions without "
                "species: name the structure that i-PI starts from, whose order of atoms counts"
            )


class StandaloneClient:
    """Answers for the supercell that the first configuration is of.

    Parameters
    ----------
    served : ServedModel
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._evaluator: Evaluator | None = None

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Energy, forces, virial and extras of one configuration.

        Raises
        ------
        AnharmError
            If the cell is no supercell of the crystal or strained too far, or an atom left its
            site.
        """
        return self._evaluate(configuration.cell, configuration.positions[None])[0]

    def evaluate_batch(self, batch: Batch) -> Evaluations:
        """The same for the configurations of a batch; those of one cell are evaluated together."""
        if (batch.cells == batch.cells[0]).all():
            return self._evaluate(batch.cells[0], batch.positions)
        return Evaluations.joined(
            [self._evaluate(one.cell, one.positions[None]) for one in batch.configurations]
        )

    def _evaluate(self, cell: FloatArray, positions: FloatArray) -> Evaluations:
        if self._evaluator is None:
            self._evaluator = self._prepare(cell, positions.shape[1])
        placed = self._evaluator.place(cell, positions)
        result = self._evaluator.predict(placed, self._served.extras.has_errors)
        return self._evaluator.evaluations(placed, result)

    def _prepare(self, cell: FloatArray, n_atoms: int) -> Evaluator:
        served = self._served
        crystal = served.model.expansion.crystal
        supercell = Supercell(crystal, identify_strained_supercell(crystal, cell, n_atoms))
        return Evaluator(
            ForceField(served.model, supercell, served.threads),
            served.model.version,
            served.extras,
            served.maximum_displacement,
            served.numbers,
        )


def serve_model(address: SocketAddress, client: StandaloneClient, connection_limit: float) -> None:
    """Serve i-PI until it ends.

    Parameters
    ----------
    address : SocketAddress
        Where i-PI listens.
    client : StandaloneClient
    connection_limit : float
        Deadline for i-PI to appear, seconds.

    Raises
    ------
    AnharmError
        If i-PI does not appear or breaks off, or the model cannot follow.
    """
    with threadpool_limits(1, user_api="blas"):
        connection = connect(address, connection_limit)
        logger.info("serving i-PI at %s", address)
        serve_engine(connection, client, address)
