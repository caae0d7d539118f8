"""Who may use a server that other machines can reach."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from qwq.errors import UsageError
from qwq.sandbox.http.server import Guard, listen, networks


def status(
    client: str,
    path: str = "/run_code",
    key: str | None = None,
    allow: tuple[str, ...] = (),
    headers: dict | None = None,
) -> int:
    """The status that a guarded request gets, 200 where it is let through."""
    seen: list[int] = []

    async def app(scope, receive, send):
        assert not scope["path"].startswith("/key")
        seen.append(200)

    async def send(message):
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    given = {"content-type": "application/json", "host": "10.0.0.1:8080", **(headers or {})}
    raw = [(k.encode(), v.encode()) for k, v in given.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "headers": raw,
        "client": (client, 1),
    }
    asyncio.run(Guard(app, key, networks(allow))(scope, None, send))
    return seen[0]


def test_networks_and_keys():
    assert status("10.1.2.3", allow=("10.0.0.0/8",)) == 200
    assert status("::ffff:10.1.2.3", allow=("10.0.0.0/8",)) == 200
    assert status("11.1.2.3", allow=("10.0.0.0/8",)) == 403
    assert status("11.1.2.3", key="k", allow=("10.0.0.0/8",)) == 401
    assert status("11.1.2.3", path="/key/k/run_code", key="k", allow=("10.0.0.0/8",)) == 200
    assert status("11.1.2.3", key="k", headers={"x-api-key": "k"}) == 200
    assert status("fd00::5", allow=("fd00::/16",)) == 200
    assert status("10.1.2.3", allow=("10.0.0.0/8",), headers={"content-type": "text/plain"}) == 415
    assert status("127.0.0.1", headers={"host": "evil.example"}) == 403
    assert status("127.0.0.1", headers={"host": "localhost:8080"}) == 200
    assert status("127.0.0.1", path="/key/anything/run_code", headers={"host": "evil.example"}) == 403


def test_bad_networks_and_open_addresses_are_refused():
    with pytest.raises(UsageError, match="give a network like"):
        networks(["10.0.0.0/33"])
    with pytest.raises(UsageError, match="--allow"):
        listen("0.0.0.0", 0, protected=False)
