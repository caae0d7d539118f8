"""Products of few rows are F.linear's, whatever way they go; a CPU with bfloat16 is known by its flags."""

import pytest
import torch
import torch.nn.functional as F

from qwq import cpu
from qwq.config import ComputeSection
from qwq.model.linear import linear


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
    ("text", "has"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", False), ("flags : avx512f avx512_bf16 amx_tile\n", True), ("flags : amx_bf16\n", True),
        ("Features : fp asimd bf16\n", True), ("Features : fp asimd\n", False), ("model name : x\n", False),
    ],
)  # fmt: skip
def test_flags_settle_the_dtype(text, has, tmp_path, monkeypatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu, "FLAGS", tmp_path / "cpuinfo")
    assert cpu.has_bfloat16() is has
    assert ComputeSection(dtype="auto").dtype == ("bfloat16" if has else "float32")
    assert ComputeSection(dtype="auto", device="cuda").dtype == "bfloat16"
    assert ComputeSection(dtype="bfloat16").dtype == "bfloat16" and ComputeSection().dtype == "float32"
    monkeypatch.setattr(cpu, "FLAGS", tmp_path / "none")
    assert not cpu.has_bfloat16()
