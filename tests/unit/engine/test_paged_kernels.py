"""The engine's GPU half on a CPU: kernels in Triton's interpreter, layouts and steps in plain
PyTorch.

The interpreter must be chosen before triton is imported anywhere, so `TestKernels` runs in a
process of its own, which `test_kernels_in_the_interpreter` starts. The other tests run here and
need no triton.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qwq.engine.backends.cuda import interpreting
from qwq.engine.backends.cuda import paged_attention as attention
from qwq.engine.backends.cuda import quantise as quant
from qwq.engine.backends.cuda.graphs import TABLE, DecodeStep, ladder
from qwq.engine.backends.cuda.layout import PagedDecode, PagedPrefill
from qwq.engine.backends.cuda.paged_attention import paged_attention_reference, paged_attention_triton
from qwq.engine.backends.cuda.paged_cache import PagedCache
from qwq.engine.backends.cuda.quantise import QuantLinear, quantise_model
from qwq.errors import CapacityError, ConfigError
from qwq.model.config import ModelConfig, YarnScaling
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer

BASE = ModelConfig("qwen2", 40, 64, 96, 2, 4, 2, 16, rope_theta=1e4, max_positions=128)
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed: pip install triton")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens(*lengths: int, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 40, (n,), generator=generator).tolist() for n in lengths]


def make_model(config: ModelConfig = BASE) -> Transformer:
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.15, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make_model()


def whole(model: Transformer, ids: list[int]) -> torch.Tensor:
    """Logits of every position, by the layout that training uses."""
    return model.logits(model(torch.tensor(ids), Packed([len(ids)])))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def paged(lengths: list[int], H: int, K: int, E: int, dtype: torch.dtype = torch.float32, block_size: int = 16):
    """Random inputs of `paged_attention` as keywords; blocks stand in the pool in no order, and
    unused ones hold NaN.
    """
    width = -(-max(lengths) // block_size)
    order = torch.randperm(len(lengths) * width, generator=torch.Generator().manual_seed(1))
    table_BT = (order + 1).view(len(lengths), width).int()
    k, v = (random(order.numel() + 1, block_size, K, E, seed=s, dtype=dtype) for s in (2, 3))
    for row, length in enumerate(lengths):
        for t in range(length, width * block_size):  # what stands behind a row's end must not matter
            k[table_BT[row, t // block_size], t % block_size] = v[table_BT[row, t // block_size], t % block_size] = (
                torch.nan
            )
    return {
        "q_BHE": random(len(lengths), H, E, seed=4, dtype=dtype), "k_cache": k, "v_cache": v,
        "block_table_BT": table_BT, "lengths_B": torch.tensor(lengths, dtype=torch.int32),
    }  # fmt: skip


class TestKernels:
    """Each kernel against its reference. Runs only in the interpreter."""

    __test__ = interpreting()

    @pytest.mark.parametrize(
        ("H", "K", "E", "dtype", "tolerance"),
        [
            (4, 4, 32, torch.float32, 1e-5),
            (10, 2, 64, torch.float32, 1e-5),
            (6, 2, 80, torch.float16, 2e-3),
            (5, 1, 128, torch.bfloat16, 2e-2),
        ],
    )
    def test_attention_equals_the_reference(self, H, K, E, dtype, tolerance):
        inputs = paged([1, 16, 37, 300, 0], H, K, E, dtype)
        out = paged_attention_triton(**inputs)
        close(out, paged_attention_reference(**inputs), tolerance)
        assert out.isfinite().all() and not out[4].any(), "a row of length 0 gives 0"

    def test_more_splits_than_merge_at_once(self, monkeypatch):
        monkeypatch.setattr(attention, "SPLIT", 64)
        monkeypatch.setattr(attention, "SPLITS_AT_ONCE", 2)
        inputs = paged([300, 63, 64, 65], 2, 1, 16)
        close(paged_attention_triton(**inputs), paged_attention_reference(**inputs))

    def test_strided_queries_and_tables(self):
        """As the model and the recorded step hand them in: slices of wider tensors."""
        inputs = paged([20, 33], 4, 2, 32)
        expected = paged_attention_reference(**inputs)
        inputs["q_BHE"] = torch.cat((inputs["q_BHE"], random(2, 2, 32)), 1)[:, :4]
        inputs["block_table_BT"] = torch.nn.functional.pad(inputs["block_table_BT"], (4, 9))[:, 4:10]
        close(paged_attention_triton(**inputs), expected)

    def test_a_row_is_the_same_bits_alone_and_among_others(self):
        inputs = paged([40, 300, 7, 600], 4, 2, 32, torch.float16)
        together = paged_attention_triton(**inputs)
        for row, length in enumerate(inputs["lengths_B"].tolist()):
            narrow = -(-length // 16)
            per_row = {name: inputs[name][row : row + 1] for name in ("q_BHE", "block_table_BT", "lengths_B")}
            per_row["block_table_BT"] = per_row["block_table_BT"][:, :narrow].contiguous()
            assert torch.equal(paged_attention_triton(**inputs | per_row)[0], together[row])

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (4, False), (4, True)])
    def test_quantised_product_equals_the_reference(self, bits, symmetric, bias):
        layer = QuantLinear(random(50, 192), random(50, seed=1) if bias else None, bits=bits, symmetric=symmetric)
        for rows in (1, 5, 18):
            x = random(rows, 192, seed=2)
            close(quant.quant_matmul(x, layer), torch.nn.functional.linear(x, layer.weight, layer.bias), 1e-4)

    def test_quantised_product_in_bfloat16_keeps_float32_inside(self):
        layer = QuantLinear(random(32, 256, dtype=torch.bfloat16), bits=4)
        x = random(3, 256, seed=2, dtype=torch.bfloat16)
        layer.dtype = torch.float32  # the exact matrix, where the layer's own would be rounded
        # One place of bfloat16: the interpreter truncates where a GPU rounds.
        close(quant.quant_matmul(x, layer), (x.float() @ layer.weight.T).bfloat16(), 2**-7)

    @pytest.mark.parametrize("bits", [8, 4])
    def test_a_quantised_row_is_the_same_bits_alone_and_among_others(self, bits):
        """The first row of each tile: numpy's product rounds by a row's place, the GPU's does not
        (tests/gpu).
        """
        layer, x = QuantLinear(random(40, 128), bits=bits), random(20, 128, seed=2)
        together = quant.quant_matmul(x, layer)
        for row in (0, 16):
            assert torch.equal(quant.quant_matmul(x[row : row + 1], layer)[0], together[row])

    def test_a_step_through_the_kernels_equals_packed_sequences(self, model):
        prompts = tokens(19, 3)
        cache = PagedCache(BASE, 12)
        tables = [cache.open(p) for p in prompts]
        for table, ids in zip(tables, prompts, strict=True):
            feed(model, cache, [table], [ids])
        step = DecodeStep(model, cache, max_rows=4, max_tokens=64)
        for t, tokens_B in enumerate(([5, 6], [7, 8])):
            for table, token, prompt in zip(tables, tokens_B, prompts, strict=True):
                cache.reserve(table, 1)
                prompt.append(token)
            logits = step(tables, torch.tensor(tokens_B))
            close(logits, torch.stack([whole(model, p)[-1] for p in prompts]), 1e-5)
            for table, token in zip(tables, tokens_B, strict=True):
                cache.commit(table, [token])
            assert [len(table.ids) for table in tables] == [20 + t, 4 + t]


@needs_triton
@pytest.mark.skipif(interpreting(), reason="this is the interpreter's process")
def test_kernels_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", f"{__file__}::TestKernels"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


COMPILE = """
import itertools
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qwq.engine.backends.cuda import jit, paged_attention as attention, quantise as quant

def build(kernel, target, element, **constants):
    fn = jit(kernel)
    kinds = {"q_row": "i32", "scale": "fp32", "table": "*i32", "lengths": "*i32"}
    if kernel in (quant._int8_kernel, quant._int4_kernel):
        kinds = {"q": "*i8" if kernel is quant._int8_kernel else "*u8", "zero": "*u8", "scale": "*fp32"}
    data = {"q", "k_cache", "v_cache", "out", "x", "bias"}
    signature = {
        n: "constexpr" if n in constants else kinds.get(n) or (f"*{element}" if n in data else "*fp32" if n.startswith("part") else "i32")
        for n in fn.arg_names
    }
    # As at run time: pointers and strides on 16-byte boundaries, which lets the compiler load ahead into shared memory.
    even = {"q_row", "q_head", "block_stride", "slot_stride", "head_stride", "num_in", "num_out"}
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(fn.arg_names) if signature[n][0] == "*" or n in even}
    source = ASTSource(fn, signature, constants, attrs)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"enable_fp_fusion": True})

for target, (element, dot) in itertools.product((80, 90), (("bf16", tl.bfloat16), ("fp32", tl.float32))):
    tile = 32 if element == "fp32" else 64
    made = [
        build(attention._split_kernel, target, element, G=5, E=128, BLOCK_SIZE=16, SPLIT=256, TILE=tile, PADDED_G=16, PADDED_E=128, DOT=dot),
        build(attention._merge_kernel, target, element, E=80, PADDED_E=128, SPLIT=256, AT_ONCE=16),
        build(quant._int8_kernel, target, element, TILE_M=16, TILE_O=32, TILE_I=128, HAS_BIAS=True, DOT=dot),
        build(quant._int4_kernel, target, element, TILE_M=16, TILE_O=32, GROUP=128, HAS_BIAS=False, DOT=dot),
    ]
    assert all("cubin" in m.asm for m in made) and max(m.metadata.shared for m in made) <= 99 * 1024
print("built")
"""


@needs_triton
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """The interpreter accepts what the compiler does not (tile sizes, types).

    Shared memory stays under an RTX 4090's 99 KiB.
    """
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    script = tmp_path / "build.py"
    script.write_text(COMPILE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.strip() == "built", done.stderr[-4000:]


def test_without_triton_a_kernel_names_the_repair(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ConfigError, match="pip install triton"):
        from qwq.engine.backends.cuda import jit

        jit(lambda: None)


def test_the_package_imports_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\nimport qwq.engine.backends.cuda.graphs, "
        "qwq.engine.backends.cuda.quantise"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_the_reference_by_hand():
    """One head of width 1: scores are q k, the output is the softmax's mean of the values."""
    k = torch.tensor([[0.0, 1.0], [2.0, 9.0], [5.0, 5.0]]).view(3, 2, 1, 1)
    v = torch.tensor([[10.0, 20.0], [30.0, 99.0], [7.0, 7.0]]).view(3, 2, 1, 1)
    q, table = torch.ones(2, 1, 1), torch.tensor([[0, 1], [1, 2]], dtype=torch.int32)
    out = paged_attention_reference(q, k, v, table, torch.tensor([3, 1]))
    p = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    close(out.flatten(), torch.stack(((p * torch.tensor([10.0, 20.0, 30.0])).sum(), torch.tensor(30.0))))


def feed(model: Transformer, cache: PagedCache, tables, todo, **kwargs) -> torch.Tensor:
    """Logits of each table's next tokens, which are written and committed."""
    for table, ids in zip(tables, todo, strict=True):
        cache.reserve(table, len(ids))
    flat = torch.tensor([t for ids in todo for t in ids])
    logits = model.logits(model(flat, PagedPrefill(cache, tables, [len(ids) for ids in todo], **kwargs)))
    for table, ids in zip(tables, todo, strict=True):
        cache.commit(table, ids)
    return logits


def decode(model: Transformer, cache: PagedCache, tables, ids) -> torch.Tensor:
    for table in tables:
        cache.reserve(table, 1)
    logits = model.logits(model(torch.tensor(ids), PagedDecode.of(cache, tables)))
    for table, token in zip(tables, ids, strict=True):
        cache.commit(table, [token])
    return logits


@pytest.mark.parametrize(("kv_heads", "chunk"), [(1, 7), (2, 16), (4, 50)])
def test_chunks_then_single_tokens_equal_packed_sequences(kv_heads, chunk):
    model = make_model(replace(BASE, num_kv_heads=kv_heads))
    seqs = tokens(37, 5, 20)
    expected = [whole(model, ids) for ids in seqs]
    cache = PagedCache(model.config, 20)
    tables = [cache.open(ids) for ids in seqs]
    ends = [len(ids) - 4 for ids in seqs]
    while any(len(t.ids) < end for t, end in zip(tables, ends, strict=True)):
        live = [i for i in range(3) if len(tables[i].ids) < ends[i]]
        todo = [seqs[i][len(tables[i].ids) : min(len(tables[i].ids) + chunk, ends[i])] for i in live]
        places = [(i, len(tables[i].ids) + n) for i, ids in zip(live, todo, strict=True) for n in range(len(ids))]
        close(feed(model, cache, [tables[i] for i in live], todo), torch.stack([expected[i][p] for i, p in places]))
    for step in range(4):
        out = decode(model, cache, tables, [ids[end + step] for ids, end in zip(seqs, ends, strict=True)])
        close(out, torch.stack([e[end + step] for e, end in zip(expected, ends, strict=True)]))
    cache.check()


def test_many_query_tiles_equal_one(monkeypatch, model):
    (ids,) = tokens(40)
    cache = PagedCache(BASE, 8)
    monkeypatch.setattr("qwq.engine.backends.cuda.layout.QUERY_TILE", 7)
    close(feed(model, cache, [cache.open(ids)], [ids]), whole(model, ids))


def test_a_cached_prefix_and_forks_give_the_same_logits(model):
    (ids,) = tokens(41)
    cache = PagedCache(BASE, 20)
    first = cache.open(ids)
    feed(model, cache, [first], [ids])
    cache.close(first)
    again = cache.open([*ids[:35], 1, 2])
    assert again.num_cached == 32
    close(feed(model, cache, [again], [[*ids[32:35], 1]]), whole(model, [*ids[:35], 1])[32:])
    twin = cache.fork(again)
    stem = [*ids[:35], 1]
    for tail in ([3], [3, 9]):  # the two differ from the first token on, and go on reading their own
        out = decode(model, cache, [again, twin], [tail[-1], tail[-1] + 1])
        rows = [[*stem, *tail], [*stem, *(t + 1 for t in tail)]]
        close(out, torch.stack([whole(model, row)[-1] for row in rows]))
    assert cache.stats().copies == 1
    cache.check()


def test_yarn_is_chosen_row_by_row():
    yarned = make_model(replace(BASE, rope_scaling=YarnScaling(4.0, 32)))
    plain = make_model()
    seqs = tokens(12, 12)
    expected = [whole(yarned, seqs[0]), whole(plain, seqs[1])]
    cache = PagedCache(BASE, 12)
    tables = [cache.open(ids, extra) for ids, extra in zip(seqs, ("yarn", ""), strict=True)]
    flags = torch.tensor([True] * 11 + [False] * 11)
    close(feed(yarned, cache, tables, [ids[:-1] for ids in seqs], yarn_N=flags), torch.cat([e[:-1] for e in expected]))
    for table in tables:
        cache.reserve(table, 1)
    step = DecodeStep(yarned, cache, max_rows=2, max_tokens=32)
    last = torch.tensor([ids[-1] for ids in seqs])
    close(step(tables, last, yarn=[True, False]), torch.stack([e[-1] for e in expected]))
    close(step(tables[:1], last[:1]), expected[0][-1:])


class TestStep:
    """The recorded step's padding, in its stand-in without CUDA."""

    __test__ = not interpreting()

    def test_sizes(self):
        assert ladder(1) == [1] and ladder(8) == [1, 2, 4, 8] and ladder(12) == [1, 2, 4, 8, 12]
        assert ladder(40, 64, 4) == [40] and ladder(2048, 64, 4) == [64, 256, 1024, 2048]

    def test_a_padded_step_equals_packed_sequences_and_harms_no_block(self, model):
        """Five rows, then three in a step padded to four: the dead rows' old numbers must not write
        anywhere.
        """
        seqs = tokens(17, 3, 30, 16, 8)
        cache = PagedCache(BASE, 40)
        tables = [cache.open(ids) for ids in seqs]
        feed(model, cache, tables, [ids[:-1] for ids in seqs])
        step = DecodeStep(model, cache, max_rows=8, max_tokens=64)
        for table in tables:
            cache.reserve(table, 1)
        last = torch.tensor([ids[-1] for ids in seqs])
        expected = torch.stack([whole(model, ids)[-1] for ids in seqs])
        close(step(tables, last), expected)
        before = cache.k.clone()
        some = [4, 0, 2]
        close(step([tables[i] for i in some], last[some]), expected[some])
        changed = (cache.k != before).flatten(2).any(2).any(0).nonzero()[:, 0].tolist()
        own = {tables[i].blocks[len(tables[i].ids) // 16] for i in some}
        assert set(changed) <= {0, *own}
        assert step.static_BX[3, :TABLE].tolist() == [0] * TABLE and not step.static_BX[3].any()

    def test_logits_do_not_depend_on_the_width_of_the_table(self, model, monkeypatch):
        (ids,) = tokens(20)
        cache = PagedCache(BASE, 12)
        table = cache.open(ids)
        feed(model, cache, [table], [ids[:-1]])
        cache.reserve(table, 40)  # blocks ahead of need
        narrow = DecodeStep(model, cache, max_rows=1, max_tokens=20)
        wide = DecodeStep(model, cache, max_rows=1, max_tokens=128)
        wide.widths = [1, 6, 8]
        last = torch.tensor(ids[-1:])
        assert torch.equal(narrow([table], last), wide([table], last))
        close(wide([table], last), whole(model, ids)[-1:])

    def test_too_many_rows_or_tokens(self, model):
        cache = PagedCache(BASE, 12)
        tables = [cache.open([1, 2]) for _ in range(3)]
        step = DecodeStep(model, cache, max_rows=2, max_tokens=32)
        with pytest.raises(CapacityError, match="3 rows"):
            step(tables, torch.zeros(3))
        with pytest.raises(CapacityError, match="position 32"):
            step([SimpleNamespace(ids=range(32), blocks=[1, 2, 3])], torch.zeros(1))

    def test_no_graph_where_there_is_no_cuda(self, model):
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
        step = DecodeStep(model, PagedCache(BASE, 4), max_rows=2, max_tokens=32, graphs=True)
        step.record_all()
        assert not step.records and not step.recorded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (4, False), (4, True)])
def test_a_weight_moves_by_at_most_half_a_scale(bits, symmetric, dtype):
    weight = random(24, 384, dtype=dtype)
    weight[3] = 0.0
    weight[4] = weight[4].abs() + 1  # a group far from zero
    layer = QuantLinear(weight, bits=bits, symmetric=symmetric)
    scale = layer.scale.float()
    scale = scale[:, None].expand(24, 384) if bits == 8 else scale.repeat_interleave(layer.group, 1)
    # bfloat16: the scale is rounded (2^-9 of 15 steps) and so is the weight that is read back.
    slack = 1e-3 * scale if dtype == torch.float32 else 0.04 * scale + 2**-8 * weight.float().abs()
    assert ((layer.weight - weight).float().abs() <= scale / 2 + slack).all()
    assert not layer.weight[3].any() and layer.weight.dtype == dtype


def test_int4_by_hand():
    """Weights 0..15 and their negatives have scale 1; the group's first half stands in the low
    halves of its bytes.
    """
    weight = torch.stack((torch.arange(16.0), -torch.arange(16.0)))
    layer = QuantLinear(weight, bits=4, group=16)
    assert torch.equal(layer.weight, weight)
    assert layer.scale.flatten().tolist() == [1, 1] and layer.zero.flatten().tolist() == [0, 15]
    assert layer.q[0].tolist() == [low + 16 * (low + 8) for low in range(8)]


def test_bytes_of_a_quantised_layer():
    weight = torch.zeros(64, 512, dtype=torch.bfloat16)
    sizes = [sum(b.nbytes for b in QuantLinear(weight, bits=bits).buffers()) for bits in (4, 8)]
    assert sizes == [64 * 256 + 64 * 4 * 3, 64 * 512 + 64 * 4]


@pytest.mark.parametrize(("bits", "most"), [(8, 0.02), (4, 0.25)])
def test_a_quantised_model_stays_near_its_original(bits, most):
    (ids,) = tokens(30)
    model = make_model()
    before = whole(model, ids)
    embedded, gain = model.embed.weight.clone(), model.blocks[0].input_norm.weight.clone()
    assert quantise_model(model, bits, head=True) is model
    after = whole(model, ids)
    assert 0 < float((after - before).norm() / before.norm()) < most
    assert torch.equal(model.embed.weight, embedded) and torch.equal(model.blocks[0].input_norm.weight, gain)
    assert all(isinstance(getattr(b, n), QuantLinear) for b in model.blocks for n in ("qkv", "o", "gate_up", "down"))
    cache = PagedCache(BASE, 12)
    table = cache.open(ids)
    feed(model, cache, [table], [ids[:-1]])
    cache.reserve(table, 1)
    close(DecodeStep(model, cache, max_rows=2, max_tokens=64)([table], torch.tensor(ids[-1:])), after[-1:])


def test_what_cannot_be_quantised_says_so():
    with pytest.raises(ConfigError, match="choose 8 or 4"):
        QuantLinear(torch.zeros(4, 4), bits=3)
    with pytest.raises(ConfigError, match="even width"):
        QuantLinear(torch.zeros(4, 5), bits=4)
    with pytest.raises(ConfigError, match="without head"):
        quantise_model(make_model(replace(BASE, tie_embeddings=True)), 8, head=True)
