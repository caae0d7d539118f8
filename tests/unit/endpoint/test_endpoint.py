"""The client of OpenAI-compatible servers against a scripted one: what is an answer, what is asked
again, what is a failure.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fake_endpoint import FakeEndpoint

from qwq.endpoint.openai_client import EndpointClient, EndpointRequest, for_api
from qwq.endpoint.parallel import MAX_FAILURES, concurrently
from qwq.endpoint.reply import RequestFailed, read_completion
from qwq.errors import ConfigError, InfraError
from qwq.rollout.history import unreadable_call
from qwq.types import Message, StopReason, ToolCall, Turn

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
READ = ToolCall("f", {"x": 1})


def request(**options: Any) -> EndpointRequest:
    return EndpointRequest([{"role": "user", "content": "q"}], 7, 0.6, 0.95, **{"max_new_tokens": 1000, **options})


def ask(server: FakeEndpoint, model: str = "m", opens_thinking: bool | None = None, **options: Any) -> Turn:
    client = EndpointClient(server.url, model, opens_thinking=opens_thinking, patience=(0.01, 0.01, 0.01))
    with contextlib.closing(client):
        return client.complete(request(**options))


# -- the answer in its parts -----------------------------------------------------------------------


def parts(message: dict[str, Any], finish: Any = "stop", extra: dict[str, Any] | None = None, **options: Any) -> tuple:
    data = {"choices": [{"message": message, "finish_reason": finish, **(extra or {})}], "usage": None}
    got = read_completion(data, **options)
    return got.parts.thinking or "", got.answer, got.stop_reason.value


@pytest.mark.parametrize(
    ("message", "finish", "extra", "expected"),
    [
        ({"content": "a"}, "stop", {}, ("", "a", "end")),
        ({"content": "a"}, "eos_token", {}, ("", "a", "end")),
        ({"content": None}, "stop", {}, ("", "", "end")),
        # A loop in the thinking, which a budget closed.
        ({"content": "a"}, "stop", {"stop_reason": "loop"}, ("", "a", "end")),
        ({"content": "x</think>\n\na"}, "stop", {}, ("x", "a", "end")),
        ({"content": "x</think>\n\na"}, "length", {}, ("x", "a", "length")),
        ({"content": "<think>x"}, "length", {}, ("x", "", "length")),
        ({"content": "<think>x"}, "stop", {}, ("x", "", "end")),
        ({"content": None, "reasoning": "x"}, "length", {}, ("x", "", "length")),
        ({"content": "a", "reasoning_content": "x"}, "length", {}, ("x", "a", "length")),
        ({"content": "a", "reasoning_content": None, "reasoning": None}, "stop", {}, ("", "a", "end")),
        ({"content": "a"}, "content_filter", {}, ("a", "", "abort")),
        # A thought that the template opened, cut off before `</think>`: no answer.
        ({"content": "The user wants no commas so I"}, "length", {}, ("The user wants no commas so I", "", "length")),
        ({"content": "again again"}, "length", {"stop_reason": "loop"}, ("again again", "", "loop")),
        # Content as a list of parts.
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "stop", {}, ("", "ab", "end")),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "x"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            "stop",
            {},
            ("x", "a", "end"),
        ),
        ({"content": []}, "stop", {}, ("", "", "end")),
        ({"content": [None, "a", {"type": "output_text", "text": "b"}, {"type": "x"}]}, "stop", {}, ("", "ab", "end")),
        # A refusal is what the model says.
        ({"content": None, "refusal": "I cannot."}, "stop", {}, ("", "I cannot.", "end")),
        ({"content": "a", "refusal": None}, "stop", {}, ("", "a", "end")),
        # Fields of another shape are additions of that server.
        ({"content": "a", "reasoning": {"effort": "low"}}, "stop", {}, ("", "a", "end")),
        ({"content": "a", "reasoning_content": " ", "reasoning": "x"}, "stop", {}, ("x", "a", "end")),
    ],
)
def test_what_servers_say(message: dict[str, Any], finish: str, extra: dict[str, Any], expected: Any) -> None:
    assert parts(message, finish, extra) == expected


@pytest.mark.parametrize(
    ("content", "finish", "opens", "expected"),
    [
        ("A thought", "length", False, ("", "A thought", "length")),
        ("A thought", "stop", None, ("", "A thought", "end")),
        ("A thought", "stop", True, ("A thought", "", "end")),
        ("A thought</think>a", "stop", True, ("A thought", "a", "end")),
        (
            "A thought</think>a",
            "stop",
            False,
            ("", "A thought</think>a", "end"),
        ),  # no thought was opened, so nothing closes one
        ("A thought</think>a", "stop", None, ("A thought", "a", "end")),
        ("A thought</think>a", "length", None, ("A thought", "a", "length")),
        ("<think>A thought</think>a </think> b", "stop", False, ("A thought", "a </think> b", "end")),
        ("<think>A thought</think>a", "stop", True, ("A thought", "a", "end")),
    ],
)
def test_who_opens_the_thinking_decides_about_a_text_without_marks(
    content: str, finish: str, opens: bool | None, expected: Any
) -> None:
    assert parts({"content": content}, finish, opens_thinking=opens) == expected


def test_qwq_opens_its_thinking_and_a_budget_of_nothing_closes_it() -> None:
    with FakeEndpoint(lambda body: "A thought, ended") as server:
        assert ask(server, "Qwen/QwQ-32B-AWQ").answer == ""
        assert ask(server, "Qwen/QwQ-32B-AWQ", thinking_budget=0).answer == "A thought, ended"
        assert ask(server, "Qwen/QwQ-32B-AWQ", opens_thinking=False).answer == "A thought, ended"
        assert ask(server, "qwq-tiny").answer == "A thought, ended"


def test_ids_of_calls_come_back_and_a_broken_call_is_answered_under_its_own() -> None:
    made = [
        {"id": "a1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "a2", "type": "function", "function": {"name": "f", "arguments": '{"x": 1'}},
    ]
    body = {"choices": [{"message": {"content": None, "tool_calls": made}, "finish_reason": "tool_calls"}]}
    good, broken = read_completion(body).parts.calls_in_order
    assert isinstance(good, ToolCall) and isinstance(broken, str)
    messages = [
        Message("assistant", "", (good, unreadable_call(broken))),
        Message("tool", "1"),
        Message("tool", "error"),
    ]
    sent = for_api([m.to_dict() for m in messages])
    assert [c["id"] for c in sent[0]["tool_calls"]] == ["a1", "a2"] == [m["tool_call_id"] for m in sent[1:]]
    arguments = [json.loads(c["function"]["arguments"]) for c in sent[0]["tool_calls"]]
    assert arguments == [{"x": 1}, {"unreadable": '{"x": 1'}]
    # Without ids of the server's own, calls and answers are numbered.
    sent = for_api([Message("assistant", "", (ToolCall("f", {}),)).to_dict(), {"role": "tool", "content": "1"}])
    assert sent[0]["tool_calls"][0]["id"] == sent[1]["tool_call_id"] == "call_0_0"


def test_an_id_that_a_server_gives_twice_is_sent_back_once() -> None:
    """Some servers count their ids from 0 in every answer, or call all of them the same."""
    call = ToolCall("f", {}, id="c0")
    turn = [Message("assistant", "", (call, call)), Message("tool", "1"), Message("tool", "2")]
    sent = for_api([m.to_dict() for m in [*turn, *turn]])
    made = [c["id"] for m in sent if m["role"] == "assistant" for c in m["tool_calls"]]
    assert made == [m["tool_call_id"] for m in sent if m["role"] == "tool"] and len(set(made)) == 4
    assert made[0] == "c0"


@pytest.mark.parametrize(
    ("message", "answer", "calls", "malformed"),
    [
        ({"content": CALL}, "", (READ,), 0),
        ({"content": f"I call.\n{CALL}", "reasoning_content": "hm"}, "I call.", (READ,), 0),  # no parser of tools
        ({"content": f"hm</think>{CALL}"}, "", (READ,), 0),
        ({"content": "<tool_call>{", "reasoning_content": "hm"}, "<tool_call>{", (), 1),
        ({"content": CALL, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}, CALL, (READ,), 0),
        ({"content": f"hm {CALL}"}, "hm", (READ,), 0),
        ({"content": f"<think>hm {CALL}"}, "", (READ,), 0),  # the last thing in a thought that never closes
        ({"content": f"<think>hm {CALL} or not"}, "", (), 0),
        (
            {"content": None, "reasoning": "hm", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
            "",
            (READ,),
            0,
        ),
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "", (), 1),
        ({"content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}, "", (READ,), 0),
        # Arguments whose JSON text a server encoded once more; text in quotes is none.
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '"{\\"x\\": 1}"'}}]}, "", (READ,), 0),
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '"x"'}}]}, "", (), 1),
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '"x'}}]}, "", (), 1),
    ],
)
def test_calls_come_in_the_text_or_apart(message: dict[str, Any], answer: str, calls: tuple, malformed: int) -> None:
    got = read_completion({"choices": [{"message": message, "finish_reason": "tool_calls"}]}, tools=("f",))
    assert (got.answer, got.calls, len(got.malformed)) == (answer, calls, malformed)


def test_without_tools_a_call_is_text() -> None:
    assert parts({"content": CALL}) == ("", CALL, "end")
    assert parts({"content": CALL, "reasoning_content": "hm"}) == ("hm", CALL, "end")


def test_thinking_tokens_are_counted_or_shared_by_characters() -> None:
    choice = {"message": {"content": "abcd</think>ab"}, "finish_reason": "stop"}
    usage = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}}
    counted = read_completion({"choices": [choice], "usage": usage})
    assert (counted.num_tokens, counted.num_thinking, counted.estimated) == (9, 5, False)
    shared = read_completion({"choices": [choice], "usage": {"completion_tokens": 9}})
    assert (shared.num_thinking, shared.estimated) == (6, True)  # 4 of 6 characters
    assert read_completion({"choices": [choice]}).num_tokens == 0


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"completion_tokens": float("inf")}, (0, 0)),
        ({"completion_tokens": float("nan")}, (0, 0)),
        ({"completion_tokens": -5}, (0, 0)),
        ({"completion_tokens": "9"}, (9, 0)),
        ({"completion_tokens": [9]}, (0, 0)),
        ([9], (0, 0)),
        ({"completion_tokens": 9, "completion_tokens_details": [5]}, (9, 0)),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 99}}, (9, 9)),
    ],
)
def test_a_count_that_is_none_costs_no_answer(usage: Any, expected: tuple[int, int]) -> None:
    choice = {"message": {"content": "a"}, "finish_reason": "stop"}
    turn = read_completion({"choices": [choice], "usage": usage})
    assert turn.answer == "a" and (turn.num_tokens, turn.num_thinking) == expected


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("finish", ["error", None, "abort", "insufficient_system_resource", "unknown", 7])
def test_an_ending_that_no_model_makes_is_the_servers_failure(finish: Any) -> None:
    with FakeEndpoint(lambda body: {"content": "\\boxed{1}", "finish_reason": finish}) as server:
        with pytest.raises(RequestFailed, match=f"finish_reason {finish!r}"):
            ask(server)
        assert len(server.asked) == 3  # such a failure may pass


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "rate limited", "code": 429}}, "an answer without choices"),
        ({"choices": []}, "an answer without choices"),
        ({"choices": [7]}, "not of OpenAI's shape"),
        ({"choices": None}, "an answer without choices"),
        ({"choices": [None]}, r"shape: \{"),
        ({"choices": [{"message": {"content": {"a": 1}}, "finish_reason": "stop"}]}, r"shape \(its content is neither"),
        ({"choices": [{"message": {"content": "a", "tool_calls": ["f"]}, "finish_reason": "stop"}]}, r"shape: \{"),
        ({"choices": [{"message": {"content": "a"}, "finish_reason": "error", "error": {"code": 502}}]}, '"code": 502'),
        (["no object"], "an answer without choices"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(body: Any, words: str) -> None:
    with FakeEndpoint(lambda _: (200, body)) as server, pytest.raises(RequestFailed, match=words):
        ask(server)


def test_a_failure_that_passes_is_asked_again() -> None:
    script = iter([(503, "busy"), (200, {"error": "x"}), {"content": "", "finish_reason": "error"}, "fine"])
    with FakeEndpoint(lambda body: next(script)) as server:
        assert ask(server).answer == "fine"


@pytest.mark.parametrize(
    "said",
    [
        "Jinja error in chat template: context variable 'tools' is undefined", "this model is too long retired",
        "temperature and top_p may not both be set", "max_tokens must be at least 1, got -186.",
    ],
)  # fmt: skip
def test_a_refusal_that_names_no_length_is_a_failure(said: str) -> None:
    with FakeEndpoint(lambda body: (400, said)) as server:
        with pytest.raises(RequestFailed, match="refuses the request"):
            ask(server)
        assert len(server.asked) == 1  # it would be refused again


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (401, "no", "wants a key: set QWQ_API_KEY or OPENAI_API_KEY"),
        (403, "forbidden", "does not let this key in"),
        (404, "The model `m` does not exist", "has no model 'm'.*check the URL and the model's name"),
        (400, "Unrecognized request argument supplied: top_k", "--top-k 0 leaves top_k out"),
        (
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "--tool-format prompt",
        ),
        (422, "thinking_token_budget: extra fields not permitted", "leave --thinking-budget out"),
    ],
)
def test_what_the_user_can_mend_says_so(status: int, said: str, words: str) -> None:
    with FakeEndpoint(lambda body: (status, said)) as server, pytest.raises(ConfigError, match=words):
        ask(server, top_k=40, thinking_budget=5)


def over(answer: httpx2.Response, model: str = "m") -> EndpointClient:
    """A client whose server gives one answer to everything."""
    client = EndpointClient("http://127.0.0.1:9/v1", model, patience=())
    client._http = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
    return client


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx2.Response(200, text=DEEP), "an answer that is not JSON: "),
        (httpx2.Response(200, text='{"choices": ' + DEEP), "an answer that is not JSON: "),
        (httpx2.Response(200, text="data: {}\n\ndata: [DONE]\n\n"), r"a stream, .*: data: \{\} data: \[DONE\]$"),
        (httpx2.Response(204), "not JSON: it is empty"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_failure_of_one_line(answer: httpx2.Response, words: str) -> None:
    client = over(answer)
    client.patience = (0.0,) * 3
    with contextlib.closing(client), pytest.raises(RequestFailed, match=words) as failure:
        client.complete(request())
    assert "\n" not in str(failure.value)


def test_bytes_that_are_no_text_cost_no_answer() -> None:
    """Some servers cut a character of several bytes in two."""
    body = b'{"choices": [{"message": {"content": "It is 6\xe2\x82."}, "finish_reason": "stop"}]}'
    with contextlib.closing(over(httpx2.Response(200, content=body))) as client:
        assert client.complete(request()).answer == "It is 6\ufffd."


def test_a_server_that_sends_on_is_named() -> None:
    answer = httpx2.Response(302, headers={"Location": "https://example.org/v1"})
    with (
        contextlib.closing(over(answer)) as client,
        pytest.raises(ConfigError, match=r"sends on to https://example.org/v1 \(status 302\)"),
    ):
        client.complete(request())


@pytest.mark.parametrize("listed", ['{"data": [{"id": 5}]}', '{"data": [{"id": null}, {"id": ""}]}', DEEP, "[]"])
def test_a_list_of_models_that_names_none(listed: str) -> None:
    with contextlib.closing(over(httpx2.Response(200, text=listed), model="")) as client:
        client.connect()
        assert client.model == "default"


def test_no_server_at_all() -> None:
    client = EndpointClient("http://127.0.0.1:9", "m", patience=(0.01,))
    with pytest.raises(InfraError, match=r"gave no answer for 0 s \(ConnectError.*the same command resumes") as error:
        client.complete(request())
    assert not isinstance(error.value, RequestFailed)  # no other request will fare better
    for url in ("localhost:8000", "ftp://x", "http://", ""):
        with pytest.raises(ConfigError, match="give a URL"):
            EndpointClient(url, "m")
    with pytest.raises(ConfigError, match="characters that no header takes"):
        EndpointClient("http://x", "m", api_key="kéy\n")


def test_the_servers_wait_is_waited() -> None:
    script = iter([(429, "later"), "fine"])
    with FakeEndpoint(lambda body: next(script), headers={"Retry-After": "0.3"}) as server:
        started = time.monotonic()
        assert ask(server).answer == "fine"
    assert time.monotonic() - started >= 0.3


# -- lengths ---------------------------------------------------------------------------------------

TOO_LARGE = (
    "'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length is 400 "
    "tokens and your request has {prompt} input tokens"
)


def limits(server: FakeEndpoint) -> list[Any]:
    return [b.get("max_tokens", b.get("max_completion_tokens")) for b in server.asked]


def test_the_newer_name_of_the_limit_keeps_the_limit() -> None:
    def o1(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return (
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                "instead.",
            )
        return "fine"

    with FakeEndpoint(o1) as server:
        with contextlib.closing(EndpointClient(server.url, "m")) as client:
            assert client.complete(request()).answer == client.complete(request()).answer == "fine"
    assert [sorted(k for k in b if k.startswith("max_")) for b in server.asked] == [
        ["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"],
    ]  # fmt: skip
    assert limits(server) == [1000, 1000, 1000]


def test_the_longest_answer_is_asked_for_from_then_on(capsys: pytest.CaptureFixture[str]) -> None:
    def short(body: dict[str, Any]) -> Any:
        most = (
            "max_tokens is too large: {}. This model supports at most 300 completion tokens, whereas you provided {}."
        )
        return (400, most.replace("{}", str(body["max_tokens"]))) if body["max_tokens"] > 300 else "fine"

    with FakeEndpoint(short) as server:
        with contextlib.closing(EndpointClient(server.url, "m")) as client:
            assert client.complete(request()).answer == client.complete(request()).answer == "fine"
    assert limits(server) == [1000, 300, 300]
    assert (
        capsys.readouterr().err
        == "note: the server answers in 300 tokens at most, 1,000 are asked for: answers are cut there\n"
    )


def test_the_room_that_the_prompt_leaves_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def small(body: dict[str, Any]) -> Any:
        asked = body.get("max_tokens", 0)
        return (400, TOO_LARGE.format(asked=asked, prompt=150)) if asked > 250 else "fine"

    with FakeEndpoint(small) as server:
        assert ask(server).answer == "fine"
    assert limits(server) == [1000, 250]
    assert "note: 1,000 new tokens do not fit" in capsys.readouterr().err


def test_a_prompt_that_fills_the_context_is_no_failure() -> None:
    with FakeEndpoint(lambda body: (400, TOO_LARGE.format(asked=1000, prompt=400))) as server:
        got = ask(server)
        assert (got.stop_reason, got.answer, got.num_tokens, got.finish) == (StopReason.CONTEXT, "", 0, "refused")
        assert limits(server) == [1000]
    with FakeEndpoint(lambda body: (400, "maximum context length is 400 tokens")) as server:
        assert ask(server).stop_reason is StopReason.CONTEXT
        assert limits(server) == [1000, None]  # without a limit, the prompt alone is too long
    full = {"error": {"message": "request (500 tokens) exceeds the available context size (400 tokens)", "code": 400}}
    with FakeEndpoint(lambda body: (200, full)) as server:  # as llama.cpp behind some proxies
        assert ask(server).stop_reason is StopReason.CONTEXT


def test_the_context_of_the_list_needs_no_limit() -> None:
    with FakeEndpoint(lambda body: "fine", models=[{"id": "m", "max_model_len": 512}]) as server:
        with contextlib.closing(EndpointClient(server.url, "m")) as client:
            client.connect()
            client.complete(request())
            client.complete(request(max_new_tokens=100))
    assert limits(server) == [None, 100]


def test_half_a_surrogate_pair_is_sent_escaped() -> None:
    with FakeEndpoint(lambda body: body["messages"][0]["content"]) as server:
        with contextlib.closing(EndpointClient(server.url, "m")) as client:
            got = client.complete(EndpointRequest([{"role": "user", "content": "\ud83d é"}], 1, 0, 1, 9))
        assert got.answer == "\ud83d é"


# -- many at once ----------------------------------------------------------------------------------


def test_failures_are_handed_back_until_nothing_else_comes() -> None:
    def even(n: int) -> int:
        if n % 2:
            raise RequestFailed(f"{n} is odd")
        return n

    items: Iterator[int] = iter(range(8))
    got = dict(concurrently(lambda: next(items, None), even, 1))
    assert [got[n] for n in (0, 2, 4, 6)] == [0, 2, 4, 6] and str(got[7]) == "7 is odd" and len(got) == 8
    odd = iter(range(1, 99, 2))
    seen: list[int] = []
    with pytest.raises(InfraError, match=rf"{MAX_FAILURES} requests in a row have no answer; the last: 9 is odd"):
        seen.extend(n for n, _ in concurrently(lambda: next(odd, None), even, 1))
    assert seen == [1, 3, 5, 7, 9]


def test_another_error_ends_it_at_once() -> None:
    def broken(n: int) -> int:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        list(concurrently(iter([1, 2, 3]).__next__, broken, 2))


# -- answers of a form -----------------------------------------------------------------------------

SCHEMA = {"type": "object"}


def test_a_form_is_asked_for_as_openais_api_has_it() -> None:
    with FakeEndpoint(lambda body: "{}") as server:
        ask(server, schema=SCHEMA)
        ask(server)
    first, second = server.asked
    assert first["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert "response_format" not in second


@pytest.mark.parametrize("status", [400, 404, 422, 500, 501])
def test_a_server_that_takes_no_form_is_asked_without_it_from_then_on(status: int) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return (status, "response_format is not supported") if "response_format" in body else "{}"

    with FakeEndpoint(answer) as server:
        client = EndpointClient(server.url, "m", patience=(0.01, 0.01, 0.01))
        with contextlib.closing(client):
            assert [client.complete(request(schema=SCHEMA)).text for _ in range(2)] == ["{}", "{}"]
        assert ["response_format" in body for body in server.asked] == [True, False, False]


def test_what_is_wrong_without_the_form_too_is_told() -> None:
    with FakeEndpoint(lambda body: (401, "no")) as server, pytest.raises(ConfigError, match="wants a key"):
        ask(server, schema=SCHEMA)
    with FakeEndpoint(lambda body: (400, "no such thing")) as server, pytest.raises(RequestFailed, match="no such"):
        ask(server, schema=SCHEMA)
