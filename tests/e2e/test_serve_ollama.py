"""Ollama's API: chat and generate, whole and as JSON lines, thinking, tools, formats, and what
programs ask first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted

CALL = '<tool_call>\n{{"name": "{}", "arguments": {{"a": 1}}}}\n</tool_call>'
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": n,
            "description": "x",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
    for n in "fg"
]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
seen: list[str] = []


def reply(prompt: str) -> str:
    seen.append(prompt)
    if "tool_response" in scripted.last_message(prompt):
        return "it said 7\n</think>\n\nThe sum is 7."
    return scripted.repeat_or_reverse(prompt)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with scripted.client_of(reply) as made:
        yield made


def ask(client: httpx2.Client, text="abc", path: str = "chat", **more) -> httpx2.Response:
    body = (
        {"prompt": text}
        if path == "generate"
        else {"messages": text if isinstance(text, list) else [{"role": "user", "content": text}]}
    )
    return client.post(f"/api/{path}", json={"model": "scripted", **body, **more})


def whole(made: httpx2.Response) -> dict:
    assert made.status_code == 200, made.text
    return made.json()


def lines(made: httpx2.Response) -> list[dict]:
    assert made.status_code == 200 and made.headers["content-type"] == "application/x-ndjson", made.text
    return [json.loads(line) for line in made.text.splitlines()]


def test_chat_whole_and_in_lines(client: httpx2.Client) -> None:
    made = whole(ask(client, stream=False))
    assert (
        made["message"] == {"role": "assistant", "content": "cba", "thinking": "hm"}
        and made["done"] is True
        and made["done_reason"] == "stop"
    )
    assert (
        made["model"] == "scripted"
        and made["prompt_eval_count"] > 0
        and made["eval_count"] > 0
        and made["total_duration"] > 0
        and made["eval_duration"] > 0
    )
    parts = lines(ask(client))  # Ollama streams unless told not to
    assert [p["done"] for p in parts] == [False] * (len(parts) - 1) + [True] and parts[-1]["eval_count"] == made[
        "eval_count"
    ]
    assert (
        "".join(p["message"]["content"] for p in parts) == "cba"
        and "".join(p["message"].get("thinking", "") for p in parts) == "hm"
    )
    assert whole(ask(client, stream=False, model="scripted:latest"))["model"] == "scripted:latest"


def test_thinking_on_off_and_by_effort(client: httpx2.Client) -> None:
    off = whole(ask(client, stream=False, think=False, options={"num_predict": 20}))
    assert "thinking" not in off["message"] and not any(
        "thinking" in p["message"] for p in lines(ask(client, think=False, options={"num_predict": 20}))
    )
    assert whole(ask(client, stream=False, think="low"))["message"]["thinking"] == "hm"


def test_tools_and_results_by_name(client: httpx2.Client) -> None:
    question = f"repeat:both\n</think>\n\n{CALL.format('f')}\n{CALL.format('g')}"
    made = whole(ask(client, question, stream=False, tools=TOOLS))
    calls = [{"function": {"name": n, "arguments": {"a": 1}}} for n in "fg"]
    assert (
        made["message"]["tool_calls"] == calls
        and made["message"]["thinking"] == "both"
        and made["done_reason"] == "stop"
    )
    parts = lines(ask(client, question, tools=TOOLS))
    assert [c for p in parts for c in p["message"].get("tool_calls", ())] == calls
    history = [
        {"role": "user", "content": question},
        made["message"],
        {"role": "tool", "tool_name": "g", "content": "TWO"},
        {"role": "tool", "tool_name": "f", "content": "ONE"},
    ]
    assert whole(ask(client, history, stream=False, tools=TOOLS))["message"]["content"] == "The sum is 7."
    assert 0 < seen[-1].index("ONE") < seen[-1].index("TWO")
    plain = [*history[:2], {"role": "tool", "content": "ONE"}, {"role": "tool", "content": "TWO"}]
    whole(ask(client, plain, stream=False, tools=TOOLS))
    assert 0 < seen[-1].index("ONE") < seen[-1].index("TWO")


def test_formats_and_options(client: httpx2.Client, capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(whole(ask(client, stream=False, format=CITY))["message"]["content"]) == {"city": "Rome"}
    assert whole(ask(client, stream=False, format="json", options={"num_predict": 30}))["message"][
        "content"
    ].startswith("{")
    assert json.loads(
        whole(ask(client, "x", "generate", stream=False, format=CITY, raw=True, options={"num_predict": 40}))[
            "response"
        ]
    ) == {"city": "Rome"}
    options = {
        "temperature": 0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "seed": 1,
        "stop": ["d"],
        "num_predict": 50,
        "num_ctx": 4096,
        "mirostat": 1,
        "num_gpu": 99,
    }
    made = whole(ask(client, "gfedcba", stream=False, options=options))
    assert (
        made["message"]["content"] == "abc" and made["done_reason"] == "stop" and "'num_gpu'" in capfd.readouterr().err
    )
    assert (
        whole(ask(client, "repeat:" + "so it is " * 40, stream=False, options={"num_predict": 5}))["done_reason"]
        == "length"
    )
    for bad in ({"temperature": "hot"}, {"num_predict": "x"}):
        error = ask(client, stream=False, options=bad)
        assert error.status_code == 400 and error.json()["error"].startswith("options")


def test_generate_and_its_context(client: httpx2.Client) -> None:
    made = whole(ask(client, "abc", "generate", stream=False, system="be brief"))
    assert made["response"] == "cba" and made["thinking"] == "hm" and made["done"] and "be brief" in seen[-1]
    parts = lines(ask(client, "abc", "generate"))
    assert "".join(p["response"] for p in parts) == "cba" and parts[-1]["done"] and "context" in parts[-1]
    second = whole(ask(client, "xyz", "generate", stream=False, context=made["context"]))
    assert second["response"] == "zyx" and seen[-1].count("<|im_start|>user") == 2 and "be brief" in seen[-1]
    raw = whole(
        ask(
            client,
            "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n<think>\n",
            "generate",
            stream=False,
            raw=True,
        )
    )
    assert raw["response"] == "hm\n</think>\n\ncba" and "context" not in raw


def test_a_request_without_words_loads(client: httpx2.Client) -> None:
    for path, empty in (("chat", {"messages": []}), ("generate", {"prompt": ""}), ("generate", {})):
        for stream in (True, False):
            made = client.post(f"/api/{path}", json={"model": "scripted", "stream": stream, "keep_alive": 0, **empty})
            assert (
                made.status_code == 200
                and json.loads(made.text)["done_reason"] == "load"
                and json.loads(made.text)["done"] is True
            )


def test_what_programs_ask_first(client: httpx2.Client) -> None:
    assert client.get("/api/version").json()["version"].count(".") == 2
    models = client.get("/api/tags").json()["models"]
    assert (
        [m["name"] for m in models] == ["scripted", "alias"]
        and models[0]["details"]["family"] == "qwen2"
        and len(models[0]["digest"]) == 64
    )
    assert client.get("/api/ps").json()["models"][0]["context_length"] == 1024
    shown = client.post("/api/show", json={"model": "scripted:latest"}).json()
    assert (
        shown["template"] == scripted.OPENING
        and shown["capabilities"] == ["completion", "tools", "thinking"]
        and shown["model_info"]["qwen2.context_length"] == 1024
    )
    assert client.post("/api/show", json={"name": "scripted"}).status_code == 200
    assert client.post("/api/pull", json={"model": "scripted"}).json() == {"status": "success"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("chat", {"model": "llama3"}, 404, "'llama3' is not served here"),
        ("show", {}, 400, "names the model"),
        ("pull", {"model": "x"}, 404, "'x'"),
        ("chat", {"messages": []}, 400, "model"),
        ("embed", {"model": "scripted", "input": "x"}, 404, "no embeddings"),
        ("create", {"model": "x"}, 404, "was started with"),
        (
            "chat",
            {"model": "scripted", "messages": [{"role": "user", "content": "x", "images": ["a"]}]},
            400,
            "reads text only",
        ),
        ("chat", {"model": "scripted", "messages": [{"role": "tool", "content": "x"}]}, 400, "no call comes before it"),
        ("generate", {"model": "scripted", "prompt": "x", "suffix": "y"}, 400, "suffix"),
        ("generate", {"model": "scripted", "prompt": "x", "context": [9999]}, 400, "9999"),
    ],
)
def test_errors_have_ollamas_shape(client: httpx2.Client, path: str, body: dict, status: int, words: str) -> None:
    made = client.post(f"/api/{path}", json=body)
    assert made.status_code == status and list(made.json()) == ["error"] and words in made.json()["error"], made.text


def test_bodies_come_under_any_content_type_unless_a_web_page_sends_them(client: httpx2.Client) -> None:
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "abc"}], "stream": False}).encode()
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/api/chat", content=body, headers=kind).json()["message"]["content"] == "cba"
    refused = client.post("/api/chat", content=body, headers=kind | {"origin": "http://evil"})
    assert refused.status_code == 400 and "Content-Type" in refused.json()["error"]
    assert "not JSON" in client.post("/api/chat", content=b"{").json()["error"]


def test_the_page_has_its_own_paths_below_api(client: httpx2.Client) -> None:
    assert client.get("/api/conversations").status_code == 200
    made = client.post("/api/conversations", json={"system": "", "settings": {}})
    assert made.status_code in (200, 201) and client.delete(f"/api/conversations/{made.json()['id']}").status_code in (
        200,
        204,
    )


def test_keys(client: httpx2.Client) -> None:
    chat = scripted.chat_format()
    with (
        scripted.served(scripted.opened(chat, scripted.Script(chat, reply)), api_key=("k",)) as url,
        httpx2.Client(base_url=url, timeout=60) as own,
    ):
        refused = own.get("/api/tags")
        assert refused.status_code == 401 and list(refused.json()) == ["error"]
        assert own.get("/api/tags", headers={"authorization": "Bearer k"}).status_code == 200


def test_a_stream_that_the_server_ends_says_so() -> None:
    chat = scripted.chat_format()
    with (
        scripted.served(
            scripted.opened(chat, scripted.Script(chat, lambda prompt: "</think>" + "so it is " * 200, 0.01))
        ) as url,
        httpx2.Client(base_url=url, timeout=60) as own,
    ):
        with own.stream(
            "POST", "/api/chat", json={"model": "scripted", "messages": [{"role": "user", "content": "x"}]}
        ) as made:
            rest = made.iter_lines()
            next(rest)
            url.app.state.core.runner.abort_all()
            last = [line for line in rest if line][-1]
    assert list(json.loads(last)) == ["error"]
