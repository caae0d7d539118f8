"""What a token may attend to: packed sequences for training, cached rows for decoding.

Dimensions: N flat tokens, B rows, T padded row length, H query heads, K key/value heads, G = H / K
query heads that share one key/value head, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qwq.model.config import ModelConfig
from qwq.model.footprint import DENSE_MASK
from qwq.model.joined_attention import joined_attention


class Packed:
    """Sequences packed one after the other, each attending causally within itself only.

    The tokens stay flat for the matrix products; for attention alone they are laid out as
    right-padded rows. Under a causal mask a real query never reaches the padding behind it, so no
    mask is needed, and no sequence sees another. `lengths` are the sequences' lengths; their sum is
    N.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        lens_B = torch.tensor(list(lengths), dtype=torch.long)
        self.num_rows, self.width = len(lens_B), int(lens_B.max())
        starts_B = torch.cumsum(lens_B, 0) - lens_B
        row_N = torch.repeat_interleave(torch.arange(self.num_rows), lens_B)
        self.positions_N = (torch.arange(int(lens_B.sum())) - starts_B[row_N]).to(device)
        # Equal lengths need no gathering at all: the flat tokens already are the rows.
        self.even = bool((lens_B == self.width).all())
        if not self.even:
            self.slot_N = (row_N * self.width).to(device) + self.positions_N
            fill = starts_B[:, None] + torch.arange(self.width).clamp(max=self.width)[None, :]
            inside = torch.arange(self.width)[None, :] < lens_B[:, None]
            # Padding repeats the row's first token: any finite value does, as no real query attends
            # to it.
            self.source_BT = torch.where(inside, fill, starts_B[:, None]).flatten().to(device)

    def lay_out(self, x: Tensor) -> Tensor:
        """(N, heads, E) as (B, heads, T, E)."""
        if not self.even:
            x = x.flatten(1).index_select(0, self.source_BT).view(-1, *x.shape[1:])
        return x.view(self.num_rows, self.width, *x.shape[1:]).transpose(1, 2)

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        q, k, v = self.lay_out(q_NHE), self.lay_out(k_NKE), self.lay_out(v_NKE)
        return self.flat(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]))

    def flat(self, out_BHTE: Tensor) -> Tensor:
        """(B, H, T, E) as (N, H*E), without the padding."""
        out = out_BHTE.transpose(1, 2).reshape(self.num_rows * self.width, -1)
        return out if self.even else out.index_select(0, self.slot_N)


class SharedPrefix:
    """Groups of completions that share a prompt: the prompt's tokens are computed once (one prefill
    a group).

    Flat order, group after group: the prompt's tokens, then each completion's. A completion attends
    to its group's prompt and causally to itself; the gradient of all its completions reaches the
    prompt through the same tensors. `prompt_lengths` (groups) may hold zeros; `completion_lengths`
    is a list a group.
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        completion_lengths: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
    ) -> None:
        positions, prompt_starts, rows = [], [], []  # rows: (start, length, start of its prompt, prompt length)
        at = 0
        for p_len, c_lens in zip(prompt_lengths, completion_lengths, strict=True):
            start = at
            prompt_starts.append(start)
            positions.append(torch.arange(p_len))
            at += p_len
            for c_len in c_lens:
                rows.append((at, c_len, start, p_len))
                positions.append(torch.arange(p_len, p_len + c_len))
                at += c_len
        self.positions_N = torch.cat(positions).to(device)
        starts_R, lens_R, p_starts_R, p_lens_R = torch.tensor(rows).T
        P, C = int(p_lens_R.max()), int(lens_R.max())
        self.num_rows, self.width = len(rows), C
        column_C, column_P = torch.arange(C), torch.arange(P)
        own_RC = starts_R[:, None] + torch.minimum(column_C[None], lens_R[:, None] - 1)
        prefix_RP = p_starts_R[:, None] + torch.minimum(column_P[None], (p_lens_R - 1).clamp(min=0)[:, None])
        self.query_RC = own_RC.flatten().to(device)
        self.keys_RT = torch.cat((prefix_RP, own_RC), 1).flatten().to(device)
        # A padded query sees what the last real one sees, so no row of the softmax is empty.
        visible = torch.cat(
            (
                (column_P[None] < p_lens_R[:, None])[:, None, :].expand(-1, C, -1),
                (column_C[None, :] <= column_C[:, None])[None].expand(len(rows), -1, -1),
            ),
            2,
        )
        self.mask_R1CT = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))[:, None].to(device)
        self.has_prompt = P > 0
        # Where each flat token's output is in (prompt rows, completion rows) laid end to end.
        in_row_R = torch.arange(len(rows)) * C
        completion_slots = torch.repeat_interleave(in_row_R - starts_R, lens_R)
        completion_at = torch.cat([torch.arange(s, s + n) for s, n, _, _ in rows])
        slots_N = torch.empty(at, dtype=torch.long)
        num_prompt_slots = 0
        if self.has_prompt:
            width = max(prompt_lengths)
            ids = torch.cat([torch.arange(s, s + n) for s, n in zip(prompt_starts, prompt_lengths, strict=True)])
            row = torch.repeat_interleave(torch.arange(len(prompt_lengths)), torch.tensor(list(prompt_lengths)))
            slots_N[ids] = row * width + self.positions_N.cpu()[ids]
            fill = torch.minimum(
                torch.arange(width)[None], (torch.tensor(list(prompt_lengths)) - 1).clamp(min=0)[:, None]
            )
            self.prompt_GP = (torch.tensor(prompt_starts)[:, None] + fill).flatten().to(device)
            self.prompt_shape = (len(prompt_lengths), width)
            num_prompt_slots = len(prompt_lengths) * width
        slots_N[completion_at] = completion_slots + completion_at + num_prompt_slots
        self.slots_N = slots_N.to(device)

    @staticmethod
    def _rows(x: Tensor, index: Tensor, num_rows: int) -> Tensor:
        return x.flatten(1).index_select(0, index).view(num_rows, -1, *x.shape[1:]).transpose(1, 2)

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        gqa = q_NHE.shape[1] != k_NKE.shape[1]
        q = self._rows(q_NHE, self.query_RC, self.num_rows)
        k, v = (self._rows(x, self.keys_RT, self.num_rows) for x in (k_NKE, v_NKE))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_R1CT.to(q.dtype), enable_gqa=gqa)
        out = out.transpose(1, 2).reshape(self.num_rows * self.width, -1)
        if self.has_prompt:
            q, k, v = (self._rows(x, self.prompt_GP, self.prompt_shape[0]) for x in (q_NHE, k_NKE, v_NKE))
            prompt = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
            out = torch.cat((prompt.transpose(1, 2).reshape(-1, out.shape[1]), out))
        return out.index_select(0, self.slots_N)


class JoinedPrefix:
    """`SharedPrefix` for long completions: the same attention, group by group, with no mask and in
    memory linear in the tokens (`joined_attention`).
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        completion_lengths: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
    ) -> None:
        positions: list[Tensor] = []
        self.groups: list[tuple[int, int, Packed]] = []  # first token, prompt length, completions
        at = 0
        for p_len, c_lens in zip(prompt_lengths, completion_lengths, strict=True):
            rows = Packed(c_lens, device)
            self.groups.append((at, p_len, rows))
            positions += [torch.arange(p_len, device=device), rows.positions_N + p_len]
            at += p_len + sum(c_lens)
        self.positions_N = torch.cat(positions)

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for start, p_len, rows in self.groups:
            middle, end = start + p_len, start + p_len + len(rows.positions_N)
            own = [x[middle:end] for x in (q_NHE, k_NKE, v_NKE)]
            if not p_len:
                outputs.append(rows.attend(layer, *own))
                continue
            q, k, v = (x[start:middle].transpose(0, 1) for x in (q_NHE, k_NKE, v_NKE))
            gqa = len(q) != len(k)
            prompt = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=gqa)
            outputs.append(prompt[0].transpose(0, 1).flatten(1))
            q, own_k, own_v = (rows.lay_out(x).contiguous() for x in own)
            joined = joined_attention(q, own_k, own_v, k.contiguous(), v.contiguous())
            outputs.append(rows.flat(joined))
        return torch.cat(outputs)


def shared_prefix(
    prompt_lengths: Sequence[int], completion_lengths: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> SharedPrefix | JoinedPrefix:
    """The layout of groups of completions that share a prompt: one product with a mask where that
    is small, no mask where it is not.
    """
    longest = max(c for lengths in completion_lengths for c in lengths)
    rows = sum(len(lengths) for lengths in completion_lengths)
    dense = rows * longest * (max(prompt_lengths) + longest) <= DENSE_MASK
    return (SharedPrefix if dense else JoinedPrefix)(prompt_lengths, completion_lengths, device)


class KVCache:
    """Keys and values of B rows, `capacity` tokens each: tensors (layers, B, K, capacity, E)."""

    def __init__(
        self,
        config: ModelConfig,
        num_rows: int,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype=torch.float32,
    ):
        shape = (config.num_layers, num_rows, config.num_kv_heads, capacity, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)

    @staticmethod
    def bytes_per_token(config: ModelConfig, bytes_per_value: int = 4) -> int:
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_value


class Prefill(Packed):
    """`Packed` that also writes keys and values into rows `rows_S` of a cache, one row a
    sequence.
    """

    def __init__(
        self, lengths: Sequence[int], cache: KVCache, rows_S: Tensor, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(lengths, device)
        self.cache, self.rows_S = cache, rows_S

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        # The padded columns behind a row hold copies of its first token until decoding overwrites
        # them; they are never attended to.
        self.cache.k[layer, self.rows_S, :, : self.width] = self.lay_out(k_NKE)
        self.cache.v[layer, self.rows_S, :, : self.width] = self.lay_out(v_NKE)
        return super().attend(layer, q_NHE, k_NKE, v_NKE)


class Siblings:
    """Rows of a cache that begin alike: groups of places whose first `length` columns hold the same
    keys and values.
    """

    def __init__(self, groups: Sequence[Sequence[int]], length: int) -> None:
        self.length, self.num_groups, self.most = length, len(groups), max(map(len, groups))
        self.leaders_S = torch.tensor([g[0] for g in groups])
        # A group with fewer rows repeats its first; what is computed twice is not read.
        self.rows_SM = torch.tensor([[*g, *[g[0]] * (self.most - len(g))] for g in groups])
        slots = {row: s * self.most + m for s, g in enumerate(groups) for m, row in enumerate(g)}
        self.slots_N = torch.tensor([slots[row] for row in range(len(slots))])


class Decode:
    """One new token for each of the first B rows of a cache.

    `positions_N` (B,) is the new token's position, so a row attends to columns 0..position. The G
    query heads that share a key/value head are treated as G queries of it, which makes grouped
    attention two batched matrix products without copying keys. With `siblings` (all rows of the
    cache in use, on a CPU) the columns that rows have in common are read once for all of them, and
    joined with each row's own by their log-sum-exps (as in Hydragen, Juravsky et al. 2024, arXiv
    2402.05099).
    """

    def __init__(self, cache: KVCache, positions_N: Tensor, width: int, siblings: Siblings | None = None) -> None:
        self.cache, self.positions_N, self.width, self.siblings = cache, positions_N, width, siblings
        self.rows_N = torch.arange(len(positions_N), device=positions_N.device)
        beyond = torch.arange(width, device=positions_N.device)[None, :] > positions_N[:, None]
        self.mask_N11T = torch.zeros(beyond.shape, device=positions_N.device).masked_fill_(beyond, float("-inf"))[
            :, None, None, :
        ]

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        N, H, E = q_NHE.shape
        K = k_NKE.shape[1]
        keys, values = self.cache.k[layer, :N], self.cache.v[layer, :N]
        keys[self.rows_N, :, self.positions_N] = k_NKE
        values[self.rows_N, :, self.positions_N] = v_NKE
        q_NKGE = q_NHE.reshape(N, K, H // K, E)
        mask = self.mask_N11T.to(q_NHE.dtype)
        if self.siblings is not None:
            return self._attend_siblings(q_NKGE, keys, values, mask).reshape(N, H * E)
        out = F.scaled_dot_product_attention(
            q_NKGE, keys[:, :, : self.width], values[:, :, : self.width], attn_mask=mask
        )
        return out.reshape(N, H * E)

    def _attend_siblings(self, q_NKGE: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        sib, (N, K, G, E) = self.siblings, q_NKGE.shape
        assert sib is not None
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        p, M = sib.length, sib.most
        own, own_lse = flash(q_NKGE, keys[:, :, p : self.width], values[:, :, p : self.width], attn_mask=mask[..., p:])
        q_SKQE = q_NKGE[sib.rows_SM].transpose(1, 2).reshape(-1, K, M * G, E)
        shared, shared_lse = flash(q_SKQE, keys[sib.leaders_S, :, :p], values[sib.leaders_S, :, :p])
        shared = shared.view(-1, K, M, G, E).transpose(1, 2).reshape(-1, K, G, E)[sib.slots_N]
        shared_lse = shared_lse.view(-1, K, M, G).transpose(1, 2).reshape(-1, K, G)[sib.slots_N]
        weight = torch.sigmoid(shared_lse - own_lse.view(N, K, G))[..., None]
        return torch.lerp(own.float(), shared.float(), weight.float()).to(q_NKGE.dtype)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split sequences into batches of at most `max_tokens` (a longer one is alone), like lengths
    together.

    Like lengths together keep the padded rows of attention dense. The split depends on lengths
    alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    lots: list[list[int]] = []
    total = 0
    for i in order:
        if not lots or total + lengths[i] > max_tokens:
            lots.append([])
            total = 0
        lots[-1].append(i)
        total += lengths[i]
    return lots
