"""Habits of programs and models: what they send and write that no specification names, each as a
case.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted

from qwq.engine import notes

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
OTHER = CALL.replace('"f"', '"x"')
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with scripted.client_of(scripted.repeat_or_reverse) as made:
        yield made


def chat(client: httpx2.Client, text: str = "abc", **more) -> httpx2.Response:
    return client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], **more})


def choice(answer: httpx2.Response) -> dict:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def streamed(answer: httpx2.Response) -> dict:
    """A stream put together again as a choice."""
    out: dict = {"message": {"content": "", "reasoning": "", "tool_calls": []}}
    for line in answer.text.split("\n\n"):
        if not line.startswith("data: {"):
            continue
        (one,) = json.loads(line[6:])["choices"]
        for key in ("content", "reasoning"):
            out["message"][key] += one["delta"].get(key, "")
        for delta in one["delta"].get("tool_calls", ()):
            if "id" in delta:
                out["message"]["tool_calls"].append({"name": delta["function"]["name"], "arguments": ""})
            out["message"]["tool_calls"][-1]["arguments"] += delta["function"]["arguments"]
        out["finish_reason"] = one["finish_reason"]
    return out


# -- calls inside thoughts -------------------------------------------------------------------------


def test_a_call_at_the_end_of_an_open_thinking_is_a_call(client: httpx2.Client) -> None:
    whole = choice(chat(client, f"repeat:hm {CALL}", tools=[TOOL]))
    assert (
        whole["finish_reason"] == "tool_calls"
        and whole["message"]["reasoning"] == "hm"
        and not whole["message"]["content"]
    )
    (call,) = whole["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}
    stream = streamed(chat(client, f"repeat:hm {CALL}", tools=[TOOL], stream=True))
    assert stream["message"] == {
        "content": "",
        "reasoning": "hm",
        "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}],
    }
    assert stream["finish_reason"] == "tool_calls"
    function = {"type": "function", **TOOL["function"]}
    output = client.post("/v1/responses", json={"input": f"repeat:hm {CALL}", "tools": [function]}).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call"] and output[1]["arguments"] == '{"a": 1}'
    # A closed thinking, a function that is not on offer, and a request without tools: a thought.
    assert CALL in choice(chat(client, f"repeat:hm {CALL}</think>\n\nyes", tools=[TOOL]))["message"]["reasoning"]
    assert "tool_calls" not in choice(chat(client, f"repeat:hm {OTHER}", tools=[TOOL]))["message"]
    assert CALL in choice(chat(client, f"repeat:hm {CALL}"))["message"]["reasoning"]


# -- forms -----------------------------------------------------------------------------------------

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": CITY}, {"type": "json_schema", "schema": CITY},
        {"type": "json_schema", "name": "c", "strict": True, "schema": CITY},
        {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}},
    ],
)  # fmt: skip
def test_a_schema_wherever_it_stands(client: httpx2.Client, form: dict) -> None:
    assert json.loads(choice(chat(client, response_format=form))["message"]["content"]) == {"city": "Rome"}
    answer = client.post("/v1/responses", json={"input": "abc", "text": {"format": form}})
    assert answer.status_code == 200 and json.loads(answer.json()["output"][-1]["content"][0]["text"]) == {
        "city": "Rome"
    }, answer.text
    assert answer.json()["text"]["format"]["type"] == form["type"]
    text = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 60, "response_format": form})
    assert json.loads(choice(text)["text"]) == {"city": "Rome"}


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_schema"}, "response_format"),
        ({"type": "json_schema", "schema": CITY, "json_schema": {"schema": CITY}}, "response_format"),
        ({"type": "json_schema", "json_schema": {"wibble": 1}}, "response_format.json_schema.wibble"),
        ({"type": "json_object", "wibble": 1}, "response_format.wibble"),
        ({"type": "json_schema", "schema": {"type": "string", "pattern": "(?=a)"}}, "response_format"),
        ({"type": "json_schema", "schema": {"not": {}}}, "response_format"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_form_names_its_field(client: httpx2.Client, form: dict, param: str) -> None:
    answer = chat(client, response_format=form)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_a_tool_whose_schema_cannot_be_enforced_names_the_field(client: httpx2.Client) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}},
        },
    }
    assert choice(chat(client, tools=[tool]))["finish_reason"] == "stop"
    error = chat(client, tools=[tool], tool_choice="required").json()["error"]
    assert error["param"] == "tools" and "looks ahead or behind" in error["message"]


# -- fields of other servers -----------------------------------------------------------------------


def test_null_is_accepted_in_any_field(client: httpx2.Client) -> None:
    for path, body in {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "abc"}]},
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "abc"},
    }.items():
        answer = client.post(
            path, json=body | dict.fromkeys(["lora_path", "allowed_token_ids", "custom_params", "wibble"])
        )
        assert answer.status_code == 200, answer.text
        refused = client.post(path, json=body | {"wibble": 0})
        assert (
            refused.status_code == 400
            and refused.json()["error"]["param"] == "wibble"
            and "--ignore-unknown-fields" in refused.json()["error"]["message"]
        )


DEFAULTS = {
    "length_penalty": 1.0, "detokenize": True, "early_stopping": False, "bad_words": [], "logits_processors": [],
    "documents": [], "mm_processor_kwargs": {}, "return_token_ids": False, "return_tokens_as_token_ids": False,
    "typical_p": 1.0, "tfs_z": 1, "mirostat": 0, "xtc_probability": 0.0, "dry_multiplier": 0, "n_probs": 0, "n_keep": 0,
    "repeat_last_n": -1, "timings_per_token": False, "return_progress": False, "no_stop_trim": False,
    "separate_reasoning": True, "stream_reasoning": True, "reasoning_format": "deepseek", "verbosity": "medium",
    "n_predict": -1, "reasoning_budget": -1, "top_k": -1,
}  # fmt: skip
ADVISORY = {
    "cache_prompt": True,
    "id_slot": 3,
    "keep_alive": "5m",
    "rid": "a",
    "user_id": "u",
    "session_id": "s",
    "guided_decoding_backend": "xgrammar",
}


def test_defaults_and_advisory_fields_of_other_servers(client: httpx2.Client) -> None:
    assert choice(chat(client, **DEFAULTS, **ADVISORY))["message"]["content"] == "cba"
    for name, value in {
        "length_penalty": 2.0,
        "detokenize": False,
        "bad_words": ["x"],
        "mirostat": 2,
        "repeat_last_n": 64,
        "verbosity": "low",
        "best_of": 2,
    }.items():
        error = chat(client, **{name: value})
        assert error.status_code == 400 and error.json()["error"]["param"] == name, error.text


def test_a_server_that_ignores_unknown_fields_says_each_once(capfd: pytest.CaptureFixture[str]) -> None:
    notes._said.clear()
    made = scripted.chat_format()
    body = {
        "wibble": 1,
        "options": {"num_ctx": 8192},
        "verbosity": "low",
        "length_penalty": 2.0,
        "prompt_logprobs": 1,
        "stream_options": {"foo": 1},
    }
    with (
        scripted.served(
            scripted.opened(made, scripted.Script(made, scripted.repeat_or_reverse)), ignore_unknown_fields=True
        ) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        for _ in range(2):
            assert (
                choice(chat(client, **body, tools=[{"type": "function", "function": {"name": "f", "x": 1}}]))[
                    "message"
                ]["content"]
                == "cba"
            )
        assert chat(client, temperature="hot").status_code == 400
        assert (
            client.get("/openapi.json").json()["components"]["schemas"]["ChatRequest"]["additionalProperties"] is True
        )
    said = capfd.readouterr().err
    assert all(
        said.count(word) == 1
        for word in ("'wibble'", "'options'", "verbosity", "length_penalty", "prompt_logprobs", "'foo'", "'x'")
    ), said
    notes._said.clear()


def test_other_names_of_what_exists(client: httpx2.Client) -> None:
    def tokens(**more) -> int:
        return chat(client, "repeat:" + "so it is " * 40, ignore_eos=True, **more).json()["usage"]["completion_tokens"]

    for limit in ({"n_predict": 7}, {"max_new_tokens": 7}, {"max_tokens": 7, "n_predict": 9}):
        assert tokens(**limit) == 7
        if "max_tokens" not in limit:
            assert (
                client.post("/v1/completions", json={"prompt": "x", "ignore_eos": True, **limit}).json()["usage"][
                    "completion_tokens"
                ]
                == 7
            )
            assert (
                client.post("/v1/responses", json={"input": "repeat:" + "so " * 40, **limit}).json()["usage"][
                    "output_tokens"
                ]
                == 7
            )
    bodies = [{"thinking_token_budget": 3}] + [
        {n: 3} for n in ("thinking_budget", "thinking_budget_tokens", "reasoning_budget")
    ]
    bodies += [{"thinking": {"type": "enabled", "budget_tokens": 3}}, {"reasoning": {"max_tokens": 3}}]
    for body in bodies:
        thought = chat(client, "repeat:" + "so it is " * 40, max_tokens=40, **body).json()["usage"][
            "completion_tokens_details"
        ]["reasoning_tokens"]
        assert thought == 3, body
    for same in ({"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}, {"reasoning": {"enabled": False}},
    {"think": False}, {"enable_thinking": False},
                 {"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}):  # fmt: skip
        said = chat(client, max_tokens=20, **same).json()
        assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0 and not said["choices"][0][
            "message"
        ].get("reasoning"), same
    for on in (
        {"think": True},
        {"think": "low"},
        {"enable_thinking": True},
        {"thinking": {"type": "enabled"}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ):
        assert choice(chat(client, **on))["message"]["reasoning"] == "hm"
    assert "reasoning" not in choice(chat(client, reasoning={"exclude": True}))["message"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"json_schema": CITY}, '{"city":"Rome"}'), ({"json_schema": json.dumps(CITY)}, '{"city":"Rome"}'),
        ({"regex": "[a-c]{2}0"}, None), ({"grammar": 'root ::= "r" "x"'}, "rx"), ({"ebnf": 'root ::= "yes"'}, "yes"),
        ({"guided_json_object": True}, None),
    ],
)  # fmt: skip
def test_forms_under_other_names(client: httpx2.Client, field: dict, text: str | None) -> None:
    said = "".join(choice(chat(client, "zzz", max_tokens=40, **field))["message"]["content"].split())
    assert said == text if text else said[:1] in "abc{"
    assert chat(client, guided_regex="a", **field).status_code == 400


def test_a_model_that_does_not_think_says_so() -> None:
    made = scripted.chat_format(scripted.PLAIN.replace("</think>", "</t>"))
    with (
        scripted.served(scripted.opened(made, scripted.Script(made, lambda prompt: "yes"))) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        for off in ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"think": False}):
            assert choice(chat(client, **off))["message"]["content"] == "yes"
        for on in ({"enable_thinking": True}, {"chat_template_kwargs": {"enable_thinking": True}}, {"think": True}):
            error = chat(client, **on)
            assert error.status_code == 400 and "does not think" in error.json()["error"]["message"]


# -- requests of odd makes -------------------------------------------------------------------------


def test_scoring_without_writing(client: httpx2.Client) -> None:
    """`max_tokens: 0` with `echo`: the prompt's log-probabilities are those of a request that
    writes.
    """
    ask = {"prompt": ["what is 3", "so it is"], "echo": True, "logprobs": 1}
    scored = client.post("/v1/completions", json=ask | {"max_tokens": 0}).json()
    written = client.post("/v1/completions", json=ask | {"max_tokens": 1}).json()
    assert (
        scored["usage"]["completion_tokens"] == 0
        and scored["usage"]["total_tokens"] == scored["usage"]["prompt_tokens"]
    )
    for only, more, prompt in zip(scored["choices"], written["choices"], ask["prompt"], strict=True):
        assert only["text"] == prompt and only["finish_reason"] == "length"
        for key in ("tokens", "token_logprobs", "text_offset"):
            assert only["logprobs"][key] == more["logprobs"][key][:-1]
        assert only["logprobs"]["token_logprobs"][0] is None
    stream = client.post(
        "/v1/completions",
        json=ask | {"max_tokens": 0, "prompt": "what is 3", "stream": True, "stream_options": {"include_usage": True}},
    )
    chunks = [json.loads(line[6:]) for line in stream.text.split("\n\n") if line.startswith("data: {")]
    assert (
        chunks[0]["choices"][0]["text"] == "what is 3"
        and chunks[0]["choices"][0]["finish_reason"] == "length"
        and chunks[-1]["usage"]["completion_tokens"] == 0
    )
    error = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 0}).json()["error"]
    assert error["param"] == "max_tokens" and "echo" in error["message"]


def test_an_empty_prompt_begins_a_document(client: httpx2.Client) -> None:
    start = client.post("/tokenize", json={"prompt": "<|endoftext|>"}).json()["tokens"]
    same = [
        client.post("/v1/completions", json={"prompt": p, "max_tokens": 4, "temperature": 0, "seed": 1}).json()[
            "choices"
        ][0]["text"]
        for p in ("", start)
    ]
    assert same[0] == same[1]
    both = client.post("/v1/completions", json={"prompt": ["", "x"], "max_tokens": 2, "echo": True}).json()["choices"]
    assert len(both) == 2 and both[1]["text"].startswith("x") and "<|" not in both[0]["text"]


def test_a_remote_tokenizer_finds_what_it_asks_for(client: httpx2.Client) -> None:
    """lm-eval's `tokenizer_backend=remote` reads these, then uses /tokenize and /detokenize."""
    info = client.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>" and info["pad_token"] == "<|endoftext|>" and info["bos_token"] is None
    assert info["chat_template"] == scripted.OPENING and info["model_max_length"] == 1024
    body = {"prompt": "what", "add_special_tokens": False}
    assert (
        client.post("/v1/tokenize", json=body).json()["tokens"] == client.post("/tokenize", json=body).json()["tokens"]
    )
    assert client.post("/v1/detokenize", json={"tokens": [65]}).status_code == 200


BODY = json.dumps({"messages": [{"role": "user", "content": "abc é"}]}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (
            BODY.encode(),
            {"content-type": "application/x-www-form-urlencoded"},
            ["Content-Type: application/json", "x-www-form-urlencoded"],
        ),
        (BODY.encode(), {}, ["Content-Type: application/json", "without one"]),
        (BODY.encode(), {"content-type": "text/plain"}, ["Content-Type", "text/plain"]),
        (
            gzip.compress(BODY.encode(), mtime=0),
            {"content-type": "application/json", "content-encoding": "gzip"},
            ["Content-Encoding: gzip", "as it is"],
        ),
        (BODY.encode("latin-1"), {"content-type": "application/json"}, ["UTF-8"]),
        (b"[]", {"content-type": "application/json"}, ["JSON object"]),
        (b"", {"content-type": "application/json"}, ["JSON object"]),
        (b"{", {"content-type": "application/json"}, ["not JSON"]),
    ],
)
def test_a_body_that_was_sent_wrongly(client: httpx2.Client, content: bytes, headers: dict, words: list[str]) -> None:
    error = client.post("/v1/chat/completions", content=content, headers=headers)
    assert error.status_code == 400 and all(w in error.json()["error"]["message"] for w in words), error.text
    for kind in ("application/json", "application/json; charset=utf-8", "application/vnd.api+json"):
        assert (
            client.post("/v1/chat/completions", content=BODY.encode(), headers={"content-type": kind}).status_code
            == 200
        )


def test_uptime_checks(client: httpx2.Client) -> None:
    for path in ("/health", "/ping", "/version", "/v1/models", "/v1/models/scripted", "/"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"") and head.headers[
            "content-type"
        ] == get.headers["content-type"], path
    assert client.head("/v1/models/nope").status_code == 404 and client.head("/v1/chat/completions").status_code == 405
    assert client.get("/version").json()["version"]


def test_what_this_server_has_not(client: httpx2.Client) -> None:
    for path in ("/v1/embeddings", "/embeddings", "/v1/rerank"):
        error = client.post(path, json={"input": "x"})
        assert error.status_code == 404 and "no embeddings" in error.json()["error"]["message"]
    assert "text only" in client.post("/v1/audio/speech", json={}).json()["error"]["message"]
    for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio", "input_audio": {}}):
        error = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]}).json()[
            "error"
        ]
        assert (
            "reads text only" in error["message"]
            and part["type"] in error["message"]
            and error["param"] == "messages.0.content"
        )
    error = client.post(
        "/v1/responses", json={"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}
    ).json()["error"]
    assert "reads text only" in error["message"] and error["param"] == "input.0.content"


def test_special_tokens_are_not_text(client: httpx2.Client) -> None:
    said = choice(chat(client, "repeat:hm\n</think>\n\nyes", ignore_eos=True, max_tokens=30))["message"]["content"]
    assert said == "yes"
    shown = choice(
        chat(client, "repeat:hm\n</think>\n\nyes", ignore_eos=True, max_tokens=30, skip_special_tokens=False)
    )["message"]["content"]
    assert shown.startswith("yes<|im_end|><|im_end|>")
    cut = choice(chat(client, "repeat:hm\n</think>\n\nyes", ignore_eos=True, max_tokens=30, stop=["<|im_end|>"]))
    assert cut["message"]["content"] == "yes" and cut["stop_reason"] == "<|im_end|>"


# -- tools -----------------------------------------------------------------------------------------

EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
LONG = '</think><tool_call>\n{"name": "f", "arguments": {"text": "' + "so it is " * 40 + '"}}\n</tool_call>'
TEXT = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


@pytest.mark.parametrize("more", [{}, {"tool_choice": "required"}])
def test_a_call_that_a_limit_cuts_off_stays_a_call(client: httpx2.Client, more: dict) -> None:
    whole = choice(chat(client, f"repeat:{LONG}", tools=[TEXT], max_tokens=40, **more))
    assert whole["finish_reason"] == "length" and not whole["message"]["content"]
    (call,) = whole["message"]["tool_calls"]
    assert call["function"]["name"] == "f" and call["function"]["arguments"].startswith('{"text": "so it is')
    stream = streamed(chat(client, f"repeat:{LONG}", tools=[TEXT], max_tokens=40, stream=True, **more))
    assert (
        stream["message"]["tool_calls"] == [call["function"]]
        and stream["message"]["content"] == ""
        and stream["finish_reason"] == "length"
    )
    before = choice(chat(client, f"repeat:{LONG}", tools=[TEXT], max_tokens=5, **more))
    assert before["message"]["content"] == "" and "tool_calls" not in before["message"]
    answer = client.post(
        "/v1/responses",
        json={
            "input": f"repeat:{LONG}",
            "tools": [{"type": "function", **TEXT["function"]}],
            "max_output_tokens": 40,
            **more,
        },
    ).json()
    assert (
        answer["status"] == "incomplete"
        and answer["output"][-1]["type"] == "function_call"
        and answer["output"][-1]["status"] == "incomplete"
    )


def test_some_of_the_tools(client: httpx2.Client) -> None:
    def allowed(mode: str, *names: str) -> dict:
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": mode, "tools": [{"type": "function", "function": {"name": n}} for n in names]},
        }

    tools = [{"type": "function", "function": {"name": n, "parameters": EMPTY}} for n in "fg"]
    assert (
        choice(chat(client, "abc", tools=tools, tool_choice="any", parallel_tool_calls=False))["finish_reason"]
        == "tool_calls"
    )
    (call,) = choice(chat(client, "abc", tools=tools, tool_choice=allowed("required", "g"), parallel_tool_calls=False))[
        "message"
    ]["tool_calls"]
    assert call["function"]["name"] == "g"
    assert choice(chat(client, "abc", tools=tools, tool_choice=allowed("auto", "g")))["message"]["content"] == "cba"
    said = choice(chat(client, f"repeat:</think>{CALL}", tools=tools, tool_choice=allowed("auto", "g"), max_tokens=60))[
        "message"
    ]
    assert all(c["function"]["name"] == "g" for c in said.get("tool_calls", ()))
    error = chat(client, tools=tools, tool_choice=allowed("auto", "x")).json()["error"]
    assert error["param"] == "tool_choice" and "'x'" in error["message"]
    functions = [{"type": "function", **t["function"]} for t in tools]
    choose = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    output = client.post(
        "/v1/responses", json={"input": "abc", "tools": functions, "tool_choice": choose, "parallel_tool_calls": False}
    ).json()["output"]
    assert output[-1]["name"] == "g"


def test_input_items_of_a_response(client: httpx2.Client) -> None:
    items = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    made = client.post("/v1/responses", json={"input": items}).json()["id"]
    listed = client.get(f"/v1/responses/{made}/input_items", params={"order": "asc"}).json()
    assert (
        [i["content"][0]["text"] for i in listed["data"]] == ["one", "two", "three"]
        and not listed["has_more"]
        and all(i["id"] for i in listed["data"])
    )
    last = client.get(f"/v1/responses/{made}/input_items", params={"limit": 1}).json()
    assert last["data"][0]["content"][0]["text"] == "three" and last["has_more"]
    rest = client.get(f"/v1/responses/{made}/input_items", params={"after": last["last_id"]}).json()
    assert [i["content"][0]["text"] for i in rest["data"]] == ["two", "one"]
    assert (
        client.get("/v1/responses/nope/input_items").status_code == 404
        and client.get(f"/v1/responses/{made}/input_items?limit=0").status_code == 400
    )


@pytest.mark.parametrize(
    "written",
    [
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        "<function=f><parameter=a>1</parameter></function>", '{"name": "f", "arguments": {"a": 1}}',
        '```json\n{"name": "f", "parameters": {"a": 1}}\n```',
        "<tool_call>\n{'name': 'f', 'arguments': {'a': 1}}\n</tool_call>",
    ],
)  # fmt: skip
def test_calls_in_other_forms(client: httpx2.Client, written: str) -> None:
    whole = choice(chat(client, f"repeat:hm</think>\n\n{written}", tools=[TOOL]))
    (call,) = whole["message"]["tool_calls"]
    assert (
        whole["finish_reason"] == "tool_calls"
        and not whole["message"]["content"]
        and json.loads(call["function"]["arguments"]) == {"a": 1}
    )
    stream = streamed(chat(client, f"repeat:hm</think>\n\n{written}", tools=[TOOL], stream=True))
    assert (
        stream["message"]["tool_calls"] == [call["function"]]
        and stream["message"]["content"] == ""
        and stream["finish_reason"] == "tool_calls"
    )
    output = client.post(
        "/v1/responses",
        json={"input": f"repeat:hm</think>\n\n{written}", "tools": [{"type": "function", **TOOL["function"]}]},
    ).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call"] and json.loads(
        output[1]["arguments"]
    ) == {"a": 1}
    assert choice(chat(client, f"repeat:hm</think>\n\n{written}"))["message"]["content"] == written
