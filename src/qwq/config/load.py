"""A recipe's text: where it is, its TOML, dotted overrides."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwq.errors import ConfigError

_KEYS = re.compile(r'"([^"]+)"|([^."]+)')  # the parts of a dotted key


def parse_value(text: str) -> Any:
    """A TOML value; what is not one is a string (`--model.path=../dir` needs no quotes)."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def apply_override(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested tables in place.

    A key in double quotes is taken as it is: `eval."sums.py:Sums"`.
    """
    *path, last = (quoted or plain for quoted, plain in _KEYS.findall(dotted)) if dotted else ("",)
    for key in path:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--{dotted}: {key!r} is a value, not a table")
    last = last if dotted.endswith('"') else last.replace("-", "_")
    if path == ["model"] and last in ("preset", "path"):
        # A model is a preset or a path: naming one on the command line replaces the other.
        data.pop("path" if last == "preset" else "preset", None)
    data[last] = value


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))}


def find_recipe(path: str | Path) -> Path:
    """A file, or the name of a recipe that comes with the package (`tiny`).

    ConfigError where it is neither.
    """
    path = Path(path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.parent == Path() and path.name in shipped:
        return shipped[path.name]
    near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    here = f"there: {', '.join(near)}; " if near else ""
    raise ConfigError(f"no recipe at {path}: {here}by name: {', '.join(shipped)} (`qwq recipes` describes them)")


def read_toml(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a recipe's file with dotted keys set in them. ConfigError if it is not TOML."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for dotted, value in overrides.items():
        apply_override(data, dotted, value)
    return data


def to_toml(data: Mapping[str, Any]) -> str:
    """Nested tables as TOML, None left out; values of a table come before its own tables."""
    lines: list[str] = []

    def table(prefix: str, data: Mapping[str, Any]) -> None:
        plain = {k: v for k, v in data.items() if not isinstance(v, dict) and v is not None}
        if prefix and (plain or not data):
            lines.append(f"\n[{prefix}]")
        lines.extend(f"{toml_key(k)} = {_toml(v)}" for k, v in plain.items())
        for k, v in data.items():
            if isinstance(v, dict):
                table(f"{prefix}.{toml_key(k)}" if prefix else toml_key(k), v)

    table("", data)
    return "\n".join(lines).strip() + "\n"


def toml_key(name: str) -> str:
    """A key as TOML writes it: quoted if it has characters that a bare key has not."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids DEL, JSON does not
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return repr(value)
