"""Path integrals: the inputs of inputs/path-integrals on real i-PI, a few steps of each."""

import numpy as np
import pytest

BEADS = {"pile-l": 16, "pile-g": 8, "trpmd": 16, "batched": 64, "clients": 32}
# All beads begin at one place, and of a message that ends with equal ones the last is observed:
# at the very first step a message is one observation.
FIRST_MESSAGES = {"batched": 1, "clients": 3}


@pytest.mark.parametrize("kind", BEADS)
def test_beads_are_observed_once_per_step_and_feed_one_model(new_job, kind):
    job = new_job(f"{kind}.toml", inputs="path-integrals")
    beads, steps = BEADS[kind], 5
    job.set_steps(steps, name=f"{kind}.xml")
    job.set(training__audit_interval=2, training__minimum_interval=2)
    job.edit(f"{kind}.xml", ("filename='force_std_max' stride='10'",
                             "filename='force_std_max' stride='1'"))  # fmt: skip
    ended = job.run(within=600)
    assert ended.code == 0, ended.err

    with job.record() as record:
        chunks = list(record.observations())
        labels = list(record.labels())
        (state,) = record.trajectory_states().values()
    observed = np.sort(np.concatenate([chunk.steps for chunk in chunks]))
    first = FIRST_MESSAGES.get(kind, beads)
    # A client that joins a moment after another observes what that one did, which is one step.
    clients = 2 if kind == "clients" else 1
    assert first + steps * beads - clients < len(observed) <= first + steps * beads
    np.testing.assert_array_equal(observed, np.arange(len(observed)))

    # i-PI has a file of errors for every bead, with every step in it.
    for bead in range(beads):
        width = len(str(beads - 1))
        errors = np.loadtxt(job.directory / f"{kind}.force_std_max_{bead:0{width}d}")
        assert errors.size == steps + 1 and (errors > 0).all()

    # Two steps at least lie between labels, whatever the number of beads; audits come in one bead
    # of two steps, which is a handful here.
    assert state["beads"] == beads
    asked = [label.request.step // beads for label in labels if label.request.step is not None]
    assert (np.diff(asked) >= 2).all()

    # Labels are of beads, which are at different places: no configuration is labelled twice.
    assert len(labels) > 2
    positions = [label.request.positions for label in labels]
    for index, one in enumerate(positions):
        assert all(np.abs(one - other).max() > 1e-6 for other in positions[:index])
