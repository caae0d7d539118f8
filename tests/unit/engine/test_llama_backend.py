"""The engine on llama.cpp's kernels: a small model written as GGUF says there what our own module
says. Needs llama-cpp-python.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: `make install-gguf`")

from test_gguf import make, metadata, tensors, vocabulary

from qwq.engine.backends.base import Chunk
from qwq.engine.backends.llama_cpp import LlamaBackend, _Cells
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.load import load_engine
from qwq.engine.options import EngineOptions
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.errors import ModelError
from qwq.model.config import ModelConfig, YarnScaling
from qwq.model.gguf_file import write_gguf
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.text.tokenizer import Tokenizer, train_bpe

CONFIG = ModelConfig("qwen2", 300, 64, 96, 2, 4, 2, 16, rope_theta=1e4, max_positions=512, rms_norm_eps=1e-6)
GREEDY = SamplingParams(temperature=0, max_new_tokens=24)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([f"There are {n} boxes with {n + 3} nuts, isn't it so?\n" for n in range(60)] * 2, 310)


@pytest.fixture(scope="module")
def written(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Transformer]:
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size + 2, eos_token_id=tokenizer.eos_ids[0])
    model, path = make(config), tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(
        path, {k: v for k, v in (metadata(config) | vocabulary(tokenizer)).items() if v is not None}, tensors(model)
    )
    return path, model


def backend(path: Path, **options) -> LlamaBackend:
    return LlamaBackend(path, **{"kv_tokens": 2048, "max_slots": 16, "threads": 1, **options})


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 280, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def test_logits_are_our_modules(written) -> None:
    path, model = written
    llama, ids = backend(path), prompt(60)
    slot = llama.open_slot()
    first = llama.forward([Chunk(slot, ids[:40], 0, 40)]).clone()
    second = llama.forward([Chunk(slot, ids[40:], 40, 20)]).clone()
    want = model.logits(model(torch.tensor(ids), Packed([60])))
    # Keys and values are kept in 16 bits there.
    torch.testing.assert_close(torch.cat((first, second)), want, atol=0.02, rtol=0.01)
    llama.close()


def test_texts_are_our_modules_in_any_company(written, tokenizer) -> None:
    path, model = written
    requests = [GenerationRequest(prompt(n, n), GREEDY, logprobs=1) for n in (1, 5, 130, 64, 65, 17)]
    ours = Engine(TorchBackend(model, kv_tokens=4096), tokenizer).run(requests)
    for options in ({}, {"speculate": True}, {"prefix_cache": False, "token_budget": 64}):
        theirs = Engine(backend(path), tokenizer, **options).run(requests)
        for (a,), (b,) in zip(ours, theirs, strict=True):
            at = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=True)) if x != y), None)
            # A difference counts only where the best two were apart.
            assert at is None or (abs(a.outputs[at].raw - b.outputs[at].raw) < 0.05 and at > 3), (at, a.ids, b.ids)


def test_a_shared_prefix_is_the_same_cells(written, tokenizer) -> None:
    path, _ = written
    llama = backend(path, kv_tokens=512)
    engine = Engine(llama, tokenizer)
    (group,) = engine.run([GenerationRequest(prompt(150), SamplingParams(max_new_tokens=10), n=8, seed=3)])
    assert engine.stats.cached_tokens == 7 * 149 and len({tuple(s.ids) for s in group}) > 4
    alone = Engine(backend(path), tokenizer, prefix_cache=False)
    for s in group[:3]:
        ((again,),) = alone.run([GenerationRequest([*prompt(150), *s.ids], GREEDY)])
        ((cached,),) = engine.run([GenerationRequest([*prompt(150), *s.ids], GREEDY)])
        assert cached.num_cached >= 150 and cached.ids == again.ids


def test_memory_runs_out_and_nothing_is_lost(written, tokenizer) -> None:
    path, _ = written
    requests = [GenerationRequest(prompt(100, n), SamplingParams(temperature=0, max_new_tokens=60)) for n in range(6)]
    roomy = Engine(backend(path), tokenizer, prefix_cache=False).run(requests)
    tight = Engine(backend(path, kv_tokens=512), tokenizer)
    got = tight.run(requests)
    assert tight.stats.preemptions > 0
    same = [a.ids == b.ids for (a,), (b,) in zip(roomy, got, strict=True)]
    assert sum(same) >= 5  # a recomputed slot may round another way


def test_deterministic_mode_is_the_same_bit_for_bit(written, tokenizer) -> None:
    path, _ = written
    target = GenerationRequest(prompt(77), SamplingParams(temperature=0.8, max_new_tokens=30), seed=5, logprobs=2)
    ((lonely,),) = Engine(backend(path, kv_tokens=8192, deterministic=True), tokenizer).run([target])
    engine = Engine(backend(path, kv_tokens=8192, deterministic=True), tokenizer, max_running=5)
    done = engine.run(
        [
            *(GenerationRequest(prompt(n, n), SamplingParams(max_new_tokens=n), seed=n) for n in (3, 90, 64, 20)),
            target,
            target,
        ]
    )
    for (sample,) in done[-2:]:
        assert sample.ids == lonely.ids and [c.raw for c in sample.outputs] == [c.raw for c in lonely.outputs]


@torch.inference_mode()
def test_yarn_is_ours(written, tokenizer) -> None:
    path, model = written
    llama, ids = backend(path, yarn=True, kv_tokens=2048), prompt(200)
    assert llama.max_positions == 2048
    stretched = Transformer(replace(model.config, rope_scaling=YarnScaling(4.0, 512), max_positions=2048))
    stretched.load_state_dict(model.state_dict())
    on, off = llama.open_slot(), llama.open_slot()
    got = llama.forward([Chunk(on, ids, 0, 10, True), Chunk(off, ids, 0, 10, False)]).clone()
    for logits, m in ((got[:10], stretched), (got[10:], model)):
        torch.testing.assert_close(logits, m.logits(m(torch.tensor(ids), Packed([200])))[-10:], atol=0.02, rtol=0.01)
    llama.close()


def test_open_engine_takes_the_file_either_way(written, tokenizer) -> None:
    path, _ = written
    said: list[str] = []
    texts = []
    for dtype in ("auto", "float32"):
        opened = load_engine(str(path), EngineOptions(dtype=dtype, threads=1), said.append)
        ids = opened.chat.prompt_ids([{"role": "user", "content": "There are 12 boxes"}])
        ((sample,),) = opened.engine.run([GenerationRequest(ids, SamplingParams(temperature=0, max_new_tokens=8))])
        texts.append(sample.text)
    assert texts[0] == texts[1] and all("GiB are free" in line for line in said)


def test_a_damaged_file_is_one_line(written, tmp_path) -> None:
    path, _ = written
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:-500])
    for options in (EngineOptions(), EngineOptions(dtype="float32")):
        with pytest.raises(ModelError, match="cut.gguf"):
            load_engine(str(tmp_path / "cut.gguf"), options, lambda line: None)


def test_cells_are_counted_once_however_many_rows_see_them() -> None:
    cells = _Cells(100)
    for slot in (1, 2, 3):
        cells.open(slot)
    assert cells.reserve(1, 60)
    cells.share(1, 2, 40)
    cells.share(2, 3, 10)
    assert cells.used == 60 and cells.length(2) == 40 and cells.length(3) == 10
    assert cells.reserve(2, 70) and cells.used == 90 and not cells.reserve(3, 30) and cells.reserve(3, 20)
    cells.close(1)
    assert cells.used == 80  # 10 shared by two, 30 of the second slot's past, its 30 new ones, the third's 10
    cells.truncate(2, 5)
    assert cells.used == 20
    cells.close(2)
    cells.close(3)
    assert cells.used == 0
