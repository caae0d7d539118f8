"""Arguments of a tool call against the tool's JSON Schema: names, types, what is required, limits.

Nothing is repaired: a text of digits is no number. Keywords that are not listed in `_CHECKS` are
left to the tool itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qwq.errors import nearest

Schema = Mapping[str, Any]
_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, Mapping),
    "null": lambda value: value is None,
}


_PLAIN = {"type", "description", "title", "default", "examples"}  # keywords that only name a type


def fault_in(arguments: Any, schema: Schema) -> str | None:
    """The first thing that is wrong with the arguments; None where they fit."""
    if _plainly_fits(arguments, schema):
        return None
    return next(_faults(arguments, schema, "arguments", schema), None)


def _plainly_fits(arguments: Any, schema: Schema) -> bool:
    """Whether all arguments are known, none is missing, and each has the one type that its schema
    names and nothing else. What needs a closer look is False.
    """
    if not isinstance(arguments, dict) or not schema.keys() <= _OBJECT or schema.get("type") != "object":
        return False
    known = schema.get("properties") or {}
    if type(known) is not dict:
        return False
    for name, value in arguments.items():
        wanted = known.get(name)
        if type(wanted) is not dict or not wanted.keys() <= _PLAIN:
            return False
        kind = wanted.get("type")
        if not isinstance(kind, str) or kind not in _TYPES or not _TYPES[kind](value):
            return False
    return all(name in arguments for name in schema.get("required") or ())


_OBJECT = {"type", "properties", "required", "additionalProperties", "description", "title"}


def _faults(value: Any, schema: Any, path: str, root: Schema) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        if schema is False:
            yield f"{path} is not allowed"
        return
    if "$ref" in schema:
        yield from _faults(value, _target(schema["$ref"], root), path, root)
    types = schema.get("type")
    allowed = [types] if isinstance(types, str) else list(types or ())
    if allowed and not any(_TYPES.get(name, lambda _: True)(value) for name in allowed):
        yield f"{path} is {_shown(value)}, it must be {' or '.join(allowed)}"
        return
    for keyword, check in _CHECKS.items():
        if keyword in schema:
            yield from check(value, schema, path, root)


def _target(reference: str, root: Schema) -> Any:
    """What `#/$defs/Name` names; True, which allows everything, where there is nothing."""
    node: Any = root
    for part in reference.removeprefix("#/").split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None
    return True if node is None else node


def _enum(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    if value not in schema["enum"]:
        yield f"{path} is {_shown(value)}, it must be one of {', '.join(map(_shown, schema['enum']))}"


def _const(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    if value != schema["const"]:
        yield f"{path} is {_shown(value)}, it must be {_shown(schema['const'])}"


def _required(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    missing = [name for name in schema["required"] if isinstance(value, Mapping) and name not in value]
    if missing:
        yield f"{path} lack {missing[0]!r}" if path == "arguments" else f"{path} lacks {missing[0]!r}"


def _properties(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    known = schema["properties"]
    more = schema.get("additionalProperties", "patternProperties" in schema)
    for name, item in value.items():
        if name in known:
            yield from _faults(item, known[name], name if path == "arguments" else f"{path}.{name}", root)
        elif more is False:
            yield f"no argument {name!r}: {nearest(name, known) if known else 'there are none'}"
        elif isinstance(more, Mapping):
            yield from _faults(item, more, f"{path}.{name}", root)


def _items(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
        yield from _faults(item, schema["items"], f"{path}[{index}]", root)


def _any_of(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    choices = schema.get("anyOf") or schema.get("oneOf") or ()
    faults = [next(_faults(value, choice, path, root), None) for choice in choices]
    if faults and None not in faults:
        yield "; or ".join(dict.fromkeys(fault for fault in faults if fault))


def _all_of(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    for part in schema["allOf"]:
        yield from _faults(value, part, path, root)


def _bounds(value: Any, schema: Schema, path: str, root: Schema) -> Iterator[str]:
    if not _TYPES["number"](value):
        return
    if value < schema.get("minimum", value):
        yield f"{path} is {value}, it must be at least {schema['minimum']}"
    if value > schema.get("maximum", value):
        yield f"{path} is {value}, it must be at most {schema['maximum']}"


_CHECKS: dict[str, Callable[[Any, Schema, str, Schema], Iterator[str]]] = {
    "enum": _enum,
    "const": _const,
    "required": _required,
    "properties": _properties,
    "items": _items,
    "anyOf": _any_of,
    "oneOf": _any_of,
    "allOf": _all_of,
    "minimum": _bounds,
    "maximum": _bounds,
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
