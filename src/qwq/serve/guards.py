"""Middleware in front of the application: API keys, the size of a request, and how strictly its
fields are read. Plain ASGI, so streams pass untouched.

Keys are compared by their SHA-256 in constant time, all of them each time. Open without a key:
/health, the API's description, the page and its files. Everything that answers with the model's or
a user's words needs one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException

from qwq.serve.errors import INVALID, error_response
from qwq.serve.fields import LENIENT

OPEN_PATHS = frozenset({"/", "/health", "/favicon.ico", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
OPEN_PREFIXES = ("/static/", "/page/", "/assets/")
OTHER_SITE = "a page of another site may not use what is kept here"


# Uptime checks ask for the head alone of what a GET gives at once.
HEADS = OPEN_PATHS | {"/ping", "/version", "/metrics", "/v1/models", "/tokenizer_info"}


def path_of(scope: Any) -> str:
    """A request's path here, whether a proxy has taken `--root-path` off it or not."""
    root, path = scope.get("root_path", ""), scope["path"]
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _without_body(send: Any) -> Any:
    async def sent(message: Any) -> None:
        await send(message | {"body": b""} if message["type"] == "http.response.body" else message)

    return sent


class Rooted:
    """Says under which path a proxy shows the server, to everything behind it."""

    def __init__(self, app: Any, *, root_path: str) -> None:
        self.app, self.root_path = app, root_path.rstrip("/")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope | {"root_path": self.root_path} if scope["type"] == "http" else scope, receive, send)


class Guards:
    """Refuses what has no key (401) or is too large (413); answers HEAD where it has a meaning."""

    def __init__(self, app: Any, *, api_keys: Sequence[str], limit_bytes: int, lenient: bool = False) -> None:
        self.app, self.limit_bytes, self.lenient = app, limit_bytes, lenient
        self._digests = [hashlib.sha256(k.encode()).digest() for k in api_keys]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        LENIENT.set(self.lenient)  # of this request's task alone
        headers = dict(scope["headers"])
        if self._digests and not self._open(scope) and not self._known(headers):
            message = "no valid API key: send `Authorization: Bearer KEY`"
            return await error_response(
                401, message, "authentication_error", code="invalid_api_key", path=path_of(scope)
            )(scope, receive, send)
        path = path_of(scope)
        if scope["method"] == "HEAD" and (path in HEADS or path.startswith("/v1/models/")):
            scope, send = scope | {"method": "GET"}, _without_body(send)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit_bytes:
            return await error_response(413, self._words(int(length)), "invalid_request_error", path=path)(
                scope, receive, send
            )
        if b"transfer-encoding" not in headers:
            return await self.app(scope, receive, send)
        await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Any) -> Any:
        """A body without a stated length is counted as it comes."""
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit_bytes:
                raise HTTPException(413, self._words(seen))  # FastAPI lets this kind pass while it reads a body
            return message

        return counted

    def _words(self, size: int) -> str:
        return f"the request has {size} bytes, {self.limit_bytes} are allowed: send less, or raise --max-request-mib"

    @staticmethod
    def _open(scope: Any) -> bool:
        path = path_of(scope)
        return scope["method"] == "OPTIONS" or path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        header = headers.get(b"authorization", b"")
        scheme, _, key = header.partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(key.strip()).digest()
        # Every key is compared, so that the time does not tell which one it was.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class SameSite:
    """Refuses what another site's page had a browser send, by Origin, Fetch metadata and, against
    DNS rebinding, the host's name.
    """

    def __init__(self, app: Any, *, allowed_hosts: Collection[str]) -> None:
        own = socket.gethostname().lower()
        self.app, self.allowed = app, {"localhost", own, f"{own}.local", *(h.lower() for h in allowed_hosts)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (fault := self._fault(dict(scope["headers"]))):
            return await error_response(403, fault, INVALID)(scope, receive, send)
        await self.app(scope, receive, send)

    def _fault(self, headers: dict[bytes, bytes]) -> str | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = urlsplit(f"//{host}").hostname or ""
        if not self._is_own(name) and b"authorization" not in headers:
            return (
                f"{name!r} is not a name of this server: open it by its address or as localhost, "
                "or allow the name (--allowed-host)"
            )
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1").lower()).netloc != host:
            return OTHER_SITE
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return OTHER_SITE
        return None

    def _is_own(self, name: str) -> bool:
        if "*" in self.allowed or name in self.allowed or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # a rebound name is a name: an address in the bar is this server's
