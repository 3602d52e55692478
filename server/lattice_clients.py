"""What the broker knows of its lattice clients, and how it puts waiting into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anharm.server.decision import Decision


@dataclass
class LatticeClient:
    """What the broker knows of one lattice client."""

    name: str
    address: bytes
    trajectory: str
    first_step: int
    last_sequence: int = -1
    may_repeat: bool = False
    wanted: Decision | None = None
    sampled_step: int | None = None
    waits_for: Literal["", "model", "label"] = ""
    last_heard: float = 0.0


def labels_from_clients(n_labels: int, are_initial: bool, n_clients: int) -> str:
    """Describe labels that are wanted and the reference clients that may give them."""
    kind = "initial label" if are_initial else "label"
    labels = f"{n_labels} {kind}{'s' if n_labels > 1 else ''}"
    return f"{labels} from {n_clients} reference client{'s' if n_clients != 1 else ''}"
