"""The run's configuration, run.toml: read, validated whole, and frozen.

The file's sections are in `anharm.configuration_sections`; `plan` and `fit` need only
[crystal] and [expansion].
"""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from anharm.configuration_client import ClientSection
from anharm.configuration_messages import describe_problems
from anharm.configuration_sections import (
    CalculatorSection,
    CrystalSection,
    EngineSection,
    ExpansionSection,
    ReferenceSection,
    RunSection,
    Section,
    TrainingSection,
)
from anharm.configuration_values import problem
from anharm.errors import ConfigurationError

__all__ = [
    "CalculatorSection",
    "ClientSection",
    "CrystalSection",
    "EngineSection",
    "ExpansionSection",
    "ReferenceSection",
    "RunConfiguration",
    "RunSection",
    "TrainingSection",
    "load_configuration",
]

EMPTY_TABLE: Any = {}  # validated, so that a section left out has its defaults
LARGEST_FILE = 1_000_000  # bytes

_EXAMPLES = {
    "engine": '[engine]\ninput = "input.xml"',
    "training": "[training]\nfactor = 3.0\nbudget = 100",
    "reference": '[reference]\ncommand = "pw.x -ipi NAME:UNIX -in pw.in"\ninput = "pw.in"',
    "run": '[run]\ndirectory = "run"',
}


class RunConfiguration(Section):
    """Everything in one run.toml; all paths are absolute.

    Attributes
    ----------
    path : Path
        The file that was read.
    text : str
        Its text, for the run's record.
    """

    crystal: CrystalSection = Field(description="a table with the ideal crystal")
    expansion: ExpansionSection = Field(description="a table with the cutoffs")
    engine: EngineSection | None = Field(default=None, description="a table")
    client: ClientSection = Field(default=EMPTY_TABLE, description="a table")
    training: TrainingSection = Field(default=EMPTY_TABLE, description="a table")
    reference: ReferenceSection | None = Field(default=None, description="a table")
    run: RunSection = Field(default=EMPTY_TABLE, description="a table")

    @field_validator("training")
    @classmethod
    def _has_something_to_harvest(
        cls, value: TrainingSection, info: ValidationInfo
    ) -> TrainingSection:
        engine = info.data.get("engine")
        mixes = "engine" not in info.data or (engine is not None and engine.reference_forcefield)
        if "harvest" in value.model_fields_set and not mixes:
            raise problem(
                "harvest has no effect without engine.reference_forcefield, the name of the "
                "<ffsocket> whose forces i-PI wants from the reference; remove the one or give "
                "the other"
            )
        return value

    _path: Path = PrivateAttr(default=Path("run.toml"))
    _text: str = PrivateAttr(default="")

    @property
    def path(self) -> Path:
        """The file that was read."""
        return self._path

    @property
    def text(self) -> str:
        """The text of the file."""
        return self._text

    def require(self, *sections: str) -> None:
        """Check that the optional sections named are there.

        Raises
        ------
        ConfigurationError
            Naming every section that is missing, with an example of each.
        """
        missing = [name for name in sections if getattr(self, name) is None]
        if missing:
            names = " and ".join(f"[{name}]" for name in missing)
            examples = "\n\n".join(_EXAMPLES[name] for name in missing)
            raise ConfigurationError(
                f"{self.path}: {names} missing, which this command needs. "
                f"For example:\n\n{examples}\n"
            )


def load_configuration(path: str | Path) -> RunConfiguration:
    """Read and validate a run.toml.

    Parameters
    ----------
    path : str or Path
        The file. Relative paths inside it start at its folder.

    Returns
    -------
    RunConfiguration

    Raises
    ------
    ConfigurationError
        One error that lists every problem of the file.
    """
    path = Path(path).absolute()
    text = _read_text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: this is not valid TOML: {error}") from error
    try:
        configuration = RunConfiguration.model_validate(table, context={"path": path})
    except ValidationError as error:
        raise ConfigurationError(describe_problems(path, RunConfiguration, table, error)) from error
    configuration._path = path
    configuration._text = text
    return configuration


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(f"the configuration file {path} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigurationError(f"{path} is a folder; name the run.toml inside it") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise ConfigurationError(f"{path} has more than {LARGEST_FILE} bytes: is it a run.toml?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error}") from error
