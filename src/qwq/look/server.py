"""A small server on loopback for pages that read files: `qwq look --serve` and `qwq watch --serve`.

It answers GET alone, and only requests that name this machine as their host, so that no other web
page can read from it (DNS rebinding). It holds no state, and nothing on it changes anything.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from qwq.errors import ConfigError, QwqError

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Reply:
    """A body, or `stream`: pieces that are sent as they come, until the client leaves."""

    body: bytes = b""
    type: str = "application/json"
    status: int = 200
    policy: str = ""  # Content-Security-Policy of a page
    stream: Iterator[bytes] | None = None


Route = Callable[[Mapping[str, str]], Reply]


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value).encode(), status=status)


def make_server(port: int, routes: Mapping[str, Route]) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 for `routes`: by path, a handler of the query's fields.

    Port 0 takes a free one. A QwqError of a handler becomes status 400 with its text. ConfigError
    if the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "qwq", ""

        def do_GET(self) -> None:
            self._send(self._reply())

        def _reply(self) -> Reply:
            name = self.headers.get("Host", "").rpartition(":")[0]
            if name not in (HOST, "localhost"):
                return as_json({"error": f"this server answers {HOST} and localhost alone"}, 403)
            parts = urlsplit(self.path)
            route = routes.get(parts.path)
            if route is None:
                return as_json({"error": f"nothing at {parts.path}"}, 404)
            try:
                return route(dict(parse_qsl(parts.query, keep_blank_values=True)))
            except QwqError as error:
                return as_json({"error": str(error)}, 400)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.type)
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            if reply.policy:
                self.send_header("Content-Security-Policy", reply.policy)
            if reply.stream is None:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            try:
                self.wfile.write(reply.body)
                for piece in reply.stream or ():
                    self.wfile.write(piece)
                    self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the page was closed

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"port {port} cannot be listened on ({reason}): give another --port") from None
    server.daemon_threads = True
    return server


def address(server: ThreadingHTTPServer) -> str:
    """The URL of a server's page."""
    return f"http://{HOST}:{server.server_address[1]}/"


def run(server: ThreadingHTTPServer) -> int:
    """Print the address and serve until Ctrl-C; returns the exit status."""
    print(f"{address(server)}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
    return 0
