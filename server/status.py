"""How a run stands, for those who ask the broker or watch the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anharm.wire.messages import Status

if TYPE_CHECKING:
    from anharm.server.broker import Broker


def status_of(broker: Broker) -> Status:
    """The status of a run; errors are those of the trajectory that has gone furthest."""
    state = max(broker.trajectories.states.values(), key=lambda s: s.steps, default=None)
    has_errors = state is not None and len(state.errors) > 0
    return Status(
        phase=broker.phase,
        waiting_for=broker.waiting_for,
        steps=broker.trajectories.n_steps,
        labels=broker.learner.n_labels,
        pending=broker.n_pending,
        model_version=broker.learner.version,
        error=float(state.errors[-1]) if state is not None and has_errors else -1.0,
        average_error=float(state.mean_error or 0.0) if state and has_errors else -1.0,
        converged=broker.judge.has_converged,
        convergence=broker.judge.reason,
        failure=broker.failure,
    )


def watched_status(broker: Broker) -> dict[str, str]:
    """What the record says of it while it runs."""
    return {
        "phase": broker.phase,
        "waiting_for": broker.waiting_for,
        "convergence": broker.judge.reason,
    }
