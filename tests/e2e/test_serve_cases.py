"""What clients have met on other servers, as cases here: after the lists of llama.cpp's server
tests (tools/server/tests/unit: basic, chat_completion, completion, security, tokenize, tool_call,
ctx) and vLLM's (tests/entrypoints/openai), written anew.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import torch

pytest.importorskip("llguidance")

import scripted

from qwq.serve import sse

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


def reply(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    if "repeat:" in last:
        return last.partition("repeat:")[2]
    if "long" in last:
        return " ".join(f"so {i}" for i in range(2000))
    return f"hm\n</think>\n\n{last[::-1]}"


@pytest.fixture(scope="module")
def model() -> scripted.LoadedModel:
    chat = scripted.chat_format()
    return scripted.opened(chat, scripted.Script(chat, reply))


@pytest.fixture(scope="module")
def client(model: scripted.LoadedModel) -> Iterator[httpx2.Client]:
    with scripted.served(model) as url, httpx2.Client(base_url=url, timeout=60) as made:
        yield made


def chat(client: httpx2.Client, text: str | list = "abc", **more) -> httpx2.Response:
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return client.post("/v1/chat/completions", json={"messages": messages, **more})


def message(answer: httpx2.Response) -> dict:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def events(answer: httpx2.Response) -> list[dict]:
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# -- what a server says of itself ------------------------------------------------------------------


def test_health_models_metrics_and_document(client: httpx2.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["scripted", "alias"]
    assert client.get("/v1/models/alias").json()["max_model_len"] == 1024
    assert client.get("/v1/models/nope").status_code == 404
    message(chat(client))
    text = client.get("/metrics").text
    for name in (
        'vllm:num_requests_running{model_name="scripted"} 0.0', "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total", "vllm:generation_tokens_total", 'vllm:request_success_total{finished_reason="stop"',
        "vllm:time_to_first_token_seconds_bucket", "vllm:e2e_request_latency_seconds_sum",
        "vllm:inter_token_latency_seconds_count", "vllm:request_queue_time_seconds_count",
        "vllm:prefix_cache_hits_total", "vllm:num_preemptions_total",
    ):  # fmt: skip
        assert name in text, name
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/models",
        "/tokenize",
        "/health",
        "/metrics",
    } <= set(paths)
    assert client.get("/docs").status_code == 200


def test_tokenize_and_back(client: httpx2.Client) -> None:
    answer = client.post("/tokenize", json={"prompt": "what is 你好", "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) and answer["max_model_len"] == 1024
    assert client.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": "what is 你好"}
    of_chat = client.post("/tokenize", json={"messages": [{"role": "user", "content": "abc"}]}).json()
    assert of_chat["count"] == chat(client).json()["usage"]["prompt_tokens"]
    assert client.post("/tokenize", json={}).status_code == 400
    assert client.post("/detokenize", json={"tokens": [10**6]}).json()["error"]["param"] == "tokens"


# -- chat ------------------------------------------------------------------------------------------


def test_a_stream_has_role_text_reason_and_usage(client: httpx2.Client) -> None:
    chunks = events(chat(client, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"} and len({c["id"] for c in chunks}) == 1
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
    counts = [c["usage"]["completion_tokens"] for c in chunks[1:]]
    assert counts == sorted(counts)
    plain = events(chat(client, stream=True))
    assert (
        all("usage" not in c for c in plain)
        and plain[-1]["choices"][0]["finish_reason"] == "stop"
        and plain[-1]["timings"]["predicted_n"] > 0
    )


@pytest.mark.parametrize("stop", ["d", ["x", "de"], ["ef", "d"]])
def test_stop_strings_are_cut_off_also_in_streams(client: httpx2.Client, stop) -> None:
    whole = chat(client, "gfedcba", stop=stop).json()["choices"][0]
    assert whole["message"]["content"] == "abc" and whole["finish_reason"] == "stop" and whole["stop_reason"] in stop
    streamed = events(chat(client, "gfedcba", stop=stop, stream=True))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in streamed) == "abc"


def test_length_and_context(client: httpx2.Client) -> None:
    assert chat(client, "long", max_tokens=7).json()["choices"][0]["finish_reason"] == "length"
    for field in ("max_tokens", "max_completion_tokens"):
        answer = chat(client, "long", **{field: 7}).json()
        assert answer["usage"]["completion_tokens"] == 7
    over = chat(client, "long", max_tokens=2000).json()  # a limit beyond the room is the room
    assert over["usage"]["total_tokens"] == 1024 and over["choices"][0]["finish_reason"] == "length"
    error = chat(client, "abc " * 1000).json()["error"]
    assert "1024" in error["message"] and error["code"] == "context_length_exceeded"
    until_full = chat(client, "long").json()
    assert until_full["usage"]["total_tokens"] == 1024 and until_full["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"wibble": 1}, "wibble"), ({"temperature": "hot"}, "temperature"), ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"), ({"n": 0}, "n"), ({"n": "2"}, "n"), ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": [""]}, "stop"), ({"stop": 3}, "stop"), ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"), ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"), ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"), ({"store": True}, "store"),
        ({"modalities": ["audio"]}, "modalities"), ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"), ({"verbosity": "low"}, "verbosity"),
        ({"chat_template_kwargs": {"wibble": True}}, "chat_template_kwargs.wibble"),
        ({"continue_final_message": True}, "continue_final_message"), ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"use_beam_search": True}, "use_beam_search"), ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"guided_regex": "("}, "guided_regex"), ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"grammar": "start: nowhere"}}, "structured_outputs"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ],
)  # fmt: skip
def test_what_is_not_met_is_refused_with_its_field(client: httpx2.Client, body: dict, param: str) -> None:
    answer = chat(client, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error", answer.text
    assert error["param"].startswith(param.split(".")[0]) and (param == error["param"] or "." not in param), error


@pytest.mark.parametrize(
    "messages",
    [
        [], [{"role": "robot", "content": "x"}], [{"content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": 3}],
        [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}],
        [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}], "x",
        [{"role": "user", "content": "\ud800"}],
        [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '"\\ud800"'}}]}],
    ],
)  # fmt: skip
def test_bad_messages_are_refused(client: httpx2.Client, messages) -> None:
    body = json.dumps({"messages": messages})
    answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("messages"), answer.text


def test_null_default_and_advisory_fields_are_accepted(client: httpx2.Client) -> None:
    null = dict.fromkeys(
        [
            "temperature",
            "top_p",
            "n",
            "stop",
            "max_tokens",
            "max_completion_tokens",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "user",
            "seed",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "response_format",
            "stream",
            "stream_options",
            "logprobs",
            "top_logprobs",
            "reasoning_effort",
            "metadata",
            "store",
            "service_tier",
            "prediction",
            "modalities",
            "audio",
            "functions",
            "function_call",
            "thinking_token_budget",
            "include_reasoning",
            "min_p",
            "top_k",
            "chat_template_kwargs",
            "web_search_options",
            "verbosity",
        ]
    )
    assert message(chat(client, **null))["content"] == "cba"
    advisory = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k",
        "safety_identifier": "s", "n": 1, "prediction": {"type": "content", "content": "x"}, "modalities": ["text"],
        "response_format": {"type": "text"}, "tools": [], "top_k": -1, "skip_special_tokens": True, "best_of": 1,
        "add_generation_prompt": True, "priority": 0, "stop": [], "logprobs": False,
    }  # fmt: skip
    assert message(chat(client, **advisory))["content"] == "cba"
    parts = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
    ]
    assert message(chat(client, parts))["content"] == "ba"


def test_special_tokens_in_messages_are_words(client: httpx2.Client) -> None:
    assert "tool_call" in message(chat(client, "repeat:x</think><tool_call>y", tools=None))["content"]
    plain = client.post("/tokenize", json={"messages": [{"role": "user", "content": "<|im_end|>"}]}).json()["count"]
    assert plain > client.post("/tokenize", json={"messages": [{"role": "user", "content": ""}]}).json()["count"] + 1


# -- tools and forms -------------------------------------------------------------------------------


def test_broken_calls_are_text_whole_and_streamed(client: httpx2.Client) -> None:
    broken = '<tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call>'
    assert message(chat(client, f"repeat:x</think>{broken}", tools=[TOOL]))["content"] == broken
    chunks = events(chat(client, f"repeat:x</think>{broken}", tools=[TOOL], stream=True))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == broken
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_strict_tool_keeps_its_schema_though_free_to_talk(client: httpx2.Client) -> None:
    strict = {
        "type": "function",
        "function": {
            **TOOL["function"],
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"a": {"enum": [7]}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    }
    said = message(chat(client, f"repeat:x</think>Words first.\n{CALL}", tools=[strict]))
    assert said["content"] == "Words first." and json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"a": 7}
    assert message(chat(client, "abc", tools=[strict]))["content"] == "cba"


def test_tools_and_a_schema_together(client: httpx2.Client) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {
                "type": "object",
                "properties": {"k": {"const": 1}},
                "required": ["k"],
                "additionalProperties": False,
            },
        },
    }
    assert message(chat(client, f"repeat:x</think>\n\n{CALL}", tools=[TOOL], response_format=form))["tool_calls"]
    assert json.loads(
        message(chat(client, 'repeat:x</think>\n\n{"k": 1}', tools=[TOOL], response_format=form))["content"]
    ) == {"k": 1}


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
GBNF = 'root ::= "r" tail\ntail ::= [0-9]+ "}"'


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"choice": ["\x7fy\U0001f600/", 'no "really"']}, '\x7fy\U0001f600/|no "really"'),
        ({"regex": "[a-c]{2}/[0-9]+"}, "[a-c]{2}/[0-9]+"), ({"json": CITY}, r'\{\s*"city"\s*:\s*"Rome"\s*\}'),
        ({"json": json.dumps(CITY)}, r'\{\s*"city"\s*:\s*"Rome"\s*\}'),
        ({"grammar": 'start: "{" N "}"\nN: /[0-9]{1,3}/'}, r"\{[0-9]{1,3}\}"), ({"grammar": GBNF}, r"r[0-9]+\}"),
    ],
)  # fmt: skip
def test_forms_under_vllms_names(client: httpx2.Client, form: dict, fits: str) -> None:
    """The script wants to say something else; the form holds it, behind a thinking that is free."""
    for field in ({"structured_outputs": form}, {f"guided_{kind}": value for kind, value in form.items()}):
        said = message(
            chat(client, "repeat:thinking freely</think>\n\nquite something else", temperature=1.0, seed=1, **field)
        )
        assert said["reasoning"] == "thinking freely" and re.fullmatch(fits, said["content"]), said
        text = client.post(
            "/v1/completions", json={"prompt": "x", "max_tokens": 60, "temperature": 1.0, "seed": 2, **field}
        ).json()["choices"][0]["text"]
        assert re.fullmatch(fits, text), text
    # Text goes on under OpenAI's field as well.
    text = client.post(
        "/v1/completions",
        json={
            "prompt": "x",
            "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}},
        },
    )
    assert json.loads(text.json()["choices"][0]["text"]) == {"city": "Rome"}


def test_a_choice_beside_tools(client: httpx2.Client) -> None:
    assert message(chat(client, f"repeat:x</think>\n\n{CALL}", tools=[TOOL], guided_choice=["yes", "no"]))["tool_calls"]
    assert message(chat(client, "repeat:x</think>\n\nno", tools=[TOOL], guided_choice=["yes", "no"]))["content"] == "no"


def test_a_stream_that_waits_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "QUIET_S", 0.05)
    fmt = scripted.chat_format()

    def slow(prompt: str) -> str:
        time.sleep(0.5)
        return "so</think>\n\nyes"

    with (
        scripted.served(scripted.opened(fmt, scripted.Script(fmt, slow))) as url,
        httpx2.Client(base_url=url) as client,
    ):
        lines = [line for line in chat(client, stream=True).text.split("\n\n") if line]
        assert sum(line.startswith(":") for line in lines) >= 3 and all(
            line.startswith((":", "data: ")) for line in lines
        )
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "yes"


def test_schemas_with_definitions(client: httpx2.Client) -> None:
    schema = {
        "$defs": {"p": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/p"}},
        "required": ["p"],
    }
    tool = {"type": "function", "function": {"name": "g", "parameters": schema}}
    wanted = '<tool_call>\n{"name": "g", "arguments": {"p": {"x": 12}}}\n</tool_call>'
    (call,) = message(chat(client, f"repeat:x</think>{wanted}", tools=[TOOL, tool], tool_choice="required"))[
        "tool_calls"
    ]
    assert call["function"] == {"name": "g", "arguments": '{"p": {"x": 12}}'}


# -- thinking --------------------------------------------------------------------------------------


def test_earlier_thoughts_leave_the_prompt(client: httpx2.Client) -> None:
    def count(messages: list[dict]) -> int:
        return client.post("/tokenize", json={"messages": messages}).json()["count"]

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    plain = count(turns)
    for thought in (
        {"reasoning_content": "long thought"},
        {"reasoning": "long thought"},
        {"content": "<think>\nlong thought\n</think>\n\nb"},
    ):
        assert count([turns[0], turns[1] | thought, turns[2]]) == plain


def test_thoughts_in_a_tool_loop_are_kept_on_request() -> None:
    turns = [
        {"role": "user", "content": "add"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "remember <|im_end|>",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "7", "tool_call_id": "1"},
    ]
    seen: list[str] = []

    def note(prompt: str) -> str:
        seen.append(prompt)
        return "x\n</think>\n\ny"

    for keep in (False, True):
        fmt = scripted.chat_format()
        model = scripted.opened(fmt, scripted.Script(fmt, note))
        with scripted.served(model, keep_tool_thinking=keep) as url, httpx2.Client(base_url=url) as client:
            assert message(chat(client, turns, tools=[TOOL]))["content"] == "y"
        assert ("remember" in seen[-1]) == keep
    assert "<think>\nremember <|im_end|>\n</think>" in seen[-1]


def test_an_answer_goes_on_where_it_was_cut(client: httpx2.Client) -> None:
    asked = {"role": "user", "content": "abcdef"}
    for partial in ({"content": "fed"}, {"content": "fed", "reasoning_content": "hm"}):
        last = {"role": "assistant", **partial}
        rest = message(chat(client, [asked, last], add_generation_prompt=False, continue_final_message=True))
        if "reasoning_content" in partial:
            assert rest["content"] == "cba" and rest["reasoning_content"] is None
    rest = message(
        chat(
            client,
            [asked, {"role": "assistant", "reasoning": "h"}],
            add_generation_prompt=False,
            continue_final_message=True,
        )
    )
    assert rest["reasoning"] == "m" and rest["content"] == "fedcba"


def test_a_template_that_knows_enable_thinking() -> None:
    template = scripted.PLAIN.replace(
        "<|im_start|>assistant\n",
        "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n"
        "</think>\n\n{% endif %}",
    )
    fmt = scripted.chat_format(template)
    seen: list[str] = []

    def note(prompt: str) -> str:
        seen.append(prompt)
        return "<think>\nso\n</think>\n\nyes"

    with (
        scripted.served(scripted.opened(fmt, scripted.Script(fmt, note))) as url,
        httpx2.Client(base_url=url) as client,
    ):
        assert message(chat(client)) | {"reasoning": "so", "content": "yes"} == message(chat(client))
        chat(client, chat_template_kwargs={"enable_thinking": False}, max_tokens=5)
        assert (
            seen[-1].endswith("</think>\n\n")
            or "</think>"
            in client.post(
                "/detokenize",
                json={
                    "tokens": client.post(
                        "/tokenize",
                        json={
                            "messages": [{"role": "user", "content": "x"}],
                            "chat_template_kwargs": {"enable_thinking": False},
                        },
                    ).json()["tokens"]
                },
            ).json()["prompt"]
        )
        # A model that opens its thinking by itself may do so before an answer that is held to a
        # form.
        formed = message(
            chat(
                client,
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes"]}}},
            )
        )
        assert formed["reasoning"] == "so" and formed["content"] == '"yes"'


# -- keys, sizes, queues, ends ---------------------------------------------------------------------


def test_api_keys_sizes_and_origins(model: scripted.LoadedModel) -> None:
    fmt = scripted.chat_format()
    model = scripted.opened(fmt, scripted.Script(fmt, reply))
    with (
        scripted.served(model, api_key=("one", "zwei"), max_request_mib=1, allowed_origins=("http://page",)) as url,
        httpx2.Client(base_url=url) as client,
    ):
        assert client.get("/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer on"},
            {"authorization": "one"},
            {"authorization": "Basic one"},
            {"authorization": "Bearer two"},
        ):
            answer = client.get("/v1/models", headers=headers)
            assert (
                answer.status_code == 401
                and answer.json()["error"]["code"] == "invalid_api_key"
                and answer.headers["www-authenticate"] == "Bearer"
            )
        for path in ("/metrics", "/v1/models", "/tokenize", "/v1/responses/x", "/nothing"):
            assert client.get(path).status_code == 401, path
        for headers in ({"authorization": "Bearer one"}, {"authorization": "bearer zwei"}, {"x-api-key": "zwei"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        client.headers["authorization"] = "Bearer one"
        large = chat(client, "x" * (1 << 20))
        assert large.status_code == 413 and "1048576" in large.json()["error"]["message"]
        chunked = client.post(
            "/v1/completions",
            content=iter([b'{"prompt": "', b"x" * (1 << 20), b'"}']),
            headers={"content-type": "application/json"},
        )
        assert chunked.status_code == 413
        assert (
            client.options(
                "/v1/chat/completions", headers={"origin": "http://page", "access-control-request-method": "POST"}
            ).headers["access-control-allow-origin"]
            == "http://page"
        )
        assert "access-control-allow-origin" not in client.get("/health", headers={"origin": "http://other"}).headers


def test_unknown_paths_methods_and_bodies(client: httpx2.Client) -> None:
    assert client.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert client.get("/v1/chat/completions").status_code == 405
    for body in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"[" * 100000,
        b'{"messages": \xff}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "seed": 1e400}',
    ):
        answer = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"], body


def slow_model(step_s: float = 0.01, **more) -> tuple[scripted.LoadedModel, scripted.Script]:
    fmt = scripted.chat_format()
    backend = scripted.Script(fmt, reply, step_s)
    return scripted.opened(fmt, backend, **more), backend


def settled(model: scripted.LoadedModel, limit_s: float = 2.0) -> bool:
    deadline = time.monotonic() + limit_s
    while model.engine.has_work and time.monotonic() < deadline:
        time.sleep(0.01)
    return not model.engine.has_work


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_costs_nothing_more(stream: bool) -> None:
    model, backend = slow_model()
    with scripted.served(model) as url, httpx2.Client(base_url=url) as client:
        if stream:
            with client.stream(
                "POST", "/v1/chat/completions", json={"messages": [{"role": "user", "content": "long"}], "stream": True}
            ) as answer:
                lines = answer.iter_lines()
                while '"reasoning"' not in next(lines):
                    pass
        else:
            with pytest.raises(httpx2.TimeoutException):
                client.post(
                    "/v1/chat/completions", json={"messages": [{"role": "user", "content": "long"}]}, timeout=0.3
                )
        assert settled(model)
        steps = backend.steps
        time.sleep(0.1)
        assert backend.steps == steps < 200
        assert 'finished_reason="abort"' in client.get("/metrics").text


def test_a_full_queue_says_when_to_come_back() -> None:
    model, _ = slow_model(0.02, max_running=1)
    with scripted.served(model, max_waiting=1) as url, httpx2.Client(base_url=url, timeout=60) as client:
        answers: list[httpx2.Response] = []
        threads = [
            threading.Thread(target=lambda: answers.append(chat(client, "long", max_tokens=40))) for _ in range(6)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        codes = sorted(a.status_code for a in answers)
        assert codes.count(200) == 2 and codes.count(429) == 4
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.headers["retry-after"] == "1" and refused.json()["error"]["type"] == "rate_limit_error"


def test_the_end_of_the_server_is_the_end_of_its_streams() -> None:
    model, _ = slow_model()
    with scripted.served(model) as url, httpx2.Client(base_url=url, timeout=60) as client:
        with client.stream(
            "POST", "/v1/chat/completions", json={"messages": [{"role": "user", "content": "long"}], "stream": True}
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            url.app.state.core.runner.abort_all()
            rest = list(lines)
        assert any("stopped by the server" in line for line in rest)
        assert [line for line in rest if line][-1] == "data: [DONE]"


def test_a_broken_engine_says_so_without_a_word_about_the_machine() -> None:
    model, backend = slow_model()

    def broken(chunks: object) -> None:
        raise RuntimeError("/secret/path is broken")

    with scripted.served(model) as url, httpx2.Client(base_url=url) as client:
        backend.forward = broken  # type: ignore[assignment,method-assign]
        answer = chat(client)
        assert answer.status_code == 500 and "secret" not in answer.text
        assert client.get("/health").status_code == 500
        assert chat(client).status_code == 500


def test_logits_that_are_no_numbers_end_one_request_and_not_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    fmt = scripted.chat_format()
    backend = scripted.Script(fmt, lambda prompt: "x</think>\n\nfine")
    forward = backend.forward

    def broken(chunks: Any) -> torch.Tensor:
        logits_NV = forward(chunks)
        for text in (fmt.tokenizer.decode(backend.held[c.slot]) for c in chunks):
            if "poison" in text and len(logits_NV):
                logits_NV[0, 0] = torch.nan
        return logits_NV

    backend.forward = broken  # type: ignore[method-assign]
    with scripted.served(scripted.opened(fmt, backend)) as url, httpx2.Client(base_url=url, timeout=60) as client:
        for _ in range(2):
            failed = chat(client, "poison")
            assert failed.status_code == 500 and "\n" not in failed.json()["error"]["message"]
            assert message(chat(client, "x"))["content"] == "fine"
        with client.stream(
            "POST",
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "poison"}], "stream": True},
        ) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert json.loads(lines[-2][6:])["error"]["type"] == "server_error" and lines[-1] == "data: [DONE]"
        assert client.get("/health").status_code == 200 and message(chat(client, "x"))["content"] == "fine"
    assert "logits are not finite" in capfd.readouterr().err
