"""Attention in two parts against one softmax over all keys, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qwq.model.joined_attention import joined_attention


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "own", "prefix", "width"),
    [(3, 4, 2, 50, 33, 16), (1, 4, 4, 70, 5, 8), (5, 6, 1, 9, 300, 16), (2, 2, 2, 1, 1, 4)],
)
def test_output_and_gradients_are_those_of_one_softmax(rows, heads, kv_heads, own, prefix, width):
    generator = torch.Generator().manual_seed(own)
    shapes = [(rows, heads, own, width), *[(rows, kv_heads, own, width)] * 2, *[(kv_heads, prefix, width)] * 2]
    tensors = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    out = joined_attention(*tensors)
    weight = torch.randn(out.shape, generator=generator)
    grads = torch.autograd.grad((out * weight).sum(), tensors)

    q, k, v, prefix_k, prefix_v = (t.detach().double().requires_grad_() for t in tensors)
    keys, values = (
        torch.cat((p.expand(rows, -1, -1, -1), x), 2).repeat_interleave(heads // kv_heads, 1)
        for p, x in ((prefix_k, k), (prefix_v, v))
    )
    mask = torch.cat((torch.ones(own, prefix, dtype=torch.bool), torch.ones(own, own, dtype=torch.bool).tril()), 1)
    true = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    torch.testing.assert_close(out, true.float(), rtol=0, atol=2e-6)
    for grad, exact in zip(
        grads, torch.autograd.grad((true * weight.double()).sum(), (q, k, v, prefix_k, prefix_v)), strict=True
    ):
        torch.testing.assert_close(grad, exact.float(), rtol=0, atol=5e-6)
