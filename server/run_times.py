"""Where the time of a run went, from the times that its record keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anharm.server.record import Event, Label, ModelVersion

RESUMED = "resumed"


@dataclass(frozen=True)
class RunTimes:
    """Seconds.

    Attributes
    ----------
    total : float
        From the start of each part of the run to its last sign of life, summed.
    waiting : float
        While the dynamics waited for labels (synchronous runs; 0 otherwise).
    calculations : float
        Of the reference clients, summed over those that work at the same time.
    refits : float
        Of fitting and writing models.
    parts : int
        1, and one more for each --resume.
    """

    total: float
    waiting: float
    calculations: float
    refits: float
    parts: int

    @property
    def dynamics(self) -> float:
        """What is left for the dynamics and its start."""
        return max(0.0, self.total - self.waiting - self.refits)


def run_times(
    metadata: Mapping[str, str],
    events: Sequence[Event],
    labels: Sequence[Label],
    models: Sequence[ModelVersion],
    is_synchronous: bool,
) -> RunTimes:
    """Add up the times of a run.

    A part of the run that was killed counts up to the last thing that the record knows of it.
    """
    signs = sorted(
        [event.time for event in events]
        + [time for label in labels for time in (label.request.created, label.created)]
        + [model.created for model in models]
    )
    starts = sorted(
        [float(metadata.get("created", signs[0] if signs else 0.0))]
        + [event.time for event in events if event.text == RESUMED]
    )
    total = 0.0
    for start, following in zip(starts, [*starts[1:], float("inf")], strict=True):
        last = max((time for time in signs if start <= time < following), default=start)
        total += last - start
    spans = [(label.request.created, label.created) for label in labels]
    return RunTimes(
        total=total,
        waiting=_covered(spans, starts) if is_synchronous else 0.0,
        calculations=sum(label.answer.seconds for label in labels),
        refits=sum(float(model.hyperparameters.get("seconds", 0.0)) for model in models),
        parts=len(starts),
    )


def _covered(spans: Sequence[tuple[float, float]], starts: Sequence[float]) -> float:
    """Length of the union of spans; one that began in an earlier part of the run is cut."""
    cut = []
    for begin, end in spans:
        part = max((start for start in starts if start <= end), default=begin)
        cut.append((max(begin, part), end))
    length, reached = 0.0, float("-inf")
    for begin, end in sorted(cut):
        length += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return length
