"""`qwq serve` on a small trained-from-nothing model, over HTTP on loopback, as a client sees it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from commands import run
from little import Served, make_model

from qwq.text.template import ChatFormat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served") / "little")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    served = Served(folder)
    yield served
    served.stop()


QUESTION = [{"role": "user", "content": "what is 3 and 4?"}]


def test_models_and_health(server: Served) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    (entry,) = server.client.get("/v1/models").json()["data"]
    assert entry["id"] == "little" and entry["max_model_len"] == 512
    assert "GiB (weights" in server.said[0]  # the memory plan comes first


@pytest.mark.parametrize("budget", [0, 16, 64])
def test_a_thinking_budget_holds_and_an_answer_follows(server: Served, budget: int) -> None:
    for seed in range(5):
        answer = server.post(
            "/v1/chat/completions",
            messages=QUESTION,
            max_tokens=200,
            thinking_token_budget=budget,
            seed=seed,
            temperature=1.0,
        )
        assert answer.status_code == 200, answer.text
        body = answer.json()
        message, usage = body["choices"][0]["message"], body["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] <= budget
        assert message["content"].strip() and "</think>" not in message["content"]
        assert message["reasoning_content"] == message.get("reasoning")
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_seed_repeats_and_samples_differ(server: Served) -> None:
    def texts(**more: Any) -> list[str]:
        body = server.post(
            "/v1/completions", prompt="question 3: what", max_tokens=20, n=4, temperature=1.0, **more
        ).json()
        assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
        return [c["text"] for c in body["choices"]]

    assert texts(seed=7) == texts(seed=7) != texts(seed=8)
    assert len(set(texts(seed=7))) == 4
    assert texts() != texts()


def test_prompts_in_all_four_shapes(server: Served, folder: Path) -> None:
    ids = ChatFormat.from_folder(folder).tokenizer.encode("question 3")
    bodies = [
        server.post("/v1/completions", prompt=p, max_tokens=8, temperature=0).json()
        for p in ("question 3", ids, ["question 3", "question 4"], [ids, ids])
    ]
    assert [len(b["choices"]) for b in bodies] == [1, 1, 2, 2]
    assert len({b["choices"][0]["text"] for b in bodies}) == 1
    assert bodies[2]["usage"]["prompt_tokens"] == 2 * len(ids)


def test_log_probabilities(server: Served) -> None:
    chat = server.post(
        "/v1/chat/completions", messages=QUESTION, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    ).json()
    for token in chat["choices"][0]["logprobs"]["content"]:
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0 and len(token["top_logprobs"]) == 3
    plain = server.post("/v1/completions", prompt="question", max_tokens=6, temperature=0, logprobs=2).json()
    logprobs = plain["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == plain["choices"][0]["text"] and len(logprobs["token_logprobs"]) == 6
    assert logprobs["text_offset"][1] == len(logprobs["tokens"][0])


def test_stop_and_bias_and_length(server: Served) -> None:
    free = server.post("/v1/completions", prompt="question 3", max_tokens=30, temperature=0).json()["choices"][0]
    assert free["finish_reason"] == "length"
    stop = free["text"][8:11]
    cut = server.post("/v1/completions", prompt="question 3", max_tokens=30, temperature=0, stop=[stop]).json()[
        "choices"
    ][0]
    assert cut == cut | {"text": free["text"][: free["text"].index(stop)], "finish_reason": "stop", "stop_reason": stop}
    biased = server.post("/v1/completions", prompt="q", max_tokens=5, logit_bias={"20": 100}, seed=1).json()["choices"][
        0
    ]
    assert len(set(biased["text"])) == 1


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": "x", "wibble": 1}, "wibble", "wibble: is not implemented here"),
        ({"prompt": "x", "Top-P[0]": 1}, "Top-P[0]", "Top-P[0]: is not implemented here"),
        ({"prompt": "x", "": 1}, '""', '"": is not implemented here'),
        ({"prompt": "x", "stream": "yes"}, "stream", "boolean"),
        ({"prompt": "x", "temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens", "needs echo"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [9999]}, None, "token id 9999 is outside the vocabulary"),
        ({"prompt": "x", "thinking_token_budget": -1}, "thinking_token_budget", "greater than or equal to 0"),
        ({"prompt": "what " * 600}, None, "the model's context is 512"),
        ({}, "prompt", "required"),
    ],
)
def test_what_cannot_be_met_is_a_400_with_its_field(server: Served, body: dict, param: str | None, words: str) -> None:
    answer = server.post("/v1/completions", **body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and words in error["message"] and error["param"] == param, error


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"reasoning": {"Effort": "low"}}, "reasoning.Effort"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"properties": 5}}]}, "tools"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"include": ["pictures"]}, "include.0"),
    ],
)
def test_what_a_response_cannot_meet_names_its_field(server: Served, more: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/responses", input="x", **more)
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_beyond_64_bits_comes_back_as_it_was_given(server: Served, stream: bool) -> None:
    text = server.post("/v1/responses", input="x", max_output_tokens=10**40, stream=stream, temperature=0).text
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert (last["response"] if stream else last)["max_output_tokens"] == 10**40


def test_an_item_that_the_limit_cut_is_incomplete_in_its_event_and_in_the_response(server: Served) -> None:
    text = server.post("/v1/responses", input="x", max_output_tokens=6, stream=True, temperature=0).text
    events = [json.loads(block.partition("data: ")[2]) for block in text.split("\n\n")[:-1]]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    done, last = events[-2], events[-1]
    assert (done["type"], last["type"]) == ("response.output_item.done", "response.incomplete")
    assert done["item"]["status"] == "incomplete" and last["response"]["output"] == [done["item"]]


def test_other_refusals(server: Served) -> None:
    assert server.post("/v1/completions", prompt="x", model="other").status_code == 404
    broken = server.client.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 400 and broken.json()["error"]["message"] == "the body is not JSON"
    bad = server.post("/v1/chat/completions", messages=[{"role": "user", "content": [{"type": "image_url"}]}])
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "messages.0.content"


def test_advisory_fields_are_accepted(server: Served) -> None:
    body = {
        "prompt": "x",
        "max_tokens": 2,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "stop": None,
    }
    assert server.post("/v1/completions", **body).status_code == 200


def test_many_at_once_and_some_go_away(server: Served) -> None:
    results: dict[int, str] = {}

    def ask(i: int) -> None:
        if i % 4 == 3:
            with pytest.raises(httpx2.TimeoutException):
                server.client.post(
                    "/v1/completions",
                    json={"prompt": f"question {i}", "max_tokens": 480, "ignore_eos": True},
                    timeout=0.3,
                )
            return
        body = server.post("/v1/completions", prompt=f"question {i}", max_tokens=20, seed=i, temperature=1.0).json()
        results[i] = body["choices"][0]["text"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(results) == 18
    for i in (0, 5, 22):
        assert (
            server.post("/v1/completions", prompt=f"question {i}", max_tokens=20, seed=i, temperature=1.0).json()[
                "choices"
            ][0]["text"]
            == results[i]
        )


def test_it_ends_when_asked_and_a_taken_port_is_said(folder: Path, server: Served) -> None:
    port = str(server.client.base_url.port)
    taken = run("serve", folder, "--port", port, timeout=60)
    assert (
        taken.returncode == 2
        and f"cannot listen on 127.0.0.1:{port}" in taken.stderr
        and "Traceback" not in taken.stderr
    )
    short = Served(folder, "--deterministic", "--max-model-len", "64")
    assert json.loads(short.client.get("/v1/models").text)["data"][0]["max_model_len"] == 64
    assert short.post("/v1/completions", prompt="question", max_tokens=8, temperature=0).status_code == 200
    assert short.stop() == 0


def test_a_key_a_stream_and_a_clean_end(folder: Path) -> None:
    served = Served(
        folder,
        "--api-key",
        "secret",
        "--shutdown-timeout",
        "0.3",
        "--no-page",
        "--served-model-name",
        "a",
        "--served-model-name",
        "b",
    )
    try:
        assert served.client.get("/v1/models").status_code == 401
        served.client.headers["authorization"] = "Bearer secret"
        assert [m["id"] for m in served.client.get("/v1/models").json()["data"]] == ["a", "b"]
        body = {"messages": QUESTION, "stream": True, "ignore_eos": True, "n": 4, "seed": 1}
        with served.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"  # finished or cut off, the stream has its end
    finally:
        assert served.stop() == 0
