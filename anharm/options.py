"""Options that several commands share."""

from __future__ import annotations

from typing import Any

from anharm.errors import ConfigurationError


def check_probability(probability: float) -> None:
    """Refuse what is no probability of an interval.

    Raises
    ------
    ConfigurationError
    """
    if not 0 < probability < 1:
        raise ConfigurationError(f"--probability {probability} must lie between 0 and 1")


def parse_mesh(text: str) -> Any:
    """Three divisions of the reciprocal vectors, or a length in Angstrom.

    Raises
    ------
    ConfigurationError
    """
    words = text.replace(",", " ").split()
    try:
        if len(words) == 3 and all(int(word) > 0 for word in words):
            return [int(word) for word in words]
        if len(words) == 1 and 0 < float(words[0]) < float("inf"):
            return float(words[0])
    except ValueError:
        pass
    raise ConfigurationError(
        f'--mesh {text!r}: write three divisions such as "20 20 20", or a length in Angstrom: the '
        "divisions are about this length divided by the lattice constants"
    )
