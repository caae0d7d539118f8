"""The engine on real models, Qwen2.5-Coder-0.5B and SmolLM2-135M, in the folder that QWQ_MODELS
names. `make test-engine` names it and runs this, some minutes on two cores; elsewhere it skips.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from qwq.engine.backends.torch import TorchBackend
from qwq.engine.load import load_engine
from qwq.engine.options import EngineOptions
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.model.gguf import load_gguf
from qwq.model.layouts import Packed
from qwq.model.weights import load_model
from qwq.text.template import ChatFormat

MODELS = Path(os.environ.get("QWQ_MODELS", "QWQ_MODELS is not set")).expanduser()
NAMES = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
ASKED = [
    "Write a Python function that reverses a string.", "What is 17 times 23?", "Name three rivers of Europe.",
    "Why is the sky blue?", "用一句话介绍北京。", "Write a haiku about rain.", "Explain recursion to a child.",
    "List the first ten primes.", "Translate 'good morning' into French.", "What does this do: `sorted(set(x))[-1]`?",
    "Summarise photosynthesis.", "Who wrote Hamlet?", "Write a SQL query that counts rows by day.",
    "Give me a recipe for pancakes.", "What is the capital of Australia?", "Write a regex for dates.",
    "How do magnets work?", "Convert 100 km/h to m/s.", "Write a bash loop over files.", "Tell me a joke.",
]  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    path = MODELS / request.param
    if not (path / "config.json").is_file():
        pytest.skip(f"needs {path}: `make test-engine` runs this with real models, in the folder QWQ_MODELS")
    return path


@pytest.fixture(scope="module")
def chat(folder: Path) -> ChatFormat:
    return ChatFormat.from_folder(folder)


@pytest.fixture(scope="module")
def samples(folder: Path, chat: ChatFormat):
    """100 greedy tokens of 20 prompts, all of them in one engine at once."""
    engine = Engine(TorchBackend(load_model(folder), kv_tokens=1 << 14), chat.tokenizer)
    prompts = [chat.prompt_ids([{"role": "user", "content": q}]) for q in ASKED]
    params = SamplingParams(temperature=0, max_new_tokens=100)
    return [s for (s,) in engine.run([GenerationRequest(p, params) for p in prompts])]


def test_greedy_texts_and_logits_equal_transformers(folder: Path, samples) -> None:
    """Teacher forcing: transformers' own best token after each prefix is ours, or the two best are
    within 1e-4.
    """
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = load_model(folder)
    close_calls, largest = 0, 0.0
    with torch.inference_mode():
        for sample in samples:
            ids = torch.tensor(sample.tokens)
            want = theirs(ids[None, :-1]).logits[0]
            got = ours.logits(ours(ids[:-1], Packed([len(ids) - 1])))
            largest = max(largest, float((got - want).abs().max()))
            tail = want[sample.num_prompt - 1 :]
            best = tail.topk(2).values
            for i in (tail.argmax(-1) != torch.tensor(sample.ids)).nonzero()[:, 0].tolist():
                assert best[i, 0] - best[i, 1] < 1e-4
                close_calls += 1
    print(f"{folder.name}: largest logit difference {largest:.1e}, {close_calls} close calls in {100 * len(samples)}")
    assert largest < 1e-3


def test_templates_render_as_transformers_renders_them(folder: Path, chat: ChatFormat) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tool = {
        "type": "function",
        "function": {"name": "add", "description": "a + b", "parameters": {"type": "object", "properties": {}}},
    }
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    conversations = [
        ([{"role": "user", "content": "hi"}], None),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 < 2 & é"}], None),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
                {"role": "user", "content": "d"},
            ],
            None,
        ),
        (
            [
                {"role": "user", "content": "1+2?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "3"},
            ],
            [tool],
        ),
    ]
    for messages, tools in conversations:
        want = theirs.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
        assert chat._render(messages, tools or (), True) == want
        assert chat.prompt_ids(messages, tools or ()) == theirs(want, add_special_tokens=False)["input_ids"]


def test_gguf_dequantised_agrees_with_llama_cpp(folder: Path, samples) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: `make install-gguf`")
    from qwq.engine.backends.base import Chunk
    from qwq.engine.backends.llama_cpp import LlamaBackend

    (path,) = folder.glob("*.gguf")
    llama, ours = LlamaBackend(path, kv_tokens=4096), load_gguf(path)
    agree = total = 0
    with torch.inference_mode():
        for sample in samples:
            ids = sample.tokens[:-1]
            slot = llama.open_slot()
            logits = []
            for at in range(0, len(ids), 64):
                piece = ids[at : at + 64]
                logits.append(llama.forward([Chunk(slot, piece, at, len(piece))]).clone())
            llama.close_slot(slot)
            want = torch.cat(logits).argmax(-1)
            got = ours.logits(ours(torch.tensor(ids), Packed([len(ids)]))).argmax(-1)
            agree += int((got == want).sum())
            total += len(ids)
    print(f"{folder.name}: next tokens agree at {agree} of {total} positions ({100 * agree / total:.2f}%)")
    assert total >= 2000 and agree / total >= 0.97


def test_the_llama_backend_gives_llama_cpps_own_greedy_texts(folder: Path, chat: ChatFormat) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: `make install-gguf`")
    (path,) = folder.glob("*.gguf")
    opened = load_engine(str(path), EngineOptions(max_model_len=1024, enable_prefix_caching=False), lambda line: None)
    # Flash attention is what llama.cpp itself chooses; its Python class would leave it off, and
    # keys in 16 bits then round otherwise.
    threads = os.cpu_count()
    plain = llama_cpp.Llama(
        str(path), n_ctx=1024, verbose=False, flash_attn=True, n_threads=threads, n_threads_batch=threads
    )
    params = SamplingParams(temperature=0, max_new_tokens=60)
    for question in ASKED[:5]:
        ids = chat.prompt_ids([{"role": "user", "content": question}])
        ((sample,),) = opened.engine.run([GenerationRequest(ids, params, eos_ids=chat.eos_ids)])
        plain.reset()
        want = []
        for token in plain.generate(ids, temp=0.0, repeat_penalty=1.0):
            want.append(token)
            if token in chat.eos_ids or len(want) == 60:
                break
        assert sample.ids == want, question
