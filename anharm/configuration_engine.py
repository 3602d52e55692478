"""The section [engine] of run.toml: i-PI, its input, and who serves its sockets."""

from pydantic import Field, ValidationInfo, field_validator

from anharm.configuration_values import (
    CommandLine,
    Names,
    OneOrMoreFiles,
    OneOrMoreNames,
    Section,
    problem,
)


class EngineSection(Section):
    """i-PI and the user's own input for it."""

    input: OneOrMoreFiles = Field(
        description="the path of the i-PI input file (XML), or a list of such paths",
        examples=['"input.xml"'],
    )
    forcefield: OneOrMoreNames | None = Field(
        default=None,
        description="the name of the <ffsocket> that anharm serves, or a list of such names",
    )
    clients: int = Field(
        default=1, ge=1, le=1000, description="a number of lattice clients from 1 to 1000"
    )
    reference_forcefield: Names = Field(
        default=(),
        description="the name of the <ffsocket> whose forces come from the reference, or a list",
        examples=['"dft"'],
    )
    command: CommandLine = Field(default="anharm i-pi", description="the command that starts i-PI")

    @field_validator("reference_forcefield")
    @classmethod
    def _is_not_ours(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        both = sorted(set(value) & set(info.data.get("forcefield") or ()))
        if both:
            raise problem(
                f"{', '.join(both)} is listed in engine.forcefield, too: a socket has the forces "
                "of the model or those of the reference"
            )
        return value
