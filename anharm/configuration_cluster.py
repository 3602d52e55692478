"""The table [reference.cluster]: where reference clients run when Parsl starts them."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from anharm.configuration_values import Section, problem

QUEUE_SECONDS = 86400.0
"""How long labels wait for a first client where jobs stand in a queue, unless the user says."""
WITHOUT_CORES = ("torque", "grid-engine")
_SCHEDULER_KEYS = ("partition", "account", "scheduler_options", "nodes")


class ClusterSection(Section):
    """Blocks of nodes, and the reference clients in them."""

    provider: Literal["local", "slurm", "pbspro", "torque", "grid-engine"] = Field(
        description='"local", "slurm", "pbspro", "torque" or "grid-engine"',
        examples=['"slurm"'],
    )
    walltime: str | None = Field(
        default=None, description='the time a block may run, "HH:MM:SS"', examples=['"04:00:00"']
    )
    nodes: int = Field(
        default=1, ge=1, le=10_000, description="a number of nodes per block from 1 to 10000"
    )
    cores: int = Field(
        default=1, ge=1, le=1_000_000, description="a number of cores per client of at least 1"
    )
    clients_per_block: int = Field(
        default=1, ge=1, le=1000, description="a number of clients per block from 1 to 1000"
    )
    blocks: int | None = Field(
        default=None, ge=1, le=10_000, description="the most blocks at a time, 1 to 10000"
    )
    minimum_blocks: int = Field(
        default=0, ge=0, le=10_000, description="a number of blocks from 0 to 10000"
    )
    idle_limit: float = Field(
        default=600.0, ge=0, le=1e8, description="a time in seconds of at least 0"
    )
    partition: str | None = Field(
        default=None, min_length=1, description="the name of a partition or queue"
    )
    account: str | None = Field(default=None, min_length=1, description="the account to charge")
    worker_init: str = Field(
        default="", description="shell commands that run on a node before its clients"
    )
    scheduler_options: str = Field(
        default="", description='further lines of the job script, such as "#SBATCH --qos=long"'
    )
    address: str | None = Field(
        default=None, min_length=1, description="the name of this host that nodes know"
    )

    @field_validator("walltime")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None and (
            not re.fullmatch(r"\d{1,4}:[0-5]\d:[0-5]\d", value) or not int(value.replace(":", ""))
        ):
            raise problem('expected hours, minutes and seconds such as "04:00:00"')
        return value

    @model_validator(mode="after")
    def _keys_belong_to_provider(self) -> Self:
        if self.provider == "local":
            foreign = [key for key in _SCHEDULER_KEYS if key in self.model_fields_set]
            if foreign:
                raise problem(f'{", ".join(foreign)}: only for schedulers; provider is "local"')
        elif self.walltime is None:
            raise problem('walltime is missing, for example walltime = "04:00:00"')
        if self.provider in WITHOUT_CORES and self.cores > 1:
            raise problem(
                f"cores: Parsl cannot ask {self.provider} for them; remove it, and ask in "
                "scheduler_options"
            )
        if self.provider == "grid-engine" and self.account is not None:
            raise problem("account: Parsl cannot tell grid-engine; use scheduler_options")
        if self.blocks is not None and self.minimum_blocks > self.blocks:
            raise problem(f"minimum_blocks = {self.minimum_blocks} is above blocks = {self.blocks}")
        return self

    @property
    def seconds(self) -> int | None:
        """The walltime in seconds."""
        if self.walltime is None:
            return None
        hours, minutes, seconds = map(int, self.walltime.split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def most_blocks(self, clients: int) -> int:
        """Blocks that may run at once: by default, as many as the clients need."""
        return self.blocks or max(self.minimum_blocks, -(-clients // self.clients_per_block))


def check_reachable(cluster: ClusterSection, address: str, own_client: bool) -> None:
    """Refuse a labelling address that no client on a node could connect to.

    Parameters
    ----------
    cluster : ClusterSection
    address : str
        Of the labelling server, `unix:NAME` or `tcp://HOST:PORT`.
    own_client : bool
        Whether the client is `anharm reference`, which connects to just that address.

    Raises
    ------
    PydanticCustomError
        With a complete message.
    """
    if cluster.provider == "local":
        return
    example = (
        'address = "tcp://HOST:31415" and allow_remote = true in [reference] (docs/clusters.md)'
    )
    host = address.removeprefix("tcp://").rpartition(":")[0]
    if address.startswith("unix:"):
        raise problem(
            f"reference.address is {address}, a socket of this host, which clients on other nodes "
            f"cannot reach; set {example}, with the name under which nodes know this host"
        )
    if own_client and host in ("0.0.0.0", "[::]"):
        raise problem(
            f"reference.address is {address}: on another node that is no address of this host; "
            f"set {example}, with the name under which nodes know this host"
        )
    if cluster.address is None and host in ("0.0.0.0", "[::]", "localhost", "127.0.0.1", "[::1]"):
        raise problem(
            f"reference.address is {address}, which does not say how nodes reach this host; set "
            "address = the name of this host in [reference.cluster], for Parsl's own port"
        )
