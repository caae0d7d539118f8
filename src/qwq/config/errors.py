"""What is wrong with a recipe, in one line that names the key and the repair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

from qwq.config.kinds import known_kinds, stage_class
from qwq.config.problem_sets import BAD_TASK, UNKNOWN_TASK
from qwq.errors import nearest

NO_KIND = "no_kind"  # type of the error for a stage without a kind, or of an unknown one


def _fields_at(location: tuple[Any, ...], root: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """Valid names beside the last key of a validation error's location."""
    model: Any = root
    path = list(location[:-1])
    if len(path) > 1 and path[0] == "stages":
        model, path = stage_class(data["stages"][path[1]]["kind"]), path[2:]
    for key in path:
        if _is_model(model) and key in model.model_fields:
            annotation = model.model_fields[key].annotation
            args = getattr(annotation, "__args__", ())
            model = annotation if _is_model(annotation) else args[0] if args else None
        elif not isinstance(key, int):
            model = None
    return sorted(model.model_fields) if _is_model(model) else []


def _is_model(value: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(value, type) and issubclass(value, BaseModel)


def one_line(error: ValidationError, where: str, root: type[BaseModel], data: Mapping[str, Any]) -> str:
    """The first thing wrong with the recipe `data` of class `root`, in one line with its repair."""
    first = error.errors()[0]
    loc = [str(p) for p in first["loc"]]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        valid = _fields_at(first["loc"], root, data)
        return f"{where}: unknown key {key!r}: {nearest(loc[-1], valid)}" if valid else f"{where}: unknown key {key!r}"
    if first["type"] == UNKNOWN_TASK:
        name = first["ctx"]["name"]
        return f"{where}: unknown key {f'{key}.{name}'!r}: {first['msg']}"
    if first["type"] == BAD_TASK:
        return f"{where}: {key}: {first['msg']}"
    if first["type"] == "missing":
        return f"{where}: {key!r} is missing: add it"
    if first["type"] == NO_KIND:
        kind = first.get("ctx", {}).get("kind")
        hint = nearest(kind, known_kinds()) if kind else f"add one of {', '.join(known_kinds())}"
        return f"{where}: {key}.kind is {kind!r}: {hint}" if kind else f"{where}: {key} has no kind: {hint}"
    message = first["msg"].removeprefix("Value error, ")
    shown = first["input"] if not isinstance(first["input"], dict) else None
    return f"{where}: {key + ': ' if key else ''}{message}" + (
        f", not {json.dumps(shown, default=str)}" if shown is not None else ""
    )
