"""Sessions over HTTP: cells, files, interrupts, limits, vanishing clients, idle sessions, and what
is left at the end.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import httpx2
from sandbox_process import Server

from qwq.errors import InfraError, UsageError
from qwq.sandbox import CellStatus, Level, SessionLimits, SessionState
from qwq.sandbox.doctor import doctor
from qwq.sandbox.http.client import RemoteSandbox
from qwq.sandbox.watchdog import descendants

if not doctor()["level"]:
    pytest.skip("no safe level of the jail here", allow_module_level=True)

LIMITS = SessionLimits(timeout_s=20)


@pytest.fixture(scope="module")
def server():
    made = Server("--max-timeout-s", "20", "--sessions", "2")
    try:
        yield made
    finally:
        status = made.stop()
    assert status == 0


@pytest.fixture
def remote(server):
    with RemoteSandbox(server.url) as box:
        yield box


@pytest.fixture
def session(remote):
    with remote.session(LIMITS) as opened:
        yield opened


def sessions_of(server) -> list[dict]:
    return httpx2.get(f"{server.url}/sessions", trust_env=False).json()["sessions"]


def test_cells_files_and_results_are_those_of_the_library(session):
    session.put("a.txt", b"\xff\x00")
    session.run("x = 6 * 7")
    result = session.run("print('out')\nx", fetch=["a.txt"])
    assert (result.number, result.status, result.state) == (2, CellStatus.OK, SessionState.KEPT)
    assert (result.stdout, result.value, result.text, result.files) == (
        b"out\n",
        "42",
        "out\n42",
        {"a.txt": b"\xff\x00"},
    )
    assert session.files() == {"a.txt": 2}
    assert session.get("a.txt") == b"\xff\x00"
    with pytest.raises(UsageError, match="cannot be written"):
        session.put("../x", b"")
    assert session.run("1 / 0").error[0] == "ZeroDivisionError"
    assert session.restart() == []
    assert session.run("x").value == "42"


def test_bash_is_there_where_it_is_asked_for(remote, session):
    code = "import subprocess\nsubprocess.run(['bash', '-c', 'echo $((6 * 7))'], capture_output=True).stdout"
    assert session.run(code).error is not None
    if doctor()["level"] != Level.NAMESPACES:
        with pytest.raises(UsageError, match="level namespaces"):
            remote.session(LIMITS, programs=True)
        return
    with remote.session(LIMITS, programs=True) as opened:
        assert opened.run(code).value == "b'42\\n'"


def test_figures_arrive(session):
    pytest.importorskip("matplotlib")
    figure = session.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('T');").figures[0]
    assert figure.text == "figure 1: title 'T', 1 line" and figure.png.startswith(b"\x89PNG") and "<svg" in figure.svg


def test_interrupts_and_kills_say_what_became_of_the_state(session):
    session.run("x = 1")
    threading.Timer(0.5, session.interrupt).start()
    result = session.run("import time\ntime.sleep(15)")
    assert (result.status, result.state) == (CellStatus.INTERRUPTED, SessionState.KEPT)
    result = session.run("while True: pass", timeout_s=0.3)
    assert (result.status, result.state) == (CellStatus.TIMEOUT, SessionState.KEPT)
    result = session.run("import os\nos._exit(3)")
    assert (result.status, result.state, result.exit_code) == (CellStatus.DIED, SessionState.REBUILT, 3)
    assert session.run("x").value == "1"


def test_an_async_caller_that_gives_up_interrupts_its_cell(session):
    async def main():
        task = asyncio.create_task(session.run_async("x = 2\nimport time\ntime.sleep(15)"))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert session.run("x").value == "2"


def test_sessions_are_listed_and_limited(server, remote):
    with remote.session(LIMITS) as first, remote.session(LIMITS) as second:
        first.run("1")
        listed = {one["id"]: one for one in sessions_of(server)}
        assert set(listed) == {first.id, second.id}
        assert (listed[first.id]["cells"], listed[second.id]["cells"]) == (1, 0)
        assert listed[first.id]["limits"]["timeout_s"] == 20 and not listed[first.id]["running"]
        with pytest.raises(UsageError, match=r"429.*2 sessions are open, which is the limit"):
            remote.session(LIMITS)
        assert server.metric("qwq_sandbox_sessions") == 2
    assert sessions_of(server) == []
    with pytest.raises(UsageError, match="closed"):
        first.run("1")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (SessionLimits(timeout_s=21), "timeout_s is 21, this server allows up to 20"),
        (SessionLimits(timeout_s=1, memory_mb=5000), "memory_mb is 5000, this server allows up to 4096"),
        (SessionLimits(timeout_s=1, total_s=4000), "total_s is 4000, this server allows up to 3600"),
    ],
)
def test_limits_beyond_the_servers_are_refused(remote, limits, message):
    with pytest.raises(UsageError, match=message):
        remote.session(limits)


def test_requests_that_make_no_sense_are_refused(server, session):
    def post(path: str, body: object) -> tuple[int, str]:
        answer = httpx2.post(server.url + path, json=body, trust_env=False)
        return answer.status_code, answer.json()["error"]["message"]

    assert post("/sessions", {"timeout": 5})[0] == 422
    assert post("/sessions/0123/cells", {"code": "1"})[0] == 404
    cells = f"/sessions/{session.id}/cells"
    assert post(cells, {"cod": "1"})[0] == 422
    assert post(cells, {"code": "1", "timeout_s": 100}) == (422, "timeout_s is 100, this server allows up to 20")
    assert post(cells, {"code": "1", "files": {"a": "no base64!"}})[0] == 422
    plain = httpx2.post(
        server.url + cells, content='{"code": "1"}', headers={"Content-Type": "text/plain"}, trust_env=False
    )
    assert plain.status_code == 415  # what a web page could send


def test_a_client_that_goes_away_has_its_cell_interrupted(server, session):
    body = '{"code": "import time\\nx = 3\\ntime.sleep(15)"}'
    head = (
        f"POST /sessions/{session.id}/cells HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall((head + body).encode())
        until = time.monotonic() + 10
        while not sessions_of(server)[0]["running"] and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
    started = time.monotonic()
    assert session.run("x").value == "3"
    assert time.monotonic() - started < 10


def test_cells_of_one_session_wait_for_each_other(session):
    session.run("n = 0")
    code = "m = n\nimport time\ntime.sleep(0.05)\nn = m + 1"
    threads = [threading.Thread(target=session.run, args=(code,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.run("n").value == "8"


def test_idle_sessions_are_closed_and_nothing_is_left_at_the_end():
    made = Server("--sessions", "2", "--session-idle-s", "0.5")
    with RemoteSandbox(made.url) as box:
        idle = box.session()
        idle.run("x = 1")
        until = time.monotonic() + 20
        while sessions_of(made) and time.monotonic() < until:
            time.sleep(0.1)
        with pytest.raises(UsageError, match="not used for too long"):
            idle.run("x")
        idle.close()
        running = box.session()
        running.run("import threading, time\nthreading.Thread(target=time.sleep, args=(100,)).start()")

        def run_into_the_end() -> None:
            with pytest.raises(InfraError):
                running.run("time.sleep(15)")

        thread = threading.Thread(target=run_into_the_end)
        thread.start()
        time.sleep(0.5)
        below = descendants(made.process.pid)
        assert made.stop() == 0
        thread.join()
        assert not [pid for pid in below[1:] if Path(f"/proc/{pid}").exists()]


def test_a_key_guards_sessions():
    made = Server(key="secret")
    try:
        assert httpx2.get(f"{made.url}/sessions", trust_env=False).status_code == 401
        assert httpx2.post(f"{made.url}/sessions", json={}, trust_env=False).status_code == 401
        with RemoteSandbox(made.url, api_key="secret") as box, box.session() as session:
            assert session.run("1").value == "1"
    finally:
        assert made.stop() == 0
