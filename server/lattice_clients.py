"""What the broker knows of its lattice clients, who may join them, and what it says of waiting."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from anharm.server.calm import NOT_CALM, Calm
from anharm.server.decision import Decision
from anharm.wire.messages import (
    PROTOCOL_VERSION,
    Hello,
    Proceed,
    SendConfiguration,
)

LARGEST_NUMBER_OF_CLIENTS = 1024  # and of trajectories


@dataclass
class ClientState:
    """What the broker knows of one lattice client.

    Attributes
    ----------
    trajectory : str
        Several clients may serve one trajectory: i-PI hands its beads or systems to whoever is
        free, so that the trajectory's steps are numbered in the order in which they come.
    is_new : bool
        Whether it has not observed anything since it said Hello.
    step : int
        The step that it observed last.
    last_sequence : int
        The client's own count of that step.
    may_repeat : bool
        Whether it will observe that step again, with a new model.
    wanted : Decision or None
        The decision for which it is asked to send the configuration of the last step.
    sampled : dict of int
        Steps, by the client's own count, whose configurations are to be kept and not labelled.
    calm : Calm
        How far its dynamics may go on before it is observed again.
    waits_for : str
        What keeps its answer to i-PI back.
    label : int
        The request that it waits for, if it waits for a label.
    last_heard : float
        s, of a clock that only runs forward.
    """

    name: str
    address: bytes
    trajectory: str
    step: int = -1
    is_new: bool = True
    last_sequence: int = -1
    may_repeat: bool = False
    wanted: Decision | None = None
    sampled: dict[int, int] = field(default_factory=dict)
    calm: Calm = NOT_CALM
    waits_for: Literal["", "model", "label"] = ""
    label: int = -1
    last_heard: float = 0.0

    def is_asked_for(self, sequence: int) -> bool:
        """Whether the configuration of a step, by its own count, is what it is asked to send."""
        answer = self.answer
        return isinstance(answer, SendConfiguration) and answer.sequence == sequence

    @property
    def answer(self) -> SendConfiguration | Proceed:
        """The question for the next configuration that is wanted, or what lets it go on."""
        if self.sampled:
            return SendConfiguration(next(iter(self.sampled)))
        if self.wanted is not None:
            return SendConfiguration(self.last_sequence)
        return Proceed(self.last_sequence, self.calm.steps, self.calm.error)


def labels_from_clients(n_labels: int, are_initial: bool, n_clients: int) -> str:
    """Describe labels that are wanted and the reference clients that may give them."""
    kind = "initial label" if are_initial else "label"
    labels = f"{n_labels} {kind}{'s' if n_labels > 1 else ''}"
    return f"{labels} from {n_clients} reference client{'s' if n_clients != 1 else ''}"


def refusal(hello: Hello, clients: Mapping[str, ClientState], trajectories: Set[str]) -> str:
    """Say why a client may not join those that are there; or "".

    Parameters
    ----------
    hello : Hello
    clients : mapping of ClientState
        By name.
    trajectories : set of str
        Those with steps; each client's own counts as well.
    """
    if hello.protocol != PROTOCOL_VERSION:
        return (
            f"the lattice client speaks protocol version {hello.protocol}, the broker "
            f"{PROTOCOL_VERSION}: install the same version of anharm on both sides"
        )
    known = trajectories | {client.trajectory for client in clients.values()}
    n_more = len(known | {hello.trajectory})
    if len(clients) < LARGEST_NUMBER_OF_CLIENTS and n_more <= LARGEST_NUMBER_OF_CLIENTS:
        return ""
    return (
        f"the broker serves {len(clients)} lattice clients and has {len(known)} trajectories; "
        f"{LARGEST_NUMBER_OF_CLIENTS} are the most allowed"
    )


def budget_spent(budget: int, decision: Decision) -> str:
    """Say that a label is wanted and none is left."""
    return (
        f"the budget of {budget} labels is spent, and step {decision.step} wants another one "
        f"({decision.rule}: error {decision.value:.4g} eV/A); raise training.budget and resume, or "
        "accept the model as it is"
    )
