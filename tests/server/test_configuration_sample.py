"""The sample of configurations: bounded, spread over the whole trajectory, and resumable."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anharm.server.configuration_sample import LARGEST_SAMPLE, ConfigurationSample
from anharm.server.record import Record, SampledConfiguration


def advance(sample: ConfigurationSample, name: str, steps: range) -> int:
    """Let a trajectory make steps, and return how many configurations were asked for."""
    asked = 0
    for step in steps:
        if sample.wanted(name, range(step, step + 1)):
            sample.add(SampledConfiguration(name, step, np.full((2, 3), float(step)), np.eye(3)))
            asked += 1
    return asked


@settings(max_examples=10, deadline=None)
@given(n_steps=st.integers(1, 60_000), stop=st.integers(0, 60_000))
def test_a_sample_is_bounded_and_even_also_when_the_run_is_resumed(n_steps: int, stop: int) -> None:
    stop = min(stop, n_steps)
    with TemporaryDirectory() as folder, Record.open(folder, create=True) as record:
        asked = advance(ConfigurationSample(record), "a", range(stop))
        asked += advance(ConfigurationSample(record), "a", range(stop, n_steps))
        steps = record.configuration_steps("a")
    assert 0 < len(steps) <= LARGEST_SAMPLE
    assert len(steps) >= min(LARGEST_SAMPLE // 2, n_steps // 10)
    gaps = np.diff(steps) if len(steps) > 1 else np.array([10])
    assert steps[0] == 0 and (gaps == gaps[0]).all()
    assert n_steps - 1 - steps[-1] < 2 * gaps[0]
    assert asked < 1000, "a trajectory of any length sends few configurations"


def test_trajectories_have_samples_of_their_own(tmp_path: Path) -> None:
    with Record.open(tmp_path, create=True) as record:
        sample = ConfigurationSample(record)
        advance(sample, "long", range(5000))
        advance(sample, "short", range(100))
        kept = list(record.configurations())
    assert [one.step for one in kept if one.trajectory == "short"] == list(range(0, 100, 10))
    assert all((one.positions == one.step).all() and (one.cell == np.eye(3)).all() for one in kept)
