"""Processor time of the lattice client per step, without waiting: `python client_step.py`.

A link that agrees at once stands for the broker, so that neither scheduling nor i-PI counts;
`ipi_speed.py` measures whole steps. One configuration: mean of as many calm steps as the broker
hears of together.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import numpy as np
from measure import cpu_time, interleaved
from systems import SILICON_64, SILICON_216, System, random_model
from threadpoolctl import threadpool_limits

from anharm.clients.lattice import LatticeClient
from anharm.extras import ExtrasChoice
from anharm.model import ForceField
from anharm.model.storage import model_to_bytes
from anharm.server.calm import LONGEST_CALM
from anharm.wire.driver_protocol import Batch, encode_evaluation, encode_evaluations
from anharm.wire.messages import (
    DIGEST_BYTES,
    Message,
    NewModel,
    Observation,
    Observations,
    Proceed,
    encode,
)

REPEATS = 15


class Agreeing:
    """Says that every observation may proceed."""

    name = "benchmark"

    def __init__(self, model: NewModel, calm_steps: int) -> None:
        self._model, self._calm_steps = model, calm_steps
        self._sequence = -1

    def join(self) -> Message:
        """The model."""
        return self._model

    def tell(self, message: Message) -> None:
        """Take observations, encoded as the broker would get them."""
        encode(message)
        assert isinstance(message, Observation | Observations)
        digests = (
            message.configurations if isinstance(message, Observations) else bytes(DIGEST_BYTES)
        )
        self._sequence = message.sequence + len(digests) // DIGEST_BYTES - 1

    def receive(self) -> Message:
        """Agree."""
        return Proceed(self._sequence, self._calm_steps, calm_error=1e9)


def measure(system: System, beads: int) -> None:
    """Print a row of the table."""
    expansion = system.expansion()
    supercell, model = system.supercell(expansion), random_model(expansion)
    u = np.random.default_rng(0).normal(0, 0.02, (beads, supercell.n_atoms, 3))
    batch = Batch(np.repeat(supercell.lattice[None], beads, axis=0), supercell.positions + u, beads)
    steps = 1 if beads > 1 else LONGEST_CALM
    link: Any = Agreeing(NewModel(1, model_to_bytes(model)), steps)
    client = LatticeClient(link, system.matrix, None, extras=ExtrasChoice(()))
    client.evaluate_batch(batch)  # after it, all steps are calm
    force_field = ForceField(model, supercell)
    answering: list[float] = []

    def calm_steps() -> None:
        for _ in range(steps):
            answering.append(cpu_time(partial(answer, client, batch)))
            client.report()

    whole, forces, errors = interleaved(
        [
            calm_steps,
            lambda: force_field.predict(u, errors=False),
            lambda: force_field.force_std(u, exact=False),
        ],
        REPEATS,
    )
    times = (forces, errors, median(answering), whole / steps)
    name = f"{system.name}{f', {beads} beads' if beads > 1 else ''}"
    print(f"| {name} | {' | '.join(f'{1e3 * seconds:.3f}' for seconds in times)} |", flush=True)


def answer(client: LatticeClient, batch: Batch) -> bytes:
    """What i-PI is sent."""
    if batch.size > 1:
        return encode_evaluations(client.evaluate_batch(batch), batch.size)
    (configuration,) = batch.configurations
    return encode_evaluation(client.evaluate(configuration))


def main() -> None:
    """Print the table."""
    print(
        "| milliseconds | energy, forces, virial | all errors | until i-PI is answered | in all |"
    )
    print("|---|---|---|---|---|", flush=True)
    with threadpool_limits(1, user_api="blas"):
        for system, beads in ((SILICON_64, 1), (SILICON_216, 1), (SILICON_64, 32)):
            measure(system, beads)


if __name__ == "__main__":
    main()
