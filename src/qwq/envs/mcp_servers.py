"""Which MCP servers there are: a `{"mcpServers": {...}}` file, as other programs write it too.

    {"mcpServers": {
        "files":  {"command": "npx", "args": ["-y", "server-files"], "env": {"KEY": "${A}"}},
        "issues": {"url": "https://example.com/mcp", "headers": {"Authorization": "Bearer ${B}"}}
    }}

`${NAME}`, `${env:NAME}` and `${NAME:-default}` are filled from the environment. `disabled` leaves a
server out. `start_timeout_s` and `call_timeout_s` are keys of this program.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwq.errors import ConfigError, nearest

START_TIMEOUT_S = 10.0  # to start, agree on a version and list the tools
CALL_TIMEOUT_S = 60.0

_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_COMMON = {"type", "disabled", "start_timeout_s", "call_timeout_s"}
_PROGRAM = _COMMON | {"command", "args", "env", "cwd"}
_ADDRESS = _COMMON | {"url", "headers"}
_HTTP_TYPES = ("http", "streamable-http", "streamableHttp", "streamable_http")


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server: `command` (stdio) or `url` (streamable HTTP), one of the two."""

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = START_TIMEOUT_S
    call_timeout_s: float = CALL_TIMEOUT_S


def read_mcp_file(path: str | Path) -> list[McpServer]:
    """The servers of a file, by name. ConfigError for one that cannot be used."""
    file = Path(path).expanduser()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"MCP servers {path}: {error.strerror or error}: give a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: not JSON ({error}): write {{"mcpServers": {{"NAME": {{...}}}}}}') from None
    if not isinstance(data, dict) or not isinstance(data.get("mcpServers"), dict):
        raise ConfigError(f'{path}: no object `mcpServers`: write {{"mcpServers": {{"NAME": {{...}}}}}}')
    return parse_servers(data["mcpServers"], str(path))


def parse_servers(entries: Mapping[str, Any], where: str) -> list[McpServer]:
    """Servers from the object under `mcpServers`, by name; `where` is for messages."""
    servers = [_server(name, entries[name], f"{where}: {name}") for name in sorted(entries)]
    return [server for server in servers if server is not None]


def _server(name: str, entry: Any, where: str) -> McpServer | None:
    if not _NAME.fullmatch(name) or "__" in name:
        raise ConfigError(f"{where}: a server's name has up to 40 letters, digits, - and single _: rename it")
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: {type(entry).__name__} where an object with `command` or `url` is needed")
    if ("command" in entry) == ("url" in entry):
        raise ConfigError(f"{where}: give `command` (a program) or `url` (an address), one of the two")
    _check_keys(entry, where)
    if _typed(entry, "disabled", bool, False, where):
        return None
    made = _address(name, entry, where) if "url" in entry else _program(name, entry, where)
    start_s, call_s = (
        float(_typed(entry, key, (int, float), default, where))
        for key, default in (("start_timeout_s", START_TIMEOUT_S), ("call_timeout_s", CALL_TIMEOUT_S))
    )
    if min(start_s, call_s) <= 0:
        raise ConfigError(f"{where}: a time-out is {min(start_s, call_s):g}: give seconds above 0")
    return replace(made, start_timeout_s=start_s, call_timeout_s=call_s)


def _check_keys(entry: Mapping[str, Any], where: str) -> None:
    known = _PROGRAM if "command" in entry else _ADDRESS
    for key in entry:
        if key in ("autoApprove", "alwaysAllow"):
            raise ConfigError(f"{where}: {key} is not read here: approvals are rules of the policy file")
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}: {nearest(key, known)}")
    types = ("stdio",) if "command" in entry else _HTTP_TYPES
    if entry.get("type", types[0]) not in types:
        raise ConfigError(f"{where}: type {entry['type']!r}: what is supported here is {types[0]!r}")


def _address(name: str, entry: Mapping[str, Any], where: str) -> McpServer:
    url = _filled(_typed(entry, "url", str, "", where), where)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{where}: url {url!r}: give one that begins with http:// or https://")
    return McpServer(name, url=url, headers=_texts(entry, "headers", where))


def _program(name: str, entry: Mapping[str, Any], where: str) -> McpServer:
    words = [_typed(entry, "command", str, "", where), *_typed(entry, "args", list, [], where)]
    if not words[0] or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{where}: `command` is a program's name and `args` a list of texts")
    cwd = _typed(entry, "cwd", str, "", where) or None
    return McpServer(name, tuple(_filled(word, where) for word in words), _texts(entry, "env", where), cwd)


def _typed(entry: Mapping[str, Any], key: str, kind: Any, default: Any, where: str) -> Any:
    value = entry.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {key} is {value!r}: its type is {getattr(kind, '__name__', 'number')}")
    return value


def _texts(entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    values = _typed(entry, key, dict, {}, where)
    if not all(isinstance(v, str) for v in values.values()):
        raise ConfigError(f"{where}: the values of {key} are texts: write numbers in quotes")
    return {k: _filled(v, where) for k, v in values.items()}


def _filled(text: str, where: str) -> str:
    """`text` with its variables; a missing one would start a server with an empty secret."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"{where}: the environment has no {match[1]}: set it, or write ${{{match[1]}:-default}}")
        return found

    return _VARIABLE.sub(value, text)
