"""The engine: requests in, sequences out, one `step` at a time (continuous batching).

The life of a request: `submit` makes a `TokenSequence` for each of its n samples, which wait;
`step` admits sequences while slots and memory last, computes one batch (a token of each running
sequence, then chunks of prompts, up to a budget of tokens), samples, and frees the slots of
sequences that ended. A sequence is `tokens` and `num_computed`: decoding, a prompt in chunks, a
forced closing phrase and recomputation after preemption are all tokens that are not computed yet.

    prefix cache   a finished sequence's slot is kept until its place is needed; see `prefix_cache`
    preemption     under memory pressure idle slots are evicted, then the newest sequence goes back
                   to waiting
    deterministic  slots reserve all they may need at admission and nothing is recomputed, so a
                   sequence's tokens do not
                   depend on the others in its batch (see `backends.torch`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

import torch

from qwq.engine.backends.base import Backend, BatchBackend, Chunk
from qwq.engine.multi_step import REFILL_SHARE, MultiStep, batch_kind
from qwq.engine.output import OutputProcessor, check_finite, sample_together
from qwq.engine.planner import BatchPlanner
from qwq.engine.prefix_cache import PrefixCache
from qwq.engine.request import GenerationRequest, check_request
from qwq.engine.sampler import SampledToken, stream_seed
from qwq.engine.sequence import Phase, TokenSequence
from qwq.engine.speculative import ModelDraft, NgramDraft, StepCosts
from qwq.engine.thinking import ThinkingState
from qwq.errors import UsageError
from qwq.text.tokenizer import TextStream, Tokenizer
from qwq.types import StopReason

YARN_PROMPT, YARN_TOTAL = 8192, 32768  # the model card of QwQ-32B: YaRN for inputs beyond 8,192 tokens; its plain range


class Engine:
    """Runs sequences on a backend. Not thread-safe: one caller submits and steps (`serve` wraps it
    in a thread).

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
        self.max_running = max_running
        self.draft, self.draft_tokens = draft, draft_tokens
        if draft is not None and draft.vocab_size != backend.vocab_size:
            raise UsageError(
                f"the draft model has a vocabulary of {draft.vocab_size}, the model one of {backend.vocab_size}: "
                "they must share a tokenizer"
            )
        self.max_len = min(backend.max_positions, max_model_len or backend.max_positions)
        max_tokens = min(self.max_len, backend.slot_capacity)
        self.cache = PrefixCache(backend, enabled=prefix_cache)
        self.output = OutputProcessor(max_tokens)
        self.planner = BatchPlanner(
            backend,
            self.cache,
            max_running=max_running,
            token_budget=token_budget,
            max_tokens=max_tokens,
            finish=self._finish,
        )
        self.waiting, self.running, self.stats = self.planner.waiting, self.planner.running, self.planner.stats
        self._many = MultiStep(backend, self.cache, self.output, name) if isinstance(backend, BatchBackend) else None
        self._kinds: Counter[Hashable] = Counter()  # of the sequences that wait or run
        self._costs = StepCosts.of_backend(backend) if speculate and draft is None else None

    # -- requests ----------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> list[TokenSequence]:
        """Queue a request; its sequences change as `step` is called. UsageError if it can never be
        met.
        """
        self.check(request)
        sequences = [self._sequence(request, number) for number in range(request.n)]
        alive = [s for s in sequences if not s.done]
        self._kinds.update(s.kind for s in alive)
        if request.offset:  # a later turn: the slot of the earlier one may be needed by somebody else soon
            self.waiting.extendleft(reversed(alive))
        else:
            self.waiting.extend(alive)
        return sequences

    def _sequence(self, request: GenerationRequest, number: int) -> TokenSequence:
        thinking = ThinkingState(
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
        sequence.kind = batch_kind(sequence)
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

    def sync(self) -> None:
        """Bring running sequences up to date, also between the steps of a batch that decodes many
        in a row.
        """
        if self._many is not None:
            self._many.sync()

    def forget(self) -> None:
        """Drop every cached prefix: the weights have changed, or another engine is to have the
        backend.
        """
        self.cache.forget()

    def weights_changed(self) -> None:
        """Nothing that earlier weights computed is used from here on: cached prefixes are dropped,
        and running sequences are computed again from their tokens before they continue.
        """
        if self._many is not None:
            self._many.remove(self.running)
        for sequence in reversed(list(self.running)):
            self.planner.restart(sequence)
        self.forget()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def check(self, request: GenerationRequest) -> None:
        """UsageError if a request can never be met. Reads nothing that changes, so any thread may
        call it.
        """
        check_request(request, self.backend, self.max_len)

    def _wants_yarn(self, request: GenerationRequest) -> bool:
        """Decided at submission: cached keys already have RoPE applied, so YaRN cannot be switched
        later.
        """
        if not self.backend.has_yarn:
            return False
        if request.yarn is not None:
            return request.yarn
        length = len(request.prompt_ids)
        return length > YARN_PROMPT or length + request.params.max_new_tokens > YARN_TOTAL

    # -- one step ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[TokenSequence]:
        """Compute one batch, or many steps of plain sequences. Returns the sequences that changed.

        ModelError if the logits are not finite.
        """
        if self._many is not None:
            if len(self._kinds) == 1 and None not in self._kinds:
                return self._step_many(self._many)
            self._many.remove(self.running)
        work = self.planner.plan()
        if not work:
            return []
        logits_NV = self.backend.forward([chunk for _, chunk in work])
        self.stats.steps += 1
        threads = torch.get_num_threads()
        if self.backend.own_threads:
            # torch's threads would keep spinning for a while and take the cores from the
            # backend's.
            torch.set_num_threads(1)
        try:
            if len(logits_NV):
                check_finite(logits_NV.amax(-1), self.name)
            drawn = sample_together(work, logits_NV) if self._batch_sampling(logits_NV) else {}
            at, changed = 0, []
            for sequence, chunk in work:
                outputs_NV = logits_NV[at : at + chunk.num_logits]
                at += chunk.num_logits
                if self._process(sequence, chunk, outputs_NV, drawn.get(sequence)):
                    changed.append(sequence)
        finally:
            if self.backend.own_threads:
                torch.set_num_threads(threads)
        return changed

    def _step_many(self, many: MultiStep) -> list[TokenSequence]:
        """See `multi_step`."""
        free = self.max_running - len(self.running)
        if self.waiting and (free >= max(1, self.max_running // REFILL_SHARE) or not self.running):
            new = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
            admitted = many.admit(new)
            self.waiting.extendleft(s for s in reversed(new) if s.phase is Phase.WAITING)
            self.running += admitted
            self.stats.prompt_tokens += sum(s.num_prompt for s in admitted)
        if pending := [s for s in self.running if s.slot not in many.loaded]:
            self.stats.computed_tokens += many.load(pending)
            self.stats.cached_tokens += sum(s.num_cached for s in pending if not s.ids)
        stopped, counts = many.decode()
        self.stats.steps += counts.steps
        self.stats.computed_tokens += counts.computed_tokens
        self.stats.output_tokens += counts.output_tokens
        for sequence in stopped:
            if sequence.done:
                self._free(sequence)
        return stopped

    @staticmethod
    def _batch_sampling(logits_NV: torch.Tensor) -> bool:
        """On a GPU one call for all rows saves launches. On a CPU a row alone needs no sorting of
        the vocabulary, and its bits do not depend on the others.
        """
        return logits_NV.device.type != "cpu"

    def _process(
        self, sequence: TokenSequence, chunk: Chunk, logits_NV: torch.Tensor, drawn: SampledToken | None
    ) -> bool:
        """Sample what a chunk's logits allow; True if the sequence got tokens."""
        before, drafted = len(sequence.ids), len(sequence.drafted)
        self.stats.computed_tokens += len(chunk.ids)
        hits = self.output.process(sequence, chunk, logits_NV, drawn)
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

    def _finish(self, sequence: TokenSequence, reason: StopReason) -> None:
        """End a sequence for a reason of the engine's own."""
        if sequence.phase is Phase.WAITING and sequence in self.waiting:
            self.waiting.remove(sequence)
        if self._many is not None:
            self._many.remove([sequence])
        sequence.finish(reason)
        self._free(sequence)

    def _free(self, sequence: TokenSequence) -> None:
        """Give back what a sequence that has ended holds."""
        self._kinds[sequence.kind] -= 1
        if not self._kinds[sequence.kind]:
            del self._kinds[sequence.kind]
        if sequence.draft is not None:
            sequence.draft.close()
        if sequence in self.running:
            self.running.remove(sequence)
        if sequence.slot >= 0:
            self.cache.release(sequence)
