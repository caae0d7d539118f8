"""The engine: requests in, sequences out, one `step` at a time (continuous batching).

The life of a request: `submit` makes a `TokenSequence` for each of its n samples, which wait; `step` admits sequences while
slots and memory last, computes one batch (a token of each running sequence, then chunks of prompts, up to a budget of
tokens), samples, and frees the slots of sequences that ended. A sequence is `tokens` and `num_computed`: decoding, a prompt
in chunks, a forced closing phrase and recomputation after preemption are all tokens that are not computed yet.

    prefix cache   a finished sequence's slot is kept until its place is needed; see `prefix_cache`
    preemption     under memory pressure idle slots are evicted, then the newest sequence goes back to waiting
    deterministic  slots reserve all they may need at admission and nothing is recomputed, so a sequence's tokens do not
                   depend on the others in its batch (see `backends.torch`)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from qwq.engine.backends.base import Backend, Chunk
from qwq.engine.output import OutputProcessor, check_finite
from qwq.engine.prefix_cache import MIN_SHARED, PrefixCache
from qwq.engine.request import GenerationRequest, check_request
from qwq.engine.sampler import stream_seed
from qwq.engine.sequence import Phase, TokenSequence
from qwq.engine.speculative import ModelDraft, NgramDraft, StepCosts
from qwq.engine.thinking import Thinking
from qwq.errors import UsageError
from qwq.text.tokenizer import TextStream, Tokenizer
from qwq.types import StopReason

YARN_PROMPT, YARN_TOTAL = 8192, 32768  # the model card of QwQ-32B: YaRN for inputs beyond 8,192 tokens; its plain range
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


class Engine:
    """Runs sequences on a backend. Not thread-safe: one caller submits and steps (`serve` wraps it in a thread).

    `name` is the model's, for messages.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        name: str = "the model",
        max_running: int = 32,
        token_budget: int = 512,
        prefix_cache: bool = True,
        speculate: bool = False,
        draft: Backend | None = None,
        draft_tokens: int = 4,
        max_model_len: int | None = None,
    ) -> None:
        self.backend, self.tokenizer, self.name = backend, tokenizer, name
        self.max_running, self.token_budget = max_running, max(token_budget, backend.chunk_unit)
        self.draft, self.draft_tokens = draft, draft_tokens
        if draft is not None and draft.vocab_size != backend.vocab_size:
            raise UsageError(
                f"the draft model has a vocabulary of {draft.vocab_size}, the model one of {backend.vocab_size}: they must share a tokenizer"
            )
        self.max_len = min(backend.max_positions, max_model_len or backend.max_positions)
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.stats = Stats()
        self.cache = PrefixCache(backend, enabled=prefix_cache)
        self.output = OutputProcessor(min(self.max_len, backend.slot_capacity))
        self._costs = StepCosts.of_backend(backend) if speculate and draft is None else None

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> list[TokenSequence]:
        """Queue a request; its sequences change as `step` is called. UsageError if it can never be met."""
        self.check(request)
        sequences = [self._sequence(request, number) for number in range(request.n)]
        self.waiting.extend(s for s in sequences if not s.done)
        return sequences

    def _sequence(self, request: GenerationRequest, number: int) -> TokenSequence:
        thinking = Thinking(
            self.tokenizer,
            opened=request.thinking_open,
            budget=request.thinking_budget,
            max_new_tokens=min(request.params.max_new_tokens, self.max_len - len(request.prompt_ids)),
        )
        sequence = TokenSequence(
            request,
            number,
            stream_seed(request.seed, request.stream + number),
            thinking,
            TextStream(self.tokenizer),
            list(request.prompt_ids),
            self._wants_yarn(request),
        )
        if self.draft is not None:
            sequence.draft = ModelDraft(self.draft, self.draft_tokens)
        elif self._costs is not None:
            sequence.draft = NgramDraft(self._costs)
        if request.matcher is not None:
            sequence.matcher = request.matcher()
        sequence.stamp()
        if thinking.due():
            self.output.force_close(sequence)
        return sequence

    def abort(self, sequence: TokenSequence) -> None:
        """Stop a sequence at once; what it has written stays in it."""
        if not sequence.done:
            self._finish(sequence, StopReason.ABORT)

    def run(self, requests: Iterable[GenerationRequest]) -> list[list[TokenSequence]]:
        """Submit all and step until all are done."""
        sequences = [self.submit(r) for r in requests]
        while self.has_work:
            self.step()
        return sequences

    def forget(self) -> None:
        """Drop every cached prefix: the weights have changed, or another engine is to have the backend."""
        self.cache.forget()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def check(self, request: GenerationRequest) -> None:
        """UsageError if a request can never be met. Reads nothing that changes, so any thread may call it."""
        check_request(request, self.backend, self.max_len)

    def _wants_yarn(self, request: GenerationRequest) -> bool:
        """Decided at submission: cached keys already have RoPE applied, so YaRN cannot be switched later."""
        if not self.backend.has_yarn:
            return False
        if request.yarn is not None:
            return request.yarn
        length = len(request.prompt_ids)
        return length > YARN_PROMPT or length + request.params.max_new_tokens > YARN_TOTAL

    # -- one step ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[TokenSequence]:
        """Compute one batch. Returns the sequences that changed. ModelError if the logits are not finite."""
        work = self._schedule()
        if not work:
            return []
        logits_NV = self.backend.forward([chunk for _, chunk in work])
        self.stats.steps += 1
        threads = torch.get_num_threads()
        if self.backend.own_threads:
            # torch's threads would go on spinning for a while and take the cores from the backend's.
            torch.set_num_threads(1)
        try:
            if len(logits_NV):
                check_finite(logits_NV.amax(-1), self.name)
            at, changed = 0, []
            for sequence, chunk in work:
                outputs_NV = logits_NV[at : at + chunk.num_logits]
                at += chunk.num_logits
                if self._process(sequence, chunk, outputs_NV):
                    changed.append(sequence)
        finally:
            if self.backend.own_threads:
                torch.set_num_threads(threads)
        return changed

    def _process(self, sequence: TokenSequence, chunk: Chunk, logits_NV: torch.Tensor) -> bool:
        """Sample what a chunk's logits allow; True if the sequence got tokens."""
        before, drafted = len(sequence.ids), len(sequence.drafted)
        self.stats.computed_tokens += len(chunk.ids)
        hits = self.output.process(sequence, chunk, logits_NV)
        if hits is None:
            return False
        if drafted:
            self.stats.drafted += drafted
            self.stats.accepted += hits
            self.backend.truncate(sequence.slot, sequence.num_computed)
        self.stats.output_tokens += len(sequence.ids) - before
        if sequence.done:
            self._free(sequence)
        return True

    def _schedule(self) -> list[tuple[TokenSequence, Chunk]]:
        """The batch: running sequences first (short pieces before long ones), then new ones while the budget lasts."""
        budget = self.token_budget
        work: dict[TokenSequence, Chunk] = {}
        for sequence in sorted(self.running, key=lambda s: len(s.tokens) - s.num_computed > MIN_SHARED):
            if sequence.phase is not Phase.RUNNING:  # preempted to make room for one before it
                continue
            chunk = self._next_chunk(sequence, budget)
            if chunk is None:
                continue
            if not self._make_room(sequence, chunk.start + len(chunk.ids), work):
                continue
            work[sequence] = chunk
            budget -= len(chunk.ids)
        while self.waiting and len(self.running) < self.max_running and budget > 0:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            self.waiting.popleft()
            chunk = self._next_chunk(sequence, budget)
            if chunk is None or not self._make_room(sequence, chunk.start + len(chunk.ids), work):
                break
            work[sequence] = chunk
            budget -= len(chunk.ids)
        return list(work.items())

    def _next_chunk(self, sequence: TokenSequence, budget: int) -> Chunk | None:
        start, unit = sequence.num_computed, self.backend.chunk_unit
        left = len(sequence.tokens) - start
        in_prompt = start < sequence.num_prompt
        size = min(left, budget)
        if in_prompt:
            if unit > 1:  # deterministic: whole blocks, and never prompt and output together
                size = min(size, sequence.num_prompt - start)
                size = size if size == sequence.num_prompt - start else size // unit * unit
            if sequence.request.prompt_logprobs is not None:
                size = min(size, PROMPT_LOGPROB_CHUNK)
        if size <= 0:
            return None
        ids = sequence.tokens[start : start + size]
        last = size == left
        num_logits = int(last)
        sequence.drafted = []
        room = min(budget, self._room(sequence)) - 1
        if last and left == 1 and sequence.draft is not None and not in_prompt and room > 0:
            sequence.drafted = sequence.draft.propose(sequence, room, len(self.running) - 1)
            num_logits += len(sequence.drafted)
        if in_prompt and sequence.request.prompt_logprobs is not None:
            num_logits = size
        return Chunk(sequence.slot, [*ids, *sequence.drafted], start, num_logits, sequence.yarn, in_prompt)

    def _room(self, sequence: TokenSequence) -> int:
        """Tokens that a sequence may still write."""
        return min(
            sequence.request.params.max_new_tokens - len(sequence.ids), self.output.max_tokens - len(sequence.tokens)
        )

    # -- memory --------------------------------------------------------------------------------------------------------

    def _admit(self, sequence: TokenSequence) -> bool:
        """Give a waiting sequence a slot. False: not now."""
        length = len(sequence.tokens)
        if self.backend.deterministic:
            length = min(sequence.num_prompt + sequence.request.params.max_new_tokens, self.output.max_tokens)
        if not self.cache.acquire(sequence, self.running, length):
            return False
        self.stats.cached_tokens += sequence.num_cached
        self.stats.prompt_tokens += sequence.num_prompt
        self.running.append(sequence)
        return True

    def _make_room(self, sequence: TokenSequence, length: int, work: dict[TokenSequence, Chunk]) -> bool:
        """Reserve memory for a running sequence, at the cost of idle slots and then of newer sequences."""
        while not self.backend.reserve(sequence.slot, length):
            if self.cache.evict(keep=None):
                continue
            victim = self.running[-1]
            self._preempt(victim)
            work.pop(victim, None)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: TokenSequence) -> None:
        assert not self.backend.deterministic, "a deterministic slot has reserved all it may need"
        if len(self.running) == 1:
            self._finish(sequence, StopReason.CONTEXT)  # alone, and nothing left to give back
            return
        self.cache.drop(self.cache.slots[sequence.slot])
        self.running.remove(sequence)
        sequence.slot, sequence.num_computed, sequence.phase = -1, 0, Phase.WAITING
        sequence.num_preemptions += 1
        self.stats.preemptions += 1
        self.waiting.appendleft(sequence)

    def _finish(self, sequence: TokenSequence, reason: StopReason) -> None:
        """End a sequence for a reason of the engine's own."""
        if sequence.phase is Phase.WAITING and sequence in self.waiting:
            self.waiting.remove(sequence)
        sequence.finish(reason)
        self._free(sequence)

    def _free(self, sequence: TokenSequence) -> None:
        """Give back what a sequence that has ended holds."""
        if sequence.draft is not None:
            sequence.draft.close()
        if sequence in self.running:
            self.running.remove(sequence)
        if sequence.slot >= 0:
            self.cache.release(sequence)
