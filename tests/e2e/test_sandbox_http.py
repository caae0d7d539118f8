"""The server as a process of its own, beyond `test_sandbox_server.py`: ids, limits, files, web
pages, the command.
"""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import httpx2
from commands import run
from sandbox_process import Server

from qwq.errors import UsageError
from qwq.sandbox.http.client import RemoteSandbox
from qwq.verify.code import clear_cache

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server():
    made = Server("--queue", "64", "--max-timeout-s", "20", "--max-body-mb", "2")
    yield made
    assert made.stop() == 0


@pytest.fixture
def remote(server):
    clear_cache()
    with RemoteSandbox(server.url) as box:
        yield box


def line(number: int, right: bool = True, before: str = "") -> dict:
    tests = {
        "kind": "call",
        "entry_point": "f",
        "cases": [{"args": [number], "expected": number + (1 if right else 2)}],
    }
    return {"code": f"{before}\ndef f(x): return x + 1", "tests": tests}


def run_code(server, **fields):
    return httpx2.post(f"{server.url}/run_code", json={"language": "python", **fields}, timeout=30)


def test_limits_beyond_the_servers_are_refused(remote):
    with pytest.raises(UsageError, match="timeout_s is 21, this server allows up to 20"):
        remote.run("print(1)", timeout_s=21)
    with pytest.raises(UsageError, match="413"):
        remote.run("print(1)", stdin=b"x" * (3 << 20))


@pytest.mark.parametrize(
    "body, where",
    [
        ("{", "JSON"),
        ('{"items": []}', "items"),
        ('{"items": [{"kind": "execute", "request": {"kind": "command", "argv": ["sh"]}}]}', "command"),
        ('{"items": [{"kind": "verify", "code": "x", "tests": {}, "unknown": 1}]}', "unknown"),
        (
            '{"items": [{"kind": "execute", "request": {"kind": "call", "sources": [], "entry_point": "f", "cases": '
            "[1]}}]}",
            "cases",
        ),
    ],
)
def test_malformed_requests_never_reach_a_slot(server, body, where):
    answer = httpx2.post(f"{server.url}/batch", content=body, headers=JSON)
    assert answer.status_code == 422 and where in answer.json()["error"]["message"]


def wait_until(condition, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_run_code_closed_early_kills_the_run(server):
    body = json.dumps({"code": "while True: pass", "language": "python", "run_timeout": 20}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = (
            "POST /run_code HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        raw.sendall(head.encode() + body)
        wait_until(lambda: server.metric("qwq_sandbox_running") == 1)
    wait_until(lambda: server.metric("qwq_sandbox_running") == 0)


def test_the_same_id_and_content_run_once(server):
    item = {"kind": "verify", "id": "same", **line(5, before="import time\ntime.sleep(0.5)")}
    before = server.metric("qwq_sandbox_runs_total")
    answers: list[dict] = []
    post = lambda: answers.append(json.loads(httpx2.post(f"{server.url}/batch", json={"items": [item]}).text))
    threads = [threading.Thread(target=post) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    post()
    assert {a["verdict"]["outcome"] for a in answers} == {"correct"} and len(answers) == 4
    assert server.metric("qwq_sandbox_runs_total") == before + 1


def test_the_same_id_with_other_content_is_another_run(server):
    items = [{"kind": "verify", "id": "reused", **line(6, right=right)} for right in (True, False)]
    found = [json.loads(httpx2.post(f"{server.url}/batch", json={"items": [item]}).text) for item in items]
    assert [f["verdict"]["outcome"] for f in found] == ["correct", "wrong"]


def test_run_code_has_sandbox_fusions_fields(server):
    answer = run_code(
        server, code="open('o.txt', 'w').write(input() + open('i.txt').read())", stdin="ab", files={"i.txt": "Y2Q="},
        fetch_files=["o.txt"], compile_timeout=1, run_timeout=5,
    ).json()  # fmt: skip
    assert set(answer) == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}
    assert (answer["status"], answer["files"], answer["compile_result"]) == ("Success", {"o.txt": "YWJjZA=="}, None)
    assert set(answer["run_result"]) == {"status", "execution_time", "return_code", "stdout", "stderr"}
    failed = run_code(server, code="import sys; sys.exit(3)").json()
    assert (failed["status"], failed["run_result"]["return_code"]) == ("Failed", 3)
    late = run_code(server, code="while True: pass", run_timeout=0.5).json()
    assert (late["status"], late["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    unknown = run_code(server, code="x", language="cobol").json()
    assert unknown["status"] == "SandboxError" and "cobol" in unknown["message"]


def test_a_web_page_cannot_use_a_server_without_a_key(server):
    body = b'{"code": "print(1)", "language": "python"}'
    text = httpx2.post(f"{server.url}/run_code", content=body, headers={"Content-Type": "text/plain"})
    assert text.status_code == 415
    rebound = httpx2.post(f"{server.url}/run_code", content=body, headers={**JSON, "Host": "evil.example:80"})
    assert rebound.status_code == 403


def test_the_command_line_grades_on_a_server(server, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(line(n, right=n == 0)) + "\n" for n in range(2)))
    words = ("verify", "code", file, "--server", server.url)
    done = run(*words, timeout=60)
    found = [json.loads(text) for text in done.stdout.splitlines()]
    assert [(f["index"], f["outcome"]) for f in found] == [(0, "correct"), (1, "wrong")]
    refused = run(*words, "--unsafe", timeout=60)
    assert refused.returncode == 2 and "qwq sandbox serve" in refused.stderr
