"""ASE calculators by name, for run.toml."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.calculators.tersoff import Tersoff, TersoffParameters

from anharm.errors import ConfigurationError

# J. Tersoff, Phys. Rev. B 38, 9902 (1988), in the notation of LAMMPS: R and D are the middle
# and half the width of the range of the cutoff (2.7 to 3.0 Angstrom), gamma and m are 1 and 3.
SILICON = TersoffParameters(
    A=1830.8,  # eV
    B=471.18,  # eV
    lambda1=2.4799,  # 1/Angstrom
    lambda2=1.7322,  # 1/Angstrom
    lambda3=1.7322,  # 1/Angstrom
    beta=1.0999e-6,
    n=0.78734,
    c=1.0039e5,
    d=16.218,
    h=-0.59826,
    R=2.85,  # Angstrom
    D=0.15,  # Angstrom
    gamma=1.0,
    m=3.0,
)


def make_calculator(
    name: str, parameters: Mapping[str, Any] | None = None, folder: Path | None = None
) -> Any:
    """Return an ASE calculator.

    Parameters
    ----------
    name : str
        "tersoff-silicon", or "module:callable" for anything that returns a calculator.
    parameters : mapping, optional
        Keyword arguments of the callable.
    folder : Path, optional
        Where modules are looked for first; the folder of run.toml.

    Raises
    ------
    ConfigurationError
        If there is no such calculator or it refuses the parameters.
    """
    parameters = dict(parameters or {})
    if name == "tersoff-silicon":
        if parameters:
            raise ConfigurationError(
                f"calculator {name!r} takes no parameters, seen: {', '.join(parameters)}"
            )
        return Tersoff({("Si", "Si", "Si"): SILICON})
    make = _find(name, folder)
    try:
        calculator = make(**parameters)
    except Exception as error:
        raise ConfigurationError(
            f"calculator {name!r} cannot be made with the parameters {parameters}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not hasattr(calculator, "get_property"):
        raise ConfigurationError(
            f"calculator {name!r} returned {calculator!r}, which is no ASE calculator"
        )
    return calculator


def _find(name: str, folder: Path | None) -> Any:
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        raise ConfigurationError(
            f'calculator {name!r} is unknown: give "tersoff-silicon", or "module:callable" such '
            'as "ase.calculators.emt:EMT"'
        )
    search = [str(folder)] if folder is not None else []
    sys.path[:0] = search
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigurationError(
            f"calculator {name!r}: the module {module} cannot be imported ({error}); install it, "
            "or put it beside run.toml"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(
            f"calculator {name!r}: the module {module} has no {attribute}"
        ) from error
    finally:
        for path in search:
            sys.path.remove(path)
