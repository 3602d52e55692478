"""The lattice client: i-PI asks for forces, the model answers, the broker watches the errors."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import numpy as np

from anharm.clients.broker_link import BrokerLink, RunEnded
from anharm.errors import AnharmError, RunFailed
from anharm.model import ForceField, Supercell
from anharm.model.crystal import FloatArray, IntArray
from anharm.model.sites import SiteAssignment, assign_sites
from anharm.model.storage import model_from_bytes
from anharm.wire.addresses import SocketAddress, connect
from anharm.wire.channel import PeerClosed
from anharm.wire.driver_client import serve
from anharm.wire.driver_protocol import Configuration, Evaluation
from anharm.wire.messages import (
    ConfigurationSent,
    Message,
    NewModel,
    Observation,
    Proceed,
    SendConfiguration,
    digest_of,
)

logger = logging.getLogger(__name__)


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
    """

    def __init__(
        self, link: BrokerLink, supercell_matrix: IntArray, maximum_displacement: float | None
    ) -> None:
        self._link = link
        self._maximum_displacement = maximum_displacement
        self._assignment: SiteAssignment | None = None
        self._sequence = -1
        first = link.join()
        if not isinstance(first, NewModel):
            raise RunFailed(f"the broker began with a {type(first).__name__}, not with a model")
        model = model_from_bytes(first.content, "the broker's model")
        self._version = first.version
        self._force_field = ForceField(model, Supercell(model.expansion.crystal, supercell_matrix))
        self._warm_up()

    def evaluate(self, configuration: Configuration) -> Evaluation:
        """Energy, forces, virial and errors of one configuration, once the broker agrees.

        Raises
        ------
        AnharmError
            If an atom left its site, the cell is strained too far, or the run ends.
        """
        deformation = self._force_field.deformation(configuration.cell)
        if self._assignment is None:
            self._assignment = assign_sites(
                self._force_field.supercell,
                configuration.positions,
                None,
                self._maximum_displacement,
                deformation,
            )
        self._sequence += 1
        displacements = self._assignment.displacements(configuration.positions, deformation)[None]
        digest = digest_of(configuration.cell, configuration.positions)
        while True:
            evaluation, observation = self._predict(displacements, deformation, digest)
            reply = self._link.ask(observation)
            if isinstance(reply, SendConfiguration):
                reply = self._link.ask(
                    ConfigurationSent.of(
                        self._link.name,
                        self._sequence,
                        configuration.cell,
                        configuration.positions,
                    )
                )
            if isinstance(reply, Proceed):
                return evaluation
            self._take_model(reply)

    def _predict(
        self, displacements: FloatArray, deformation: FloatArray | None, digest: bytes
    ) -> tuple[Evaluation, Observation]:
        """In a strained cell, the errors are those of the displacements in the reference cell."""
        assert self._assignment is not None
        if deformation is None:
            result = self._force_field.predict(displacements, exact_errors=False)
        else:
            result = self._force_field.predict_strained(
                deformation, displacements, exact_errors=False
            )
        assert result.virials is not None and result.force_std is not None
        std = result.force_std
        observation = Observation(
            client=self._link.name,
            sequence=self._sequence,
            configuration=digest,
            model_version=self._version,
            force_std_max=float(std.max()),
            force_std_mean=float(std.mean()),
            force_std_rms=float(np.sqrt(np.mean(std * std))),
            energy=float(result.energies[0]),
        )
        extras = {
            "force_std_max": observation.force_std_max,
            "force_std_mean": observation.force_std_mean,
            "model_version": observation.model_version,
        }
        evaluation = Evaluation(
            energy=observation.energy,
            forces=self._assignment.to_user_order(result.forces[0]),
            virial=result.virials[0],
            extras=json.dumps(extras),
        )
        return evaluation, observation

    def _take_model(self, message: Message) -> None:
        if not isinstance(message, NewModel):
            raise RunFailed(f"the broker sent an unexpected {type(message).__name__}")
        self._force_field.use(model_from_bytes(message.content, "the broker's model"))
        self._version = message.version
        logger.info("using model %d", message.version)

    def _warm_up(self) -> None:
        """Compile before i-PI waits for the first answer."""
        ideal = np.zeros((1, self._force_field.supercell.n_atoms, 3))
        self._force_field.predict(ideal, exact_errors=False)


def run_lattice_client(
    engine_address: SocketAddress,
    broker_endpoint: str,
    supercell_matrix: IntArray,
    *,
    trajectory: str = "trajectory",
    maximum_displacement: float | None = None,
    connection_limit: float = 60.0,
    keys: Path | None = None,
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

    Raises
    ------
    AnharmError
        If i-PI or the broker does not appear or disappears, or the model cannot follow.
    """
    link = BrokerLink(broker_endpoint, trajectory, connection_limit, keys)
    failure = "it was interrupted"
    try:
        client = LatticeClient(link, supercell_matrix, maximum_displacement)
        connection = connect(engine_address, connection_limit)
        _serve_engine(connection, client, engine_address)
        failure = ""
    except RunEnded as ending:
        failure = ""
        logger.info("the broker ended the run: %s", ending)
    except AnharmError as error:
        failure = str(error)
        raise
    finally:
        link.leave(failure)


def _serve_engine(
    connection: socket.socket, client: LatticeClient, engine_address: SocketAddress
) -> None:
    """Serve i-PI until it says EXIT; to end in any other way is no good end."""
    try:
        if serve(connection, client.evaluate) == "exit":
            return
    except PeerClosed as error:
        logger.info("%s", error)
    raise RunFailed(
        f"i-PI at {engine_address} broke off without a goodbye: it crashed or was killed; see its "
        "own output"
    )
