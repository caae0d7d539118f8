"""The engine's backend on our own module: float32 on CPUs (or any dtype and device that torch has).

One forward pass computes single tokens of many rows and chunks of prompts together: everything but
attention works on flat tokens. Attention is one call for all single tokens of a width class, and
two calls a chunk: over what precedes it (no mask), and causally within it, merged by their
log-sum-exps, so memory is linear in length.

Deterministic mode. A float32 matrix product's rounding depends on its number of rows, so there
every pass has one fixed shape: prompts in blocks of 64 tokens of one row, everything else in blocks
of 4 tokens with attention token by token. The content of a block's other rows does not change a
row's result (checked when the backend is made), so a sample's bits depend on its own tokens alone.
The price is the blocks that are not full, and attention row by row.

Dimensions: N tokens of the pass, S single tokens, H query heads, K key/value heads, G = H / K, E
head width, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qwq.engine.backends.base import Chunk
from qwq.engine.backends.slots import SlotCache
from qwq.errors import InfraError
from qwq.model.linear import linear
from qwq.model.transformer import Block, Transformer

PROMPT_BLOCK, TOKEN_BLOCK = 64, 4
MASK_LIMIT = 1 << 20  # query-key pairs up to which a chunk is attended to with one mask


class TorchBackend:
    """See `backend.Backend`. `kv_tokens` bounds the cache over all rows."""

    own_threads = False

    def __init__(
        self,
        model: Transformer,
        *,
        kv_tokens: int,
        max_slots: int = 256,
        deterministic: bool = False,
        has_yarn: bool | None = None,
    ) -> None:
        self.model = model
        self.vocab_size, self.max_positions = model.config.vocab_size, model.config.max_positions
        self.max_slots, self.slot_capacity, self.deterministic = max_slots, kv_tokens, deterministic
        self.chunk_unit = PROMPT_BLOCK if deterministic else 1
        self.has_yarn = model.config.rope_scaling is not None if has_yarn is None else has_yarn
        self.cache = SlotCache(model.config, kv_tokens, dtype=model.embed.weight.dtype, device=model.device)
        if deterministic:
            with torch.inference_mode():
                self._check_blocks()

    def open_slot(self) -> int | None:
        return self.cache.open() if len(self.cache.place_of) < self.max_slots else None

    def close_slot(self, slot: int) -> None:
        self.cache.close(slot)

    def reserve(self, slot: int, length: int) -> bool:
        return self.cache.reserve(slot, length)

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        return self.cache.copy_prefix(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        """Nothing to do: what is beyond a row's length is written over before it is read."""

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        if self.deterministic:
            return self._forward_in_blocks(chunks)
        hidden_ND = self._pass(chunks)
        return self._logits(hidden_ND, chunks)

    def _pass(self, chunks: Sequence[Chunk]) -> Tensor:
        layout = BatchLayout(self.cache, chunks, self.model.device, self.has_yarn)
        ids_N = torch.tensor([i for c in chunks for i in c.ids], device=self.model.device)
        return self.model(ids_N, layout)

    def _logits(self, hidden_ND: Tensor, chunks: Sequence[Chunk]) -> Tensor:
        wanted: list[int] = []
        at = 0
        for c in chunks:
            at += len(c.ids)
            wanted += range(at - c.num_logits, at)
        if not wanted:
            return torch.zeros(0, self.vocab_size)
        if len(wanted) < len(hidden_ND):
            hidden_ND = hidden_ND[torch.tensor(wanted, device=hidden_ND.device)]
        return self.model.logits(hidden_ND).float().cpu()

    # -- deterministic mode ------------------------------------------------------------------------

    def _forward_in_blocks(self, chunks: Sequence[Chunk]) -> Tensor:
        hidden: dict[int, list[Tensor]] = {i: [] for i in range(len(chunks))}
        singles: list[tuple[int, Chunk]] = []
        for i, c in enumerate(chunks):
            if not c.prompt:
                singles += [(i, Chunk(c.slot, [t], c.start + j, 0, c.yarn)) for j, t in enumerate(c.ids)]
                continue
            assert c.start % PROMPT_BLOCK == 0
            for at in range(0, len(c.ids), PROMPT_BLOCK):
                ids = c.ids[at : at + PROMPT_BLOCK]
                hidden[i].append(self._block([Chunk(c.slot, ids, c.start + at, 0, c.yarn, True)], PROMPT_BLOCK))
        # A row's drafted tokens read one another, so they are in order; a later one may even
        # share its block.
        for at in range(0, len(singles), TOKEN_BLOCK):
            lot = singles[at : at + TOKEN_BLOCK]
            out_ND = self._block([c for _, c in lot], TOKEN_BLOCK)
            for (i, _), row_D in zip(lot, out_ND, strict=True):
                hidden[i].append(row_D[None])
        wanted = [torch.cat(hidden[i])[len(c.ids) - c.num_logits :] for i, c in enumerate(chunks) if c.num_logits]
        if not wanted:
            return torch.zeros(0, self.vocab_size)
        return self._blocked_logits(torch.cat(wanted))

    def _blocked_logits(self, hidden_ND: Tensor) -> Tensor:
        out = []
        for at in range(0, len(hidden_ND), TOKEN_BLOCK):
            lot = hidden_ND[at : at + TOKEN_BLOCK]
            padded = F.pad(lot, (0, 0, 0, TOKEN_BLOCK - len(lot)))
            out.append(self.model.logits(padded)[: len(lot)])
        return torch.cat(out).float().cpu()

    def _block(self, chunks: Sequence[Chunk], size: int) -> Tensor:
        """One pass of exactly `size` rows; the missing ones are token 0 at position 0 and are
        attended to by nobody.
        """
        count = sum(len(c.ids) for c in chunks)
        layout = BatchLayout(self.cache, chunks, self.model.device, self.has_yarn, one_by_one=True, pad=size - count)
        ids = [i for c in chunks for i in c.ids] + [0] * (size - count)
        return self.model(torch.tensor(ids, device=self.model.device), layout)[:count]

    def _check_blocks(self) -> None:
        """Whether a row of a product keeps its bits among other rows, at every place of a block,
        for every weight's shape.
        """
        generator = torch.Generator().manual_seed(0)
        block = self.model.blocks[0]
        assert isinstance(block, Block)
        weights = [block.qkv.weight, block.o.weight, block.gate_up.weight, block.down.weight, self.model.head_weight]
        for weight in weights:
            weight = weight[: 1 << 16]
            for size in (TOKEN_BLOCK, PROMPT_BLOCK):
                x_D = torch.randn(weight.shape[1], generator=generator).to(weight)
                results = []
                for place in range(0, size, -(-size // 8)):
                    others = torch.randn(size, weight.shape[1], generator=generator).to(weight)
                    others[place] = x_D
                    results.append(linear(others, weight)[place])
                if not all(torch.equal(r, results[0]) for r in results):
                    raise InfraError(
                        f"this machine's matrix product of {tuple(weight.shape)} rounds a row by its place in a "
                        f"block of {size}: "
                        "--deterministic cannot be kept here, run without it"
                    )


class BatchLayout:
    """Positions of the tokens of one pass, and their attention over the rows' caches (a
    `transformer.Layout`).
    """

    def __init__(
        self,
        cache: SlotCache,
        chunks: Sequence[Chunk],
        device: torch.device,
        has_yarn: bool,
        *,
        one_by_one: bool = False,
        pad: int = 0,
    ) -> None:
        self.cache, self.one_by_one, self.pad = cache, one_by_one, pad
        positions = [p for c in chunks for p in range(c.start, c.start + len(c.ids))]
        self.positions_N = torch.tensor(positions + [0] * pad, device=device)
        self.yarn_N: Tensor | None = None
        if has_yarn:
            self.yarn_N = torch.tensor([c.yarn for c in chunks for _ in c.ids] + [False] * pad, device=device)
        # Single tokens by width class: (width, places, positions, index into the pass); longer
        # chunks by themselves.
        by_width: dict[int, list[tuple[int, int, int]]] = {}
        self.chunks: list[tuple[int, int, int, int, int]] = []  # (at, length, start, width, place)
        at = 0
        for c in chunks:
            width, place = cache.place_of[c.slot]
            assert c.start + len(c.ids) <= width, "the scheduler reserves before it computes"
            if len(c.ids) == 1:
                by_width.setdefault(width, []).append((place, c.start, at))
            else:
                self.chunks.append((at, len(c.ids), c.start, width, place))
            at += len(c.ids)
        self.num = at
        self.singles = [
            _Singles(cache.arenas[w], sorted(items), device, cache.config) for w, items in sorted(by_width.items())
        ]

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        N, H, E = q_NHE.shape
        if len(self.singles) == 1 and not self.chunks and not self.pad and not self.one_by_one:
            return self.singles[0].attend(layer, q_NHE, k_NKE, v_NKE)
        out_NHE = torch.zeros_like(q_NHE) if self.pad else torch.empty_like(q_NHE)
        for s in self.singles:
            i = s.index_S
            s.write(layer, k_NKE[i], v_NKE[i])
        for s in self.singles:
            q = q_NHE[s.index_S]
            out = s.attend_one_by_one(layer, q) if self.one_by_one else s.read(layer, q)
            out_NHE[s.index_S] = out.view(-1, H, E)
        for at, length, start, width, place in self.chunks:
            arena, end = self.cache.arenas[width], at + length
            k_KTE, v_KTE = arena.k[layer, place], arena.v[layer, place]
            k_KTE[:, start : start + length] = k_NKE[at:end].transpose(0, 1)
            v_KTE[:, start : start + length] = v_NKE[at:end].transpose(0, 1)
            out_NHE[at:end] = attend_chunk(q_NHE[at:end], k_KTE, v_KTE, start)
        return out_NHE.view(N, H * E)


class _Singles:
    """The single tokens that live in one arena."""

    def __init__(self, arena, items: list[tuple[int, int, int]], device: torch.device, config) -> None:
        self.arena = arena
        places, positions, index = zip(*items, strict=True)
        self.index_S = torch.tensor(index, device=device)
        self.place_S = torch.tensor(places, device=device)
        self.position_S = torch.tensor(positions, device=device)
        self.lengths = [p + 1 for p in positions]
        self.in_order = list(index) == list(range(len(index)))
        width = min(-(-max(self.lengths) // 16) * 16, arena.width)
        low, high = min(places), max(places) + 1
        # Rows that lie together are read in place; a few rows far apart are gathered.
        self.whole = high - low <= 2 * len(places) and len(set(places)) == len(places)
        self.rows = slice(low, high) if self.whole else self.place_S
        self.dense = self.whole and high - low == len(places)
        self.local_S = self.place_S - low if self.whole else torch.arange(len(places), device=device)
        beyond = torch.arange(width, device=device)[None, :] > self.position_S[:, None]
        mask_ST = torch.zeros(beyond.shape, device=device, dtype=arena.k.dtype).masked_fill_(beyond, float("-inf"))
        if self.whole and not self.dense:
            full = torch.zeros(high - low, width, device=device, dtype=arena.k.dtype)
            full[self.local_S] = mask_ST
            mask_ST = full
        self.mask = mask_ST[:, None, None, :]
        self.width = width

    def write(self, layer: int, k_SKE: Tensor, v_SKE: Tensor) -> None:
        self.arena.k[layer][self.place_S, :, self.position_S] = k_SKE
        self.arena.v[layer][self.place_S, :, self.position_S] = v_SKE

    def read(self, layer: int, q_SHE: Tensor) -> Tensor:
        S, H, E = q_SHE.shape
        k, v = self.arena.k[layer, self.rows, :, : self.width], self.arena.v[layer, self.rows, :, : self.width]
        K = k.shape[1]
        q_SKGE = q_SHE.reshape(S, K, H // K, E)
        if self.whole and not self.dense:
            spread = q_SKGE.new_zeros(len(k), K, H // K, E)
            spread[self.local_S] = q_SKGE
            q_SKGE = spread
        out = F.scaled_dot_product_attention(q_SKGE, k, v, attn_mask=self.mask)
        if self.whole and not self.dense:
            out = out[self.local_S]
        return out.reshape(S, H * E)

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        """All tokens of a pass at once."""
        if self.in_order:
            self.write(layer, k_NKE, v_NKE)
            return self.read(layer, q_NHE)
        i = self.index_S
        self.write(layer, k_NKE[i], v_NKE[i])
        out = torch.empty_like(q_NHE).flatten(1)
        out[i] = self.read(layer, q_NHE[i])
        return out

    def attend_one_by_one(self, layer: int, q_SHE: Tensor) -> Tensor:
        _, H, E = q_SHE.shape
        K = self.arena.k.shape[2]
        out = []
        for s, (place, length) in enumerate(zip(self.place_S.tolist(), self.lengths, strict=True)):
            k, v = self.arena.k[layer, place, :, :length], self.arena.v[layer, place, :, :length]
            out.append(F.scaled_dot_product_attention(q_SHE[s].view(1, K, H // K, E), k[None], v[None]).view(H * E))
        return torch.stack(out)


def attend_chunk(q_CHE: Tensor, k_KTE: Tensor, v_KTE: Tensor, start: int) -> Tensor:
    """Attention (C, H, E) of C tokens at positions start.. over a row that already holds them.
    Memory linear in length.
    """
    C, H, E = q_CHE.shape
    K = k_KTE.shape[0]
    G, end = H // K, start + C
    own_k, own_v = k_KTE[:, start:end], v_KTE[:, start:end]
    q_HCE = q_CHE.transpose(0, 1)
    if start == 0:
        out = F.scaled_dot_product_attention(q_HCE[None], own_k[None], own_v[None], is_causal=True, enable_gqa=G > 1)
        return out[0].transpose(0, 1)
    if C * end <= MASK_LIMIT or q_CHE.device.type != "cpu":
        mask = torch.ones(C, end, dtype=torch.bool, device=q_CHE.device).tril_(start)
        out = F.scaled_dot_product_attention(
            q_HCE[None], k_KTE[None, :, :end], v_KTE[None, :, :end], attn_mask=mask, enable_gqa=G > 1
        )
        return out[0].transpose(0, 1)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    repeat = [t[:, None].expand(K, G, C, E).reshape(1, H, C, E) for t in (own_k, own_v)]
    own, own_lse = flash(q_HCE[None], *repeat, 0.0, True)
    # Over the past no mask is needed, so the G heads of a key/value head are G times as many
    # queries.
    past, past_lse = flash(q_HCE.reshape(1, K, G * C, E), k_KTE[None, :, :start], v_KTE[None, :, :start], 0.0, False)
    own_lse, past_lse = own_lse.reshape(H, C), past_lse.reshape(H, C)
    weight = torch.sigmoid(past_lse - own_lse)[..., None]
    out_HCE = torch.lerp(own.reshape(H, C, E).float(), past.reshape(H, C, E).float(), weight.float())
    return out_HCE.to(q_CHE.dtype).transpose(0, 1)
