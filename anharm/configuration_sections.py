"""The sections of run.toml, each a frozen pydantic model.

The description of a field says what is expected there, with its unit. It is what a
user reads after a wrong value, so it is written to follow the word "expected".
"""

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from anharm.configuration_engine import EngineSection
from anharm.configuration_reference import CalculatorSection, ReferenceSection
from anharm.configuration_values import (
    Cutoffs,
    Endpoint,
    ExistingFile,
    KeyFolder,
    RunDirectory,
    Section,
    Supercell,
    is_local,
    problem,
)
from anharm.errors import ConfigurationError

__all__ = [
    "CalculatorSection",
    "CrystalSection",
    "EngineSection",
    "ExpansionSection",
    "ReferenceSection",
    "RunSection",
    "TrainingSection",
]

FILLED_IN: Any = None  # a default that a validator replaces
RULE_KEYS = {
    "trajectory-average": {"factor"},
    "fixed": {"threshold"},
    "adaptive-history": {
        "threshold",
        "history_refits",
        "history_margin",
        "history_scatter",
        "history_slope",
        "critical_factor",
    },
    "none": set[str](),
}  # keys of [training] that belong to some rules only
LABEL_KEYS = {"maximum", "audit_interval"}  # that belong to every rule that takes labels
LONGEST_SOCKET_PATH = 103  # bytes; Linux takes 107, other systems 103


class CrystalSection(Section):
    """The ideal crystal."""

    primitive: ExistingFile = Field(
        description="the path of a structure file that ASE can read", examples=['"primitive.cif"']
    )
    supercell: Supercell = Field(
        description="three integers, or a 3x3 integer matrix whose rows are the supercell's "
        "lattice vectors in units of the primitive cell's",
        examples=["[2, 2, 2]"],
    )
    symmetry_tolerance: float = Field(
        default=1e-3, gt=0, le=1, description="a length above 0 and up to 1 Angstrom"
    )
    maximum_displacement: float | None = Field(
        default=None, gt=0, le=10, description="a length above 0 and up to 10 Angstrom"
    )
    maximum_strain: float | None = Field(
        default=None, gt=0, le=0.05, description="a strain above 0 and up to 0.05"
    )


class ExpansionSection(Section):
    """Which clusters of atoms the Taylor expansion holds."""

    cutoffs: Cutoffs = Field(
        description="a table of cutoffs in Angstrom per order 2 to 6; a cutoff may be a table "
        'per number of bodies, and that of order 2 "supercell"',
        examples=["{ 2 = 5.0, 3 = 4.0, 4 = 3.5 }"],
    )
    first_order: bool = Field(
        default=False,
        description="true or false (whether atoms may feel forces on their ideal sites)",
    )
    rotational_sum_rules: bool = Field(
        default=False,
        description="true or false (whether order 2 obeys the rotational sum rules)",
    )


class TrainingSection(Section):
    """When a configuration is sent to the reference, and when training has converged."""

    initial_labels: ExistingFile | None = Field(
        default=None, description="the path of a file of labels (extended XYZ)"
    )
    initial_configurations: int = Field(
        default=4, ge=0, le=10_000, description="a number of configurations from 0 to 10000"
    )
    initial_displacement: float | None = Field(
        default=None, gt=0, le=0.5, description="a length above 0 and up to 0.5 Angstrom"
    )
    initial_sampling: Literal["thermal", "gaussian"] | None = Field(
        default=None, description='"thermal" or "gaussian"'
    )
    initial_temperature: float | None = Field(
        default=None, gt=0, le=100_000, description="a temperature above 0 K"
    )
    initial_strain: float | None = Field(
        default=None, ge=0, le=0.04, description="a strain from 0 to 0.04"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="an integer of at least 0")
    targets: list[Literal["forces", "energies", "virials"]] = Field(
        default=["forces", "energies", "virials"],
        min_length=1,
        description='a list of "forces", "energies" and "virials"',
    )
    rule: Literal["trajectory-average", "fixed", "adaptive-history", "none"] = Field(
        default="trajectory-average",
        description='"trajectory-average", "fixed", "adaptive-history" or "none"',
    )
    harvest: Literal["keep", "learn"] = Field(
        default="keep",
        description="'keep' or 'learn' (what becomes of the reference's answers that i-PI itself "
        "asks for)",
    )
    after_convergence: Literal["watch", "freeze"] = Field(
        default="watch",
        description="'watch' (a step that stands out is labelled, training goes on) or 'freeze'",
    )
    factor: float = Field(
        default=3.0,
        gt=1,
        le=1000,
        description="a number above 1 and up to 1000 (a label is taken where the error exceeds "
        "this many times its average)",
    )
    window: int = Field(
        default=1000, ge=1, le=100_000, description="a number of steps from 1 to 100000"
    )
    bead_reduction: Literal["max", "mean"] = Field(
        default="max", description='"max" or "mean" (over the beads of a path integral)'
    )
    minimum_interval: int = Field(
        default=10, ge=0, le=100_000, description="a number of steps from 0 to 100000"
    )
    maximum: float | None = Field(
        default=None, gt=0, le=1000, description="a force error above 0 eV/A"
    )
    threshold: float | None = Field(
        default=None, gt=0, le=1000, description="a force error above 0 eV/A"
    )
    history_refits: int = Field(
        default=10, ge=2, le=1000, description="a number of refits from 2 to 1000"
    )
    history_margin: float = Field(
        default=0.0, gt=-1, le=1000, description="a number above -1 and up to 1000"
    )
    history_scatter: float = Field(
        default=0.4, gt=0, le=1000, description="a relative standard deviation above 0"
    )
    history_slope: float = Field(
        default=0.2, gt=0, le=1000, description="a relative change per refit above 0"
    )
    critical_factor: float = Field(
        default=2.0, ge=1, le=1000, description="a number of at least 1 and up to 1000"
    )
    audit_interval: int = Field(
        default=250, ge=0, description="a number of steps between audits, or 0 for none"
    )
    budget: int = Field(
        default=100, ge=1, le=1_000_000, description="a number of labels from 1 to 1000000"
    )
    convergence_tolerance: float = Field(
        default=0.05, gt=0, lt=1, description="a relative change between 0 and 1"
    )
    convergence_refits: int = Field(
        default=5, ge=2, le=1000, description="a number of refits, 2 to 1000"
    )
    convergence_gain: float = Field(
        default=0.06, gt=0, lt=1, description="a share of the error between 0 and 1"
    )
    quiet_steps: int = Field(default=1000, ge=1, description="a number of steps of at least 1")

    @field_validator("initial_configurations")
    @classmethod
    def _has_a_beginning(cls, value: int, info: ValidationInfo) -> int:
        if value == 0 and info.data.get("initial_labels") is None:
            raise problem("there is no training.initial_labels to begin with; expected at least 1")
        return value

    @field_validator("minimum_interval")
    @classmethod
    def _fits_in_window(cls, value: int, info: ValidationInfo) -> int:
        window = info.data.get("window")
        if window is not None and value > window:
            raise problem(
                f"the average needs {value} errors but training.window holds {window}; "
                "enlarge the window or shorten the interval"
            )
        return value

    @model_validator(mode="after")
    def _keys_belong_to_rule(self) -> Self:
        """A key that the rule does not use would mislead whoever reads the file."""
        if self.rule == "fixed" and self.threshold is None:
            raise problem('rule = "fixed" needs threshold, a force error in eV/A')
        known = RULE_KEYS[self.rule]
        owned = set().union(*RULE_KEYS.values(), LABEL_KEYS if self.rule == "none" else ())
        foreign = sorted(self.model_fields_set & owned - known)
        if foreign:
            owners = [name for name, keys in RULE_KEYS.items() if keys.issuperset(foreign)]
            instead = f", or set rule = {' or '.join(map(json.dumps, owners))}" if owners else ""
            plural = len(foreign) > 1
            raise problem(
                f"{', '.join(foreign)} {'have' if plural else 'has'} no effect with rule = "
                f'"{self.rule}" (its own keys: {", ".join(sorted(known)) or "none"}); remove '
                f"{'them' if plural else 'it'}{instead}"
            )
        return self

    @field_validator("budget")
    @classmethod
    def _covers_initial(cls, value: int, info: ValidationInfo) -> int:
        initial = info.data.get("initial_configurations")
        if initial is not None and value < initial:
            raise problem(
                f"the {initial} labels of training.initial_configurations count towards it; "
                "enlarge the budget"
            )
        return value


class RunSection(Section):
    """Where the run keeps its record and how its processes work together."""

    directory: RunDirectory = Field(
        default=FILLED_IN, description="the path of the run's directory"
    )
    mode: Literal["synchronous", "asynchronous"] = Field(
        default="synchronous", description='"synchronous" or "asynchronous"'
    )
    keys: KeyFolder | None = Field(
        default=None, description="the path of a folder made by `anharm keys`"
    )
    broker: Endpoint | None = Field(
        default=None, description="a ZeroMQ endpoint such as tcp://127.0.0.1:5555"
    )
    connection_limit: float = Field(
        default=60.0, gt=0, le=1e8, description="a time in seconds above 0"
    )
    stop_when_converged: bool = Field(default=False, description="true or false")
    threads: int = Field(default=1, ge=1, le=1024, description="a number of threads from 1 to 1024")

    @field_validator("broker")
    @classmethod
    def _has_keys_if_remote(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not is_local(value) and info.data.get("keys", value) is None:
            raise problem(
                "other hosts can reach this endpoint, so the broker and its clients need keys: "
                'make them with `anharm keys keys` and set keys = "keys" in [run], or use '
                "tcp://127.0.0.1:PORT (docs/security.md)"
            )
        return value

    @property
    def broker_endpoint(self) -> str:
        """Where the broker listens: `broker`, or a UNIX socket private to the user.

        UNIX socket paths hold about 107 bytes, fewer than many run directories have, so
        the socket lives in the temporary folder under a hash of the run's directory.

        Raises
        ------
        ConfigurationError
            If the temporary folder has a path too long for a UNIX socket.
        """
        if self.broker is not None:
            return self.broker
        name = sha256(bytes(self.directory.resolve())).hexdigest()[:16]
        path = Path(tempfile.gettempdir()).absolute() / f"anharm-{os.getuid()}" / name
        if len(bytes(path)) > LONGEST_SOCKET_PATH:
            raise ConfigurationError(
                f"the UNIX socket path {path} has {len(bytes(path))} bytes, more than the "
                f"{LONGEST_SOCKET_PATH} that systems allow: set TMPDIR to a shorter folder, or "
                'run.broker to a TCP endpoint such as "tcp://127.0.0.1:5555"'
            )
        return f"ipc://{path}"
