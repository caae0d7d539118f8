"""Products of few rows are F.linear's, whatever way they go; a CPU without bfloat16 is known by its flags."""

import pytest
import torch
import torch.nn.functional as F

from qwq.model import linear as module
from qwq.model.linear import linear, slow_bfloat16


@pytest.mark.parametrize("shape", [(96, 40), (40, 96)])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 6, 7, 8, 12, 13, 24, 25])
def test_few_rows(shape, rows) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, bias = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)
    x = torch.randn(rows, shape[1], generator=generator)
    with torch.no_grad():
        for b in (None, bias):
            torch.testing.assert_close(linear(x, weight, b), F.linear(x, weight, b), rtol=1e-5, atol=1e-5)
        assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), F.linear(x.bfloat16(), weight.bfloat16()))


@pytest.mark.parametrize(
    ("text", "slow"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", True), ("flags : avx512f avx512_bf16 amx_tile\n", False), ("flags : amx_bf16\n", False),
        ("Features : fp asimd bf16\n", False), ("Features : fp asimd\n", True), ("model name : x\n", False),
    ],
)  # fmt: skip
def test_flags(text, slow, tmp_path, monkeypatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "CPU_FLAGS", tmp_path / "cpuinfo")
    assert slow_bfloat16() is slow
    monkeypatch.setattr(module, "CPU_FLAGS", tmp_path / "none")
    assert not slow_bfloat16()
