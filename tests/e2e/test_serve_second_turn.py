"""The second turn, as client libraries send it: answers come back with keys of the client's own,
results in the order they were ready, and one limit of new tokens with every prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted

from qwq.engine import notes

HERMES = '<tool_call>\n{{"name": "{}", "arguments": {{"a": {}}}}}\n</tool_call>'
TOOLS = [
    {
        "type": "function",
        "function": {"name": n, "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    for n in "fg"
]


def reply(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    if "both" in last:
        return "two\n</think>\n\n" + HERMES.format("f", 1) + "\n" + HERMES.format("g", 2)
    return f"hm\n</think>\n\n{last[::-1]}" if "quick" not in last else "</think>yes"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    chat = scripted.chat_format()
    with (
        scripted.served(scripted.opened(chat, scripted.Script(chat, reply), max_len=512)) as url,
        httpx2.Client(base_url=url, timeout=60) as made,
    ):
        yield made


def prompt_of(client: httpx2.Client, messages: list[dict]) -> str:
    ids = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    return client.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def call(id: str | None, name: str, **more) -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}, **more}


def result(id: str | None, content: str) -> dict:
    return {"role": "tool", "content": content} | ({} if id is None else {"tool_call_id": id})


ASKED = {"role": "user", "content": "q"}


# -- keys of the client's own ----------------------------------------------------------------------


def test_keys_of_a_clients_own_in_messages_are_ignored_and_said_once(
    client: httpx2.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    """litellm's `messages.append(response.choices[0].message)`, and what other programs leave in
    their histories.
    """
    notes._said.clear()
    plain = [ASKED, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "abc"}]
    own = {
        "tool_calls": None, "function_call": None, "provider_specific_fields": {"refusal": None, "reasoning": None},
        "thinking_blocks": [{"type": "thinking"}], "reasoning_details": [], "is_error": False, "timestamp": 1.5,
        "id": "m1",
    }  # fmt: skip
    messages = [plain[0], plain[1] | own, plain[2] | {"opts": {}}]
    for _ in range(2):
        answer = client.post("/v1/chat/completions", json={"messages": messages})
        assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "cba", answer.text
    assert prompt_of(client, messages) == prompt_of(client, plain)
    said = capfd.readouterr().err
    assert said.count("provider_specific_fields") == said.count("'opts'") == 1
    # What the template reads is checked as before.
    assert client.post("/v1/chat/completions", json={"messages": [ASKED | {"role": "robot"}]}).status_code == 400
    assert client.post("/v1/chat/completions", json={"messages": [ASKED | {"content": 3}]}).status_code == 400
    assert (
        client.post("/v1/chat/completions", json={"messages": [ASKED], "wibble": 1}).json()["error"]["param"]
        == "wibble"
    )


def test_keys_of_a_clients_own_in_calls_parts_and_items(client: httpx2.Client) -> None:
    turn = {
        "role": "assistant",
        "content": [{"type": "text", "text": "so", "id": 1}],
        "tool_calls": [call("1", "f", extra_content={"google": {}})],
    }
    turn["tool_calls"][0]["function"]["thought_signature"] = "x"
    messages = [ASKED, turn, result("1", "7") | {"artifact": None}, {"role": "user", "content": "abc"}]
    assert (
        client.post("/v1/chat/completions", json={"messages": messages}).json()["choices"][0]["message"]["content"]
        == "cba"
    )
    items = [
        {"role": "user", "content": "q", "opts": 1},
        {"type": "reasoning", "summary": [], "format": "x"},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1", "created_by": "x"},
        {"type": "function_call_output", "call_id": "1", "output": "7", "acknowledged": True},
        {"role": "user", "content": [{"type": "input_text", "text": "abc", "id": 3}]},
    ]
    answer = client.post("/v1/responses", json={"input": items})
    assert answer.status_code == 200 and answer.json()["output"][-1]["content"][0]["text"] == "cba", answer.text
    # Calls are items of their own there: in a message they would be lost.
    assert (
        client.post(
            "/v1/responses", json={"input": [{"role": "assistant", "content": "x", "tool_calls": [call("1", "f")]}]}
        ).status_code
        == 400
    )


def test_keys_without_a_value_are_left_out_of_answers(client: httpx2.Client) -> None:
    def message(text: str) -> dict:
        return client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "tools": TOOLS}
        ).json()["choices"][0]["message"]

    assert message("quick") == {"role": "assistant", "content": "yes", "reasoning_content": None}
    assert message("abc") == {"role": "assistant", "content": "cba", "reasoning": "hm", "reasoning_content": "hm"}
    assert message("both").keys() == {"role", "content", "reasoning", "reasoning_content", "tool_calls"}


# -- results of calls ------------------------------------------------------------------------------


def test_results_are_put_in_the_order_of_their_calls(client: httpx2.Client) -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [call("c1", "f"), call("c2", "g"), call("c3", "f")]}
    right = [result("c1", "ONE"), result("c2", "TWO"), result("c3", "THREE")]
    told = prompt_of(client, [ASKED, turn, *right])
    assert told.index("ONE") < told.index("TWO") < told.index("THREE")
    for order in ((1, 0, 2), (2, 1, 0), (2, 0, 1)):
        assert prompt_of(client, [ASKED, turn, *[right[i] for i in order]]) == told
    # Without ids the place is all there is; a later turn's results are not moved among an earlier
    # one's.
    assert prompt_of(client, [ASKED, turn, result(None, "ONE"), result(None, "TWO"), result(None, "THREE")]) == told
    assert prompt_of(client, [ASKED, turn, right[2], result(None, "TWO"), right[0]]) == told
    later = {"role": "assistant", "content": "", "tool_calls": [call("d1", "f"), call("d2", "g")]}
    twice = prompt_of(client, [ASKED, turn, *right, later, result("d2", "FIVE"), result("d1", "FOUR")])
    assert [twice.index(w) for w in ("ONE", "TWO", "THREE", "FOUR", "FIVE")] == sorted(
        twice.index(w) for w in ("ONE", "TWO", "THREE", "FOUR", "FIVE")
    )


def test_results_of_responses_are_put_in_order_too() -> None:
    seen: list[str] = []

    def note(prompt: str) -> str:
        seen.append(prompt)
        return reply(prompt)

    chat = scripted.chat_format()
    with (
        scripted.served(scripted.opened(chat, scripted.Script(chat, note))) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        first = client.post(
            "/v1/responses", json={"input": "both", "tools": [{"type": "function", **t["function"]} for t in TOOLS]}
        ).json()
        f, g = [item["call_id"] for item in first["output"] if item["type"] == "function_call"]
        outputs = [
            {"type": "function_call_output", "call_id": id, "output": text} for id, text in ((g, "TWO"), (f, "ONE"))
        ]
        answer = client.post("/v1/responses", json={"previous_response_id": first["id"], "input": outputs})
        assert answer.status_code == 200 and 0 < seen[-1].index("ONE") < seen[-1].index("TWO")
        stray = client.post(
            "/v1/responses",
            json={"previous_response_id": first["id"], "input": [outputs[0], outputs[0] | {"call_id": "nope"}]},
        )
        assert (
            stray.status_code == 400
            and stray.json()["error"]["param"] == "input.1.call_id"
            and repr(g) in stray.json()["error"]["message"]
        )
        early = client.post("/v1/responses", json={"input": [outputs[0]]})
        assert early.status_code == 400 and early.json()["error"]["param"] == "input.0"


@pytest.mark.parametrize(
    ("messages", "param", "word"),
    [
        ([ASKED, result("c1", "x")], "messages.1", "no call comes before it"),
        ([result(None, "x"), ASKED], "messages.0", "no call comes before it"),
        (
            [ASKED, {"role": "assistant", "content": "", "tool_calls": [call("c1", "f")]}, result("c9", "x")],
            "messages.2.tool_call_id",
            "'c1'",
        ),
    ],
)
def test_a_result_that_belongs_to_no_call_is_refused(
    client: httpx2.Client, messages: list, param: str, word: str
) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        error = client.post(path, json={"messages": messages})
        assert (
            error.status_code == 400
            and error.json()["error"]["param"] == param
            and word in error.json()["error"]["message"]
        ), error.text


def test_where_a_call_has_no_id_any_result_may_be_its(client: httpx2.Client) -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [call(None, "f")]}
    assert (
        client.post(
            "/v1/chat/completions", json={"messages": [ASKED, turn, result("made-up", "7")], "max_tokens": 4}
        ).status_code
        == 200
    )


# -- one limit with every prompt -------------------------------------------------------------------


@pytest.mark.parametrize("limit", [600, 65535, 1 << 40])
def test_a_limit_beyond_the_room_is_the_room(client: httpx2.Client, limit: int) -> None:
    ask = {"messages": [{"role": "user", "content": "abc"}]}
    for field in ("max_tokens", "max_completion_tokens"):
        answer = client.post("/v1/chat/completions", json=ask | {field: limit})
        assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "cba", answer.text
    answer = client.post("/v1/responses", json={"input": "abc", "max_output_tokens": limit}).json()
    assert answer["status"] == "completed" and answer["max_output_tokens"] == limit
    answer = client.post("/v1/completions", json={"prompt": "x", "max_tokens": limit, "ignore_eos": True}).json()
    assert answer["usage"]["total_tokens"] == 512 and answer["choices"][0]["finish_reason"] == "length"


def test_a_prompt_beyond_the_context_is_refused(client: httpx2.Client) -> None:
    long = "abc " * 600
    bodies = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": long}]},
        "/v1/responses": {"input": long},
        "/v1/completions": {"prompt": long},
    }
    for path, body in bodies.items():
        for more in ({}, {"max_output_tokens" if "responses" in path else "max_tokens": 4}):
            error = client.post(path, content=json.dumps(body | more), headers={"content-type": "application/json"})
            assert (
                error.status_code == 400
                and error.json()["error"]["code"] == "context_length_exceeded"
                and "512" in error.json()["error"]["message"]
            )
