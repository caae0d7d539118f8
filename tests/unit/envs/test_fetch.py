"""fetch: what is allowed, what comes back as text, and what stops it. The network is a server of
this process: the resolver gives public addresses, the dialler leads to it.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time

import pytest

from qwq.envs import Effect, ResultKind, Toolbox, Workspace, make_toolsets
from qwq.envs.base import in_background
from qwq.envs.fetch import FetchToolset, Refused, html_text, is_public
from qwq.errors import UsageError
from qwq.types import Message, Problem, ToolCall

PUBLIC = "93.184.216.34"
PAGE = "<html><head><title>T</title><script>x()</script></head><body><p>Eins &amp;\n zwei</p><ul><li>drei</ul></body>"


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        name = self.path.partition("?")[0].strip("/")
        status, kind, body, more = {
            "": (200, "text/plain; charset=latin-1", "grün".encode("latin-1"), {}),
            "page": (200, "text/html", PAGE.encode(), {}),
            "json": (200, "application/json", b'{"a": 1}', {}),
            "picture": (200, "image/png", b"\x89PNG", {}),
            "zip": (200, "text/plain", b"x", {"Content-Encoding": "gzip"}),
            "big": (200, "text/plain", b"y" * (3 << 20), {}),
            "gone": (404, "text/plain", b"not here", {}),
            "near": (302, "text/plain", b"", {"Location": "/json"}),
            "far": (302, "text/plain", b"", {"Location": "http://evil.example/x"}),
            "down": (302, "text/plain", b"", {"Location": "file:///etc/passwd"}),
            "round": (302, "text/plain", b"", {"Location": "/round"}),
            "odd": (200, "text/plain; charset=nonsense", b"ok", {}),
        }[name]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for key, value in more.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class PageServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that has seen enough closes the connection."""


@pytest.fixture(scope="module")
def server():
    served = PageServer(("127.0.0.1", 0), Pages)
    served.seen = []
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def dialled():
    return []


@pytest.fixture
def tool(server, dialled):
    def dial(address, port, timeout_s):
        dialled.append((address, port))
        return socket.create_connection(server.server_address, timeout_s)

    return FetchToolset(allow_hosts=["a.example", "*.b.example"], resolver=lambda h, p: [PUBLIC], dialler=dial)


def fetch(tool, url):
    return in_background(tool.run(ToolCall("fetch", {"url": url}))).result()


def test_text_comes_back_in_its_encoding(tool, server, dialled):
    result = fetch(tool, "http://A.example/?q=1#part")
    assert (result.text, result.kind, result.detail["status"]) == ("grün", ResultKind.OK, 200)
    path, headers = server.seen[-1]
    assert (path, headers["Host"]) == ("/?q=1", "a.example")
    assert "Cookie" not in headers and dialled == [(PUBLIC, 80)]
    assert fetch(tool, "http://a.example/odd").text == "ok"


def test_html_comes_back_as_words(tool):
    assert fetch(tool, "http://x.b.example/page").text == "T\nEins & zwei\ndrei"
    assert html_text("<p>a<br>b<style>p{}</style>") == "a\nb"
    assert html_text("<pre>def f():\n    return 1</pre>") == "def f():\n    return 1"


@pytest.mark.parametrize(("name", "text"), [("picture", "image/png"), ("zip", "gzip")])
def test_what_is_no_text(tool, name, text):
    result = fetch(tool, f"http://a.example/{name}")
    assert result.kind is ResultKind.ERROR and text in result.text


def test_an_error_page_is_an_error(tool):
    result = fetch(tool, "http://a.example/gone")
    assert (result.text, result.kind, result.detail["status"]) == ("not here", ResultKind.ERROR, 404)


def test_a_megabyte_is_the_most(tool):
    text = fetch(tool, "http://a.example/big").text
    assert text == "y" * (1 << 20) + "\n[cut at 1,048,576 bytes]"


def test_redirects(tool):
    assert fetch(tool, "http://a.example/near").text == '{"a": 1}'
    far = fetch(tool, "http://a.example/far")
    assert (far.kind, far.text[:44]) == (ResultKind.REFUSED, "error: fetch: evil.example is not allowed; t")
    assert fetch(tool, "http://a.example/down").kind is ResultKind.REFUSED
    assert fetch(tool, "http://a.example/round").text == "error: fetch: more than 3 redirects"


REFUSED = [
    "ftp://a.example/", "file:///etc/passwd", "a.example", "http://evil.example/", "http://a.example.evil.example/",
    "http://b.example/", "http://evilb.example/", "http://a.example@evil.example/", "http://u:p@a.example/",
    "http://a.example:22/", "http://a.example:99999/", "http://127.0.0.1/", "http://[::1]/", "http://2130706433/",
    "http://0x7f.1/", "http://localhost/", "http://a.example\\@evil.example/", "http://a.example/\r\nX: y",
    "http://a.example/ b", "http://ä.example/", "http:///x", "http://a..example/", "http://a.example/" + "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_are_refused(tool, dialled, url):
    with pytest.raises(Refused):
        tool.target(url)
    result = fetch(tool, url)
    assert result.kind is ResultKind.REFUSED and result.text.startswith("error: fetch: ")
    assert dialled == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1", "ff02::1", "240.0.0.1", "2001:db8::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(server, address):
    assert not is_public(address)
    # One private address among public ones is enough.
    tool = FetchToolset(allow_hosts=["a.example"], resolver=lambda h, p: [PUBLIC, address], dialler=None)
    result = fetch(tool, "https://a.example/")
    assert result.kind is ResultKind.REFUSED and "is no public address" in result.text


def test_public_addresses():
    assert all(map(is_public, [PUBLIC, "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"]))


def test_a_name_without_an_address_and_a_server_that_refuses():
    tool = FetchToolset(allow_hosts=["a.example"], resolver=lambda h, p: [])
    assert fetch(tool, "http://a.example/").text == "error: fetch: OSError: a.example has no address"

    def refuse(address, port, timeout_s):
        raise ConnectionRefusedError(111, "Connection refused")

    tool = FetchToolset(allow_hosts=["a.example"], resolver=lambda h, p: [PUBLIC], dialler=refuse)
    assert fetch(tool, "http://a.example/").kind is ResultKind.ERROR


BODY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\n", BODY])
def test_a_server_that_drips_is_stopped(scheme, beginning):
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    def drip():
        try:
            theirs.sendall(beginning)
            while not ended.wait(0.05):
                theirs.sendall(b"a")
        except OSError:
            pass

    thread = threading.Thread(target=drip)
    thread.start()
    tool = FetchToolset(
        allow_hosts=["a.example"], fetch_timeout_s=0.4, resolver=lambda h, p: [PUBLIC], dialler=lambda a, p, t: ours
    )
    started = time.monotonic()
    result = fetch(tool, f"{scheme}://a.example/")
    ended.set()
    thread.join()
    theirs.close()
    assert time.monotonic() - started < 3
    assert result.kind in (ResultKind.TIMEOUT, ResultKind.ERROR)  # TLS sees at once that this is none
    assert ours.fileno() == -1


def test_it_is_off_unless_hosts_are_named():
    with pytest.raises(UsageError, match="fetch is off: name the hosts"):
        make_toolsets(["fetch"])
    for host in ("http://a.example", "localhost", "127.0.0.1", "*", "a.example/x"):
        with pytest.raises(UsageError, match="is no host"):
            make_toolsets(["fetch"], allow_hosts=[host])


def test_its_results_are_untrusted_and_its_effect_external(tool):
    (spec,) = tool.specs()
    assert (spec.effect, spec.idempotent, spec.untrusted) == (Effect.EXTERNAL, True, True)


def test_a_long_page_is_whole_in_the_workspace(tool):
    desk = Workspace()
    box = Toolbox([tool], desk)
    in_background(box.reset(Problem("p", "tools", (Message("user", "?"),), {}, "?"))).result()
    result = in_background(box.run_call(ToolCall("fetch", {"url": "http://a.example/big"}))).result()
    assert len(result.text) < 8200 and result.whole.startswith("yyy")
    assert list(desk._waiting) == ["outputs/call-1.txt"]
