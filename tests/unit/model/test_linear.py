"""Products of few rows are F.linear's, whatever way they go; a CPU with bfloat16 is known by its
flags.
"""

import pytest
import torch
import torch.nn.functional as F

from qwq.common import cpu
from qwq.config import ComputeSection
from qwq.model import linear as module
from qwq.model.linear import linear


@pytest.mark.parametrize("shape", [(96, 40), (40, 96)])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 6, 7, 8, 12, 13, 24, 25])
@pytest.mark.parametrize("fast", [False, True])
def test_few_rows(shape, rows, fast, monkeypatch) -> None:
    monkeypatch.setattr(module, "MKL_IS_FAST", fast)
    monkeypatch.setattr(module, "TURNED_WIDTH", 40)
    generator = torch.Generator().manual_seed(rows)
    weight, bias = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)
    x = torch.randn(rows, shape[1], generator=generator)
    with torch.no_grad():
        for b in (None, bias):
            torch.testing.assert_close(linear(x, weight, b), F.linear(x, weight, b), rtol=1e-5, atol=1e-5)
        assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), F.linear(x.bfloat16(), weight.bfloat16()))


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9])
def test_few_rows_in_bfloat16_on_tiles(rows, monkeypatch) -> None:
    """Within bfloat16's rounding (8 bits) of the product in float64."""
    for name in ("TILES", "MKL_IS_FAST"):
        monkeypatch.setattr(module, name, True)
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(70, module.LEAST_WIDTH, generator=generator).bfloat16()
    x, bias = (torch.randn(*s, generator=generator).bfloat16() for s in ((rows, module.LEAST_WIDTH), (70,)))
    with torch.inference_mode():
        for b in (None, bias):
            exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
            ours = linear(x, weight, b)
            assert ours.dtype is torch.bfloat16 and ours.shape == (rows, 70) and ours.is_contiguous()
            torch.testing.assert_close(ours.double(), exact, rtol=2**-7, atol=0.1)
        calls = []
        monkeypatch.setattr(module.torch, "mm", lambda *a: (calls.append(1), torch.matmul(*a))[1])
        linear(x, weight)
        assert len(calls) == (rows <= module.TILE_ROWS)


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")
@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_onednn_gives_the_same_values_and_gradients(rows, bias, frozen, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, weight, b = (torch.randn(*shape, generator=generator) for shape in ((rows, 40), (72, 40), (72,)))
    upstream = torch.randn(72, rows, generator=generator).t()  # not contiguous, as a gradient may be

    def run(function):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_(not frozen), b.clone().requires_grad_()]
        out = function(*(leaves if bias else leaves[:2]))
        (out * upstream).sum().backward()
        return [out.detach(), *(t.grad for t in leaves if t.grad is not None)]

    plain = run(F.linear)
    monkeypatch.setattr(module, "ONEDNN", True)
    monkeypatch.setattr(module, "LEAST_WIDTH", 40)
    calls = []
    inner = module.product
    monkeypatch.setattr(module, "product", lambda *a: (calls.append(1), inner(*a))[1])
    ours = run(linear)
    assert len(calls) == 2 and len(ours) == len(plain)
    for a, c in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-4)
        assert linear(x[:0], weight).shape == (0, 72)


@pytest.mark.parametrize(
    ("text", "slow", "fast", "tiles"),
    [
        ("processor : 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f\n", True, False, False),
        ("vendor_id : AuthenticAMD\nflags : avx2\n", False, False, False),
        ("vendor_id : GenuineIntel\nflags : avx512f amx_bf16\n", False, True, True),
        ("vendor_id : GenuineIntel\nflags : avx2\n", False, False, False),
        ("Features : asimd\n", False, False, False),
    ],
)
def test_makers_and_flags_settle_the_way_of_products(text, slow, fast, tiles, tmp_path, monkeypatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu, "INFO", tmp_path / "cpuinfo")
    assert (cpu.mkl_is_slow(), cpu.mkl_is_fast(), cpu.has_tiles()) == (slow, fast, tiles)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", False), ("flags : avx512f avx512_bf16 amx_tile\n", True),
        ("flags : amx_bf16\n", True), ("Features : fp asimd bf16\n", True), ("Features : fp asimd\n", False),
        ("model name : x\n", False),
    ],
)  # fmt: skip
def test_flags_settle_the_dtype(text, has, tmp_path, monkeypatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu, "INFO", tmp_path / "cpuinfo")
    assert cpu.has_bfloat16() is has
    assert ComputeSection(dtype="auto").dtype == ("bfloat16" if has else "float32")
    assert ComputeSection(dtype="auto", device="cuda").dtype == "bfloat16"
    assert ComputeSection(dtype="bfloat16").dtype == "bfloat16" and ComputeSection().dtype == "float32"
    monkeypatch.setattr(cpu, "INFO", tmp_path / "none")
    assert not cpu.has_bfloat16()
