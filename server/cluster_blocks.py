"""Parsl, as we use it: blocks of nodes of one provider, and one function that runs on them."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

from anharm.configuration import ReferenceSection
from anharm.configuration_cluster import ClusterSection
from anharm.errors import ConfigurationError, RunFailed
from anharm.server.cluster_client import ClientEnd, run_client

FOLDER = "parsl"
_FAILED_BLOCKS = 3
_LINES = 15


class Blocks:
    """Parsl's HighThroughputExecutor on blocks that it gets and gives back as clients come and go.

    Parameters
    ----------
    reference : ReferenceSection
        With its table `cluster`.
    folder : Path
        For Parsl's own files and logs, seen by all nodes.

    Raises
    ------
    ConfigurationError
        If Parsl is not installed, or this host's address cannot be told.
    RunFailed
        If the scheduler's commands are not there, or Parsl does not start.
    """

    def __init__(self, reference: ReferenceSection, folder: Path) -> None:
        self._folder = folder
        self._failure = ""
        parsl = import_parsl()
        logging.getLogger("parsl").propagate = False  # it writes a log of its own
        configuration = _parsl_configuration(reference, folder, self._heed_blocks)
        # Parsl's interchange is a child of this process and must outlive Ctrl-C, to cancel jobs.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._kernel = parsl.dataflow.dflow.DataFlowKernel(configuration)
        except OSError as error:
            raise RunFailed(f"Parsl cannot start in {folder}: {error}") from error
        finally:
            signal.signal(signal.SIGINT, previous)
        self._app = parsl.python_app(run_client, data_flow_kernel=self._kernel)

    @property
    def log(self) -> Path:
        """Parsl's own log."""
        return Path(self._kernel.run_dir) / "parsl.log"

    def submit(
        self, name: str, command: list[str], folder: Path, log: Path, stop: Path
    ) -> Future[ClientEnd]:
        """Let a client run as soon as there is a block for it (`cluster_client.run_client`)."""
        future: Future[ClientEnd] = self._app(name, command, str(folder), str(log), str(stop))
        return future

    def check(self) -> None:
        """Find out whether blocks can be had at all.

        Raises
        ------
        RunFailed
            If the last blocks all ended before Parsl's workers came up in them.
        """
        if self._failure:
            raise RunFailed(self._failure)

    def close(self) -> None:
        """Give back all blocks, running or in the queue."""
        self._kernel.cleanup()

    def _heed_blocks(self, executor: Any, blocks: dict[str, Any]) -> None:
        """Called by Parsl with the state of every block: one that ended unused is MISSING."""
        states = [blocks[key] for key in sorted(blocks, key=int)]
        ended = [state for state in states if state.state.name != "SCALED_IN"][-_FAILED_BLOCKS:]
        if len(ended) < _FAILED_BLOCKS or any(s.state.name != "MISSING" for s in ended):
            return
        said = next((s.message for s in reversed(ended) if "MISSING" not in (s.message or "")), "")
        self._failure = (
            f"{_FAILED_BLOCKS} blocks in a row ended before Parsl's workers came up in them; "
            "look at reference.cluster.worker_init, which must make this Python available on the "
            "nodes, and at reference.cluster.address, under which nodes must reach this host. "
            + "\n".join(filter(None, [said, *self._job_output()]))
        )

    def _job_output(self) -> list[str]:
        """The end of what the newest job printed."""
        scripts = Path(self._kernel.run_dir) / "submit_scripts"
        files = [*scripts.glob("*err"), *scripts.glob("*out"), *scripts.glob("*.submit.*")]
        found = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
        for file in found:
            lines = file.read_text(errors="replace").splitlines()[-_LINES:]
            if any(line.strip() for line in lines):
                return [f"The end of {file}:", *lines]
        return [f"The jobs printed nothing; see {scripts} and {self.log}"]


def import_parsl() -> ModuleType:
    """Parsl, which only [reference.cluster] needs.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    try:
        import parsl
        import parsl.dataflow.dflow
    except ImportError as error:
        raise ConfigurationError(
            '[reference.cluster] needs Parsl, which is not installed: pip install "anharm[cluster]"'
            f" ({error})"
        ) from error
    return parsl


def _parsl_configuration(
    reference: ReferenceSection, folder: Path, heed_blocks: Callable[[Any, dict[str, Any]], None]
) -> Any:
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    cluster = reference.cluster
    assert cluster is not None
    is_local = cluster.provider == "local"
    # A block that dies is noticed by silence.
    beat, silence = (2, 6) if is_local else (15, 60)
    executor = HighThroughputExecutor(
        label="reference",
        address=address_for_nodes(cluster, reference.address),
        provider=make_provider(cluster, number_of_clients(reference)),
        interchange_launch_cmd=[str(Path(sys.executable).parent / "interchange.py")],
        max_workers_per_node=cluster.clients_per_block,
        cores_per_worker=1e-3,  # the scheduler counts the cores, Parsl the clients
        encrypted=True,
        block_error_handler=heed_blocks,
        heartbeat_period=beat,
        heartbeat_threshold=silence,
    )
    return Config(
        executors=[executor],
        run_dir=str(folder),
        strategy="htex_auto_scale",
        strategy_period=1 if is_local else 5,
        max_idletime=30.0,
        retries=0,
        usage_tracking=0,
    )


def number_of_clients(reference: ReferenceSection) -> int:
    """Clients that may run at once."""
    return len(reference.command_lines) or reference.clients


def address_for_nodes(cluster: ClusterSection, labelling: str) -> str:
    """The numeric address at which Parsl's workers reach this host, and at which it listens.

    Parsl would otherwise try all of this host's addresses, and ask a server in the internet.

    Raises
    ------
    ConfigurationError
        If the name cannot be resolved.
    """
    if cluster.provider == "local" and cluster.address is None:
        return "127.0.0.1"
    name = cluster.address or labelling.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ConfigurationError(
            f"reference.cluster.address: {name!r} is no address of this host ({error})"
        ) from error


def make_provider(cluster: ClusterSection, clients: int) -> Any:
    """Parsl's provider for the table [reference.cluster].

    One pool of workers runs on the first node of a block, and the command of a client spreads
    itself over the nodes (srun, mpirun). Parsl believes that there is one pool per node, which
    `parallelism` puts right.
    """
    from parsl import providers
    from parsl.launchers import SimpleLauncher, WrappedLauncher

    options: dict[str, Any] = {
        "nodes_per_block": cluster.nodes,
        "init_blocks": cluster.minimum_blocks,
        "min_blocks": cluster.minimum_blocks,
        "max_blocks": cluster.most_blocks(clients),
        "parallelism": cluster.nodes,
        "launcher": SimpleLauncher(),
        "worker_init": f'export PATH="{Path(sys.executable).parent}:$PATH"\n{cluster.worker_init}',
    }
    if cluster.provider == "local":
        if cluster.seconds is not None:
            # The process group is the block's: it ends as a batch job does, whole.
            clock = f"{{ sleep {cluster.seconds}; kill 0; }} &\n"
            options["launcher"] = WrappedLauncher(clock)
            options["worker_init"] += "\ntrap 'kill 0' EXIT"

        class LocalProvider(providers.LocalProvider):
            status_polling_interval = 1  # s; processes may be looked at more often than a queue

        return LocalProvider(**options)
    options |= {"walltime": cluster.walltime, "scheduler_options": cluster.scheduler_options}
    try:
        return _batch_provider(cluster, options)
    except OSError as error:
        raise RunFailed(f"{cluster.provider}: its commands do not work here: {error}") from error


def _batch_provider(cluster: ClusterSection, options: dict[str, Any]) -> Any:
    """Parsl's provider for a batch queue; it fails where the queue's commands do."""
    from parsl import providers

    cores = -(-cluster.cores * cluster.clients_per_block // cluster.nodes)  # per node
    if cluster.provider == "slurm":
        # MPI's launchers count tasks, so that every core is one.
        options["scheduler_options"] = (
            f"#SBATCH --ntasks-per-node={cores}\n{cluster.scheduler_options}"
        )
        return providers.SlurmProvider(
            partition=cluster.partition, account=cluster.account, exclusive=False, **options
        )
    if cluster.provider == "pbspro":
        return providers.PBSProProvider(
            queue=cluster.partition,
            account=cluster.account,
            cpus_per_node=cores,
            select_options=f"mpiprocs={cores}",
            **options,
        )
    if cluster.provider == "torque":
        return providers.TorqueProvider(queue=cluster.partition, account=cluster.account, **options)
    return providers.GridEngineProvider(queue=cluster.partition, **options)
