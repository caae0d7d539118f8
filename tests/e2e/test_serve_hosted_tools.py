"""Tools of `/v1/responses` that the server runs: the official `openai` client, unmodified, with
`code_interpreter` in the jail and `mcp` on a server of today.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
pytest.importorskip("mcp", reason="the extra agent is not installed")

import scripted

SUPPORT = Path(__file__).parents[1] / "support"
PYTHON = {"type": "code_interpreter", "container": {"type": "auto"}}
SAY = {"type": "function", "name": "say", "parameters": {"type": "object", "properties": {}}}
CONNECT = """import socket
try:
    print(socket.create_connection(("127.0.0.1", 80), 1))
except OSError as error:
    print("refused", error.errno)"""
PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2]); print(6 * 7)"


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def reply(prompt: str) -> str:
    """What the last question asks for; then what the tools said."""
    question = prompt.split("<|im_start|>user\n")
    asked = next(q.partition("<|im_end|>")[0] for q in reversed(question) if not q.startswith("<tool_response>"))
    said = question[-1].partition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
    if said and "again" in asked and prompt.count("<tool_response>") < 2:
        return f"once more\n</think>\n\n{call('python', code='x + 1')}"
    if said and "for ever" in asked:
        return f"again\n</think>\n\n{call('python', code=f'{len(prompt)}')}"
    if said:
        return f"I see\n</think>\n\nIt said: {said}"
    for words, made in SCRIPTS:
        if words in asked:
            return f"let me see\n</think>\n\n{made}"
    return "so\n</think>\n\nHello."


SCRIPTS = [
    ("set", call("python", code="x = 41")),
    ("get", call("python", code="x + 1")),
    ("again", call("python", code="x = 1")),
    ("for ever", call("python", code="0")),
    ("plot", call("python", code=PLOT)),
    ("broken", '<tool_call>\n{"name": "python", "arguments": {"code": "1"}\n</tool_call>'),
    ("both", call("python", code="40 + 2") + "\n" + call("say")),
    ("slow", call("python", code="import time; time.sleep(60)")),
    ("network", call("python", code=CONNECT)),
    ("add", call("demo__add", a=20, b=22)),
    ("note", call("demo__note", text="bought")),
    ("fail", call("demo__fail", reason="sales")),
]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes") / "notes.txt"


@pytest.fixture(scope="module")
def mcp_url(notes: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SUPPORT / "mcp_sdk_server.py"), str(notes), "http", str(port)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    chat = scripted.chat_format()
    options = {"hosted_tools": ("code_interpreter", "mcp"), "hosted_mcp_host": ("127.0.0.1",), "hosted_max_calls": 6}
    with scripted.served(scripted.opened(chat, scripted.Script(chat, reply), max_len=2000), **options) as url:
        yield url


@pytest.fixture(scope="module")
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as made:
        yield made


def mcp(url: str, **fields: object) -> dict:
    return {"type": "mcp", "server_label": "demo", "server_url": url} | fields


def kinds(response) -> list[str]:
    return [item.type for item in response.output]


def test_code_is_run_and_its_outputs_come_where_they_are_included(client) -> None:
    plain = client.responses.create(model="scripted", input="plot", tools=[PYTHON])
    assert kinds(plain) == ["reasoning", "code_interpreter_call", "reasoning", "message"]
    assert plain.status == "completed" and plain.output_text.startswith("It said: 42")
    ran = plain.output[1]
    assert (ran.code, ran.status, ran.outputs) == (PLOT, "completed", None) and ran.container_id.startswith("cntr_")
    shown = client.responses.create(
        model="scripted", input="plot", tools=[PYTHON], include=["code_interpreter_call.outputs"]
    )
    logs, image = shown.output[1].outputs
    assert logs.logs.startswith("42") and image.url.startswith("data:image/png;base64,iVBOR")
    assert shown.usage.output_tokens > 0 and shown.usage.total_tokens > plain.usage.output_tokens


def test_the_session_goes_on_with_the_conversation(client) -> None:
    first = client.responses.create(model="scripted", input="set", tools=[PYTHON])
    second = client.responses.create(model="scripted", input="get", tools=[PYTHON], previous_response_id=first.id)
    assert second.output_text == "It said: 42"
    assert second.output[1].container_id == first.output[1].container_id
    named = PYTHON | {"container": first.output[1].container_id}
    assert client.responses.create(model="scripted", input="get", tools=[named]).output_text == "It said: 42"
    other = client.responses.create(model="scripted", input="get", tools=[PYTHON])
    assert "NameError" in other.output_text, "another conversation has a session of its own"
    resent = [{"role": "user", "content": "set"}, *first.output, {"role": "user", "content": "get"}]
    again = client.responses.create(model="scripted", input=resent, tools=[PYTHON], store=False)
    assert again.output_text == "It said: 42", "items that are sent back name their session"


def test_two_calls_one_after_another(client) -> None:
    twice = client.responses.create(model="scripted", input="again", tools=[PYTHON])
    assert kinds(twice) == ["reasoning", "code_interpreter_call"] * 2 + ["reasoning", "message"]
    assert twice.output_text == "It said: 2"


def test_events_of_code(client) -> None:
    with client.responses.stream(
        model="scripted", input="set", tools=[PYTHON], include=["code_interpreter_call.outputs"]
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    of_code = [e for e in events if "code_interpreter" in e.type]
    assert [e.type.removeprefix("response.code_interpreter_call") for e in of_code] == [
        ".in_progress", "_code.delta", "_code.done", ".interpreting", ".completed",
    ]  # fmt: skip
    assert of_code[1].delta == "x = 41" and len({e.item_id for e in of_code}) == 1
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")] == sorted(
        e.sequence_number for e in events if hasattr(e, "sequence_number")
    )
    assert final.output[1].outputs[0].logs == "(no output)"


def test_a_malformed_call_is_answered_and_the_model_goes_on(client) -> None:
    answer = client.responses.create(model="scripted", input="broken", tools=[PYTHON])
    assert answer.status == "completed" and "the call cannot be read" in answer.output_text


def test_the_number_of_calls_is_limited(client) -> None:
    for limit, most in [(2, 2), (None, 6), (50, 6)]:
        answer = client.responses.create(model="scripted", input="for ever", tools=[PYTHON], max_tool_calls=limit)
        ran = [i for i in answer.output if i.type == "code_interpreter_call" and i.status == "completed"]
        assert len(ran) == most and answer.status == "incomplete"
        assert answer.incomplete_details.reason == "max_tool_calls"


def test_a_function_of_the_clients_own_ends_the_response(client) -> None:
    first = client.responses.create(model="scripted", input="both", tools=[PYTHON, SAY])
    assert kinds(first) == ["reasoning", "code_interpreter_call", "function_call"] and first.status == "completed"
    output = {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "said"}
    second = client.responses.create(
        model="scripted", input=[output], tools=[PYTHON, SAY], previous_response_id=first.id
    )
    assert second.output_text == "It said: said"


def test_code_has_no_network(client) -> None:
    assert "said: refused" in client.responses.create(model="scripted", input="network", tools=[PYTHON]).output_text


def test_a_call_of_an_mcp_server(client, mcp_url: str) -> None:
    answer = client.responses.create(
        model="scripted", input="add", tools=[mcp(mcp_url, require_approval="never", headers={"X-Key": "secret"})]
    )
    assert kinds(answer) == ["mcp_list_tools", "reasoning", "mcp_call", "reasoning", "message"]
    assert [t.name for t in answer.output[0].tools][:2] == ["add", "die"]
    made = answer.output[2]
    assert (made.server_label, made.name, made.output, made.error) == ("demo", "add", "42", None)
    assert json.loads(made.arguments) == {"a": 20, "b": 22} and answer.output_text == "It said: 42"
    assert "secret" not in answer.model_dump_json()
    again = client.responses.create(
        model="scripted", input="fail", tools=[mcp(mcp_url, require_approval="never")], previous_response_id=answer.id
    )
    assert kinds(again) == ["reasoning", "mcp_call", "reasoning", "message"], "the list is not shown twice"
    assert again.output[1].status == "failed" and "no such table: sales" in again.output_text


def test_a_call_waits_for_approval_and_is_made_once(client, mcp_url: str, notes: Path) -> None:
    notes.write_text("")
    tools = [mcp(mcp_url)]  # nothing is said: every call asks
    first = client.responses.create(model="scripted", input="note", tools=tools)
    assert kinds(first) == ["mcp_list_tools", "reasoning", "mcp_approval_request"] and first.status == "completed"
    assert notes.read_text() == "", "nothing happens without approval"
    asked = first.output[2]
    approve = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
    second = client.responses.create(model="scripted", input=[approve], tools=tools, previous_response_id=first.id)
    assert kinds(second)[0] == "mcp_call" and second.output[0].approval_request_id == asked.id
    assert second.output[0].output == "noted bought" and second.output_text == "It said: noted bought"
    assert notes.read_text() == "bought\n"
    with pytest.raises(openai.ConflictError, match="was used before"):
        client.responses.create(model="scripted", input=[approve], tools=tools, previous_response_id=first.id)
    assert notes.read_text() == "bought\n", "the request sent again has no effect"


def test_a_refusal_is_what_the_model_reads(client, mcp_url: str, notes: Path) -> None:
    notes.write_text("")
    first = client.responses.create(model="scripted", input="note", tools=[mcp(mcp_url)])
    deny = {
        "type": "mcp_approval_response", "approval_request_id": first.output[2].id, "approve": False,
        "reason": "not today",
    }  # fmt: skip
    resent = [{"role": "user", "content": "note"}, *first.output, deny]
    second = client.responses.create(model="scripted", input=resent, tools=[mcp(mcp_url)], store=False)
    assert second.output_text == "It said: error: the user did not approve this call: not today"
    assert notes.read_text() == ""


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        ("always", True),
        ("never", False),
        ({"never": {"tool_names": ["note"]}}, False),
        ({"never": {"tool_names": ["add"]}}, True),
        ({"always": {"tool_names": ["note"]}, "never": {"tool_names": ["note"]}}, True),
        ({"never": {"read_only": True}}, True),
    ],
)
def test_which_calls_ask(client, mcp_url: str, rule, asks: bool) -> None:
    answer = client.responses.create(model="scripted", input="note", tools=[mcp(mcp_url, require_approval=rule)])
    assert ("mcp_approval_request" in kinds(answer)) is asks


def test_only_allowed_tools_are_offered(client, mcp_url: str) -> None:
    answer = client.responses.create(model="scripted", input="hi", tools=[mcp(mcp_url, allowed_tools=["add", "say"])])
    assert [t.name for t in answer.output[0].tools] == ["add", "say"]
    chosen = {"type": "mcp", "server_label": "demo", "name": "add"}
    forced = client.responses.create(
        model="scripted", input="add", tools=[mcp(mcp_url, require_approval="never")], tool_choice=chosen
    )
    assert forced.output_text == "It said: 42"


def test_events_of_an_mcp_call(client, mcp_url: str) -> None:
    tools = [mcp(mcp_url, require_approval="never")]
    events = list(client.responses.create(model="scripted", input="add", tools=tools, stream=True))
    of_mcp = [e.type.removeprefix("response.") for e in events if "mcp" in e.type and "delta" not in e.type]
    assert of_mcp == [
        "mcp_list_tools.in_progress", "mcp_list_tools.completed", "mcp_call.in_progress", "mcp_call_arguments.done",
        "mcp_call.completed",
    ]  # fmt: skip
    deltas = "".join(e.delta for e in events if e.type == "response.mcp_call_arguments.delta")
    assert json.loads(deltas) == {"a": 20, "b": 22}
    assert events[-1].type == "response.completed" and events[-1].response.output_text == "It said: 42"


@pytest.mark.parametrize(
    ("tools", "status", "words"),
    [
        ([mcp("http://localhost:1/mcp")], 403, "--hosted-mcp-host localhost"),
        ([mcp("http://127.0.0.1:1/mcp")], 424, "did not start"),
        ([mcp("http://127.0.0.1:1/mcp", server_label="a__b")], 400, "server_label"),
        ([mcp("http://127.0.0.1:1/mcp", server_label="a b")], 400, "string should match pattern '^[A-Za-z0-9-]"),
        ([mcp("http://127.0.0.1:1/mcp")] * 2, 400, "two MCP servers are called 'demo'"),
        ([{"type": "mcp", "server_label": "x", "connector_id": "connector_gmail"}], 400, "server_url"),
        ([PYTHON | {"container": "cntr_0"}], 400, "no session 'cntr_0' is open"),
        ([PYTHON | {"container": {"type": "auto", "file_ids": ["f"]}}], 400, "container: only [] or {}"),
        ([PYTHON, {"type": "function", "name": "python", "parameters": {}}], 400, "two tools are called 'python'"),
        ([{"type": "web_search"}], 400, "tools.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused(base: str, tools, status: int, words: str) -> None:
    answer = httpx2.post(f"{base}/v1/responses", json={"input": "hi", "tools": tools}, timeout=60)
    assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text


def test_a_client_that_leaves_ends_its_code(base: str) -> None:
    body = {"input": "slow", "tools": [PYTHON], "stream": True}
    with httpx2.stream("POST", f"{base}/v1/responses", json=body, timeout=30) as answer:
        for line in answer.iter_lines():
            if "interpreting" in line:
                break
    started = time.monotonic()
    for _ in range(8):  # as many as may run at once: the one that was left has given its place back
        answer = httpx2.post(f"{base}/v1/responses", json={"input": "hi", "tools": [PYTHON]}, timeout=60)
        assert answer.status_code == 200
    assert time.monotonic() - started < 40


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools_for_other_agents_over_http(mode: str) -> None:
    from mcp import Client

    async def run(url: str) -> None:
        async with Client(f"{url}/mcp", mode=mode) as client:
            assert client.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
            first = (await client.call_tool("python", {"code": "x = 20"})).content[0].text
            session = first.rpartition("[session ")[2][:-1]
            second = await client.call_tool("python", {"code": "2 * x + 2", "session": session})
            assert second.content[0].text == "42"

    chat = scripted.chat_format()
    with scripted.served(scripted.opened(chat, scripted.Script(chat, reply)), mcp=True) as url:
        asyncio.run(run(url))


def test_who_may_call_the_tools_for_other_agents() -> None:
    chat = scripted.chat_format()
    model = scripted.opened(chat, scripted.Script(chat, reply))
    with scripted.served(model, mcp=True, api_key=("secret",)) as url:
        ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
        assert httpx2.post(f"{url}/mcp", json=ask, headers=headers).status_code == 401
        known = headers | {"authorization": "Bearer secret"}
        assert httpx2.post(f"{url}/mcp", json=ask, headers=known).status_code == 200
        other = known | {"origin": "https://example.com"}
        refused = httpx2.post(f"{url}/mcp", json=ask, headers=other)
        assert refused.status_code == 403 and "another site" in refused.json()["error"]["message"]


def test_off_unless_the_server_was_started_with_it() -> None:
    chat = scripted.chat_format()
    with scripted.served(scripted.opened(chat, scripted.Script(chat, reply))) as url:
        answer = httpx2.post(f"{url}/v1/responses", json={"input": "set", "tools": [PYTHON]})
        assert answer.status_code == 403
        assert "start it with --hosted-tools code_interpreter" in answer.json()["error"]["message"]
        assert httpx2.get(f"{url}/mcp").status_code == 404
