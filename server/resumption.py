"""The states of the trajectories, as an interrupted run left them.

What the record holds is enough to have them to the last bit: the states that were stored with the
journal's last folding, the evaluations since then, taken through the same decision once more, and
the requests, which say which labels were really asked for.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anharm.configuration import TrainingSection
from anharm.server.beads import BeadCounts, errors_of_steps
from anharm.server.convergence_record import expected_gains, has_converged
from anharm.server.decision import ObservedStep, TrajectoryState, decide
from anharm.server.record import Record

_CONFIGURATION = "configuration"


def stored_state(state: TrajectoryState, configuration: bytes) -> dict[str, Any]:
    """Return a state as the record keeps it.

    Its errors are left out, since the record has them as observations; added is the digest of the
    configuration that was evaluated last.
    """
    content = state.as_dict()
    del content["errors"], content["bead_errors"]
    return {**content, _CONFIGURATION: configuration.hex()}


def restore_states(
    record: Record, settings: TrainingSection, beads: BeadCounts
) -> tuple[dict[str, TrajectoryState], dict[str, bytes]]:
    """Return, by trajectory, the states and the digests of the last configurations.

    Parameters
    ----------
    record : Record
    settings : TrainingSection
        Those of the run that goes on; the window may have grown.
    beads : BeadCounts
    """
    states: dict[str, TrajectoryState] = {}
    configurations: dict[str, bytes] = {}
    for name, content in record.trajectory_states().items():
        configurations[name] = bytes.fromhex(content.pop(_CONFIGURATION, ""))
        content["beads"] = n = beads.of(name)
        last_errors = record.last_errors(name, settings.window * n)
        end = 1 + content["last_step"]
        content["errors"] = errors_of_steps(last_errors, end, n, settings.bead_reduction)
        content["bead_errors"] = last_errors[len(last_errors) - 1 - (end - 1) % n :].tolist()
        states[name] = TrajectoryState.from_dict(content)
    requested = record.requested_steps()
    # As they are now, and were at the last step, which alone is decided on again.
    labels_taken = sum(request.is_paid for request in record.requests())
    is_converged = has_converged(record, settings)
    gains = expected_gains(record)
    entries = record.unfolded()
    next_steps: dict[int, int | None] = {}
    later: dict[str, int] = {}
    for entry in reversed(entries):
        next_steps[entry.number] = later.get(entry.trajectory)
        later[entry.trajectory] = entry.step
    for entry in entries:
        name = entry.trajectory
        before = states.get(name) or TrajectoryState(name, beads=beads.of(name))
        steps = requested.get(name, [])
        before = _with_requests(before, steps, entry.step - 1)
        version = entry.model_version
        gain = gains.get(version, 0.0)
        seen = ObservedStep(entry.step, entry.maximum, version, labels_taken, is_converged, gain)
        after, decision = decide(before, seen, settings)
        is_unasked = decision.label and entry.step not in steps
        if is_unasked and next_steps[entry.number] in (None, entry.step):
            continue  # killed before the label was asked for: the step will come again, or did
        states[name], configurations[name] = after, entry.configuration
    for name, state in states.items():
        steps = requested.get(name, [])
        states[name] = _with_requests(state, steps, steps[-1] if steps else -1)
    return states, configurations


def _with_requests(state: TrajectoryState, steps: Sequence[int], last: int) -> TrajectoryState:
    """Return the state after the labels that were asked for up to a last step, all in order."""
    n = bisect_right(steps, last)
    return replace(state, last_label_step=steps[n - 1] if n else None, requests=n)
