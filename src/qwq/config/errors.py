"""What is wrong with a recipe, in one line that names the key and the repair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from qwq.errors import nearest


def _fields_at(location: tuple[Any, ...], root: type[BaseModel], kinds: Mapping[str, type[BaseModel]]) -> list[str]:
    """Valid names beside the last key of a validation error's location."""
    model: Any = root
    for key in location[:-1]:
        if model is root and key == "stages":
            model = "stages"
        elif model == "stages":
            model = "stage"
        elif model == "stage":
            model = kinds.get(key)
        elif isinstance(model, type) and key in model.model_fields:
            annotation = model.model_fields[key].annotation
            args = getattr(annotation, "__args__", ())
            model = (
                annotation
                if isinstance(annotation, type) and issubclass(annotation, BaseModel)
                else (args[0] if args else None)
            )
        elif isinstance(key, int):
            continue
        else:
            model = None
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def one_line(error: ValidationError, where: str, root: type[BaseModel], kinds: Mapping[str, type[BaseModel]]) -> str:
    """The first thing wrong, in one line with its repair."""
    first = error.errors()[0]
    # Pydantic inserts the union's tag into the location; a reader of the TOML does not see it.
    loc = [str(p) for i, p in enumerate(first["loc"]) if not (i == 2 and first["loc"][0] == "stages" and p in kinds)]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        valid = _fields_at(first["loc"], root, kinds)
        return f"{where}: unknown key {key!r}: {nearest(loc[-1], valid)}" if valid else f"{where}: unknown key {key!r}"
    if first["type"] == "missing":
        return f"{where}: {key!r} is missing: add it"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kind = first.get("ctx", {}).get("tag")
        hint = nearest(kind, kinds) if kind else f"add one of {', '.join(kinds)}"
        return f"{where}: {key}.kind is {kind!r}: {hint}" if kind else f"{where}: {key} has no kind: {hint}"
    message = first["msg"].removeprefix("Value error, ")
    shown = first["input"] if not isinstance(first["input"], dict) else None
    return f"{where}: {key + ': ' if key else ''}{message}" + (
        f", not {json.dumps(shown, default=str)}" if shown is not None else ""
    )
