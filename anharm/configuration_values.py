"""The kinds of value in run.toml that need more than a type and bounds."""

import os
import re
import shlex
from hashlib import sha256
from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

IntegerMatrix = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
_WHOLE = "supercell"  # instead of a cutoff of order 2: all pairs of atoms of crystal.supercell
CutoffTable = dict[int, float | str | dict[int, float]]

LARGEST_CUTOFF = 50.0  # Angstrom
LARGEST_SUPERCELL = 100_000  # primitive cells


class Section(BaseModel):
    """A table of run.toml: unknown keys are errors, values keep their TOML type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def problem(message: str) -> PydanticCustomError:
    """Return a validation error that carries a complete message of ours."""
    return PydanticCustomError("anharm", "{message}", {"message": message})


def _resolve(value: object, info: ValidationInfo) -> object:
    """Make a path absolute, relative ones starting at the folder of run.toml."""
    if isinstance(value, str) and value.strip():
        folder = _configuration_path(info).parent
        return Path(os.path.normpath(folder / Path(value).expanduser()))
    return value


def _configuration_path(info: ValidationInfo) -> Path:
    return (info.context or {}).get("path", Path.cwd() / "run.toml")


def _run_directory(value: object, info: ValidationInfo) -> object:
    """Name the run's directory after run.toml unless it is given."""
    return _configuration_path(info).with_suffix("").as_posix() if value is None else value


def _reference_address(value: object, info: ValidationInfo) -> object:
    """Give every run.toml an address of its own unless one is given."""
    if value is None:
        path = _configuration_path(info).resolve()
        return f"unix:anharm-{sha256(bytes(path)).hexdigest()[:12]}"
    return value


def _require_file(path: Path) -> Path:
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise problem(f"the file {path} {what}; relative paths start at the folder of run.toml")
    return path


def _as_tuple(value: object) -> object:
    """Turn TOML's arrays into the tuples that frozen models hold."""
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: object) -> object:
    """Accept one text or a list of them."""
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _check_command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise problem(f"this command line cannot be split into words: {error}") from error
    if not words:
        raise problem("the command line is empty")
    return value


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise problem(f"{value!r} is no regular expression: {error}") from error
    if re.search(value, ""):
        raise problem(f"{value!r} matches every line, so that no label would be accepted")
    return value


def _check_address(value: str) -> str:
    """Accept `unix:NAME`, `unix:/PATH` and `tcp://HOST:PORT`."""
    if re.fullmatch(r"unix:\S+", value) or _is_tcp(value):
        return value
    raise problem("expected `unix:NAME` or `tcp://HOST:PORT`")


def _check_endpoint(value: str) -> str:
    """Accept the ZeroMQ endpoints `tcp://HOST:PORT` and `ipc:///PATH`."""
    if re.fullmatch(r"ipc:///\S+", value) or _is_tcp(value):
        return value
    raise problem("expected `tcp://HOST:PORT` (for example tcp://127.0.0.1:5555) or `ipc:///PATH`")


def _is_tcp(value: str) -> bool:
    match = re.fullmatch(r"tcp://(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", value)
    return match is not None and 1 <= int(match[1]) <= 65535


def is_local(address: str) -> bool:
    """Tell whether an address or endpoint is of this host alone, going by its text."""
    if not address.startswith("tcp://"):
        return True
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # a name: whatever it stands for is known only when it is resolved


def _require_folder(path: Path) -> Path:
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise problem(f"the folder {path} {what}; make one with `anharm keys {path}`")
    return path


def _supercell_matrix(value: object) -> IntegerMatrix:
    """Return the 3x3 matrix of `[a, b, c]` or of three rows of three integers."""
    rows = value if isinstance(value, (list, tuple)) else ()
    if len(rows) == 3 and all(type(entry) is int for entry in rows):
        if min(rows) < 1:
            raise problem("expected numbers of cells of at least 1 in `[a, b, c]`")
        matrix = np.diag(rows)
    elif len(rows) == 3 and all(
        isinstance(row, (list, tuple)) and len(row) == 3 and all(type(n) is int for n in row)
        for row in rows
    ):
        matrix = np.array(rows)
    else:
        raise problem("expected three integers, or three rows of three integers")
    if np.abs(matrix).max() > LARGEST_SUPERCELL:
        raise problem(f"expected entries up to {LARGEST_SUPERCELL}")
    cells = abs(round(float(np.linalg.det(matrix))))
    if cells == 0:
        raise problem("the determinant is 0, so the supercell has no volume")
    if cells > LARGEST_SUPERCELL:
        raise problem(f"this supercell has {cells} primitive cells; at most {LARGEST_SUPERCELL}")
    first, second, third = (tuple(int(n) for n in row) for row in matrix)
    return (first, second, third)  # type: ignore[return-value]


def _cutoff(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = f' or "{_WHOLE}"' if where == "order 2" else ""
        raise problem(f"{where} is {value!r}, expected a number in Angstrom{hint}")
    if not (isfinite(value) and 0 < value <= LARGEST_CUTOFF):
        raise problem(f"{where} is {value!r}, expected above 0 and up to {LARGEST_CUTOFF} Angstrom")
    return float(value)


def _integer_key(key: object, allowed: range, what: str) -> int:
    number = int(key) if isinstance(key, str) and re.fullmatch(r"[0-9]", key) else key
    if type(number) is not int or number not in allowed:
        raise problem(f"{what} {key!r} is not one of {allowed[0]} to {allowed[-1]}")
    return number


def _normalise_cutoffs(value: object) -> CutoffTable:
    """Turn TOML's string keys into orders and numbers of bodies, in ascending order."""
    if not isinstance(value, dict) or not value:
        raise problem("expected a table of cutoffs per order, such as { 2 = 5.0, 3 = 4.0 }")
    cutoffs: CutoffTable = {}
    for key, entry in value.items():
        order = _integer_key(key, range(2, 7), "the order")
        if isinstance(entry, dict):
            if not entry:
                raise problem(f"order {order} has an empty table; give at least one cutoff")
            bodies = {
                _integer_key(k, range(2, order + 1), f"order {order}: the number of bodies"): v
                for k, v in entry.items()
            }
            cutoffs[order] = {
                body: _cutoff(bodies[body], f"order {order}, {body} bodies")
                for body in sorted(bodies)
            }
        elif order == 2 and entry == _WHOLE:
            cutoffs[order] = _WHOLE
        else:
            cutoffs[order] = _cutoff(entry, f"order {order}")
    return {order: cutoffs[order] for order in sorted(cutoffs)}


AbsolutePath = Annotated[Path, BeforeValidator(_resolve)]
ExistingFile = Annotated[AbsolutePath, AfterValidator(_require_file)]
KeyFolder = Annotated[AbsolutePath, AfterValidator(_require_folder)]
OneOrMoreFiles = Annotated[
    tuple[ExistingFile, ...], Field(min_length=1), BeforeValidator(_one_or_more)
]
OneOrMoreNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(_one_or_more),
]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_more)]
ExistingFiles = Annotated[tuple[ExistingFile, ...], BeforeValidator(_as_tuple)]
OutputFiles = Annotated[tuple[AbsolutePath, ...], BeforeValidator(_one_or_more)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_as_tuple)]
RunDirectory = Annotated[AbsolutePath, BeforeValidator(_run_directory)]
CommandLine = Annotated[str, AfterValidator(_check_command)]
CommandLines = Annotated[tuple[CommandLine, ...], BeforeValidator(_one_or_more)]
ReferenceAddress = Annotated[
    str, BeforeValidator(_reference_address), AfterValidator(_check_address)
]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
Supercell = Annotated[IntegerMatrix, BeforeValidator(_supercell_matrix)]
Cutoffs = Annotated[CutoffTable, BeforeValidator(_normalise_cutoffs)]
