"""Numbers with units in an i-PI input."""

import io
from contextlib import redirect_stdout
from math import isfinite
from pathlib import Path
from xml.etree.ElementTree import Element

from ipi.utils.units import unit_to_internal, unit_to_user

from anharm.errors import ConfigurationError

_NO_TEMPERATURE = -1.0  # what i-PI writes into checkpoints of ensembles without one


def timestep(path: Path, system: Element) -> float | None:
    """Timestep of a system's dynamics, fs; None without one.

    Raises
    ------
    ConfigurationError
        If it is no number above 0.
    """
    value = _quantity(path, system, ".//dynamics/timestep", "time", "femtosecond")
    if value is not None and value <= 0:
        raise ConfigurationError(f"{path}: <timestep> is {value:g} fs, expected a time above 0")
    return value


def temperature(path: Path, system: Element) -> float | None:
    """Temperature of a system's ensemble, K; None without one.

    Raises
    ------
    ConfigurationError
        If it is no number of at least 0.
    """
    value = _quantity(path, system, "ensemble/temperature", "temperature", "kelvin")
    if value is None or value >= 0:
        return value
    if float(system.findtext("ensemble/temperature", "")) == _NO_TEMPERATURE:
        return None
    raise ConfigurationError(f"{path}: <temperature> is {value:g} K, expected at least 0")


def _quantity(path: Path, system: Element, tag: str, kind: str, unit: str) -> float | None:
    """A number with a unit label in the unit wanted."""
    element = system.find(tag)
    if element is None:
        return None
    label, text = element.get("units", "automatic"), (element.text or "").strip()
    try:
        with redirect_stdout(io.StringIO()):  # i-PI prints its table of units before it fails
            value = float(unit_to_user(kind, unit, unit_to_internal(kind, label, float(text))))
        if not isfinite(value):
            raise ValueError("the number is not finite")
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: <{element.tag} units='{label}'> {text} </{element.tag}>: {error}; write for "
            f"example <{element.tag} units='{unit}'> 1.0 </{element.tag}>"
        ) from error
    return value
