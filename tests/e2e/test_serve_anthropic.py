"""Anthropic's `/v1/messages`: blocks in, blocks out, events, tools, thinking, counts, errors;
requests as Claude Code makes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {
    "name": "f",
    "description": "adds",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def reply(prompt: str) -> str:
    if "tool_response" in scripted.last_message(prompt):
        return "it said 7\n</think>\n\nThe sum is 7."
    return scripted.repeat_or_reverse(prompt)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with scripted.client_of(reply) as made:
        yield made


def ask(client: httpx2.Client, content="abc", **more) -> httpx2.Response:
    messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    return client.post("/v1/messages", json={"model": "scripted", "max_tokens": 200, "messages": messages, **more})


def answer(made: httpx2.Response) -> dict:
    assert made.status_code == 200, made.text
    return made.json()


def streamed(made: httpx2.Response) -> tuple[dict, list[str]]:
    """The message that a client puts together from the events, and the events' names."""
    assert made.status_code == 200 and made.headers["content-type"].startswith("text/event-stream")
    message, names, partial = {}, [], {}
    for text in made.text.split("\n\n"):
        if not text.startswith("event: "):
            continue
        name, data = text.split("\n", 1)
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        names.append(body["type"])
        match body["type"]:
            case "message_start":
                message = body["message"]
            case "content_block_start":
                assert body["index"] == len(message["content"])
                message["content"].append(body["content_block"])
            case "content_block_delta":
                block, delta = message["content"][body["index"]], body["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] += delta["signature"]
                    case "input_json_delta":
                        partial[body["index"]] = partial.get(body["index"], "") + delta["partial_json"]
            case "message_delta":
                message |= body["delta"]
                message["usage"] = body["usage"]
    for index, text in partial.items():
        message["content"][index]["input"] = json.loads(text)
    return message, names


def same(one: dict, other: dict) -> bool:
    def bare(message: dict) -> dict:
        content = [{k: v for k, v in b.items() if k != "id"} for b in message["content"]]
        return {k: v for k, v in message.items() if k not in ("id", "usage")} | {"content": content}

    return bare(one) == bare(other)


def test_a_message(client: httpx2.Client) -> None:
    made = answer(ask(client))
    assert (
        made["content"] == [{"type": "text", "text": "cba"}]
        and made["stop_reason"] == "end_turn"
        and made["stop_sequence"] is None
    )
    assert (
        made["type"] == "message"
        and made["role"] == "assistant"
        and made["model"] == "scripted"
        and made["id"].startswith("msg_")
    )
    usage = made["usage"]
    counted = answer(
        client.post(
            "/v1/messages/count_tokens", json={"model": "scripted", "messages": [{"role": "user", "content": "abc"}]}
        )
    )
    assert (
        usage["input_tokens"] + usage["cache_read_input_tokens"] == counted["input_tokens"]
        and usage["output_tokens"] > 0
    )
    stream, names = streamed(ask(client, stream=True))
    assert (
        same(stream, made)
        and names[:2] == ["message_start", "ping"]
        and names[-2:] == ["message_delta", "message_stop"]
    )
    assert stream["usage"]["output_tokens"] == usage["output_tokens"]


def test_thinking_is_given_where_it_is_asked_for(client: httpx2.Client) -> None:
    made = answer(ask(client, thinking=THINKING))
    thinking, text = made["content"]
    assert (
        thinking["type"] == "thinking"
        and thinking["thinking"] == "hm"
        and len(thinking["signature"]) == 64
        and text["text"] == "cba"
    )
    stream, names = streamed(ask(client, thinking=THINKING, stream=True))
    assert same(stream, made) and names.count("content_block_start") == names.count("content_block_stop") == 2
    assert [b["type"] for b in answer(ask(client, thinking={"type": "adaptive"}))["content"]] == ["thinking", "text"]
    assert [b["type"] for b in answer(ask(client, thinking={"type": "adaptive", "display": "omitted"}))["content"]] == [
        "text"
    ]
    assert answer(ask(client, thinking={"type": "disabled"}, max_tokens=20))["content"][0]["type"] == "text"
    short = answer(ask(client, "repeat:" + "so it is " * 40, thinking={"type": "enabled", "budget_tokens": 3}))
    assert len(short["content"][0]["thinking"].split()) <= 8


def test_tools_and_their_results(client: httpx2.Client) -> None:
    question = f"repeat:sum\n</think>\n\nI call. {CALL}"
    made = answer(ask(client, question, tools=[TOOL], thinking=THINKING))
    assert [b["type"] for b in made["content"]] == ["thinking", "text", "tool_use"] and made[
        "stop_reason"
    ] == "tool_use"
    use = made["content"][2]
    assert (use["name"], use["input"]) == ("f", {"a": 1})
    stream, _ = streamed(ask(client, question, tools=[TOOL], thinking=THINKING, stream=True))
    assert same(stream, made)
    result = {
        "type": "tool_result",
        "tool_use_id": use["id"],
        "content": [{"type": "text", "text": "7"}],
        "is_error": False,
    }
    second = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": made["content"]},
        {"role": "user", "content": [result]},
    ]
    assert answer(ask(client, second, tools=[TOOL]))["content"] == [{"type": "text", "text": "The sum is 7."}]
    second[2]["content"].append({"type": "text", "text": "abc", "cache_control": {"type": "ephemeral"}})
    assert answer(ask(client, second, tools=[TOOL]))["content"][0]["text"] == "cba"
    for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "f"}):
        forced = answer(ask(client, tools=[TOOL], tool_choice=choice))
        assert [b["type"] for b in forced["content"]] == ["tool_use"] and forced["content"][0]["input"] == {"a": 1}
    assert answer(ask(client, question, tools=[TOOL], tool_choice={"type": "none"}))["content"][0]["type"] == "text"


def test_results_are_put_in_the_order_of_their_calls(client: httpx2.Client) -> None:
    seen: list[str] = []

    def note(prompt: str) -> str:
        seen.append(prompt)
        return "hm\n</think>\n\nyes"

    chat = scripted.chat_format()
    uses = [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in ("c1", "c2")]
    results = [{"type": "tool_result", "tool_use_id": i, "content": text} for i, text in (("c2", "TWO"), ("c1", "ONE"))]
    with (
        scripted.served(scripted.opened(chat, scripted.Script(chat, note))) as url,
        httpx2.Client(base_url=url, timeout=60) as own,
    ):
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": uses},
            {"role": "user", "content": results},
        ]
        answer(ask(own, messages, system=[{"type": "text", "text": "be brief"}, {"type": "text", "text": "be kind"}]))
    assert 0 < seen[-1].index("ONE") < seen[-1].index("TWO") and "be brief\nbe kind" in seen[-1]


def test_stops_limits_and_prefills(client: httpx2.Client) -> None:
    cut = answer(ask(client, "gfedcba", stop_sequences=["d"]))
    assert (cut["stop_reason"], cut["stop_sequence"], cut["content"][0]["text"]) == ("stop_sequence", "d", "abc")
    assert answer(ask(client, "repeat:" + "so it is " * 60, max_tokens=5))["stop_reason"] == "max_tokens"
    over = answer(ask(client, max_tokens=100_000))
    assert over["stop_reason"] == "end_turn"
    rest = [
        {"role": "user", "content": "abcdef"},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "fed"}],
        },
    ]
    assert answer(ask(client, rest))["content"][0]["text"] == "cba"
    form = {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {"k": {"const": 1}},
            "required": ["k"],
            "additionalProperties": False,
        },
    }
    assert json.loads(answer(ask(client, output_config={"format": form}))["content"][0]["text"]) == {"k": 1}


def test_documents_of_text_and_blocks_that_nobody_can_read(client: httpx2.Client) -> None:
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "abc"},
        "title": "n.txt",
    }
    assert answer(ask(client, [document, {"type": "text", "text": "x"}]))["content"][0]["text"].startswith("x\n")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    error = ask(client, [image])
    assert (
        error.status_code == 400
        and "reads text only" in error.json()["error"]["message"]
        and "'image'" in error.json()["error"]["message"]
    )


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({"model": "claude-x"}, 404, "not_found_error", "claude-x"),
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens"),
        ({"wibble": 1}, 400, "invalid_request_error", "wibble"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            400,
            "invalid_request_error",
            "web_search_20250305",
        ),
        ({"mcp_servers": [{"url": "x"}]}, 400, "invalid_request_error", "mcp_servers"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
            400,
            "invalid_request_error",
            "no call comes before it",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": {}}]}]},
            400,
            "invalid_request_error",
            "is not allowed here",
        ),
        ({"messages": [{"role": "user", "content": "abc " * 2000}]}, 400, "invalid_request_error", "1024"),
    ],
)
def test_errors_have_anthropics_shape(client: httpx2.Client, body: dict, status: int, kind: str, words: str) -> None:
    made = client.post(
        "/v1/messages",
        json={"model": "scripted", "max_tokens": 20, "messages": [{"role": "user", "content": "x"}], **body},
    )
    assert (
        made.status_code == status
        and made.json()["type"] == "error"
        and made.json()["error"]["type"] == kind
        and words in made.json()["error"]["message"]
    ), made.text


def test_keys_and_any_name() -> None:
    chat = scripted.chat_format()
    with (
        scripted.served(scripted.opened(chat, scripted.Script(chat, reply)), api_key=("k",)) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        refused = ask(client)
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
        client.headers["x-api-key"] = "k"
        assert ask(client).status_code == 200
    model = scripted.opened(chat, scripted.Script(chat, reply))
    with (
        scripted.served(model, served_model_name=("scripted", "*")) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        assert answer(ask(client, model="claude-sonnet-4-5"))["model"] == "scripted"
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["scripted"]


def test_a_request_as_claude_code_makes_it(client: httpx2.Client) -> None:
    body = {
        "model": "scripted",
        "max_tokens": 32000,
        "stream": True,
        "temperature": 1,
        "metadata": {"user_id": "user_x_account__session_y"},
        "system": [
            {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                    {"type": "text", "text": f"repeat:hm</think>{CALL}", "cache_control": {"type": "ephemeral"}},
                ],
            }
        ],
        "tools": [TOOL | {"cache_control": {"type": "ephemeral"}, "input_examples": []}],
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    made = client.post(
        "/v1/messages?beta=true",
        json=body,
        headers={
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
            "x-api-key": "any",
        },
    )
    message, names = streamed(made)
    assert message["stop_reason"] == "tool_use" and message["content"][-1]["name"] == "f" and "error" not in names
    counted = client.post(
        "/v1/messages/count_tokens?beta=true",
        json={k: body[k] for k in ("model", "system", "messages", "tools", "thinking")},
    )
    assert (
        counted.json()["input_tokens"] == message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"]
    )


def test_a_stream_that_the_server_ends_says_so() -> None:
    chat = scripted.chat_format()
    with (
        scripted.served(
            scripted.opened(chat, scripted.Script(chat, lambda prompt: "</think>" + "so it is " * 200, 0.01))
        ) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        with client.stream(
            "POST",
            "/v1/messages",
            json={
                "model": "scripted",
                "max_tokens": 900,
                "messages": [{"role": "user", "content": "x"}],
                "stream": True,
            },
        ) as made:
            lines = made.iter_lines()
            next(lines)
            url.app.state.core.runner.abort_all()
            rest = [line for line in lines if line]
    assert rest[-2] == "event: error" and json.loads(rest[-1].removeprefix("data: "))["error"]["type"] == "api_error"
