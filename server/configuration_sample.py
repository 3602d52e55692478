"""A bounded sample of each trajectory's configurations, to judge models by after the fact."""

from __future__ import annotations

from anharm.server.record import Record, SampledConfiguration

LARGEST_SAMPLE = 200  # configurations per trajectory; 24 bytes per atom each
_FIRST_STRIDE = 10  # steps


class ConfigurationSample:
    """Keeps every n-th configuration of each trajectory in the record.

    n doubles, and every second configuration is forgotten, whenever there are more than
    `LARGEST_SAMPLE`: however long a trajectory becomes, the sample is spread evenly over it,
    and there are between half as many and that many once the trajectory is long enough.

    Parameters
    ----------
    record : Record
        What it holds already is gone on with.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._strides: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def wanted(self, trajectory: str, steps: range) -> range:
        """Of steps in a row, those whose configurations belong to the sample."""
        if trajectory not in self._strides:
            self._read(trajectory)
        stride = self._strides[trajectory]
        return range(steps.start + -steps.start % stride, steps.stop, stride)

    def add(self, configuration: SampledConfiguration) -> None:
        """Keep a configuration that `wanted` asked for."""
        name = configuration.trajectory
        self._record.add_configuration(configuration)
        self._counts[name] += 1
        while self._counts[name] > LARGEST_SAMPLE:
            self._strides[name] *= 2
            self._record.thin_configurations(name, self._strides[name])
            self._counts[name] = len(self._record.configuration_steps(name))

    def _read(self, trajectory: str) -> None:
        steps = self._record.configuration_steps(trajectory)
        stride = _FIRST_STRIDE
        while any(steps) and all(step % (2 * stride) == 0 for step in steps):
            stride *= 2
        self._strides[trajectory], self._counts[trajectory] = stride, len(steps)
