"""The tool `fetch`: text from hosts of an allow-list, over HTTP and HTTPS. It is off unless hosts
are given.

It runs on the host, not in the jail. A name is resolved once, every address it has must be public,
and the connection goes to the address that was checked, so a second answer of the name server
changes nothing. Redirects are followed where they lead to an allowed host, and are checked like the
first address. Proxies and cookies are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qwq.envs.toolbox import Effect, ResultKind, ToolResult, Toolset, ToolSpec, tool_schema, toolset
from qwq.errors import UsageError
from qwq.types import ToolCall

TIMEOUT_S = 20.0
MAX_BYTES = 1 << 20
MAX_REDIRECTS = 3
MAX_URL = 2000
_PORTS = {"http": 80, "https": 443}
_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-ndjson")
_REDIRECTS = {301, 302, 303, 307, 308}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SKIPPED = {"script", "style", "noscript", "template", "svg"}
_BLOCKS = {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "title", "table", "section", "pre"}
Resolve = Callable[[str, int], list[str]]
Dial = Callable[[str, int, float], socket.socket]


class Refused(Exception):
    """The address is not one that may be fetched."""


class _NoText(Exception):
    """What came is not what can be shown."""


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def dial(address: str, port: int, timeout_s: float) -> socket.socket:
    return socket.create_connection((address, port), timeout_s)


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, also where it holds another one inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(part is not None and not is_public(str(part)) for part in inner):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{'' if self.port == _PORTS[self.scheme] else f':{self.port}'}{self.path}"


@toolset("fetch")
class FetchToolset(Toolset):
    """`fetch(url)` from `allow_hosts`: names ("docs.python.org"), or "*.python.org" for all names
    below one. `resolver` and `dialler` are for tests.
    """

    def __init__(
        self,
        *,
        allow_hosts: Sequence[str] = (),
        fetch_timeout_s: float = TIMEOUT_S,
        resolver: Resolve = resolve,
        dialler: Dial = dial,
    ):
        if not allow_hosts:
            raise UsageError("fetch is off: name the hosts that it may ask (allow_hosts, --allow-host HOST)")
        for host in allow_hosts:
            if not _is_host(host.removeprefix("*.")):
                raise UsageError(f"{host!r} is no host: give a name such as docs.python.org, or *.python.org")
        self.allow_hosts = tuple(host.lower() for host in allow_hosts)
        self.timeout_s = fetch_timeout_s
        self._resolve, self._dial = resolver, dialler

    def specs(self) -> Sequence[ToolSpec]:
        description = f"Get a page or file of text from the internet. Allowed hosts: {', '.join(self.allow_hosts)}."
        schema = tool_schema("fetch", description, {"url": {"type": "string"}}, ["url"])
        return (ToolSpec(schema, Effect.EXTERNAL, self.timeout_s, idempotent=True, untrusted=True),)

    async def run(self, call: ToolCall) -> ToolResult:
        return await asyncio.to_thread(self._fetch, call.arguments["url"])

    def _fetch(self, url: str) -> ToolResult:
        deadline = time.monotonic() + self.seconds_for(self.timeout_s)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                target = self.target(url)
                status, location, text = self._get(target, deadline)
                if location is None:
                    kind = ResultKind.OK if status < 400 else ResultKind.ERROR
                    return ToolResult(text, kind, detail={"status": status, "url": target.url})
                url = urllib.parse.urljoin(target.url, location)
        except Refused as error:
            return ToolResult(f"error: fetch: {error}", ResultKind.REFUSED)
        except TimeoutError:
            return ToolResult(f"error: fetch: no answer within {self.timeout_s:g} s", ResultKind.TIMEOUT)
        except (_NoText, OSError, http.client.HTTPException) as error:
            return ToolResult(f"error: fetch: {type(error).__name__.lstrip('_')}: {error}", ResultKind.ERROR)
        return ToolResult(f"error: fetch: more than {MAX_REDIRECTS} redirects", ResultKind.ERROR)

    def target(self, url: str) -> Target:
        """The URL taken apart. Refused for a scheme, host or port that is not allowed."""
        if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise Refused("no usable URL: give one of printable ASCII characters")
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Refused(f"no usable URL: {error}") from None
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in _PORTS:
            raise Refused(f"{parts.scheme or 'no'} scheme: give http:// or https://")
        if "@" in parts.netloc:
            raise Refused("a URL with a user name: leave it out")
        if not self._allowed(host):
            raise Refused(f"{host or 'no host'} is not allowed; the allowed hosts are {', '.join(self.allow_hosts)}")
        if port not in (None, *_PORTS.values()):
            raise Refused(f"port {port} is not allowed: leave it out")
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)

    def _allowed(self, host: str) -> bool:
        return _is_host(host) and any(
            host == allowed or (allowed[:2] == "*." and host.endswith(allowed[1:])) for allowed in self.allow_hosts
        )

    def _get(self, target: Target, deadline: float) -> tuple[int, str | None, str]:
        """(status, where it redirects to, text)."""
        connection = http.client.HTTPConnection(target.host, target.port)
        with self._connected(target, deadline) as sock:
            connection.sock = sock
            headers = {"Accept": "text/*, application/json", "Accept-Encoding": "identity", "User-Agent": "qwq"}
            connection.request("GET", target.path, headers=headers)
            response = connection.getresponse()
            if response.status in _REDIRECTS and response.headers.get("Location"):
                return response.status, response.headers["Location"], ""
            return response.status, None, _text_of(response)

    @contextlib.contextmanager
    def _connected(self, target: Target, deadline: float) -> Iterator[socket.socket]:
        """A connection to an address that was checked. At the deadline it is shut down, whatever
        waits on it: a server that sends byte by byte is stopped, too. Refused where one of the
        name's addresses is private.
        """
        addresses = self._resolve(target.host, target.port)
        for address in addresses:
            if not is_public(address):
                raise Refused(f"{target.host} is {address}, which is no public address")
        if not addresses:
            raise OSError(f"{target.host} has no address")
        sock = self._dial(addresses[0], target.port, _left(deadline))
        with sock.dup() as guard:  # wrap_socket takes the descriptor of the socket itself
            timer = threading.Timer(_left(deadline), _shut_down, [guard])
            timer.start()
            try:
                if target.scheme == "https":
                    sock = ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
                with sock:
                    yield sock
                _left(deadline)
            except (OSError, http.client.HTTPException):
                _left(deadline)
                raise
            finally:
                timer.cancel()
                sock.close()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _text_of(response: http.client.HTTPResponse) -> str:
    """The body as text, up to MAX_BYTES; HTML without its marks."""
    kind = response.headers.get_content_type()
    if not kind.startswith(_TEXT) and not kind.endswith(("+json", "+xml")):
        raise _NoText(f"the answer is {kind}, and only text is read")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _NoText(
            f"the answer is encoded as {response.headers['Content-Encoding']}, though plain text was asked for"
        )
    data = bytearray()
    while len(data) <= MAX_BYTES and (piece := response.read(1 << 16)):
        data += piece
    encoding = response.headers.get_content_charset() or "utf-8"
    try:
        text = bytes(data[:MAX_BYTES]).decode(encoding, errors="replace")
    except LookupError:
        text = bytes(data[:MAX_BYTES]).decode(errors="replace")
    if kind in ("text/html", "application/xhtml+xml"):
        text = html_text(text)
    cut = f"\n[cut at {MAX_BYTES:,} bytes]" if len(data) > MAX_BYTES else ""
    return (text or "(empty)") + cut


class _Words(html.parser.HTMLParser):
    """What a reader sees of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._skipping = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipping += tag in _SKIPPED
        self._pre += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._skipping = max(0, self._skipping - (tag in _SKIPPED))
        self._pre = max(0, self._pre - (tag == "pre"))
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if not self._pre:
            data = re.sub(r"\s+", " ", data)
            if not self.parts or self.parts[-1].endswith("\n"):
                data = data.lstrip()
        self.parts.append(data)


def html_text(page: str) -> str:
    """A page's words, a line for each block."""
    words = _Words()
    words.feed(page)
    words.close()
    lines = (line.rstrip() for line in "".join(words.parts).splitlines())
    return "\n".join(line for line in lines if line)


def _is_host(name: str) -> bool:
    """Whether a text is a host's name; addresses are none, however they are written."""
    labels = name.split(".")
    return (
        len(name) <= 253
        and len(labels) > 1
        and all(0 < len(label) <= 63 and label.replace("-", "a").isalnum() and label.isascii() for label in labels)
        and not labels[-1][:1].isdigit()
    )
