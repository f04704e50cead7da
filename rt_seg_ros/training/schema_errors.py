"""What is wrong with a document that a schema refuses, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rt_seg_ros.errors import did_you_mean


def explained(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """Return what is wrong with a document, a line for each place: the key, its value, and what is allowed."""
    return [f"  {_explained(problem, schema)}" for problem in error.errors()]


def _explained(error: Mapping[str, Any], schema: type[BaseModel]) -> str:
    *above, last = error["loc"] or ("the whole",)
    place = ".".join(str(part) for part in (*above, last))
    if error["type"] == "extra_forbidden":
        keys = _keys_at(schema, above)
        return f"{place}: no such key{did_you_mean(str(last), keys)}; there are: {', '.join(keys)}"
    if error["type"] == "missing":
        return f"{place}: is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    value = "" if isinstance(error.get("input"), dict) else f" is {error.get('input')!r}"
    return f"{place}{value}: {message[0].lower()}{message[1:]}"


def _keys_at(schema: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Return the keys that a schema has at a place."""
    model: Any = schema
    for part in loc:
        if isinstance(part, int) or not hasattr(model, "model_fields"):
            continue
        model = _section_in(model.model_fields[part].annotation)
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def _section_in(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation
    for inner in get_args(annotation):
        found = _section_in(inner)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None
