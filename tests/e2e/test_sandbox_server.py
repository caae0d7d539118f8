"""The server as a process of its own: what it refuses, what it streams, what happens when either side goes away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import httpx2

from qwq.errors import InfraError, UsageError
from qwq.sandbox.client import RemoteSandbox
from qwq.types import Outcome
from qwq.verify.code import clear_cache, verify

SERVE = [sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())", "sandbox", "serve"]
JSON = {"Content-Type": "application/json"}


class Server:
    def __init__(self, *options: str, port: int = 0):
        command = [*SERVE, "--port", str(port), "--slots", "2", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        first = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        assert found, first + self.process.stderr.read()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def metric(self, name: str) -> float:
        text = httpx2.get(f"{self.url}/metrics").text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.process.stderr.close()
        return status


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


def test_verdicts_through_a_remote_sandbox_are_those_of_a_local_one(remote):
    tests = {"kind": "asserts", "setup": "import math", "asserts": ["assert f(2) == (2, {1: None})", "assert not f(0)"]}
    right = "def f(x): return (x, {1: None}) if x else ''"
    assert verify(right, tests, sandbox=remote).outcome is Outcome.CORRECT
    wrong = verify("def f(x): return [x]", tests, sandbox=remote)
    assert (wrong.outcome, wrong.passed, wrong.total) == (Outcome.WRONG, 0, 2)
    stdio = {"kind": "stdio", "cases": [{"input": "3", "output": "9"}]}
    assert verify("print(int(input()) ** 2)", stdio, sandbox=remote).correct
    assert verify("while True: pass", stdio, sandbox=remote, timeout_s=0.5).outcome is Outcome.TIMEOUT


def test_batches_are_graded_on_the_server(remote):
    lines = [line(i, right=i % 3 > 0) for i in range(30)] + [{"code": "x", "tests": {"kind": "call"}}]
    found = dict(remote.verify_many(lines))
    assert sorted(found) == list(range(31))
    assert all((found[i]["outcome"] == "correct") == (i % 3 > 0) for i in range(30))
    assert found[30]["error"]["kind"] == "usage"


def test_results_come_as_they_finish(remote):
    lines = [line(0, before="import time\ntime.sleep(1)"), line(1)]
    assert [index for index, _ in remote.verify_many(lines)] == [1, 0]


def test_health_and_metrics(server, remote):
    found = remote.health()
    assert found["level"] in ("namespaces", "landlock") and found["reason"] and not found["unsafe"]
    before = server.metric("qwq_sandbox_runs_total")
    remote.run("print(1)")
    assert server.metric("qwq_sandbox_runs_total") == before + 1


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
        ('{"items": [{"kind": "execute", "request": {"kind": "call", "sources": [], "entry_point": "f", "cases": [1]}}]}', "cases"),
    ],
)  # fmt: skip
def test_malformed_requests_never_reach_a_slot(server, body, where):
    answer = httpx2.post(f"{server.url}/batch", content=body, headers=JSON)
    assert answer.status_code == 422 and where in answer.json()["error"]["message"]


def test_a_full_queue_answers_429_with_retry_after(server):
    item = {"kind": "verify", **line(1, before="import time\ntime.sleep(1)")}
    with httpx2.stream("POST", f"{server.url}/batch", json={"items": [item] * 60}) as held:
        assert held.status_code == 200
        answer = httpx2.post(f"{server.url}/batch", json={"items": [item] * 10})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert httpx2.post(f"{server.url}/batch", json={"items": [item] * 65}).status_code == 413
    wait_until(lambda: server.metric("qwq_sandbox_items") == 0)


def wait_until(condition, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_client_that_goes_away_takes_its_runs_with_it(server):
    before = server.metric("qwq_sandbox_cancelled_total")
    items = [{"kind": "verify", **line(n, before="while True: pass"), "timeout_s": 20} for n in range(10)]
    with httpx2.stream("POST", f"{server.url}/batch", json={"items": items}):
        wait_until(lambda: server.metric("qwq_sandbox_running") == 2)
    wait_until(lambda: server.metric("qwq_sandbox_running") == 0 and server.metric("qwq_sandbox_items") == 0)
    assert server.metric("qwq_sandbox_cancelled_total") >= before + 2
    assert run_code(server, code="print('free')").json()["run_result"]["stdout"] == "free\n"


def test_run_code_closed_early_kills_the_run(server):
    body = json.dumps({"code": "while True: pass", "language": "python", "run_timeout": 20}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = f"POST /run_code HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        wait_until(lambda: server.metric("qwq_sandbox_running") == 1)
    wait_until(lambda: server.metric("qwq_sandbox_running") == 0)


def test_the_same_id_and_content_run_once(server):
    item = {"kind": "verify", "id": "same", **line(5, before="import time\ntime.sleep(0.5)")}
    before = server.metric("qwq_sandbox_runs_total")
    answers: list[dict] = []
    post = lambda: answers.append(json.loads(httpx2.post(f"{server.url}/batch", json={"items": [item]}).text))  # noqa: E731
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


def test_with_a_key_every_path_but_health_needs_it():
    keyed = Server("--api-key", "s3cret")
    try:
        for headers in ({}, {"X-API-Key": "s3cre"}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            assert httpx2.get(f"{keyed.url}/metrics", headers=headers).status_code == 401
        assert httpx2.get(f"{keyed.url}/metrics", headers={"X-API-Key": "s3cret"}).status_code == 200
        assert httpx2.get(f"{keyed.url}/health").status_code == 200
        with RemoteSandbox(keyed.url, api_key="s3cret") as box:
            assert box.run("print(7)").stdout == b"7\n"
        with RemoteSandbox(keyed.url) as box, pytest.raises(UsageError, match="401"):
            box.run("print(7)")
    finally:
        assert keyed.stop(signal.SIGINT) == 0


def test_an_address_that_others_reach_needs_a_key():
    done = subprocess.run([*SERVE, "--host", "0.0.0.0", "--port", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--api-key" in done.stderr and done.stderr.count("\n") == 1


def test_the_command_line_grades_on_a_server(server, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(line(n, right=n == 0)) + "\n" for n in range(2)))
    command = [*SERVE[:3], "verify", "code", str(file), "--server", server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = [json.loads(text) for text in done.stdout.splitlines()]
    assert [(f["index"], f["outcome"]) for f in found] == [(0, "correct"), (1, "wrong")]
    refused = subprocess.run([*command, "--unsafe"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "qwq sandbox serve" in refused.stderr


def test_no_server_is_an_infrastructure_error():
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "1"}]}
    with RemoteSandbox("http://127.0.0.1:9", patience_s=0.3) as box:
        assert verify("print(1)", tests, sandbox=box).outcome is Outcome.INFRA_ERROR
        with pytest.raises(InfraError, match="no answer from"):
            box.run("print(1)")


def test_killed_and_restarted_with_runs_in_flight():
    """QWQ_RESTART_RUNS=500 for the full count (`make soak-sandbox`)."""
    count = int(os.environ.get("QWQ_RESTART_RUNS", "120"))
    first = Server()
    servers = [first]

    def restart() -> None:
        first.stop(signal.SIGKILL)
        servers.append(Server(port=first.port))

    killer = threading.Thread(target=restart)
    answers: list[tuple[int, str]] = []
    lines = [line(n, right=n % 2 == 0, before="import time\ntime.sleep(0.02)") for n in range(count)]
    try:
        with RemoteSandbox(first.url, patience_s=60) as box:
            for index, verdict in box.verify_many(lines):
                answers.append((index, verdict["outcome"]))
                if len(answers) == count // 4:
                    killer.start()
        killer.join()
        assert max(Counter(index for index, _ in answers).values()) == 1
        assert dict(answers) == {n: "correct" if n % 2 == 0 else "wrong" for n in range(count)}
        assert first.process.returncode == -signal.SIGKILL
    finally:
        for one in servers:
            with contextlib.suppress(ProcessLookupError):
                one.stop() if one.process.poll() is None else one.process.stderr.close()
