"""SandboxFusion's interface: fields as its clients send and read them, keys and networks, requests
that are held.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import httpx2
from sandbox_process import Server


@pytest.fixture(scope="module")
def server():
    made = Server("--queue", "4", "--max-timeout-s", "60")
    yield made
    assert made.stop() == 0


def post(server, path, **fields):
    answer = httpx2.post(f"{server.url}{path}", json=fields, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_ping(server):
    assert httpx2.get(f"{server.url}/v1/ping", trust_env=False).json() == "pong"


def test_files_are_importable_and_come_back_and_absolute_ones_do_not(server):
    got = post(
        server, "/run_code", language="python",
        code="import helper\nopen('o.txt', 'w').write(helper.word)\nprint(helper.word)",
        files={"helper.py": b64("word = 'well'")}, fetch_files=["o.txt", "none.txt", "/usr/lib/os-release"],
    )  # fmt: skip
    assert got["run_result"]["stdout"] == "well\n"
    assert {name: base64.b64decode(data) for name, data in got["files"].items()} == {"o.txt": b"well"}


def test_what_the_fields_cannot_say_is_in_the_message(server):
    assert post(server, "/run_code", language="python", code="print(1)\nexit()")["message"] == ""
    hungry = post(server, "/run_code", language="python", code="x = [0] * (1 << 30)", memory_limit_MB=64)
    assert (hungry["status"], hungry["message"]) == ("Failed", "out of memory")
    cut = post(server, "/run_code", language="python", code="print('a' * 3000000)")
    assert cut["status"] == "Failed" and cut["message"].startswith("output cut at 1048576 bytes")
    assert len(cut["run_result"]["stdout"]) == 1 << 20
    killed = post(
        server, "/run_code", language="python", code="import os\nprint(1, flush=True)\nos.kill(os.getpid(), 9)"
    )
    assert (killed["status"], killed["run_result"]["return_code"], killed["run_result"]["stdout"]) == (
        "Failed",
        -9,
        "1\n",
    )


def test_other_languages_by_their_names_there(server):
    sql = post(server, "/run_code", language="sql", code="select 6 * 7;")
    assert sql["run_result"]["stdout"] == "42\n"
    if shutil.which("node"):
        node = post(
            server,
            "/run_code",
            language="nodejs",
            code="console.log(require('fs').readFileSync('/dev/stdin', 'utf8'))",
            stdin="x",
        )
        assert node["run_result"]["stdout"] == "x\n"
    refused = post(server, "/run_code", language="lean", code="x")
    assert refused["status"] == "SandboxError" and "lean" in refused["message"]
    assert "pytest" in post(server, "/run_code", language="python", code="x", args=["-q"])["message"]


def test_cells_share_one_session(server):
    got = post(
        server,
        "/run_jupyter",
        cells=[
            "a = 20",
            "print(a)\na + 22",
            "import sys; sys.stderr.write('e')",
            "1 / 0",
            "def f(:",
            "import asyncio\nawait asyncio.sleep(0, 7)",
            "open('x', 'w').write('y')",
        ],
        files={"d.txt": b64("hi")},
        fetch_files=["x", "d.txt"],
    )
    assert got["status"] == "Success" and got["driver"]["status"] == "Finished"
    cells = got["cells"]
    assert [c["stdout"] for c in cells] == ["", "20\n", "", "", "", "", ""]
    assert [d["data"]["text/plain"] for c in cells for d in c["display"]] == ["42", "1", "7", "1"]
    assert cells[2]["stderr"] == "e"
    assert [e["ename"] for c in cells for e in c["error"]] == ["ZeroDivisionError", "SyntaxError"]
    assert cells[3]["error"][0]["evalue"] == "division by zero" and any(
        "1 / 0" in line or "cell 4" in line for line in cells[3]["error"][0]["traceback"]
    )
    assert {name: base64.b64decode(data) for name, data in got["files"].items()} == {"x": b"y", "d.txt": b"hi"}


def test_a_cell_that_runs_too_long_ends_the_session(server):
    got = post(server, "/run_jupyter", cells=["a = 1", "while True: pass", "a"], cell_timeout=1, total_timeout=20)
    assert (got["status"], got["driver"]["status"], len(got["cells"])) == ("Failed", "TimeLimitExceeded", 1)
    both = post(server, "/run_jupyter", cells=["import time\ntime.sleep(0.4)"] * 6, total_timeout=1)
    assert both["driver"]["status"] == "TimeLimitExceeded" and 1 <= len(both["cells"]) <= 3


STDIO = [
    {"input": {"stdin": "1\n"}, "output": {"stdout": "2\n"}},
    {"input": {"stdin": "5\n"}, "output": {"stdout": "6\n"}},
]
SUBMITTED = {
    "streams": ({"test": STDIO}, "```python\nprint(int(input()) + 1)\n```", "```python\nprint(2)\n```", [True, False]),
    "text of streams": (
        {"test": json.dumps(STDIO)},
        "```python\nprint(int(input()) + 1)\n```",
        "```python\nprint(2)\n```",
        [True, False],
    ),
    "asserts": (
        {"test_list": ["assert f(1) == 2", "assert f(2) == 3"]},
        "```python\ndef f(x): return x + 1\n```",
        "def f(x): return 2",
        [True, False],
    ),
    "HumanEval": (
        {
            "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3",
            "entry_point": "f",
        },
        "```python\ndef f(x): return x + 1\n```",
        "```python\ndef f(x): return 2\n```",
        [True, False],
    ),
}


@pytest.mark.parametrize("form", SUBMITTED)
def test_submit_grades_the_row_that_it_brings(server, form):
    row, right, wrong, passed = SUBMITTED[form]
    config = {"language": "python", "run_timeout": 10, "provided_data": {"id": 7, "content": "q", "labels": {}, **row}}
    good = post(server, "/submit", dataset="mine", id=7, completion=right, config=config)
    assert good["accepted"] and [t["passed"] for t in good["tests"]] == [True, True] and good["extracted_code"] in right
    bad = post(
        server,
        "/submit",
        dataset="mine",
        id=7,
        completion=wrong,
        config={**config, "provided_data": [{"id": 3}, config["provided_data"]]},
    )
    assert not bad["accepted"] and [t["passed"] for t in bad["tests"]] == passed
    none = post(server, "/submit", dataset="mine", id=7, completion="I do not know.", config=config)
    assert (none["accepted"], none["extracted_code"], none["extra"]["outcome"]) == (False, "", "no_answer")


def test_submit_without_tests_says_what_it_needs(server):
    answer = httpx2.post(
        f"{server.url}/submit", json={"dataset": "x", "id": 1, "completion": "", "config": {}}, trust_env=False
    )
    assert answer.status_code == 400 and "provided_data" in answer.json()["error"]["message"]


def test_a_full_queue_holds_these_requests_and_refuses_batches(server):
    found: list[dict] = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(
                post(server, "/run_code", language="python", code=f"import time\ntime.sleep(0.4)\nprint({n})")
            )
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while httpx2.get(f"{server.url}/health", trust_env=False).json()["held"] < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    batch = {
        "items": [{"kind": "verify", "code": "x", "tests": {"kind": "stdio", "cases": [{"input": "", "output": ""}]}}]
    }
    assert httpx2.post(f"{server.url}/batch", json=batch, trust_env=False).status_code == 429
    for thread in threads:
        thread.join(60)
    assert sorted(int(f["run_result"]["stdout"]) for f in found) == list(range(12))
    assert httpx2.get(f"{server.url}/health", trust_env=False).json()["held"] == 0


def test_a_held_request_is_refused_in_the_end():
    server = Server("--queue", "1", "--hold-s", "0.5", "--max-timeout-s", "20")
    try:
        sleeper = threading.Thread(
            target=lambda: post(
                server, "/run_code", language="python", code="import time\ntime.sleep(3)", run_timeout=20
            )
        )
        sleeper.start()
        while not httpx2.get(f"{server.url}/health", trust_env=False).json()["held"]:
            time.sleep(0.02)
        answer = httpx2.post(
            f"{server.url}/run_code", json={"language": "python", "code": "print(1)"}, timeout=30, trust_env=False
        )
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        sleeper.join()
    finally:
        assert server.stop() == 0


def test_the_key_may_stand_in_the_path():
    server = Server(key="se/cret".replace("/", "-"))
    try:
        body = {"language": "python", "code": "print(1)"}
        for prefix, status in (("", 401), ("/key/wrong", 401), ("/key/se-cret", 200), ("/key/", 401)):
            answer = httpx2.post(f"{server.url}{prefix}/run_code", json=body, timeout=30, trust_env=False)
            assert answer.status_code == status, prefix
        assert httpx2.get(f"{server.url}/key/se-cret/v1/ping", trust_env=False).json() == "pong"
        assert httpx2.get(f"{server.url}/v1/ping", trust_env=False).status_code == 401
        header = {"Authorization": "Bearer se-cret"}
        assert (
            httpx2.post(f"{server.url}/run_code", json=body, headers=header, timeout=30, trust_env=False).status_code
            == 200
        )
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(("networks", "status"), [(["127.0.0.0/8"], 200), (["10.0.0.0/8", "192.168.1.7"], 401)])
def test_clients_of_allowed_networks_need_no_key(networks, status):
    options = [word for network in networks for word in ("--allow", network)]
    server = Server(*options, key="secret")
    try:
        body = {"language": "python", "code": "print(1)"}
        assert httpx2.post(f"{server.url}/run_code", json=body, timeout=30, trust_env=False).status_code == status
        text = httpx2.post(
            f"{server.url}/run_code", content=json.dumps(body), headers={"Content-Type": "text/plain"}, trust_env=False
        )
        assert text.status_code in (401, 415)  # still in no form that a web page could send
    finally:
        assert server.stop() == 0
