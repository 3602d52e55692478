"""The section [reference] of run.toml: where labels come from."""

import re
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from anharm.configuration_cluster import QUEUE_SECONDS, ClusterSection, check_reachable
from anharm.configuration_values import (
    CommandLines,
    ExistingFile,
    ExistingFiles,
    OutputFiles,
    Patterns,
    ReferenceAddress,
    Section,
    is_local,
    problem,
)

FILLED_IN: Any = None  # a default that a validator replaces


class CalculatorSection(Section):
    """A reference that runs inside anharm's own reference client."""

    name: str = Field(
        min_length=1,
        description='"tersoff-silicon" or "module:callable" that returns an ASE calculator',
        examples=['"tersoff-silicon"'],
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="a table of keyword arguments for the calculator"
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value != "tersoff-silicon" and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            raise problem('expected "tersoff-silicon", or "module:callable" such as "tools:emt"')
        return value


class ReferenceSection(Section):
    """Where labels (energies, forces, virials) come from."""

    allow_remote: bool = Field(
        default=False,
        description="true or false (whether other hosts may connect, without any authentication)",
    )
    address: ReferenceAddress = Field(
        default=FILLED_IN, description="`unix:NAME` or `tcp://HOST:PORT`"
    )
    calculator: CalculatorSection | None = Field(
        default=None, description="a table with the name and the parameters of an ASE calculator"
    )
    command: CommandLines = Field(
        default=(), description="a command line, or a list of command lines"
    )
    clients: int = Field(
        default=1, ge=1, le=10_000, description="a number of clients from 1 to 10000"
    )
    cluster: ClusterSection | None = Field(
        default=None, description="a table that says how Parsl gets the clients' nodes"
    )
    input: ExistingFile | None = Field(
        default=None, description="the path of the DFT code's input file"
    )
    input_format: str | None = Field(
        default=None, min_length=1, description="the ASE name of that format, such as espresso-in"
    )
    files: ExistingFiles = Field(default=(), description="a list of paths of existing files")
    first_geometry: bool = Field(default=False, description="true or false")
    wrap_positions: bool = Field(
        default=False,
        description="true or false (whether atoms are moved into the cell before they are sent)",
    )
    reject_output: Patterns | None = Field(
        default=None,
        description="a list of regular expressions; [] for none",
        examples=['["convergence NOT achieved"]'],
    )
    output_file: OutputFiles = Field(
        default=(), description="the path of the file a reference client prints to, or a list"
    )
    time_limit: float = Field(default=3600.0, gt=0, le=1e8, description="a time in seconds above 0")
    connection_limit: float = Field(
        default=FILLED_IN, gt=0, le=1e8, description="a time in seconds above 0"
    )
    attempts: int = Field(default=3, ge=1, le=100, description="a number of attempts from 1 to 100")

    @field_validator("address")
    @classmethod
    def _is_meant_if_remote(cls, value: str, info: ValidationInfo) -> str:
        if not is_local(value) and info.data.get("allow_remote") is False:
            raise problem(
                "other hosts can reach this address, and the i-PI protocol has no "
                "authentication: whoever connects can send false forces. Use `unix:NAME` or "
                "tcp://127.0.0.1:PORT with an SSH tunnel, or, on a network that you trust, add "
                "allow_remote = true to [reference] (docs/security.md)"
            )
        return value

    @field_validator("command")
    @classmethod
    def _no_calculator_too(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("calculator") is not None:
            raise problem("[reference.calculator] is given as well: keep one of the two")
        return value

    @field_validator("cluster")
    @classmethod
    def _is_reachable_from_nodes(
        cls, value: ClusterSection | None, info: ValidationInfo
    ) -> ClusterSection | None:
        if value is not None and {"address", "command", "calculator"} <= info.data.keys():
            if not info.data["command"] and info.data["calculator"] is None:
                raise problem("it says where clients run, but not which: give reference.command")
            own_client = info.data["calculator"] is not None
            check_reachable(value, info.data["address"], own_client)
        return value

    @field_validator("connection_limit", mode="before")
    @classmethod
    def _covers_queue(cls, value: object, info: ValidationInfo) -> object:
        """Jobs wait in queues; blocks that fail are noticed long before."""
        if value is not None:
            return value
        cluster = info.data.get("cluster")
        return QUEUE_SECONDS if cluster is not None and cluster.provider != "local" else 60.0

    @field_validator("clients")
    @classmethod
    def _copies_of_one_command(cls, value: int, info: ValidationInfo) -> int:
        commands = info.data.get("command", ())
        if value > 1 and len(commands) > 1:
            raise problem(
                f"reference.command lists {len(commands)} command lines, each one client; "
                "`clients` copies a single one, so remove it"
            )
        return value

    @field_validator("input_format")
    @classmethod
    def _has_input(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("input", value) is None:
            raise problem("there is no reference.input whose format it could name; remove it")
        return value

    @property
    def command_lines(self) -> tuple[str, ...]:
        """One command line per client process to start; empty without commands."""
        return self.command * self.clients if len(self.command) == 1 else self.command
