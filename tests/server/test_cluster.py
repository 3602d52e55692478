"""How many clients are wanted, and what Parsl is told about blocks."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anharm.configuration_cluster import ClusterSection
from anharm.errors import ConfigurationError
from anharm.server.cluster import clients_wanted
from anharm.server.cluster_blocks import address_for_nodes, make_provider
from anharm.server.cluster_client import run_client

SLURM = {
    "sbatch": 'cp "$1" "$(dirname "$0")/submitted"; echo Submitted batch job 7',
    "sacct": "exit 0",
}


def section(**keys):
    return ClusterSection.model_validate(keys)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands, which keep the job script that they are given."""
    for name, body in SLURM.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@given(
    most=st.integers(1, 100),
    running=st.integers(0, 100),
    pending=st.integers(0, 100),
    idle=st.floats(0, 1e6),
    limit=st.floats(0, 1e6),
)
def test_clients_follow_the_labels_that_are_wanted(most, running, pending, idle, limit):
    running = min(running, most)
    wanted = clients_wanted(most, running, pending, idle, limit)
    assert 0 <= wanted <= most
    if pending:
        assert wanted >= min(most, pending)  # nothing waits for want of a client
        assert wanted >= running
    if wanted > running:
        assert wanted <= pending  # nobody is called without work
    if pending == 0 and idle > limit:
        assert wanted == 0


def test_the_job_script_asks_slurm_for_what_run_toml_says(slurm):
    provider = make_provider(
        section(
            provider="slurm",
            walltime="04:30:00",
            nodes=2,
            cores=32,
            clients_per_block=3,
            partition="long",
            account="phonons",
            worker_init="module load espresso",
            scheduler_options="#SBATCH --qos=high",
        ),
        clients=8,
    )
    provider.script_dir = str(slurm)
    assert provider.submit("process_worker_pool.py --port 1", 1, "block") == "7"
    script = (slurm / "submitted").read_text().splitlines()
    assert provider.max_blocks == 3
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --time=270",
        "#SBATCH --ntasks-per-node=48",
        "#SBATCH --partition=long",
        "#SBATCH --account=phonons",
        "#SBATCH --qos=high",
        "module load espresso",
        "process_worker_pool.py --port 1",
    ):
        assert line in script, line
    assert "#SBATCH --exclusive" not in script
    assert [line for line in script if "ntasks-per-node" in line][-1].endswith("48")
    # Our own Python comes first, and what the user loads may go before it.
    (path,) = (line for line in script if line.startswith("export PATH="))
    assert script.index(path) < script.index("module load espresso")


@pytest.mark.parametrize("name", ["slurm", "pbspro", "torque", "grid-engine"])
def test_every_provider_of_run_toml_is_one_of_parsl(name, slurm):
    keys = {"provider": name, "walltime": "01:00:00", "partition": "long", "minimum_blocks": 1}
    provider = make_provider(section(**keys), clients=4)
    assert (provider.min_blocks, provider.max_blocks) == (1, 4)
    assert provider.walltime == "01:00:00"


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("clients", [1, 5, 12])
def test_parsl_asks_for_as_many_blocks_as_clients_need(nodes, clients, slurm):
    """Its rule, with one pool of workers per block where it believes in one per node."""
    keys = {"nodes": nodes, "clients_per_block": 3, "walltime": "01:00:00"}
    provider = make_provider(section(provider="slurm", **keys), clients)
    wanted_slots = clients * provider.parallelism
    blocks = -(-wanted_slots // (3 * provider.nodes_per_block))
    assert blocks == provider.max_blocks == -(-clients // 3)


def test_parsl_listens_where_nodes_reach_this_host():
    local = section(provider="local")
    assert address_for_nodes(local, "unix:name") == "127.0.0.1"
    slurm = section(provider="slurm", walltime="01:00:00")
    assert address_for_nodes(slurm, "tcp://127.0.0.1:31415") == "127.0.0.1"
    named = section(provider="slurm", walltime="01:00:00", address="no-such-host.invalid")
    with pytest.raises(ConfigurationError, match=r"reference.cluster.address: 'no-such-host"):
        address_for_nodes(named, "tcp://0.0.0.0:31415")


def test_a_client_on_a_node_tells_how_it_ended(tmp_path):
    def run(*command):
        log, stop = str(tmp_path / "log"), str(tmp_path / "stop")
        return run_client("reference-1", list(command), str(tmp_path), log, stop)

    end = run("bash", "-c", "echo no licence; exit 4")
    assert end["code"] == 4
    assert "no licence" in end["words"]
    assert end["host"] == os.uname().nodename
    end = run("no-such-program")
    assert end["code"] == 127
    assert "reference-1 cannot be started" in end["how"]
    Path(tmp_path / "stop").touch()
    end = run("sleep", "1000")
    assert end["seconds"] < 30
    assert end["code"] == -15
