"""A broker that follows a script, and the beads that a lattice client tells it of."""

from __future__ import annotations

import numpy as np
from ase.build import bulk

from anharm.model import BayesianModel, Crystal, Supercell, build_expansion
from anharm.model.regression import Posterior
from anharm.model.storage import model_to_bytes
from anharm.wire.messages import (
    DIGEST_BYTES,
    ConfigurationSent,
    Message,
    NewModel,
    Observation,
    Observations,
    Proceed,
    SendConfiguration,
)

MATRIX = 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])


def model(seed: int) -> BayesianModel:
    crystal = Crystal.from_atoms(bulk("Si", "diamond", a=5.43))
    expansion = build_expansion(crystal, {2: 3.0, 3: 3.0})
    random, n = np.random.default_rng(seed), expansion.n_parameters
    factor = np.triu(random.standard_normal((n, n)))
    posterior = Posterior(random.standard_normal(n), factor, {}, {"forces": 1.0}, {}, 0.0, 1, 1)
    return BayesianModel(expansion, posterior)


def numbers_of(message: Message) -> range:
    """Sequence numbers of what a message is about."""
    assert isinstance(message, Observation | Observations | ConfigurationSent)
    together = isinstance(message, Observations)
    count = len(message.configurations) // DIGEST_BYTES if together else 1
    return range(message.sequence, message.sequence + count)


def values_of(message: Message) -> np.ndarray:
    """Largest, mean and rms errors, and energies, of observations, shape (n, 4)."""
    assert isinstance(message, Observations)
    return np.frombuffer(message.values).reshape(-1, 4)


class Script:
    """The broker's side of the conversation: a new model in answer to some observations."""

    name = "script"

    def __init__(self, *relabelled: int, calm_steps: int = 0) -> None:
        self.heard: list[Message] = []
        self.calm_steps = calm_steps
        self.calm_error = 1e9
        self.asked: set[tuple[int, int]] = set()
        self.sampled: list[int] = []  # sequence numbers of configurations to keep
        self.last = -1
        self.relabelled = relabelled  # sequence number for model 1, for model 2 and so on

    def join(self) -> Message:
        return NewModel(1, model_to_bytes(model(1)))

    def ask(self, message: Message) -> Message:
        self.tell(message)
        return self.receive()

    def tell(self, message: Message) -> None:
        self.heard.append(message)

    def receive(self) -> Message:
        message = self.heard[-1]
        if isinstance(message, ConfigurationSent) and message.sequence in self.relabelled:
            version = self.relabelled.index(message.sequence) + 2
            return NewModel(version, model_to_bytes(model(version)))
        if not isinstance(message, ConfigurationSent):
            assert isinstance(message, Observation | Observations)
            for sequence in numbers_of(message):
                asked = message.model_version, sequence
                if asked in enumerate(self.relabelled, 1) and asked not in self.asked:
                    self.asked.add(asked)
                    return SendConfiguration(sequence)
            self.last = sequence
        if self.sampled and self.sampled[0] <= self.last:
            return SendConfiguration(self.sampled.pop(0))
        return Proceed(self.last, self.calm_steps, self.calm_error)

    def seen(self) -> list[tuple[str, int, int]]:
        """What was heard: kind, first and last sequence number."""
        numbers = [(type(message).__name__, numbers_of(message)) for message in self.heard]
        return [(kind, which[0], which[-1]) for kind, which in numbers]


def beads(count: int) -> tuple[Supercell, np.ndarray]:
    supercell = Supercell(model(1).expansion.crystal, MATRIX)
    random = np.random.default_rng(3)
    return supercell, supercell.positions + random.normal(0, 0.05, (count, supercell.n_atoms, 3))
