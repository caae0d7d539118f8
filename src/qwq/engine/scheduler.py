"""The engine: requests in, samples out, one `step` at a time.

The life of a request: `submit` makes a `TokenSequence` for each of its n streams, which wait; `step` admits samples while rows
and memory last, computes one batch (a token for each running sample, then chunks of prompts, up to a budget of tokens),
samples, and settles what ended. All a sample knows is `tokens` and `num_computed`: decoding, a prompt in chunks,
a forced closing phrase and the repair after preemption are the same thing, tokens not computed yet.

    prefix cache   a finished row keeps its keys and values until the place is needed; a new sample takes over the
                   longest common prefix of any row, so a group's or a chat's shared beginning is computed once
    preemption     where memory runs out, idle rows go first, then the youngest sample goes back to waiting
    deterministic  rows reserve all they may need when they are admitted and nothing is recomputed, so a sample's tokens
                   do not depend on its company (see torch_backend)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qwq.engine.backends.base import Backend, Chunk
from qwq.engine.request import GenerationRequest, Guide, Phase, TokenSequence
from qwq.engine.sampler import SampledToken, sample_token, penalise, stream_seed, uniform
from qwq.engine.speculative import ModelDraft, NgramDraft, StepCosts
from qwq.engine.thinking import LOOP_CHECK_EVERY, Thinking, in_a_loop
from qwq.errors import CapacityError, UsageError
from qwq.text.tokenizer import TextStream, Tokenizer
from qwq.types import StopReason

YARN_PROMPT, YARN_TOTAL = 8192, 32768  # the model card of QwQ-32B: YaRN for inputs beyond 8,192 tokens; its plain range
MIN_SHARED = 8  # a shorter common prefix is computed again
PROMPT_LOGPROB_CHUNK = 64  # bounds the logits of a prompt that are alive at once


@dataclass(slots=True)
class Stats:
    """Counts since the engine was made."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    computed_tokens: int = 0
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True, eq=False)
class _Row:
    """A row of the backend: what it holds, and who uses it (None: kept for its prefix)."""

    row: int
    owner: TokenSequence | None
    yarn: bool
    held: np.ndarray | None = None  # the tokens of an idle row
    shareable: int = 0  # of an idle row: how many of its tokens another may take over
    used: int = 0

    def content(self, unit: int) -> np.ndarray:
        """Tokens that can be shared: in deterministic mode only whole blocks of a prompt."""
        if self.owner is None:
            assert self.held is not None
            return self.held[: self.shareable]
        length = (
            self.owner.num_computed if unit == 1 else min(self.owner.num_computed, self.owner.num_prompt) // unit * unit
        )
        return np.asarray(self.owner.tokens[:length], dtype=np.int64)


class Engine:
    """Runs samples on a backend. Not thread-safe: one caller submits and steps (`serve` wraps it in a thread)."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        max_running: int = 32,
        token_budget: int = 512,
        prefix_cache: bool = True,
        speculate: bool = False,
        draft: Backend | None = None,
        draft_tokens: int = 4,
        max_model_len: int | None = None,
    ) -> None:
        self.backend, self.tokenizer = backend, tokenizer
        self.max_running, self.token_budget = max_running, max(token_budget, backend.chunk_unit)
        self.prefix_cache, self.speculate = prefix_cache, speculate
        self.draft, self.draft_tokens = draft, draft_tokens
        if draft is not None and draft.vocab_size != backend.vocab_size:
            raise UsageError(
                f"the draft model has a vocabulary of {draft.vocab_size}, the model one of {backend.vocab_size}: they must share a tokenizer"
            )
        self.max_len = min(backend.max_positions, max_model_len or backend.max_positions)
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.stats = Stats()
        self._rows: dict[int, _Row] = {}
        self._clock = 0
        self._costs = StepCosts(self._time_of) if speculate and draft is None else None

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> list[TokenSequence]:
        """Queue a request; its samples change as `step` is called. UsageError where it cannot be met."""
        self.check(request)
        yarn = self._wants_yarn(request)
        samples = []
        for number in range(request.n):
            thinking = Thinking(
                self.tokenizer,
                opened=request.thinking_open,
                budget=request.thinking_budget,
                max_new_tokens=min(request.params.max_new_tokens, self.max_len - len(request.prompt_ids)),
            )
            sample = TokenSequence(
                request, number, stream_seed(request.seed, number), thinking, TextStream(self.tokenizer), list(request.prompt_ids), yarn
            )  # fmt: skip
            if self.draft is not None:
                sample.draft = ModelDraft(self.draft)
            elif self.speculate:
                sample.draft = NgramDraft()
            if request.guide is not None:
                sample.guide = request.guide()
            sample.stamp()
            if thinking.due():
                self._force_close(sample)
            samples.append(sample)
        self.waiting.extend(s for s in samples if not s.done)
        return samples

    def abort(self, sample: TokenSequence) -> None:
        """Stop a sample at once; what it has written stays in it."""
        if not sample.done:
            self._finish(sample, StopReason.ABORT)

    def run(self, requests: Iterable[GenerationRequest]) -> list[list[TokenSequence]]:
        """Submit all and step until all are done."""
        samples = [self.submit(r) for r in requests]
        while self.has_work:
            self.step()
        return samples

    def forget(self) -> None:
        """Drop every kept prefix: the weights have changed, or another engine is to have the backend."""
        for row in [r for r in self._rows.values() if r.owner is None]:
            self._drop(row)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def check(self, request: GenerationRequest) -> None:
        """UsageError where a request can never be met. Reads nothing that changes, so any thread may ask."""
        prompt = request.prompt_ids
        if not len(prompt):
            raise UsageError("the prompt is empty: give at least one token")
        if len(prompt) >= self.max_len:
            raise CapacityError(
                f"the prompt has {len(prompt)} tokens, the model's context is {self.max_len}: "
                "shorten it, or raise --max-model-len where the model allows it"
            )
        if len(prompt) >= self.backend.slot_capacity:
            raise CapacityError(
                f"the prompt has {len(prompt)} tokens, the key/value cache holds {self.backend.slot_capacity}: "
                "shorten it, or raise --kv-tokens"
            )
        bad = [i for i in prompt if not 0 <= i < self.backend.vocab_size]
        bad += [i for i in request.stop_ids if not 0 <= i < self.backend.vocab_size]
        bad += [i for i, _ in request.params.logit_bias if not 0 <= i < self.backend.vocab_size]
        if bad:
            raise UsageError(
                f"token id {bad[0]} is outside the vocabulary of {self.backend.vocab_size}: use the model's own tokenizer"
            )
        if request.n < 1 or request.n > 1024:
            raise UsageError(f"n is {request.n}: ask for 1 to 1,024 samples")
        if request.thinking_budget is not None and request.thinking_budget < 0:
            raise UsageError(f"the thinking budget is {request.thinking_budget} tokens: give 0 or more")
        if any(not s for s in request.stop):
            raise UsageError("a stop string is empty: leave it out")
        if request.yarn and not self.backend.has_yarn:
            raise UsageError("YaRN is asked for, and this model has none: load it with --yarn")

    def _wants_yarn(self, request: GenerationRequest) -> bool:
        """Fixed when a request comes in, since keys turned one way cannot be read the other."""
        if not self.backend.has_yarn:
            return False
        if request.yarn is not None:
            return request.yarn
        length = len(request.prompt_ids)
        return length > YARN_PROMPT or length + request.params.max_new_tokens > YARN_TOTAL

    # -- one step ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[TokenSequence]:
        """Compute one batch. Returns the samples that changed."""
        work = self._schedule()
        if not work:
            return []
        logits_NV = self.backend.forward([chunk for _, chunk in work])
        self.stats.steps += 1
        at, changed = 0, []
        threads = torch.get_num_threads()
        if self.backend.own_threads:
            # torch's threads would go on spinning for a while and take the cores from the backend's.
            torch.set_num_threads(1)
        for sample, chunk in work:
            outputs_V = logits_NV[at : at + chunk.num_logits]
            at += chunk.num_logits
            self.stats.computed_tokens += len(chunk.ids)
            if self._absorb(sample, chunk, outputs_V):
                changed.append(sample)
        if self.backend.own_threads:
            torch.set_num_threads(threads)
        return changed

    def _schedule(self) -> list[tuple[TokenSequence, Chunk]]:
        """The batch: running samples first (short pieces before long ones), then new ones while the budget lasts."""
        budget = self.token_budget
        work: dict[TokenSequence, Chunk] = {}
        for sample in sorted(self.running, key=lambda s: len(s.tokens) - s.num_computed > MIN_SHARED):
            if sample.phase is not Phase.RUNNING:  # preempted to make room for one before it
                continue
            chunk = self._next_chunk(sample, budget)
            if chunk is None:
                continue
            if not self._make_room(sample, chunk.start + len(chunk.ids), work):
                continue
            work[sample] = chunk
            budget -= len(chunk.ids)
        while self.waiting and len(self.running) < self.max_running and budget > 0:
            sample = self.waiting[0]
            if not self._admit(sample):
                break
            self.waiting.popleft()
            chunk = self._next_chunk(sample, budget)
            if chunk is None or not self._make_room(sample, chunk.start + len(chunk.ids), work):
                break
            work[sample] = chunk
            budget -= len(chunk.ids)
        return list(work.items())

    def _next_chunk(self, sample: TokenSequence, budget: int) -> Chunk | None:
        start, unit = sample.num_computed, self.backend.chunk_unit
        left = len(sample.tokens) - start
        in_prompt = start < sample.num_prompt
        size = min(left, budget)
        if in_prompt:
            if unit > 1:  # deterministic: whole blocks, and never prompt and output together
                size = min(size, sample.num_prompt - start)
                size = size if size == sample.num_prompt - start else size // unit * unit
            if sample.request.prompt_logprobs is not None:
                size = min(size, PROMPT_LOGPROB_CHUNK)
        if size <= 0:
            return None
        ids = sample.tokens[start : start + size]
        last = size == left
        num_logits = int(last)
        sample.drafted = []
        if last and left == 1 and sample.draft is not None and not in_prompt:
            sample.drafted = self._guess(sample, min(budget, self._room(sample)) - 1)
            num_logits += len(sample.drafted)
        if in_prompt and sample.request.prompt_logprobs is not None:
            num_logits = size
        return Chunk(sample.row, [*ids, *sample.drafted], start, num_logits, sample.yarn, in_prompt)

    def _room(self, sample: TokenSequence) -> int:
        """Tokens that a sample may still write."""
        longest = min(self.max_len, self.backend.slot_capacity)
        return min(sample.request.params.max_new_tokens - len(sample.ids), longest - len(sample.tokens))

    def _guess(self, sample: TokenSequence, room: int) -> list[int]:
        """Tokens to check with a sample's next one, at most `room`."""
        if room <= 0:
            return []
        if isinstance(sample.draft, ModelDraft):
            return sample.draft.propose(sample, min(self.draft_tokens, room))
        costs, others = self._costs, len(self.running) - 1
        assert costs is not None and sample.draft is not None
        return sample.draft.propose(sample.tokens, room, lambda right: costs.best_length(right, others))

    def _time_of(self, num_tokens: int) -> float:
        """Seconds of a step of so many tokens in one row."""
        row = self.backend.open_slot()
        assert row is not None and self.backend.reserve(row, num_tokens)
        started = time.perf_counter()
        self.backend.forward([Chunk(row, [0] * num_tokens, 0, num_tokens)])
        took = time.perf_counter() - started
        self.backend.close_slot(row)
        return took

    # -- memory --------------------------------------------------------------------------------------------------------

    def _admit(self, sample: TokenSequence) -> bool:
        """Give a waiting sample a row, with the longest prefix that any row already holds. False: not now."""
        tokens = np.asarray(sample.tokens, dtype=np.int64)
        source, shared = self._longest_prefix(tokens, sample) if self.prefix_cache else (None, 0)
        if source is not None and self._worth_waiting(tokens, shared, sample):
            return False
        if source is None and self._worth_waiting(tokens, 0, sample):
            return False
        target: _Row | None = None
        if source is not None and source.owner is None and source.held is not None and 2 * shared >= len(source.held):
            # Nothing much is lost by going on in that very row.
            target = source
            self.backend.truncate(source.row, shared)
        else:
            row = self.backend.open_slot()
            while row is None and self._evict(keep=source):
                row = self.backend.open_slot()
            if row is None:
                return False
            target = self._rows[row] = _Row(row, None, sample.yarn)
            if source is not None and not self.backend.copy_prefix(source.row, row, shared):
                shared = 0
        wanted = len(tokens) if not self.backend.deterministic else min(
            sample.num_prompt + sample.request.params.max_new_tokens, self.max_len, self.backend.slot_capacity
        )  # fmt: skip
        while not self.backend.reserve(target.row, wanted):
            if not self._evict(keep=target):
                self._drop(target)
                return False
        target.owner, target.held = sample, None
        if sample.admitted is None:
            sample.admitted = time.perf_counter()
        sample.row, sample.num_computed, sample.num_cached, sample.phase = target.row, shared, shared, Phase.RUNNING
        self.stats.cached_tokens += shared
        self.stats.prompt_tokens += sample.num_prompt
        self.running.append(sample)
        return True

    def _longest_prefix(self, tokens: np.ndarray, sample: TokenSequence) -> tuple[_Row | None, int]:
        if sample.request.prompt_logprobs is not None:
            return None, 0
        best, length = None, MIN_SHARED - 1
        for row in self._rows.values():
            if row.yarn == sample.yarn and (n := _common(row.content(self.backend.chunk_unit), tokens[:-1])) > length:
                best, length = row, n
        if best is None:
            return None, 0
        unit = self.backend.chunk_unit
        length = length // unit * unit
        return (best, length) if length >= MIN_SHARED else (None, 0)

    def _worth_waiting(self, tokens: np.ndarray, shared: int, sample: TokenSequence) -> bool:
        """Whether a running sample is about to compute more of this prompt than is there now."""
        if not self.prefix_cache or sample.request.prompt_logprobs is not None:
            return False
        unit = self.backend.chunk_unit
        for other in self.running:
            if other.num_computed < other.num_prompt and other.yarn == sample.yarn:
                common = (
                    _common(np.asarray(other.tokens[: other.num_prompt], dtype=np.int64), tokens[:-1]) // unit * unit
                )
                if common >= shared + 2 * MIN_SHARED and common > other.num_computed:
                    return True
        return False

    def _make_room(self, sample: TokenSequence, length: int, work: dict[TokenSequence, Chunk]) -> bool:
        """Reserve memory for a running sample, at the cost of idle rows and then of younger samples."""
        while not self.backend.reserve(sample.row, length):
            if self._evict(keep=self._rows[sample.row]):
                continue
            victim = self.running[-1]
            self._preempt(victim)
            work.pop(victim, None)
            if victim is sample:
                return False
        return True

    def _preempt(self, sample: TokenSequence) -> None:
        assert not self.backend.deterministic, "a deterministic row has reserved all it may need"
        if len(self.running) == 1:
            self._finish(sample, StopReason.CONTEXT)  # alone, and nothing left to give back
            return
        self._drop(self._rows[sample.row])
        self.running.remove(sample)
        sample.row, sample.num_computed, sample.phase = -1, 0, Phase.WAITING
        sample.num_preemptions += 1
        self.stats.preemptions += 1
        self.waiting.appendleft(sample)

    def _evict(self, keep: _Row | None) -> bool:
        """Close the idle row that was used longest ago."""
        idle = [r for r in self._rows.values() if r.owner is None and r is not keep]
        if not idle:
            return False
        self._drop(min(idle, key=lambda r: r.used))
        return True

    def _drop(self, row: _Row) -> None:
        self.backend.close_slot(row.row)
        del self._rows[row.row]

    # -- tokens --------------------------------------------------------------------------------------------------------

    def _absorb(self, sample: TokenSequence, chunk: Chunk, logits_NV: Tensor) -> bool:
        """Take a chunk's logits: the next token, or as many as drafted tokens were right. True where tokens came."""
        size = len(chunk.ids) - len(sample.drafted)
        sample.num_computed = chunk.start + size
        if chunk.prompt and sample.request.prompt_logprobs is not None:
            self._note_prompt(sample, chunk, logits_NV)
            logits_NV = logits_NV[-1:]
        if sample.num_computed < len(sample.tokens) or not chunk.num_logits:
            return False
        drafted, before, hits = sample.drafted, len(sample.ids), 0
        for number, raw_V in enumerate(logits_NV):
            expected = len(sample.tokens) + 1
            token = self._sample_one(sample, raw_V)
            if (
                token is None
                or sample.done
                or number == len(drafted)
                or len(sample.tokens) != expected
                or token != drafted[number]
            ):
                break
            hits += 1
            sample.num_computed += 1
        if drafted:
            self.stats.drafted += len(drafted)
            self.stats.accepted += hits
            if sample.row >= 0:
                self.backend.truncate(sample.row, sample.num_computed)
        sample.drafted = []
        self.stats.output_tokens += len(sample.ids) - before
        sample.stamp()
        return True

    def _sample_one(self, sample: TokenSequence, raw_V: Tensor) -> int | None:
        """Sample from one row of logits and settle the token. None where the engine wrote something else instead."""
        request, thinking = sample.request, sample.thinking
        logits_V = raw_V
        if request.params.needs_history or request.params.logit_bias:
            logits_V = penalise(raw_V, request.params, *sample.history())
        if request.eos_ids and (
            len(sample.ids) < request.min_new_tokens or (thinking.end_forbidden and not thinking.inside)
        ):
            logits_V = logits_V.clone() if logits_V is raw_V else logits_V
            logits_V[list(request.eos_ids)] = -torch.inf
        if sample.guide is not None and not thinking.inside:
            logits_V = self._guided(sample, sample.guide, logits_V)
            if sample.guide.failed:
                self._finish(sample, StopReason.ABORT)
                return None
        choice = sample_token(
            logits_V, request.params, uniform(sample.stream_seed, len(sample.ids)), raw_V=raw_V, top=request.logprobs
        )
        if choice.token in request.eos_ids and thinking.end_forbidden:
            self._force_close(sample)
            return None
        self._append(sample, choice, forced=False)
        return choice.token

    @staticmethod
    def _guided(sample: TokenSequence, guide: Guide, logits_V: Tensor) -> Tensor:
        masked_V, think_id = guide.mask(logits_V), sample.request.think_id
        if think_id is not None and not sample.ids:
            masked_V[think_id] = logits_V[think_id]
        return masked_V

    def _append(self, sample: TokenSequence, choice: SampledToken, *, forced: bool) -> None:
        request, token = sample.request, choice.token
        sample.tokens.append(token)
        sample.ids.append(token)
        sample.forced.append(int(forced))
        sample.outputs.append(choice)
        ended = token in request.eos_ids and not forced
        if ended:
            return self._finish(sample, StopReason.END, token)
        if token in request.stop_ids and not forced:
            return self._finish(sample, StopReason.STOP, token)
        answering = not sample.thinking.inside
        sample.thinking.push(token, forced=forced)
        # The tokens that open and close the thinking stand outside the answer.
        complete = sample.guide is not None and answering and not sample.thinking.inside and sample.guide.push(token)
        if self._show(sample, "" if token in request.hidden_ids else sample.stream.push(token)):
            return None
        if complete:
            assert sample.guide is not None
            return self._finish(sample, StopReason.ABORT if sample.guide.failed else StopReason.END)
        if len(sample.ids) >= request.params.max_new_tokens:
            return self._finish(sample, StopReason.LENGTH)
        if len(sample.tokens) >= min(self.max_len, self.backend.slot_capacity):
            return self._finish(sample, StopReason.CONTEXT)
        if forced:
            return None
        if (
            request.loop_tokens
            and len(sample.ids) % LOOP_CHECK_EVERY == 0
            and in_a_loop(sample.ids, request.loop_tokens)
        ):
            if not (sample.thinking.inside and sample.thinking.limited):
                return self._finish(sample, StopReason.LOOP)
            sample.loop_in_thinking = True
            return self._force_close(sample)
        if sample.thinking.due():
            self._force_close(sample)
        return None

    def _force_close(self, sample: TokenSequence) -> None:
        """Write the closing phrase and `</think>`; they are computed with the sample's next chunk."""
        for token in sample.thinking.closing_ids:
            if sample.done:
                return
            self._append(sample, SampledToken(token), forced=True)

    def _show(self, sample: TokenSequence, new: str) -> bool:
        """Move text from held back to shown; True where a stop string ended the sample."""
        if not sample.request.stop:
            sample.text += new
            return False
        sample.held += new
        found = [(at, s) for s in sample.request.stop if (at := sample.held.find(s)) >= 0]
        if found:
            at, stop = min(found)
            sample.text += sample.held[:at]
            sample.held = ""
            self._finish(sample, StopReason.STOP, stop)
            return True
        keep = max((n for s in sample.request.stop for n in range(1, len(s)) if sample.held.endswith(s[:n])), default=0)
        cut = len(sample.held) - keep
        sample.text, sample.held = sample.text + sample.held[:cut], sample.held[cut:]
        return False

    def _finish(self, sample: TokenSequence, reason: StopReason, by: str | int | None = None) -> None:
        if reason is not StopReason.STOP or isinstance(by, int):
            rest = sample.stream.finish() if reason in (StopReason.END, StopReason.STOP) else ""
            sample.text += sample.held + rest
            sample.held = ""
        sample.stop_reason, sample.stopped_by = reason, by
        if sample.phase is Phase.WAITING and sample in self.waiting:
            self.waiting.remove(sample)
        sample.phase = Phase.DONE
        if isinstance(sample.draft, ModelDraft):
            sample.draft.close()
        if sample in self.running:
            self.running.remove(sample)
        if sample.row >= 0:
            self._retire(sample)

    def _retire(self, sample: TokenSequence) -> None:
        """Keep the row for those who begin alike, or close it."""
        row = self._rows[sample.row]
        unit = self.backend.chunk_unit
        shareable = sample.num_computed if unit == 1 else min(sample.num_computed, sample.num_prompt) // unit * unit
        if self.prefix_cache and shareable >= MIN_SHARED:
            self._clock += 1
            row.owner, row.used, row.shareable = None, self._clock, shareable
            row.held = np.asarray(sample.tokens[: sample.num_computed], dtype=np.int64)
        else:
            self._drop(row)
        sample.row = -1

    def _note_prompt(self, sample: TokenSequence, chunk: Chunk, logits_NV: Tensor) -> None:
        """Log-probabilities of prompt tokens: each position's logits speak of the next one."""
        top = sample.request.prompt_logprobs or 0
        if not sample.prompt_outputs:
            sample.prompt_outputs.append(None)  # nothing stands before the first token
        prompt = sample.request.prompt_ids
        for i, row_V in enumerate(logits_NV):
            if chunk.start + i + 1 >= len(prompt):
                break
            logprobs_V = row_V - row_V.logsumexp(-1)
            values, ids = logprobs_V.topk(min(top, len(row_V)))
            token = prompt[chunk.start + i + 1]
            lp = float(logprobs_V[token])
            sample.prompt_outputs.append(SampledToken(token, lp, lp, tuple(zip(ids.tolist(), values.tolist(), strict=True))))


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
