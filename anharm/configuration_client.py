"""The section [client] of run.toml: what lattice clients send to i-PI."""

from typing import Self

from pydantic import Field, model_validator

from anharm.configuration_values import Section, problem
from anharm.errors import ConfigurationError
from anharm.extras import COMMITTEE_EXTRAS, EXTRAS, ExtrasChoice


class ClientSection(Section):
    """What i-PI is sent beside energy, forces and virial."""

    extras: list[str] | None = Field(
        default=None,
        description=f"a list of names out of {', '.join(EXTRAS)} (what the i-PI input writes, by "
        "default)",
    )
    committee: int | None = Field(
        default=None,
        description="an even number of members from 2 to 1000 (8 by default; needs one of "
        f"{', '.join(COMMITTEE_EXTRAS)} in `extras`)",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.extras is None:
            return self  # the i-PI input decides, see anharm.server.engine_runs
        try:
            ExtrasChoice.of(self.extras, self.committee)
        except ConfigurationError as error:
            raise problem(str(error)) from error
        return self
