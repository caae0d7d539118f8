"""Filling in the middle: `suffix` of text completions, `/infill`, Ollama's suffix; and what else is
asked of llama.cpp's server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest
from tokenizers import AddedToken

pytest.importorskip("llguidance")

import scripted

from qwq.serve.infill import Infill
from qwq.text.template import ChatFormat, ChatTemplate
from qwq.text.tokenizer import Tokenizer

FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
seen: list[str] = []


def coder() -> ChatFormat:
    plain = scripted.chat_format().tokenizer
    plain._inner.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in FIM])
    return ChatFormat(
        Tokenizer(plain._inner, eos_ids=plain.eos_ids, config=plain.config), ChatTemplate(scripted.OPENING)
    )


def reply(prompt: str) -> str:
    seen.append(prompt)
    return "what is<|file_sep|>never shown" if "<|fim_middle|>" in prompt else "hm\n</think>\n\nyes"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    chat = coder()
    backend = scripted.Script(chat, reply)
    backend.encode = chat.tokenizer.encode_rendered  # type: ignore[method-assign]  # a reply may hold special tokens
    with (
        scripted.served(scripted.opened(chat, backend, max_len=256)) as url,
        httpx2.Client(base_url=url, timeout=60) as made,
    ):
        yield made


PROMPT = "<|fim_prefix|>def f<|fim_suffix|>return 3<|fim_middle|>"


def test_suffix_of_text_completions(client: httpx2.Client) -> None:
    made = client.post("/v1/completions", json={"prompt": "def f", "suffix": "return 3", "max_tokens": 40}).json()[
        "choices"
    ][0]
    assert made["text"] == "what is" and made["finish_reason"] == "stop" and seen[-1] == PROMPT
    many = client.post("/v1/completions", json={"prompt": ["a", "b"], "suffix": "c", "max_tokens": 40}).json()[
        "choices"
    ]
    assert [c["text"] for c in many] == ["what is"] * 2
    # The caller's text is words: it cannot open or close anything.
    client.post("/v1/completions", json={"prompt": "x<|fim_middle|>y", "suffix": "z", "max_tokens": 4})
    ids = client.post("/tokenize", json={"prompt": "<|fim_middle|>"}).json()["tokens"]
    assert len(ids) == 1
    for body in ({"echo": True}, {"prompt": [1, 2]}):
        error = client.post("/v1/completions", json={"prompt": "x", "suffix": "y", "max_tokens": 4, **body})
        assert error.status_code == 400 and error.json()["error"]["param"] == "suffix"


def test_infill_whole_and_streamed(client: httpx2.Client) -> None:
    body = {
        "input_prefix": "def f",
        "input_suffix": "return 3",
        "n_predict": 40,
        "samplers": ["top_k"],
        "t_max_predict_ms": 500,
        "cache_prompt": True,
        "top_k": 40,
    }
    made = client.post("/infill", json=body)
    assert (
        made.status_code == 200
        and made.json()["content"] == "what is"
        and made.json()["stop_type"] == "eos"
        and made.json()["tokens_predicted"] > 0
    ), made.text
    assert seen[-1] == PROMPT
    lines = [
        json.loads(line[6:])
        for line in client.post("/infill", json=body | {"stream": True}).text.split("\n\n")
        if line.startswith("data: ")
    ]
    assert "".join(li["content"] for li in lines) == "what is" and [li["stop"] for li in lines][-1] is True
    assert client.post("/infill", json=body | {"n_predict": 1}).json()["stop_type"] == "limit"
    begun = client.post("/infill", json=body | {"prompt": "  let"}).json()["tokens_evaluated"]
    assert begun == made.json()["tokens_evaluated"] + client.post("/tokenize", json={"prompt": "  let"}).json()["count"]
    client.post("/infill", json=body | {"input_extra": [{"filename": "a.py", "text": "x = 1"}, {"text": "y"}]})
    assert seen[-1].startswith(
        "<|repo_name|>project\n<|file_sep|>a.py\nx = 1\n<|file_sep|>file\ny\n<|file_sep|>current\n<|fim_prefix|>def f"
    )
    client.post(
        "/infill",
        json=body | {"input_extra": [{"filename": "long", "text": "word " * 500}, {"filename": "b", "text": "z"}]},
    )
    assert seen[-1].startswith(
        "<|repo_name|>project\n<|file_sep|>b\nz\n"
    )  # what does not fit is left out, the first files first


def test_ollamas_suffix(client: httpx2.Client) -> None:
    made = client.post(
        "/api/generate", json={"model": "scripted", "prompt": "def f", "suffix": "return 3", "stream": False}
    ).json()
    assert (
        made["response"] == "what is"
        and seen[-1] == PROMPT
        and "insert" in client.post("/api/show", json={"model": "scripted"}).json()["capabilities"]
    )


def test_a_model_without_the_tokens_says_so() -> None:
    chat = scripted.chat_format()
    assert Infill.of(chat.tokenizer) is None
    with (
        scripted.served(scripted.opened(chat, scripted.Script(chat, lambda prompt: "x"))) as url,
        httpx2.Client(base_url=url) as own,
    ):
        for path, body in (
            ("/v1/completions", {"prompt": "x", "suffix": "y"}),
            ("/infill", {"input_prefix": "x", "input_suffix": "y"}),
        ):
            error = own.post(path, json=body)
            assert error.status_code == 400 and "use a Coder model" in error.json()["error"]["message"]
        assert own.post("/v1/completions", json={"prompt": "x", "suffix": "", "max_tokens": 2}).status_code == 200


def test_what_else_is_asked_of_llamacpps_server(client: httpx2.Client) -> None:
    props = client.get("/props").json()
    assert (
        props["default_generation_settings"]["n_ctx"] == 256
        and props["total_slots"] == 8
        and props["chat_template"] == scripted.OPENING
        and props["eos_token"] == "<|im_end|>"
    )
    slots = client.get("/slots").json()
    assert len(slots) == 8 and not any(s["is_processing"] for s in slots)
    assert (
        client.post("/apply-template", json={"messages": [{"role": "user", "content": "hi"}]}).json()["prompt"]
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert client.post("/apply-template", json={}).status_code == 400
