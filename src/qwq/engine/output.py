"""From a step's logits to tokens, and from tokens to text, thinking and stop reasons, sequence by
sequence.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwq.engine.backends.base import Chunk
from qwq.engine.request import GrammarMatcher
from qwq.engine.sampler import SampledToken, penalise, sample, sample_token, uniform
from qwq.engine.sequence import TokenSequence
from qwq.engine.thinking import LOOP_CHECK_EVERY, in_a_loop
from qwq.errors import ModelError
from qwq.types import StopReason


def check_finite(peak: Tensor, name: str) -> None:
    """ModelError unless all maxima of logits are finite; NaN and infinity show in a maximum."""
    if not bool(peak.isfinite().all()):
        raise not_finite(name)


def not_finite(name: str) -> ModelError:
    return ModelError(
        f"{name}: its logits are not finite numbers, so no token can be sampled: the weights hold NaN or overflow. "
        "Take an earlier checkpoint and lower the learning rate if it was trained here, load it with --dtype float32 "
        "if it ran in 16 bits, or fetch it again"
    )


def sample_together(
    work: Sequence[tuple[TokenSequence, Chunk]], logits_NV: Tensor
) -> dict[TokenSequence, SampledToken]:
    """The next tokens of a step's plain sequences (see `multi_step`), one call for each kind."""
    kinds: dict[Hashable, list[tuple[TokenSequence, int]]] = {}
    at = 0
    for sequence, chunk in work:
        at += chunk.num_logits
        complete = chunk.num_logits == 1 and chunk.start + len(chunk.ids) == len(sequence.tokens)
        if sequence.kind is not None and complete:
            kinds.setdefault(sequence.kind, []).append((sequence, at - 1))
    drawn: dict[TokenSequence, SampledToken] = {}
    for rows in kinds.values():
        numbers = [(n, s.stream_seed, s.request.offset + len(s.ids)) for s, n in rows]
        row_B, seed_B, draw_B = torch.tensor(numbers, device=logits_NV.device).T
        tokens_B, logprobs_B = sample(logits_NV[row_B], rows[0][0].request.params, seed_B, draw_B)
        for (s, _), token, logprob in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
            drawn[s] = SampledToken(token, None, logprob)
    return drawn


@dataclass(slots=True)
class OutputProcessor:
    """Samples for one engine. A sequence holds at most `max_tokens` tokens, prompt and output."""

    max_tokens: int

    def process(
        self, sequence: TokenSequence, chunk: Chunk, logits_NV: Tensor, drawn: SampledToken | None = None
    ) -> int | None:
        """Take a chunk's logits, or the token already `drawn` from them. Returns how many drafted
        tokens were right; None: no token came, the chunk ended before.
        """
        size = len(chunk.ids) - len(sequence.drafted)
        sequence.num_computed = chunk.start + size
        if chunk.prompt and sequence.request.prompt_logprobs is not None:
            note_prompt(sequence, chunk, logits_NV)
            logits_NV = logits_NV[-1:]
        if sequence.num_computed < len(sequence.tokens) or not chunk.num_logits:
            return None
        sequence.read()  # it may come out of a batch
        drafted, hits = sequence.drafted, 0
        for number, raw_V in enumerate(logits_NV):
            expected = len(sequence.tokens) + 1
            token = self._sample(sequence, raw_V, drawn)
            if (
                token is None
                or sequence.done
                or number == len(drafted)
                or len(sequence.tokens) != expected
                or token != drafted[number]
            ):
                break
            hits += 1
            sequence.num_computed += 1
        sequence.drafted = []
        sequence.stamp()
        return hits

    def _sample(self, sequence: TokenSequence, raw_V: Tensor, drawn: SampledToken | None) -> int | None:
        """Sample from one row of logits, if nothing is `drawn` yet, and commit the token. None if
        the engine wrote something else instead.
        """
        if drawn is not None:
            self.commit(sequence, drawn, forced=False)
            return drawn.id
        request, thinking = sequence.request, sequence.thinking
        logits_V = self._masked(sequence, raw_V)
        if sequence.matcher is not None and sequence.matcher.failed:
            sequence.finish(StopReason.ABORT)
            return None
        token = sample_token(
            logits_V,
            request.params,
            uniform(sequence.stream_seed, request.offset + len(sequence.ids)),
            raw_V=raw_V,
            top=0 if request.logprobs is None and request.drawn_logprobs else request.logprobs,
        )
        if token.id in request.eos_ids and thinking.end_forbidden and not request.plain_sampling:
            self.force_close(sequence)
            return None
        self.commit(sequence, token, forced=False)
        return token.id

    @staticmethod
    def _masked(sequence: TokenSequence, raw_V: Tensor) -> Tensor:
        """Logits after penalties, forbidden end tokens and the grammar; the same tensor if there
        are none.
        """
        request, thinking, logits_V = sequence.request, sequence.thinking, raw_V
        if request.params.needs_history or request.params.logit_bias:
            logits_V = penalise(raw_V, request.params, *sequence.history())
        no_end = thinking.end_forbidden and not thinking.inside and not request.plain_sampling
        if request.eos_ids and (len(sequence.ids) < request.min_new_tokens or no_end):
            logits_V = logits_V.clone() if logits_V is raw_V else logits_V
            logits_V[list(request.eos_ids)] = -torch.inf
        if sequence.matcher is not None and not thinking.inside:
            logits_V = _constrained(sequence, sequence.matcher, logits_V)
        return logits_V

    def commit(self, sequence: TokenSequence, output: SampledToken, *, forced: bool) -> None:
        """Append a token to the sequence; decide whether it ends it, or its thinking."""
        request, token = sequence.request, output.id
        sequence.read()
        sequence.append(output, forced=forced)
        if token in request.eos_ids and not forced:
            return sequence.finish(StopReason.END, token)
        if token in request.stop_ids and not forced:
            return sequence.finish(StopReason.STOP, token)
        answering = not sequence.thinking.inside
        sequence.num_shown = sequence.num_thought = len(sequence.ids)
        sequence.thinking.push(token, forced=forced)
        # The tokens that open and close the thinking are not the answer's.
        constrained = sequence.matcher is not None and answering and not sequence.thinking.inside
        complete = constrained and sequence.matcher.push(token)  # type: ignore[union-attr]
        if sequence.show("" if token in request.hidden_ids else sequence.stream.push(token)):
            return None
        if complete:
            return sequence.finish(StopReason.ABORT if sequence.matcher.failed else StopReason.END)  # type: ignore[union-attr]
        if len(sequence.ids) >= request.params.max_new_tokens:
            return sequence.finish(StopReason.LENGTH)
        if len(sequence.tokens) >= self.max_tokens:
            return sequence.finish(StopReason.CONTEXT)
        return None if forced else self.check_thinking(sequence)

    def check_thinking(self, sequence: TokenSequence) -> None:
        """Close the thinking if its budget is spent or it runs in a circle; end an answer that
        does.
        """
        length, thinking = sequence.request.loop_tokens, sequence.thinking
        if length and len(sequence.ids) % LOOP_CHECK_EVERY == 0 and in_a_loop(sequence.ids, length):
            if not (thinking.inside and thinking.limited):
                return sequence.finish(StopReason.LOOP)
            sequence.loop_in_thinking = True
            return self.force_close(sequence)
        return self.force_close(sequence) if thinking.due() else None

    def force_close(self, sequence: TokenSequence) -> None:
        """Write the closing phrase and `</think>`; they are computed with the sequence's next
        chunk.
        """
        for token in sequence.thinking.closing_ids:
            if sequence.done:
                return
            self.commit(sequence, SampledToken(token), forced=True)


def _constrained(sequence: TokenSequence, matcher: GrammarMatcher, logits_V: Tensor) -> Tensor:
    masked_V, think_id = matcher.mask(logits_V), sequence.request.think_id
    if think_id is not None and not sequence.ids:
        masked_V[think_id] = logits_V[think_id]
    return masked_V


def note_prompt(sequence: TokenSequence, chunk: Chunk, logits_NV: Tensor) -> None:
    """Log-probabilities of prompt tokens: each position's logits are about the next token."""
    top = sequence.request.prompt_logprobs or 0
    if not sequence.prompt_outputs:
        sequence.prompt_outputs.append(None)  # the first token has no context
    prompt = sequence.request.prompt_ids
    for i, row_V in enumerate(logits_NV):
        if chunk.start + i + 1 >= len(prompt):
            break
        logprobs_V = row_V - row_V.logsumexp(-1)
        values, ids = logprobs_V.topk(min(top, len(row_V)))
        token = prompt[chunk.start + i + 1]
        lp = float(logprobs_V[token])
        sequence.prompt_outputs.append(
            SampledToken(token, lp, lp, tuple(zip(ids.tolist(), values.tolist(), strict=True)))
        )
