"""JSON schemas as people's programs make them, fitted to what llguidance enforces.

1. A `format` that llguidance does not know is left unenforced: in JSON Schema it is an annotation
   (pydantic writes one for paths, passwords, bytes and more).
2. `propertyNames` with a list of names, a pattern or lengths becomes properties or patterns of the
   same meaning.
3. `uniqueItems` is left unenforced, as no grammar can count what it has seen; pydantic writes it
   for every set.
4. A branch of `anyOf` or `oneOf` with a pattern that looks around or back is left out where another
   remains: what is then written fits the schema still (pydantic's Decimal is a number or a string
   with such a pattern).

What is left unenforced is said once in the server's log. Everything else goes to llguidance as it
is, which refuses what it cannot do.
"""

from __future__ import annotations

import re
from typing import Any

from qwq.engine.notes import note_once
from qwq.errors import UsageError

# Those of llguidance 1.9; a test holds this list against it.
FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown"}
)
IN_DICTS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
IN_LISTS = ("prefixItems", "allOf")
ALONE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
LOOKS_AROUND = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|(\(\?<?[=!])", re.DOTALL)
ANNOTATIONS = frozenset({"title", "description", "format", "examples", "$comment", "default"})
MAX_DEPTH = 200


class _Beyond(Exception):
    """A pattern that no grammar can hold."""


def fitted(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the same meaning that llguidance takes, apart from what is left unenforced.
    UsageError where a pattern cannot be.
    """
    try:
        return _Fit(schema).node(schema, 0)
    except _Beyond as pattern:
        raise UsageError(
            f"the pattern {str(pattern)[:200]!r} looks ahead or behind, which cannot be enforced: "
            "write it without, or leave it out"
        ) from None


def _is_any_name(names: dict[str, Any]) -> bool:
    """Whether a schema of names says no more than that they are strings."""
    return not names.keys() - ANNOTATIONS - {"type"} and names.get("type", "string") == "string"


class _Fit:
    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root

    def node(self, node: Any, depth: int) -> Any:
        if not isinstance(node, dict):
            return node
        if depth > MAX_DEPTH:
            raise UsageError(f"the schema is nested more than {MAX_DEPTH} deep")
        out = {k: self._value(k, v, depth + 1) for k, v in node.items()}
        if isinstance(pattern := out.get("pattern"), str) and any(m[1] for m in LOOKS_AROUND.finditer(pattern)):
            raise _Beyond(pattern)
        form = out.get("format")
        if isinstance(form, str) and form not in FORMATS:
            if out.get("type", "string") == "string":
                note_once(f"format {form}", f"schemas: the format {form[:60]!r} is not enforced")
            del out["format"]
        if out.get("uniqueItems") is True:
            note_once("uniqueItems", "schemas: uniqueItems is not enforced")
        if isinstance(out.get("uniqueItems"), bool):
            del out["uniqueItems"]
        return self._names(out) if "propertyNames" in out else out

    def _value(self, key: str, value: Any, depth: int) -> Any:
        if key in IN_DICTS and isinstance(value, dict):
            return {k: self.node(v, depth) for k, v in value.items()}
        if key in IN_LISTS or (key == "items" and isinstance(value, list)):
            return [self.node(v, depth) for v in value] if isinstance(value, list) else value
        if key in ("anyOf", "oneOf") and isinstance(value, list):
            return self._branches(value, depth)
        return self.node(value, depth) if key in ALONE else value

    def _branches(self, branches: list[Any], depth: int) -> list[Any]:
        out: list[Any] = []
        fault: _Beyond | None = None
        for branch in branches:
            try:
                out.append(self.node(branch, depth))
            except _Beyond as beyond:
                fault = beyond
        # An optional string would always be null without its pattern.
        if fault is not None and all(b == {"type": "null"} for b in out):
            raise fault
        return out

    def _names(self, node: dict[str, Any]) -> dict[str, Any]:
        """`propertyNames` as properties or patterns; as it is where it says something else."""
        names = self._resolved(node["propertyNames"])
        rest = {k: v for k, v in node.items() if k != "propertyNames"}
        if names is True or (isinstance(names, dict) and _is_any_name(names)):
            return rest
        if not isinstance(names, dict) or "patternProperties" in node:
            return node
        keywords, value = names.keys() - ANNOTATIONS - {"type"}, node.get("additionalProperties", True)
        own = node.get("properties") or {}
        if keywords in ({"enum"}, {"const"}):
            known = [n for n in names.get("enum", [names.get("const")]) if isinstance(n, str)]
            allowed = {} if value is False else dict.fromkeys(known, value)
            return rest | {
                "properties": allowed | {k: v for k, v in own.items() if k in known},
                "additionalProperties": False,
            }
        by_pattern = keywords == {"pattern"} or keywords <= {"minLength", "maxLength"}
        if own or value is False or not by_pattern:
            return node
        pattern = names.get("pattern", f"^[\\s\\S]{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$")
        return rest | {"patternProperties": {pattern: value}, "additionalProperties": False}

    def _resolved(self, node: Any) -> Any:
        """What a reference within the schema points to (pydantic defines an Enum's names so)."""
        for _ in range(20):
            if not isinstance(node, dict) or not isinstance(ref := node.get("$ref"), str) or not ref.startswith("#/"):
                return node
            node = self.root
            for step in ref[2:].split("/"):
                step = step.replace("~1", "/").replace("~0", "~")
                node = node.get(step) if isinstance(node, dict) else None
        return node
