"""Agent mode of the page, over HTTP: a run is a task of the server, waits for a person, is stopped
and resumes, and shows where its numbers are from.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("llguidance")
pytest.importorskip("mcp", reason="the extra agent is not installed")

import scripted

from qwq.envs.python import PythonToolset
from qwq.errors import ConfigError
from qwq.serve.options import ServeOptions

SUPPORT = Path(__file__).parents[1] / "support"
SALES = b"month,sum\n1,20\n2,35\n3,5\n"
CODE = "import csv; rows = list(csv.DictReader(open('sales.csv'))); sum(int(r['sum']) for r in rows)"


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def reply(prompt: str) -> str:
    task = prompt.split("<|im_start|>user\n")[1].partition("<|im_end|>")[0]
    said = prompt.count("<tool_response>")
    last = prompt.rpartition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
    if "sum" in task:
        return (
            f"look\n</think>\n\n{call('python', code=CODE)}" if not said else f"so\n</think>\n\nIt is {last}, not 61."
        )
    if "note" in task:
        return f"ask\n</think>\n\n{call('demo__note', text='bought')}" if not said else "so\n</think>\n\nDone."
    if "slow" in task:
        slow = call("python", code="import time\nwhile True: time.sleep(0.1)")
        return f"wait\n</think>\n\n{slow}" if not said else f"so\n</think>\n\nIt said {len(last)}."
    if "write" in task:
        made = call("python", code="open('new.txt', 'w').write('one\\n'); import matplotlib.pyplot as p; p.plot([1])")
        return f"write\n</think>\n\n{made}" if not said else "so\n</think>\n\nWritten."
    return "so\n</think>\n\nHello."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agent")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    file = folder / "mcp.json"
    command = {"command": sys.executable, "args": [str(SUPPORT / "mcp_old_server.py"), str(folder / "notes.txt")]}
    file.write_text(json.dumps({"mcpServers": {"demo": command | {"start_timeout_s": 60}}}))
    chat = scripted.chat_format()
    model = scripted.opened(chat, scripted.Script(chat, reply), max_len=2000)
    options = {"page": True, "agent": True, "agent_runs": folder / "runs", "agent_mcp": file}
    with scripted.served(model, conversations=Path(":memory:"), **options) as url:
        with httpx2.Client(base_url=url, timeout=60) as made:
            yield made


def start(client: httpx2.Client, task: str, **fields: object) -> str:
    answer = client.post("/api/agent", json={"task": task, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def follow(client: httpx2.Client, ident: str, after: int = 0, until: str = "") -> tuple[list[dict], list, dict]:
    """(events, live pieces, how it ended); `until` an event of that kind has come."""
    events, live = [], []
    with client.stream("GET", f"/api/agent/{ident}/events", params={"after": after}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line[6:])
                events += data.get("events", [])
                live += data.get("live", [])
                if "done" in data:
                    return events, live, data["done"]
                if until and any(e["event"] == until for e in events):
                    return events, live, {}
    raise AssertionError("the stream ended without its last event")


def test_a_run_from_a_file_to_an_answer_with_traced_numbers(client: httpx2.Client) -> None:
    file = {"name": "sales.csv", "data": base64.b64encode(SALES).decode()}
    ident = start(client, "the sum?", files=[file])
    events, live, done = follow(client, ident)
    assert [e["event"] for e in events] == [
        "run", "model_turn", "call", "tool_started", "result", "model_turn", "check", "model_turn", "finish",
    ]  # fmt: skip
    assert "".join(text for kind, text in live if kind == "content").endswith("It is 60, not 61.")
    assert events[1]["thinking"] == "look" and "ids" not in events[1]
    assert events[4]["text"] == "60" and done["state"] == "finished" and done["title"] == "the sum?"
    numbers = client.get(f"/api/agent/{ident}/numbers").json()["numbers"]
    assert [(n["text"], n["source"]) for n in numbers] == [("60", "call-1"), ("61", None)]
    again = follow(client, ident, after=len(events) - 1)[0]
    assert [e["event"] for e in again] == ["finish"], "a page that comes back gets what it has not seen"
    listed = client.get("/api/agent").json()
    assert listed["enabled"] and "mcp" in listed["toolsets"] and listed["runs"][0]["id"] == ident


def test_files_figures_and_the_difference(client: httpx2.Client) -> None:
    ident = start(client, "write")
    events, _, _ = follow(client, ident)
    (result,) = [e for e in events if e["event"] == "result"]
    pictures = [a["name"] for a in result["artefacts"] if a["media_type"] == "image/png"]
    picture = client.get(f"/api/agent/{ident}/files/artefacts/{pictures[0]}")
    assert picture.content[:4] == b"\x89PNG" and "sandbox" in picture.headers["content-security-policy"]
    diff = client.get(f"/api/agent/{ident}/diff").json()
    assert diff["files"] == ["new.txt"] and "+one" in diff["lines"]
    text = client.get(f"/api/agent/{ident}/files/workspace/new.txt")
    assert text.text == "one\n" and text.headers["content-disposition"] == "attachment"
    assert "Written." in client.get(f"/api/agent/{ident}/files/report.md").text
    for name in ("%2e%2e/%2e%2e/mcp.json", "artefacts%2f..%2fevents.jsonl", "nothing.txt", "artefacts"):
        assert client.get(f"/api/agent/{ident}/files/{name}").status_code == 404


def test_a_call_waits_for_a_person_and_is_made_once(client: httpx2.Client, folder: Path) -> None:
    notes = folder / "notes.txt"
    ident = start(client, "note it", tools=["mcp"])
    events, _, done = follow(client, ident)
    assert done["state"] == "waiting" and not notes.exists()
    (asked,) = [e for e in events if e["event"] == "approval"]
    assert asked["decision"] == "ask" and asked["arguments"] == {"text": "bought"}
    refused = client.post(f"/api/agent/{ident}/resume", json={})
    assert refused.status_code == 400 and "approve or deny it" in refused.json()["error"]["message"]
    assert client.post(f"/api/agent/{ident}/resume", json={"approve": [asked["id"]]}).status_code == 200
    assert follow(client, ident)[2]["state"] == "finished" and notes.read_text() == "bought\n"
    assert client.post(f"/api/agent/{ident}/resume", json={"approve": [asked["id"]]}).status_code == 400
    assert notes.read_text() == "bought\n"


def test_a_denied_call_is_answered_with_the_reason(client: httpx2.Client, folder: Path) -> None:
    (folder / "notes.txt").unlink(missing_ok=True)
    ident = start(client, "note it", tools=["mcp"])
    follow(client, ident)
    client.post(f"/api/agent/{ident}/resume", json={"deny": ["call-1"], "reason": "too dear"})
    events, _, done = follow(client, ident)
    (result,) = [e for e in events if e["event"] == "result"]
    assert result["kind"] == "refused" and "too dear" in result["text"] and done["state"] == "finished"
    assert not (folder / "notes.txt").exists()


def test_a_run_is_stopped_and_goes_on(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ident = start(client, "slow")
    follow(client, ident, until="tool_started")
    started = time.monotonic()
    stopped = client.post(f"/api/agent/{ident}/stop").json()
    assert stopped["state"] == "stopped" and time.monotonic() - started < 10
    monkeypatch.setitem(PythonToolset.__init__.__kwdefaults__, "timeout_s", 1.0)  # the call never ends by itself
    assert client.post(f"/api/agent/{ident}/resume", json={}).json()["state"] == "running"
    events, _, done = follow(client, ident)
    assert done["state"] == "finished" and "resume" in [e["event"] for e in events]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"task": " "}, "task: it is empty"),
        ({"task": "x", "tools": ["fetch"]}, "tools: 'fetch' is not offered here"),
        ({"task": "x", "files": [{"name": "../a", "data": ""}]}, "files: '../a'"),
        ({"task": "x", "files": [{"name": "a", "data": "%"}]}, "no base64"),
        ({"task": "x", "budget": {"model_calls": 0}}, "budget.model_calls"),
        ({"task": "x", "other": 1}, "other"),
    ],
)
def test_what_cannot_be_begun_is_refused(client: httpx2.Client, body: dict, words: str) -> None:
    answer = client.post("/api/agent", json=body)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


def test_other_sites_pages_start_nothing(client: httpx2.Client) -> None:
    answer = client.post("/api/agent", json={"task": "x"}, headers={"origin": "https://example.com"})
    assert answer.status_code == 403


def test_a_server_without_an_agent_says_so() -> None:
    chat = scripted.chat_format()
    model = scripted.opened(chat, scripted.Script(chat, reply))
    with scripted.served(model, page=True, conversations=Path(":memory:")) as url:
        assert httpx2.get(f"{url}/api/agent").json() == {"enabled": False, "toolsets": [], "runs": []}
        assert httpx2.post(f"{url}/api/agent", json={"task": "x"}).status_code == 405
    with pytest.raises(ConfigError, match="need --agent"):
        ServeOptions(agent_mcp=Path("x.json"))


def test_a_run_sums_up_what_leaves_its_context(tmp_path: Path) -> None:
    """The server's engine holds the model to the form; the page gets the summary and no tokens."""
    facts = {"facts": [{"call": "call-1", "fact": "place 1 holds 7"}], "open": []}

    def long_reply(prompt: str) -> str:
        if "Do not go on with the task now" in prompt:
            return f"</think>\n\n{json.dumps(facts)} and more"
        number = int(re.findall(r"n = (\d+)", prompt)[-1]) + 1 if "n = " in prompt else 1
        words = " ".join(f"what is {a} and {a * a % 29}? so it is {a * number}" for a in range(40))
        code = f"# {words}\nn = {number}\nn * 7"
        return f"so\n</think>\n\n{call('python', code=code) if number < 12 else 'Done.'}"

    chat = scripted.chat_format()
    model = scripted.opened(chat, LongScript(chat, long_reply), max_len=6000)
    options = {"page": True, "agent": True, "agent_runs": tmp_path / "runs"}
    with scripted.served(model, conversations=Path(":memory:"), **options) as url:
        with httpx2.Client(base_url=url, timeout=60) as client:
            ident = start(client, "Look at all places.", tools=["python"])
            events, live, _ = follow(client, ident)
    made = [e for e in events if e["event"] == "summary"]
    assert made and all(e["facts"] == facts["facts"] and "ids" not in e and "text" not in e for e in made)
    assert events[0]["compaction"] == "summary" and events[-1]["answer"] == "Done."
    assert not any("place 1 holds 7" in text for _, text in live)
    assert [e["event"] for e in events].count("model_turn") + len(made) == events[-1]["model_calls"]


class LongScript(scripted.Script):
    slot_capacity, max_positions = 60_000, 16_000
