"""The engine's GPU half on a real GPU: kernels against their references, the same bits in any
batch, graphs, throughput.

Run with `pytest -s tests/gpu` on a machine with CUDA and triton. Nothing of it can run without;
tests/unit/ test_paged_kernels.py checks the same logic in Triton's interpreter and compiles the
kernels.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from qwq.engine.backends.cuda.graphs import DecodeStep
from qwq.engine.backends.cuda.layout import PagedDecode, PagedPrefill, causal_attention
from qwq.engine.backends.cuda.paged_attention import paged_attention_reference, paged_attention_triton, write_kv
from qwq.engine.backends.cuda.paged_cache import PagedCache
from qwq.engine.backends.cuda.quantise import KERNEL_ROWS, QuantLinear, quant_matmul, quantise_model
from qwq.model.config import ModelConfig, YarnScaling
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed: pip install triton")

TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SMALL = ModelConfig("qwen2", 512, 512, 1024, 3, 10, 2, 64, rope_theta=1e4, max_positions=4096)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def paged(lengths: list[int], H: int, K: int, E: int, dtype: torch.dtype = torch.bfloat16, block_size: int = 16):
    """Random inputs of `paged_attention` as keywords, blocks scattered over the pool."""
    width = -(-max(lengths) // block_size)
    order = torch.randperm(len(lengths) * width, generator=torch.Generator("cuda").manual_seed(1), device="cuda")
    k, v = (random(len(order) + 1, block_size, K, E, seed=s, dtype=dtype) for s in (2, 3))
    return {
        "q_BHE": random(len(lengths), H, E, seed=4, dtype=dtype), "k_cache": k, "v_cache": v,
        "block_table_BT": (order + 1).view(len(lengths), width).int(),
        "lengths_B": torch.tensor(lengths, dtype=torch.int32, device="cuda"),
    }  # fmt: skip


def make_model(config: ModelConfig = SMALL, dtype: torch.dtype = torch.float32) -> Transformer:
    with torch.device("cuda"):
        model = Transformer(config)
    return model.init_weights(torch.Generator("cuda").manual_seed(0)).to(dtype).requires_grad_(False)


def tokens(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 512, (n,), generator=generator).tolist() for n in lengths]


def whole(model: Transformer, ids: list[int]) -> torch.Tensor:
    return model.logits(model(torch.tensor(ids, device="cuda"), Packed([len(ids)], "cuda")))


def feed(model: Transformer, cache: PagedCache, tables, todo) -> torch.Tensor:
    for table, ids in zip(tables, todo, strict=True):
        cache.reserve(table, len(ids))
    flat = torch.tensor([t for ids in todo for t in ids], device="cuda")
    logits = model.logits(model(flat, PagedPrefill(cache, tables, [len(ids) for ids in todo])))
    for table, ids in zip(tables, todo, strict=True):
        cache.commit(table, ids)
    return logits


def ready(model: Transformer, *lengths: int, dtype: torch.dtype = torch.float32):
    """Sequences, a cache that holds all of each but its last token, and the tables with room for
    that.
    """
    seqs = tokens(*lengths)
    cache = PagedCache(model.config, 2 + sum(-(-n // 16) + 2 for n in lengths), device="cuda", dtype=dtype)
    tables = [cache.open(ids) for ids in seqs]
    feed(model, cache, tables, [ids[:-1] for ids in seqs])
    for table in tables:
        cache.reserve(table, 1)
    return seqs, cache, tables


def milliseconds(run, repeats: int = 20) -> float:
    for _ in range(3):
        run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("H", "K", "E"), [(40, 8, 128), (14, 2, 64), (4, 4, 32), (6, 2, 80), (8, 1, 128)])
def test_attention_equals_the_reference(H, K, E, dtype):
    inputs = paged([1, 16, 17, 255, 256, 257, 1500, 5003, 0], H, K, E, dtype)
    close(paged_attention_triton(**inputs), paged_attention_reference(**inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_row_is_the_same_bits_alone_and_among_others(dtype):
    inputs = paged([40, 3000, 7, 600, 257, 256, 9000, 1], 40, 8, 128, dtype)
    together = paged_attention_triton(**inputs)
    for row, length in enumerate(inputs["lengths_B"].tolist()):
        alone = {name: inputs[name][row : row + 1] for name in ("q_BHE", "block_table_BT", "lengths_B")}
        alone["block_table_BT"] = alone["block_table_BT"][:, : -(-length // 16)].contiguous()
        assert torch.equal(paged_attention_triton(**inputs | alone)[0], together[row])
    turned = {name: inputs[name].flip(0) for name in ("q_BHE", "block_table_BT", "lengths_B")}
    assert torch.equal(paged_attention_triton(**inputs | turned).flip(0), together)


def test_keys_are_written_to_their_slots():
    k, v = torch.zeros(2, 5, 16, 2, 64, device="cuda", dtype=torch.bfloat16)
    new_k, new_v = random(3, 2, 64, seed=1), random(3, 2, 64, seed=2)
    write_kv(k, v, new_k, new_v, torch.tensor([17, 3, 79], device="cuda"))
    assert torch.equal(k[[1, 0, 4], [1, 3, 15]], new_k) and torch.equal(v[[1, 0, 4], [1, 3, 15]], new_v)
    assert int(k.any(-1).any(-1).sum()) == 3


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 6e-2)])
def test_chunks_and_decode_equal_packed_sequences(dtype, tolerance):
    model = make_model(dtype=dtype)
    seqs = tokens(700, 33, 260)
    expected = [whole(model, ids) for ids in seqs]
    cache = PagedCache(SMALL, 80, device="cuda", dtype=dtype)
    tables = [cache.open(ids) for ids in seqs]
    for start in range(0, 600, 200):
        live = [i for i in range(3) if start < len(seqs[i]) - 1]
        todo = [seqs[i][start : min(start + 200, len(seqs[i]) - 1)] for i in live]
        out = feed(model, cache, [tables[i] for i in live], todo)
        close(
            out,
            torch.cat([expected[i][start : start + len(ids)] for i, ids in zip(live, todo, strict=True)]),
            tolerance,
        )
    feed(model, cache, tables[:1], [seqs[0][600:-1]])
    for table in tables:
        cache.reserve(table, 1)
    out = model.logits(model(torch.tensor([ids[-1] for ids in seqs], device="cuda"), PagedDecode.of(cache, tables)))
    close(out, torch.stack([e[-1] for e in expected]), tolerance)


@pytest.mark.parametrize("bits", [None, 8, 4])
@torch.inference_mode()
def test_graphs_equal_eager(bits):
    model = make_model(ModelConfig("qwen2", 512, 512, 1024, 3, 10, 2, 64, rope_scaling=YarnScaling(4.0, 1024)))
    if bits:
        quantise_model(model, bits, head=True)
    seqs, cache, tables = ready(model, 1200, 5, 300, 16, 17)
    sizes = {"max_rows": 8, "max_tokens": 2048}
    recorded, eager = DecodeStep(model, cache, **sizes), DecodeStep(model, cache, **sizes, graphs=False)
    recorded.record_all()
    assert len(recorded.recorded) == len(recorded.sizes) * len(recorded.widths) and not eager.records
    last = torch.tensor([ids[-1] for ids in seqs], device="cuda")
    for some in ([0, 1, 2, 3, 4], [3], [4, 2, 1], [1, 0]):
        chosen = [tables[i] for i in some]
        out = recorded(chosen, last[some]).clone()
        close(out, eager(chosen, last[some]), 1e-4)
        if not bits:
            close(out, torch.stack([whole(model, seqs[i])[-1] for i in some]), 1e-3)
    flags = [False, True]
    close(recorded(tables[:2], last[:2], flags).clone(), eager(tables[:2], last[:2], flags), 1e-4)


@torch.inference_mode()
def test_dead_rows_of_a_graph_write_only_scratch():
    model = make_model()
    seqs, cache, tables = ready(model, 40, 41, 42)
    step = DecodeStep(model, cache, max_rows=4, max_tokens=64)
    last = torch.tensor([ids[-1] for ids in seqs], device="cuda")
    step(tables, last)
    before = cache.k.clone()
    cache.k[:, tables[0].blocks[-1]] += 1  # must be left alone
    step(tables[1:], last[1:])
    assert torch.equal(cache.k[:, tables[0].blocks[-1]], before[:, tables[0].blocks[-1]] + 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (4, False), (4, True)])
def test_quantised_product_equals_the_reference(bits, symmetric, dtype):
    weight, bias = random(1000, 1280, dtype=torch.float32) / 36, random(1000, seed=1, dtype=torch.float32)
    layer = QuantLinear(weight.to(dtype), bias.to(dtype), bits=bits, symmetric=symmetric)
    layer.dtype = torch.float32  # the exact matrix as reference
    for rows in (1, 7, 16, KERNEL_ROWS):
        x = random(rows, 1280, seed=2, dtype=dtype)
        exact = F.linear(x.float(), layer.weight, layer.bias.float()).to(dtype)
        close(quant_matmul(x, layer), exact, TOLERANCE[dtype])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_row_is_the_same_bits_alone_and_among_others(bits):
    layer, x = QuantLinear(random(768, 1024), bits=bits), random(KERNEL_ROWS, 1024, seed=2)
    together = quant_matmul(x, layer)
    for row in range(KERNEL_ROWS):
        assert torch.equal(quant_matmul(x[row : row + 1], layer)[0], together[row])


def test_prefill_memory_is_linear_in_length():
    """Twice the past is about twice the memory above the inputs, not four times."""

    def peak(length: int) -> int:
        q, k, v = random(1024, 40, 128), random(length, 8, 128), random(length, 8, 128)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        causal_attention(q, k, v)
        return torch.cuda.max_memory_allocated() - before

    small, large = peak(16384), peak(32768)
    print(f"\nprefill of 1024 tokens after 15360: {small / 2**20:.0f} MiB, after 31744: {large / 2**20:.0f} MiB")
    assert large < 2.5 * small


@torch.inference_mode()
def test_throughput():
    """Prints, asserts nothing but that it runs: bytes that must be read over the time it takes."""
    print(f"\n{torch.cuda.get_device_name()}, bfloat16, shapes of QwQ-32B")
    for rows, length in ((1, 32768), (8, 8192), (64, 2048)):
        inputs = paged([length] * rows, 40, 8, 128)
        ms = milliseconds(partial(paged_attention_triton, **inputs))
        gigabytes = 2 * rows * length * 8 * 128 * 2 / 1e9
        print(f"attention of {rows} rows over {length} tokens: {ms:.3f} ms, {gigabytes / ms * 1e3:.0f} GB/s")
    weight = random(2 * 27648, 5120) / 72
    layers = {"bfloat16": None, "int8": QuantLinear(weight, bits=8), "int4": QuantLinear(weight, bits=4)}
    for name, layer in layers.items():
        size = weight.nbytes if layer is None else sum(b.nbytes for b in layer.buffers())
        for rows in (1, 16, 64):
            x = random(rows, 5120)
            ms = milliseconds(partial(F.linear, x, weight) if layer is None else partial(quant_matmul, x, layer))
            print(f"gate and up, {name}, {rows} rows: {ms:.3f} ms, {size / 1e6 / ms:.0f} GB/s")
    del weight, layers
    model = make_model(
        ModelConfig("qwen2", 151936, 896, 4864, 24, 14, 2, 64, tie_embeddings=True), torch.bfloat16
    )  # Qwen2.5-0.5B
    for rows in (1, 16, 64):
        _, cache, tables = ready(model, *[512] * rows, dtype=torch.bfloat16)
        last = torch.zeros(rows, dtype=torch.long, device="cuda")
        for graphs in (False, True):
            step = DecodeStep(model, cache, max_rows=rows, max_tokens=1024, graphs=graphs)
            ms = milliseconds(partial(step, tables, last))
            print(
                f"0.5B, {rows} rows, {'graph' if graphs else 'eager'}: {ms:.2f} ms a step, {rows / ms * 1e3:.0f} "
                "tokens/s"
            )
