"""Attention of one new token a row over a paged key/value cache, and writing into that cache.

Keys and values are in blocks of `block_size` tokens anywhere in one pool (PagedAttention, Kwon et
al. 2023, arXiv 2309.06180). A long row is cut into splits that run side by side (Flash-Decoding,
Dao et al. 2023), each with the online softmax of FlashAttention (arXiv 2205.14135); a second kernel
merges them.

A row's result is the same bits whatever else is in the batch, because nothing a row computes
depends on the others:
1. a split is always SPLIT tokens, never a share of the longest row or of the free processors;
2. splits are merged SPLITS_AT_ONCE at a time, in order, however many programs the grid has;
3. tile shapes come from the model alone, and batch-dependent arguments do not choose a binary.

Dimensions: B rows, T blocks of the longest row, H query heads, K key/value heads, G = H / K query
heads sharing one of them, E head width, S splits, L tokens of a row. `k_cache`, `v_cache` of one
layer: (blocks, block size, K, E).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qwq.engine.backends.cuda import dot_dtype, launch, power_of_two, wants_kernels

SPLIT = 256  # tokens
SPLITS_AT_ONCE = 16
tl: Any = None  # triton.language, once a kernel is compiled


def write_kv(k_cache: Tensor, v_cache: Tensor, k_NKE: Tensor, v_NKE: Tensor, slots_N: Tensor) -> None:
    """Put N tokens' keys and values into their slots (block * block_size + place in the block),
    int64.
    """
    for cache, new_NKE in ((k_cache, k_NKE), (v_cache, v_NKE)):
        cache.flatten(0, 1).index_copy_(0, slots_N, new_NKE.detach().to(cache.dtype))


def paged_attention(
    q_BHE: Tensor, k_cache: Tensor, v_cache: Tensor, block_table_BT: Tensor, lengths_B: Tensor
) -> Tensor:
    """Each row's query over its first `lengths_B` cached tokens, scaled by 1/sqrt(E): (B, H, E). A
    row of length 0 gives 0.
    """
    run = paged_attention_triton if wants_kernels(q_BHE) else paged_attention_reference
    return run(q_BHE, k_cache, v_cache, block_table_BT, lengths_B)


def paged_attention_reference(
    q_BHE: Tensor, k_cache: Tensor, v_cache: Tensor, block_table_BT: Tensor, lengths_B: Tensor
) -> Tensor:
    """The same in plain PyTorch, row by row, in float32."""
    _, H, E = q_BHE.shape
    K = k_cache.shape[2]
    out_BHE = torch.zeros_like(q_BHE, memory_format=torch.contiguous_format)
    for row, length in enumerate(lengths_B.tolist()):
        if not length:
            continue
        blocks = block_table_BT[row, : -(-length // k_cache.shape[1])].long()
        k_KLE, v_KLE = (c[blocks].flatten(0, 1)[:length].float().transpose(0, 1) for c in (k_cache, v_cache))
        scores_KGL = q_BHE[row].float().view(K, H // K, E) @ k_KLE.mT * E**-0.5
        out_BHE[row] = (scores_KGL.softmax(-1) @ v_KLE).view(H, E).to(q_BHE.dtype)
    return out_BHE


def paged_attention_triton(
    q_BHE: Tensor, k_cache: Tensor, v_cache: Tensor, block_table_BT: Tensor, lengths_B: Tensor
) -> Tensor:
    """The same by two kernels. The table's width alone sizes the grid: programs beyond a row's
    length end at once.
    """
    B, H, E = q_BHE.shape
    _, block_size, K, _ = k_cache.shape
    assert q_BHE.stride(2) == 1 and k_cache.stride() == v_cache.stride() and k_cache.stride(3) == 1
    assert block_table_BT.stride(1) == 1 and block_table_BT.dtype == lengths_B.dtype == torch.int32
    S = max(1, -(-block_table_BT.shape[1] * block_size // SPLIT))
    part_BHSE = torch.empty((B, H, S, E), device=q_BHE.device, dtype=torch.float32)
    # Two tensors, not one of two halves: a pointer's alignment chooses a binary, and must not vary
    # with B.
    max_BHS, sum_BHS = (torch.empty((B, H, S), device=q_BHE.device, dtype=torch.float32) for _ in range(2))
    out_BHE = torch.empty((B, H, E), device=q_BHE.device, dtype=q_BHE.dtype)
    padded = {"PADDED_G": power_of_two(H // K), "PADDED_E": power_of_two(E)}
    launch(
        _split_kernel, (B, K, S),
        q_BHE, k_cache, v_cache, block_table_BT, lengths_B, part_BHSE, max_BHS, sum_BHS,
        E**-0.5, q_BHE.stride(0), q_BHE.stride(1), *k_cache.stride()[:3], block_table_BT.stride(0), S,
        G=H // K, E=E, BLOCK_SIZE=block_size, SPLIT=SPLIT, TILE=64 if q_BHE.element_size() == 2 else 32, **padded,
        DOT=dot_dtype(q_BHE.dtype), unspecialised=("table_row", "num_splits"),
    )  # fmt: skip
    launch(
        _merge_kernel, (B, H),
        part_BHSE, max_BHS, sum_BHS, lengths_B, out_BHE, S,
        E=E, PADDED_E=padded["PADDED_E"], SPLIT=SPLIT, AT_ONCE=SPLITS_AT_ONCE, unspecialised=("num_splits",),
    )  # fmt: skip
    return out_BHE


def _split_kernel(
    q, k_cache, v_cache, table, lengths, part, part_max, part_sum,
    scale, q_row, q_head, block_stride, slot_stride, head_stride, table_row, num_splits,
    G: tl.constexpr, E: tl.constexpr, BLOCK_SIZE: tl.constexpr, SPLIT: tl.constexpr, TILE: tl.constexpr,
    PADDED_G: tl.constexpr, PADDED_E: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """One program: G query heads of one row over one split. Leaves sum(p v), max(score) and sum(p),
    p = exp(score - max).
    """
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = split * SPLIT
    if first < length:
        g, e = tl.arange(0, PADDED_G), tl.arange(0, PADDED_E)
        head = kv_head * G + g
        q_GE = tl.load(
            q + row.to(tl.int64) * q_row + head[:, None] * q_head + e[None, :],
            mask=(g[:, None] < G) & (e[None, :] < E), other=0.0,
        ).to(DOT)  # fmt: skip
        max_G = tl.full((PADDED_G,), float("-inf"), tl.float32)
        sum_G = tl.zeros((PADDED_G,), tl.float32)
        acc_GE = tl.zeros((PADDED_G, PADDED_E), tl.float32)
        for start in range(first, tl.minimum(first + SPLIT, length), TILE):
            t = start + tl.arange(0, TILE)
            inside = t < length
            block = tl.load(table + row.to(tl.int64) * table_row + t // BLOCK_SIZE, mask=inside, other=0)
            at = block.to(tl.int64) * block_stride + (t % BLOCK_SIZE) * slot_stride + kv_head * head_stride
            k_ET = tl.load(k_cache + at[None, :] + e[:, None], mask=inside[None, :] & (e[:, None] < E), other=0.0)
            score_GT = tl.dot(q_GE, k_ET.to(DOT), input_precision="ieee") * scale
            score_GT = tl.where(inside[None, :], score_GT, float("-inf"))
            # Every tile begins inside the row, so the new maximum is finite.
            new_max_G = tl.maximum(max_G, tl.max(score_GT, 1))
            p_GT = tl.exp(score_GT - new_max_G[:, None])
            fade_G = tl.exp(max_G - new_max_G)
            v_TE = tl.load(v_cache + at[:, None] + e[None, :], mask=inside[:, None] & (e[None, :] < E), other=0.0)
            acc_GE = acc_GE * fade_G[:, None] + tl.dot(p_GT.to(DOT), v_TE.to(DOT), input_precision="ieee")
            sum_G = sum_G * fade_G + tl.sum(p_GT, 1)
            max_G = new_max_G
        num_heads = tl.num_programs(1) * G
        to = (row.to(tl.int64) * num_heads + head) * num_splits + split
        tl.store(part_max + to, max_G, mask=g < G)
        tl.store(part_sum + to, sum_G, mask=g < G)
        tl.store(part + to[:, None] * E + e[None, :], acc_GE, mask=(g[:, None] < G) & (e[None, :] < E))


def _merge_kernel(
    part, part_max, part_sum, lengths, out, num_splits,
    E: tl.constexpr, PADDED_E: tl.constexpr, SPLIT: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """One program: the splits of one head of one row, merged in order."""
    row, head = tl.program_id(0), tl.program_id(1)
    used = (tl.load(lengths + row) + SPLIT - 1) // SPLIT
    e = tl.arange(0, PADDED_E)
    place = row.to(tl.int64) * tl.num_programs(1) + head
    top = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    acc_E = tl.zeros((PADDED_E,), tl.float32)
    for first in range(0, used, AT_ONCE):
        s = first + tl.arange(0, AT_ONCE)
        at = place * num_splits + s
        max_S = tl.load(part_max + at, mask=s < used, other=float("-inf"))
        new_top = tl.maximum(top, tl.max(max_S, 0))
        weight_S = tl.exp(max_S - new_top)
        fade = tl.exp(top - new_top)
        part_SE = tl.load(part + at[:, None] * E + e[None, :], mask=(s[:, None] < used) & (e[None, :] < E), other=0.0)
        acc_E = acc_E * fade + tl.sum(part_SE * weight_S[:, None], 0)
        total = total * fade + tl.sum(tl.load(part_sum + at, mask=s < used, other=0.0) * weight_S, 0)
        top = new_top
    result_E = acc_E / tl.where(total > 0, total, 1.0)
    tl.store(out + place * E + e, result_E.to(out.dtype.element_ty), mask=e < E)
