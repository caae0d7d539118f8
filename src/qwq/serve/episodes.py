"""Which episode a request belongs to: what the program did, from its first call to its last.

In this order: the path prefix /episodes/NAME in front of any path (a base URL that ends in
/episodes/NAME/v1 is all that a program needs), the header `X-Episode`, and the body's
`metadata.episode`, `user`, `safety_identifier` (Anthropic's `metadata.user_id`).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from qwq.serve.errors import INVALID, RequestRefused, error_response
from qwq.serve.guards import path_of
from qwq.serve.schema import Sampling

PREFIX = "/episodes/"
HEADER = b"x-episode"
MAX_NAME = 200  # characters
NAME_RULE = f"an episode's name has 1 to {MAX_NAME} characters, none of them a control character"


@dataclass(slots=True)
class Caller:
    """Who makes the calls of the current request: the episode's name, "" without one, and the path.

    `fixed`: path or header named it.
    """

    episode: str = ""
    path: str = ""
    fixed: bool = False


# Of the current request's task, and of what it starts.
CALLER: ContextVar[Caller | None] = ContextVar("CALLER", default=None)


def is_name(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MAX_NAME and text.isprintable()


def name_by_body(body: Sampling) -> None:
    """Take the episode's name from a request's fields, where path and header have none.
    RequestRefused for what is no name.
    """
    caller = CALLER.get()
    if caller is None or caller.fixed:
        return
    found = [("metadata.episode", (body.metadata or {}).get("episode"))]
    found += [(field, getattr(body, field)) for field in ("user", "safety_identifier")]
    for field, value in found:
        if value is None:
            continue
        if not isinstance(value, str) or not is_name(value):
            raise RequestRefused(f"{field}: it names the episode that is recorded, and {NAME_RULE}", field)
        caller.episode, caller.fixed = value, True
        return


class Episodes:
    """ASGI middleware: reads path prefix and header, and takes the prefix off the path."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, caller = path_of(scope), Caller()
        named = dict(scope["headers"]).get(HEADER)
        if path.startswith(PREFIX):
            name, _, rest = path.removeprefix(PREFIX).partition("/")
            root = scope["path"][: len(scope["path"]) - len(path)]
            path = f"/{rest}"
            scope = scope | {"path": root + path, "raw_path": (root + path).encode()}
            caller = Caller(name, fixed=True)
        elif named is not None:
            caller = Caller(_text(named), fixed=True)
        if caller.fixed and not is_name(caller.episode):
            message = f"{caller.episode[:80]!r} names no episode: {NAME_RULE}"
            return await error_response(400, message, INVALID, path=path)(scope, receive, send)
        caller.path = path
        CALLER.set(caller)
        return await self.app(scope, receive, send)


def _text(header: bytes) -> str:
    try:
        return header.decode("utf-8")
    except UnicodeDecodeError:
        return header.decode("latin-1")
