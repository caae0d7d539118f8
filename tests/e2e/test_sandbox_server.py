"""The sandbox server on loopback: batches, SandboxFusion's form, keys, a full queue, vanishing
clients, restarts.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import httpx2
import pytest
from commands import run
from sandbox_process import Server

from qwq.errors import InfraError, UsageError
from qwq.sandbox.doctor import doctor
from qwq.sandbox.http.client import RemoteSandbox
from qwq.types import Outcome
from qwq.verify.code import verify

STDIO = {"kind": "stdio", "cases": [{"input": "3\n", "output": "6\n"}]}
GOOD, BAD = "print(2 * int(input()))", "print(3 * int(input()))"

if not doctor()["level"]:
    pytest.skip("no safe level of the jail here", allow_module_level=True)


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def remote(server):
    with RemoteSandbox(server.url) as box:
        yield box


def post(server: Server, path: str, **kwargs) -> httpx2.Response:
    with httpx2.Client(trust_env=False, timeout=60) as client:
        return client.post(server.url + path, **kwargs)


def get(server: Server, path: str, **kwargs) -> httpx2.Response:
    with httpx2.Client(trust_env=False, timeout=60) as client:
        return client.get(server.url + path, **kwargs)


def test_verdicts_through_the_server_are_those_of_the_library(remote):
    call = {
        "kind": "call",
        "entry_point": "f",
        "cases": [{"args": [2], "expected": (2, 3)}, {"args": [0], "expected": (0, 1)}],
    }
    asserts = {"kind": "asserts", "setup": "", "asserts": ["assert f(2) == (2, 3)"]}
    for code, tests in (
        (GOOD, STDIO),
        (BAD, STDIO),
        ("def f(x): return (x, x + 1)", call),
        ("def f(x): return [x, x + 1]", call),
        ("def f(x): return (x, x + 1)", asserts),
        ("import sys; sys.exit(0)", asserts),
    ):
        here, there = verify(code, tests), verify(code, tests, sandbox=remote)
        assert (here.outcome, here.passed, here.total) == (there.outcome, there.passed, there.total), (
            code,
            there.reason,
        )


def test_a_batch_is_graded_on_the_server_each_line_once(remote):
    lines = [{"code": GOOD if i % 3 else BAD, "tests": STDIO} for i in range(30)]
    found = dict(remote.verify_many(lines))
    assert sorted(found) == list(range(30))
    assert all((found[i]["outcome"] == "correct") == bool(i % 3) for i in range(30))


def test_results_come_as_they_finish(server):
    slow, quick = "import time; time.sleep(1.5); print(6)", "print(6)"
    items = [{"kind": "verify", "code": code, "tests": STDIO} for code in (slow, quick, quick)]
    with (
        httpx2.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", server.url + "/batch", json={"items": items}) as answer,
    ):
        order = [json.loads(line)["index"] for line in answer.iter_lines() if line]
    assert order[-1] == 0 and sorted(order) == [0, 1, 2]


@pytest.mark.parametrize(
    ("code", "language", "status", "run_status", "stdout"),
    [
        ("print(input())", "python", "Success", "Finished", "hello\n"),
        ("1/0", "python", "Failed", "Finished", ""),
        ("import time; time.sleep(30)", "python", "Failed", "TimeLimitExceeded", ""),
        ("cat", "bash", "Success", "Finished", "hello\n"),
    ],
)
def test_run_code_speaks_as_sandbox_fusion(server, code, language, status, run_status, stdout):
    body = {
        "code": code,
        "language": language,
        "stdin": "hello\n",
        "compile_timeout": 10,
        "run_timeout": 1.5,
        "files": {},
        "fetch_files": [],
    }
    answer = post(server, "/run_code", json=body).json()
    assert answer["status"] == status and answer["run_result"]["status"] == run_status
    assert (
        answer["run_result"]["stdout"] == stdout
        and {"compile_result", "message", "executor_pod_name", "files"} <= answer.keys()
    )
    if status == "Success":
        assert answer["run_result"]["return_code"] == 0


def test_malformed_requests_are_the_callers(server):
    assert post(server, "/batch", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    wrong_key = post(server, "/batch", json={"items": [{"kind": "verify", "code": "x", "tests": STDIO, "timeout": 3}]})
    assert wrong_key.status_code == 422 and "timeout" in wrong_key.json()["error"]["message"]
    too_long = post(
        server, "/batch", json={"items": [{"kind": "verify", "code": "x", "tests": STDIO, "timeout_s": 1e4}]}
    )
    assert too_long.status_code == 422 and "allows up to 120" in too_long.json()["error"]["message"]
    assert post(server, "/batch", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert get(server, "/health", headers={"host": "evil.example"}).status_code == 403
    assert post(server, "/run_code", json={"code": "1", "language": "cobol"}).json()["status"] == "SandboxError"


def test_health_and_metrics(server):
    health = get(server, "/health").json()
    assert (
        health["status"] == "ok" and health["slots"] == 2 and health["level"] == doctor()["level"] and health["reason"]
    )
    metrics = get(server, "/metrics").text
    assert "qwq_sandbox_runs_total" in metrics and "qwq_sandbox_queue_seconds_bucket" in metrics


def test_a_key_is_needed_where_one_is_set():
    server = Server(key="s3cret")
    try:
        assert post(server, "/batch", json={"items": []}).status_code == 401
        assert get(server, "/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert get(server, "/metrics", headers={"x-api-key": "s3cret"}).status_code == 200
        assert get(server, "/health").status_code == 200
        with RemoteSandbox(server.url, api_key="s3cret") as box:
            assert verify(GOOD, STDIO, sandbox=box).outcome is Outcome.CORRECT
        with RemoteSandbox(server.url) as box, pytest.raises(UsageError, match="401"):
            list(box.verify_many([{"code": GOOD, "tests": STDIO}]))
    finally:
        assert server.stop() == 0


def test_other_machines_are_not_served_without_a_key():
    env = {k: v for k, v in os.environ.items() if k != "QWQ_SANDBOX_API_KEY"}
    ended = run("sandbox", "serve", "--host", "0.0.0.0", "--port", "0", timeout=60, env=env)
    assert ended.returncode == 2 and "give --api-key" in ended.stderr


def test_a_full_queue_says_when_to_come_again():
    server = Server("--queue", "2")
    try:
        sleepers = [
            {"kind": "verify", "code": "import time; time.sleep(3)", "tests": STDIO, "timeout_s": 5} for _ in range(2)
        ]
        thread = threading.Thread(target=post, args=(server, "/batch"), kwargs={"json": {"items": sleepers}})
        thread.start()
        deadline = time.monotonic() + 10
        while get(server, "/health").json()["held"] < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        refused = post(server, "/batch", json={"items": [{"kind": "verify", "code": GOOD, "tests": STDIO}]})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert post(server, "/batch", json={"items": sleepers * 2}).status_code == 413
        thread.join()
        with RemoteSandbox(server.url) as box:  # the client waits the queue out
            assert [v["outcome"] for _, v in box.verify_many([{"code": GOOD, "tests": STDIO}])] == ["correct"]
    finally:
        server.stop()


def test_a_client_that_goes_away_takes_its_runs_with_it():
    server = Server()
    try:
        items = [
            {"kind": "verify", "code": "import time; time.sleep(60)", "tests": STDIO, "timeout_s": 100}
            for _ in range(6)
        ]
        client = httpx2.Client(trust_env=False, timeout=2)
        with (
            pytest.raises(httpx2.TransportError),
            client.stream("POST", server.url + "/batch", json={"items": items}) as answer,
        ):
            for _ in answer.iter_lines():
                pass
        client.close()
        deadline = time.monotonic() + 15
        while get(server, "/health").json()["held"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert get(server, "/health").json()["held"] == 0
        with RemoteSandbox(server.url) as box:
            assert verify(GOOD, STDIO, sandbox=box).outcome is Outcome.CORRECT
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("count", [int(os.environ.get("QWQ_RESTART_RUNS", "120"))])
def test_a_server_killed_and_restarted_loses_and_doubles_no_verdict(count, tmp_path: Path):
    server = Server()
    port, found, servers = server.port, [], [server]
    lines = [{"code": (GOOD if i % 2 else BAD) + f"  # {i}", "tests": STDIO} for i in range(count)]

    def kill_and_restart() -> None:
        for share in (0.2, 0.6):
            while len(found) < share * count:
                time.sleep(0.01)
            servers[-1].kill()
            time.sleep(0.3)
            servers.append(Server(port=port))

    thread = threading.Thread(target=kill_and_restart)
    thread.start()
    try:
        with RemoteSandbox(server.url, patience_s=60) as box:
            for index, verdict in box.verify_many(lines):
                found.append((index, verdict["outcome"]))
        thread.join(30)
    finally:
        servers[-1].kill()
    assert len(servers) == 3
    assert sorted(found) == [(i, "correct" if i % 2 else "wrong") for i in range(count)]


def test_no_server_is_an_infra_error_and_no_verdict():
    with RemoteSandbox("http://127.0.0.1:9", patience_s=0.2) as box:
        verdict = verify(GOOD + "  # not in the cache of verdicts", STDIO, sandbox=box)
        assert verdict.outcome is Outcome.INFRA_ERROR
        with pytest.raises(InfraError, match="no sandbox server"):
            box.health()
    with pytest.raises(UsageError, match="not the URL"):
        RemoteSandbox("127.0.0.1:8080")
