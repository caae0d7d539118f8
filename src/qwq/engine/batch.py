"""Batched generation on the model that is trained (design promise 1).

The life of a request: its prompt is computed once for all its samples; each sample is a row of the
key/value cache; every step feeds one token of each row; a row that ends leaves the batch and a waiting
request takes its place. Rows are kept in the first places of the cache (the last row moves into a
hole), so a step never computes an empty row.

When a row ends its turn, `continue_with` may hand back tokens (a tool's result and the opening of the
next turn). They are fed through the model like sampled ones, marked 0 in `sampled_mask`, and
the row goes on: token in, token out, nothing is re-made from text (promise 2). A thinking budget closes a thought in
the same way; unlike the serving engine it forbids no end token, so every sampled token comes from the plain distribution.

Dimensions: B rows in use, T cache columns, S samples of a request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwq.engine.sampler import SamplingParams, sample, stream_seed
from qwq.engine.thinking import Thinking
from qwq.errors import CapacityError
from qwq.model.layouts import Decode, KVCache, Prefill, Siblings
from qwq.model.transformer import Transformer
from qwq.types import StopReason

LONG_PROMPT, MANY_SAMPLES = (
    96,
    4,
)  # from here on a group's prompt is read once; chosen, not tuned: a short one gains little
PREFILL_TOKENS = 4096  # prompt tokens computed at once: bounds the activations of a long prefill


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how many independent samples of it. Sample s draws from the random stream (seed, s)."""

    prompt_ids: Sequence[int]
    num_samples: int = 1
    seed: int = 0


@dataclass(slots=True)
class Completion:
    """What one sample became. The three lists run in parallel; see `types.Rollout` for their meaning."""

    ids: list[int] = field(default_factory=list)
    sampled_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop_reason: StopReason = StopReason.END


# Called with (request index, sample index, completion ids so far) when a row ends its turn.
ContinueWith = Callable[[int, int, list[int]], "list[int] | StopReason | None"]
# Called with (request index, sample index, completion) when a sample has ended, while others still run.
OnDone = Callable[[int, int, Completion], None]
# The thinking control of one request's sample; None where it has no budget.
MakeThinking = Callable[[int], "Thinking | None"]


class _Rows:
    """The running rows as tensors over places 0..B-1, and the moves that keep them dense."""

    def __init__(self, num_places: int, width: int, max_new: int, device: torch.device) -> None:
        def longs(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        self.last, self.position, self.count, self.seed = (longs(num_places) for _ in range(4))
        self.forced_len, self.forced_at = longs(num_places), longs(num_places)
        self.forced = longs(num_places, max_new)
        self.ids, self.mask = longs(num_places, max_new), longs(num_places, max_new)
        self.logprobs = torch.zeros(num_places, max_new, device=device)
        self.owner: list[tuple[int, int]] = []  # (request, sample) of each place in use
        self.siblings: Siblings | None = None
        self.siblings_known = False  # not since the rows last changed places
        self.any_forced = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.last, self.position, self.count, self.seed, self.forced_len, self.forced_at, self.forced, self.ids, self.mask, self.logprobs)  # fmt: skip

    def remove(self, places: list[int], cache: KVCache) -> None:
        """Free places; rows from the end move into the holes."""
        gone, keep = set(places), len(self.owner) - len(places)
        self.siblings_known = False
        movers = [p for p in range(keep, len(self.owner)) if p not in gone]
        holes = [p for p in places if p < keep]
        if holes:
            src, dst = torch.tensor(movers), torch.tensor(holes)
            for t in self.tensors:
                t[dst] = t[src]
            cache.k[:, dst] = cache.k[:, src]
            cache.v[:, dst] = cache.v[:, src]
            for s, d in zip(movers, holes, strict=True):
                self.owner[d] = self.owner[s]
        del self.owner[keep:]

    def completion(self, place: int, reason: StopReason) -> Completion:
        n = int(self.count[place])
        return Completion(
            self.ids[place, :n].tolist(), self.mask[place, :n].tolist(), self.logprobs[place, :n].tolist(), reason
        )


class Generator:
    """Runs a list of requests to their ends. One instance serves one call of `generate`."""

    def __init__(
        self,
        model: Transformer,
        requests: Sequence[Request],
        params: SamplingParams,
        eos_ids: Sequence[int],
        *,
        max_rows: int,
        continue_with: ContinueWith | None = None,
        on_done: OnDone | None = None,
        thinking: MakeThinking | None = None,
    ) -> None:
        self.model, self.requests, self.params = model, requests, params
        self.continue_with, self.on_done, self.make_thinking = continue_with, on_done, thinking
        self.thinking: dict[tuple[int, int], Thinking] = {}
        longest = max(len(r.prompt_ids) for r in requests)
        if longest >= model.config.max_positions:
            raise CapacityError(
                f"a prompt has {longest} tokens, the model reads at most {model.config.max_positions}: shorten it or leave it out"
            )
        self.width = min(longest + params.max_new_tokens, model.config.max_positions)
        num_rows = min(max_rows, sum(r.num_samples for r in requests))
        self.cache = KVCache(model.config, num_rows, self.width, device=model.device, dtype=model.embed.weight.dtype)
        self.rows = _Rows(num_rows, self.width, params.max_new_tokens, model.device)
        self.num_places = num_rows
        self.eos = torch.tensor(sorted(set(eos_ids)), device=model.device)
        self.waiting = deque((r, s) for r, request in enumerate(requests) for s in range(request.num_samples))
        self.out: list[list[Completion | None]] = [[None] * r.num_samples for r in requests]

    def run(self) -> list[list[Completion]]:
        # Refilling in lots keeps prefills large; an eighth of the places empty costs little.
        lot = max(1, self.num_places // 8)
        while self.waiting or self.rows.owner:
            free = self.num_places - len(self.rows.owner)
            if self.waiting and (free >= lot or not self.rows.owner):
                self._admit(free)
            self._step()
        return self.out  # type: ignore[return-value]  # every place has been filled

    def _admit(self, free: int) -> None:
        """Give free places to waiting samples; each prompt is computed once and copied to its other samples."""
        rows, cache, device = self.rows, self.cache, self.model.device
        rows.siblings_known = False
        places_of: dict[int, list[int]] = {}
        for _ in range(min(free, len(self.waiting))):
            r, s = self.waiting.popleft()
            place = len(rows.owner)
            rows.owner.append((r, s))
            places_of.setdefault(r, []).append(place)
            rows.seed[place] = stream_seed(self.requests[r].seed, s)
        for r, places in places_of.items():
            prompt = self.requests[r].prompt_ids
            index = torch.tensor(places, device=device)
            rows.last[index], rows.position[index] = prompt[-1], len(prompt) - 1
            for t in (rows.count, rows.forced_len, rows.forced_at):
                t[index] = 0
            for place in places if self.make_thinking else ():
                control = self.make_thinking(r)  # type: ignore[misc]
                if control is not None:
                    self.thinking[rows.owner[place]] = control
                    self._close_thought(place)
        # The last prompt token is fed by the first step, with each sample's own row, so only the tokens before it are prefilled.
        todo = [
            (self.requests[r].prompt_ids[:-1], places)
            for r, places in places_of.items()
            if len(self.requests[r].prompt_ids) > 1
        ]
        todo.sort(key=lambda item: len(item[0]))
        while todo:
            batch, total = [], 0
            while todo and (not batch or total + len(todo[0][0]) <= PREFILL_TOKENS):
                batch.append(todo.pop(0))
                total += len(batch[-1][0])
            ids_N = torch.tensor([t for prompt, _ in batch for t in prompt], device=device)
            first_S = torch.tensor([places[0] for _, places in batch], device=device)
            self.model(ids_N, Prefill([len(prompt) for prompt, _ in batch], cache, first_S, device))
            for prompt, places in batch:
                if len(places) > 1:
                    others = torch.tensor(places[1:], device=device)
                    for kv in (cache.k, cache.v):
                        kv[:, others, :, : len(prompt)] = kv[:, places[0] : places[0] + 1, :, : len(prompt)]

    def _step(self) -> None:
        """Feed one token of every row, sample_token the next, and settle the rows that ended."""
        rows, B = self.rows, len(self.rows.owner)
        position_B = rows.position[:B]
        width = min(self.width, -(-(int(position_B.max()) + 1) // 16) * 16)
        hidden_BD = self.model(rows.last[:B], Decode(self.cache, position_B, width, self._siblings()))
        logits_BV = self.model.logits(hidden_BD)
        tokens_B, logprobs_B = sample(logits_BV, self.params, rows.seed[:B], rows.count[:B])
        mask_B = torch.ones_like(tokens_B)
        ends_B = torch.isin(tokens_B, self.eos)
        if rows.any_forced:
            forcing_B = rows.forced_at[:B] < rows.forced_len[:B]
            at_B1 = rows.forced_at[:B].clamp(max=rows.forced.shape[1] - 1)[:, None]
            tokens_B = torch.where(forcing_B, rows.forced[:B].gather(1, at_B1)[:, 0], tokens_B)
            logprobs_B = logprobs_B.masked_fill(forcing_B, 0.0)
            mask_B, ends_B = (~forcing_B).long(), ends_B & ~forcing_B
            rows.forced_at[:B] += forcing_B
            rows.any_forced = bool((rows.forced_at[:B] < rows.forced_len[:B]).any())
        place_B, count_B = torch.arange(B, device=tokens_B.device), rows.count[:B]
        rows.ids[place_B, count_B] = tokens_B
        rows.mask[place_B, count_B] = mask_B
        rows.logprobs[place_B, count_B] = logprobs_B
        rows.last[:B] = tokens_B
        rows.count[:B] += 1
        rows.position[:B] += 1
        if self.thinking:
            for place, (token, sampled) in enumerate(zip(tokens_B.tolist(), mask_B.tolist(), strict=True)):
                if control := self.thinking.get(rows.owner[place]):
                    control.push(token, forced=not sampled)
                    self._close_thought(place)
        full_B = (rows.count[:B] >= self.params.max_new_tokens) | (rows.position[:B] >= self.width)
        done = (ends_B | full_B).nonzero()[:, 0].tolist()
        if done:
            self._settle(done, ends_B[done].tolist())

    def _siblings(self) -> Siblings | None:
        """The samples of each prompt, where what their prompts' keys and values would be read for each alone is much."""
        rows = self.rows
        if not rows.siblings_known:
            groups: dict[int, list[int]] = {}
            for place, (request, _) in enumerate(rows.owner):
                groups.setdefault(request, []).append(place)
            length = min(len(self.requests[r].prompt_ids) for r in groups) - 1
            pays = (
                length >= LONG_PROMPT
                and len(rows.owner) >= MANY_SAMPLES * len(groups)
                and self.model.device.type == "cpu"
            )
            rows.siblings = Siblings(list(groups.values()), length) if pays else None
            rows.siblings_known = True
        return rows.siblings

    def _settle(self, places: list[int], ended: list[bool]) -> None:
        leaving = []
        for place, end in zip(places, ended, strict=True):
            full = int(self.rows.count[place]) >= self.params.max_new_tokens
            reason = StopReason.END if end else StopReason.LENGTH if full else StopReason.CONTEXT
            request, number = self.rows.owner[place]
            if end and self.continue_with:
                more = self.continue_with(request, number, self.rows.ids[place, : int(self.rows.count[place])].tolist())
                if isinstance(more, StopReason):
                    reason = more
                elif more:
                    if self._force(place, more):
                        continue
                    reason = StopReason.LENGTH
            completion = self.out[request][number] = self.rows.completion(place, reason)
            self.thinking.pop((request, number), None)
            if self.on_done:
                self.on_done(request, number, completion)
            leaving.append(place)
        if leaving:
            self.rows.remove(leaving, self.cache)

    def _close_thought(self, place: int) -> None:
        """Queue the end of the thinking where its budget is spent."""
        control = self.thinking[self.rows.owner[place]]
        forcing = bool(self.rows.forced_at[place] < self.rows.forced_len[place])
        if control.due() and not forcing:
            self._force(place, control.closing_ids)

    def _force(self, place: int, tokens: list[int]) -> bool:
        """Queue tokens that the row must feed next; False when they do not fit into what it has left."""
        room = min(
            self.params.max_new_tokens - int(self.rows.count[place]), self.width - int(self.rows.position[place])
        )
        if len(tokens) >= room:
            return False
        self.rows.forced[place, : len(tokens)] = torch.tensor(tokens, device=self.model.device)
        self.rows.forced_at[place], self.rows.forced_len[place] = 0, len(tokens)
        self.rows.any_forced = True
        return True


@torch.inference_mode()
def generate(
    model: Transformer,
    requests: Sequence[Request],
    params: SamplingParams,
    eos_ids: Sequence[int],
    *,
    max_rows: int = 256,
    continue_with: ContinueWith | None = None,
    on_done: OnDone | None = None,
    thinking: MakeThinking | None = None,
) -> list[list[Completion]]:
    """Sample every request to its end; completions in the order of requests and samples.

    `max_rows` bounds the rows of the key/value cache and so the memory. Raises CapacityError when a
    prompt is longer than the model's context.
    """
    if not requests:
        return []
    return Generator(
        model,
        requests,
        params,
        eos_ids,
        max_rows=max_rows,
        continue_with=continue_with,
        on_done=on_done,
        thinking=thinking,
    ).run()
