"""What else i-PI is sent with energy, forces and virial, to be written beside its trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anharm.errors import ConfigurationError

ERROR_EXTRAS = ("force_std_max", "force_std_mean", "force_std")
COMMITTEE_EXTRAS = ("committee_pot", "committee_force", "committee_virial")
EXTRAS = (*ERROR_EXTRAS, "model_version", *COMMITTEE_EXTRAS)
DEFAULT_EXTRAS = ("force_std_max", "force_std_mean", "model_version")
DEFAULT_MEMBERS = 8
LARGEST_COMMITTEE = 1000


@dataclass(frozen=True)
class ExtrasChoice:
    """Which extras are sent with every answer.

    Attributes
    ----------
    names : tuple of str
        Of `EXTRAS`.
    n_members : int
        Of the committee; 0 without one.
    """

    names: tuple[str, ...] = DEFAULT_EXTRAS
    n_members: int = 0

    @classmethod
    def of(cls, names: Sequence[str], n_members: int | None = None) -> ExtrasChoice:
        """Check a user's choice.

        Raises
        ------
        ConfigurationError
            If a name is unknown or given twice, or the committee does not fit the names.
        """
        for name in names:
            if name not in EXTRAS:
                raise ConfigurationError(
                    f"there are no extras named {name!r}; known: {', '.join(EXTRAS)}"
                )
        if len(set(names)) < len(names):
            raise ConfigurationError(f"extras are listed twice in {', '.join(names)}")
        wants_committee = any(name in COMMITTEE_EXTRAS for name in names)
        if n_members is not None and not wants_committee:
            raise ConfigurationError(
                f"a committee of {n_members} is asked for and nothing of it is sent: add "
                f"{', '.join(COMMITTEE_EXTRAS)}, or the first of them, to the extras"
            )
        members = (n_members or DEFAULT_MEMBERS) if wants_committee else 0
        if members % 2 or not 0 <= members <= LARGEST_COMMITTEE:
            raise ConfigurationError(
                f"a committee has {members} members; they come in pairs about the mean: give an "
                f"even number from 2 to {LARGEST_COMMITTEE}"
            )
        return cls(tuple(names), members)

    @property
    def has_errors(self) -> bool:
        """Whether errors of forces are sent."""
        return any(name in ERROR_EXTRAS for name in self.names)


def parse_extras(text: str | None, n_members: int | None = None) -> ExtrasChoice:
    """The choice that names separated by blanks make, or "none", or nothing for the default.

    Raises
    ------
    ConfigurationError
        As `ExtrasChoice.of` does.
    """
    if text is None:
        text = " ".join(DEFAULT_EXTRAS)
    return ExtrasChoice.of([] if text.strip() == "none" else text.split(), n_members)
