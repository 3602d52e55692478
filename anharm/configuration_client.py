"""The section [client] of run.toml: what lattice clients send to i-PI."""

from typing import Self

from pydantic import Field, model_validator

from anharm.configuration_values import Section, problem
from anharm.errors import ConfigurationError
from anharm.extras import COMMITTEE_EXTRAS, DEFAULT_EXTRAS, EXTRAS, ExtrasChoice


class ClientSection(Section):
    """What i-PI is sent beside energy, forces and virial."""

    extras: list[str] = Field(
        default=list(DEFAULT_EXTRAS), description=f"a list of names out of {', '.join(EXTRAS)}"
    )
    committee: int | None = Field(
        default=None,
        description="an even number of members from 2 to 1000 (8 by default; needs one of "
        f"{', '.join(COMMITTEE_EXTRAS)} in `extras`)",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            ExtrasChoice.of(self.extras, self.committee)
        except ConfigurationError as error:
            raise problem(str(error)) from error
        return self

    @property
    def choice(self) -> ExtrasChoice:
        """The extras to send."""
        return ExtrasChoice.of(self.extras, self.committee)
