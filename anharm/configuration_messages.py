"""Words for what is wrong in a run.toml: the key, the value seen, and what is expected."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

LONGEST_VALUE = 100  # characters of a wrong value to show


def describe_problems(
    path: Path, model: type[BaseModel], table: dict[str, Any], error: ValidationError
) -> str:
    """Return one message that lists every problem of the file's table, in the file's terms."""
    errors = _without_consequences(error.errors(include_url=False))
    problems = [_describe(model, table, details) for details in errors]
    heading = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{path}: {heading}", *(f"  {problem}" for problem in problems)])


def _without_consequences(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is wrong where an entry of it is: it says nothing more."""
    wrong = [details["loc"] for details in errors]
    return [
        details
        for details in errors
        if not any(
            len(w) > len(details["loc"]) and w[: len(details["loc"])] == details["loc"]
            for w in wrong
        )
    ]


def _describe(model: type[BaseModel], table: dict[str, Any], details: ErrorDetails) -> str:
    location = _as_written(details["loc"], table)
    key = _dotted(location)
    parent, field = _find(model, location)
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_suggestion(parent, str(location[-1]), len(location) == 1)}"
    if details["type"] == "missing":
        return _describe_missing(key, location, field)
    seen = f"{key} = {_shown(details['input'])}"
    if details["type"] == "anharm":
        is_section = isinstance(details["input"], dict) and field is not None
        return f"{key if is_section and len(location) == 1 else seen}: {details['msg']}"
    expected = field.description if field is not None else details["msg"]
    return f"{seen}: expected {expected}"


def _describe_missing(key: str, location: tuple[int | str, ...], field: FieldInfo | None) -> str:
    if field is None or field.description is None:
        return f"{key}: missing"
    if len(location) == 1:
        return f"[{key}]: this section is missing: expected {field.description}"
    example = f", for example {location[-1]} = {field.examples[0]}" if field.examples else ""
    return f"{key}: missing: expected {field.description}{example}"


def _suggestion(parent: type[BaseModel], key: str, top: bool) -> str:
    """Name the known key that is nearest to an unknown one, or all of them."""
    known = list(parent.model_fields)
    matches = get_close_matches(key, known, n=1, cutoff=0.6)
    if matches:
        return f"did you mean `{matches[0]}`?"
    return f"known {'sections' if top else 'keys'}: {', '.join(known)}"


def _find(
    model: type[BaseModel], location: Sequence[int | str]
) -> tuple[type[BaseModel], FieldInfo | None]:
    """Return the section and the field that a location leads to, as far as it is known."""
    field: FieldInfo | None = None
    for part in location:
        inner = model if field is None else _model_of(field.annotation)
        if inner is None or not isinstance(part, str):
            break
        model, field = inner, inner.model_fields.get(part)
        if field is None:
            break
    return model, field


def _model_of(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _as_written(location: Sequence[int | str], table: dict[str, Any]) -> tuple[int | str, ...]:
    """The location in the file, where a single text may stand for a list of one."""
    found: list[int | str] = []
    value: Any = table
    for part in location:
        if isinstance(value, str):
            break
        found.append(part)
        value = value.get(part) if isinstance(value, dict) else None
    return tuple(found)


def _dotted(location: Sequence[int | str]) -> str:
    """Write a location as TOML does: `training.factor`, `reference.files[0]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
