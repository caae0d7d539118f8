"""Requests: a prompt, and how the engine continues it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from qwq.engine.backends.base import Backend
from qwq.engine.sampler import SamplingParams
from qwq.errors import CapacityError, UsageError

MAX_SAMPLES = 1024


class GrammarMatcher(Protocol):
    """A grammar matcher for structured output (a JSON schema, a tool call). It sees the answer's
    tokens, never the thinking's.
    """

    failed: str  # why it cannot continue; empty while it can

    def mask(self, logits_V: torch.Tensor) -> torch.Tensor:
        """A copy in which every token that may not come next is minus infinity; end tokens may come
        if the form is complete.
        """
        ...

    def push(self, token: int) -> bool:
        """Take in a token of the answer. True where nothing but an end token may follow."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. `n` samples are independent random streams of one seed;
    they share the prefill.

    `stream`, `offset`: sample i draws from the random stream (`seed`, `stream` + i), from its
    number `offset` on; a later turn of an episode continues the stream of the first one. `eos_ids`
    end a turn (they stay in `ids`, not in the text); `stop` are strings that end it and are cut
    off; `stop_ids` are further tokens that end it. `hidden_ids` are tokens that are not written as
    text. `thinking_open`: the prompt ends inside `<think>`. `thinking_budget` in tokens, None
    without a limit. Under a budget no end token is sampled inside the thinking or before the
    answer's first word, unless `plain_sampling` is set: then every sampled token comes from the
    model's own distribution, as a policy gradient assumes. `matcher` makes the grammar matcher of
    each sample; `think_id` is a token with which the model may open its thinking before a
    constrained answer. `logprobs`: how many alternatives to report with each token's
    log-probability (0: the token's alone, None: none); `prompt_logprobs` the same for the prompt;
    `drawn_logprobs`: report the log-probability of each token under the distribution that it was
    drawn from. `yarn`: None lets the engine decide by length. `loop_tokens`: how long an exact
    repetition may get before it is stopped, 0 for any length. `keep_prefix` False: no later request
    continues from this one's tokens, so that its slot need not be kept.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams = SamplingParams()
    n: int = 1
    seed: int = 0
    stream: int = 0
    offset: int = 0
    eos_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    hidden_ids: frozenset[int] = frozenset()
    min_new_tokens: int = 0
    thinking_open: bool = False
    thinking_budget: int | None = None
    plain_sampling: bool = False
    matcher: Callable[[], GrammarMatcher] | None = None
    think_id: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    drawn_logprobs: bool = False
    yarn: bool | None = None
    loop_tokens: int = 0
    keep_prefix: bool = True


def check_request(request: GenerationRequest, backend: Backend, max_len: int) -> None:
    """UsageError or CapacityError if a request can never be met. Reads nothing that changes, so any
    thread may call it.
    """
    _check_length(len(request.prompt_ids), backend, max_len)
    for ids in (request.prompt_ids, request.stop_ids, [i for i, _ in request.params.logit_bias]):
        if len(ids) and (min(ids) < 0 or max(ids) >= backend.vocab_size):
            bad = next(i for i in ids if not 0 <= i < backend.vocab_size)
            raise UsageError(
                f"token id {bad} is outside the vocabulary of {backend.vocab_size}: use the model's own tokenizer"
            )
    if not 1 <= request.n <= MAX_SAMPLES:
        raise UsageError(f"n is {request.n}: ask for 1 to {MAX_SAMPLES:,} samples")
    if request.thinking_budget is not None and request.thinking_budget < 0:
        raise UsageError(f"the thinking budget is {request.thinking_budget} tokens: give 0 or more")
    if any(not s for s in request.stop):
        raise UsageError("a stop string is empty: leave it out")
    if request.yarn and not backend.has_yarn:
        raise UsageError("YaRN is asked for, and this model has none: load it with --yarn")


def _check_length(length: int, backend: Backend, max_len: int) -> None:
    if not length:
        raise UsageError("the prompt is empty: give at least one token")
    if length >= max_len:
        raise CapacityError(
            f"the prompt has {length} tokens, the model's context is {max_len}: "
            "shorten it, or raise --max-model-len where the model allows it"
        )
    if length >= backend.slot_capacity:
        raise CapacityError(
            f"the prompt has {length} tokens, the key/value cache holds {backend.slot_capacity}: "
            "shorten it, or raise --kv-tokens"
        )
