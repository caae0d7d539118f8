"""What all endpoints share: requests for the engine out of requests of the API, counts, times,
log-probabilities.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from qwq.engine.grammar import Grammars
from qwq.engine.load import LoadedModel
from qwq.engine.request import GenerationRequest, GrammarMatcher
from qwq.engine.sampler import SampledToken, SamplingParams
from qwq.engine.sequence import TokenSequence
from qwq.errors import ConfigError, InfraError, UsageError
from qwq.serve.catalogue import Catalogue, ModelCard
from qwq.serve.engine_thread import EngineRunner, RequestGroup
from qwq.serve.episodes import name_by_body
from qwq.serve.errors import RequestRefused
from qwq.serve.metrics import ServerMetrics
from qwq.serve.options import ServeOptions
from qwq.serve.recorder import Recorder
from qwq.serve.schema import Common, Sampling
from qwq.serve.weight_versions import WeightVersions
from qwq.text.response import THINK_OPEN
from qwq.text.template import ChatTemplate
from qwq.text.tokenizer import END_OF_TEXT, MARKUP_TOKENS
from qwq.types import StopReason

GREEDY_BELOW = 1e-4  # a smaller temperature overflows float32 and means the most likely token anyway
FINISH = {StopReason.END: "stop", StopReason.STOP: "stop"}
# Tokens of thinking for OpenAI's word; None is without a limit. docs/serve.md says the same.
EFFORT: dict[str, int | None] = {
    "none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": None, "xhigh": None, "max": None,
}  # fmt: skip


def queue_full() -> RequestRefused:
    message = "the queue is full: try again in a moment"
    return RequestRefused(message, status=429, kind="rate_limit_error", code="queue_full")


def check_template_kwargs(options: ServeOptions, template: ChatTemplate) -> None:
    """ConfigError where `--default-chat-template-kwargs` has a name that the template does not
    read.
    """
    unknown = [k for k in options.default_chat_template_kwargs if k not in (*template.variables, "enable_thinking")]
    if unknown:
        reads = ", ".join(sorted(template.variables))
        raise ConfigError(
            f"--default-chat-template-kwargs: this model's chat template does not read {unknown[0]!r}: it reads {reads}"
        )


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


class Core:
    """The engine with its thread, and what turns a request into work and work into an answer."""

    def __init__(
        self,
        loaded: LoadedModel,
        options: ServeOptions,
        catalogue: Catalogue | None = None,
        metrics: ServerMetrics | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """`catalogue` and `metrics` are shared by the models of one server; without them this model
        is the only one. `recorder` keeps every call.
        """
        check_template_kwargs(options, loaded.chat.template)
        self.loaded, self.options = loaded, options
        if catalogue is None:
            card = ModelCard.of(options.served_model_name, loaded)
            catalogue = Catalogue([card], card)
        self.catalogue = catalogue
        self.chat, self.tokenizer, self.max_len = loaded.chat, loaded.chat.tokenizer, loaded.engine.max_len
        self.runner = EngineRunner(loaded.engine, max_waiting=options.max_waiting)
        self.recorder, self.versions = recorder, WeightVersions()
        self.metrics = metrics or ServerMetrics()
        self.metrics.attach(loaded.engine, options.name)
        self.grammars = Grammars(self.tokenizer, loaded.engine.backend.vocab_size, self.chat.eos_ids)
        self._special = {
            t: self.tokenizer.added_tokens[t] for t in self.tokenizer.special_tokens if t not in MARKUP_TOKENS
        }

    @property
    def start_id(self) -> int:
        """The token that begins a document, which an empty text begins with."""
        named = self.tokenizer.named_specials.get("bos_token")
        known = [self.tokenizer.token_id(t) for t in (named, END_OF_TEXT) if t]
        return next((i for i in known if i is not None), self.chat.eos_ids[-1])

    # -- requests ----------------------------------------------------------------------------------

    def check_model(self, name: str | None) -> None:
        if name is not None and self.options.name not in self.catalogue.find(name).names:
            raise InfraError(f"the request is for {name!r} and reached {self.options.name!r}: send it again")

    def request(
        self,
        body: Sampling,
        ids: list[int],
        max_new: int | None,
        *,
        n: int | None = None,
        top: int | None = None,
        thinking_open: bool = False,
        budget: int | None = None,
        matcher: Callable[[], GrammarMatcher] | None = None,
        prompt_top: int | None = None,
    ) -> GenerationRequest:
        """The engine's request. `max_new` None, or more than the context has room for: as many
        tokens as it has room for.

        Programs send one fixed limit with every prompt, so a limit beyond the room is met by the
        room; a prompt that leaves none is refused by the engine.
        """
        self.check_model(body.model)
        if self.recorder is not None:
            name_by_body(body)
        room = max(1, self.max_len - len(ids))
        params = self._sampling(body, room if max_new is None else min(max_new, room))
        stop = () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
        return GenerationRequest(
            ids,
            params,
            n=n or 1,
            seed=self._seed() if body.seed is None else body.seed,
            eos_ids=() if body.ignore_eos else self.chat.eos_ids,
            stop=stop,
            stop_ids=tuple(body.stop_token_ids or ()),
            min_new_tokens=body.min_tokens or 0,
            thinking_open=thinking_open,
            thinking_budget=budget,
            logprobs=top,
            prompt_logprobs=prompt_top,
            loop_tokens=0 if body.ignore_eos else self.options.loop_tokens,
            matcher=matcher,
            think_id=None if matcher is None or thinking_open else self._think_id(),
            hidden_ids=frozenset() if body.skip_special_tokens is False else self._hidden(stop),
        )

    def _sampling(self, body: Sampling, max_new: int) -> SamplingParams:
        own = self.loaded.sampling
        temperature = _first(body.temperature, own.get("temperature"), 1.0)
        return SamplingParams(
            temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
            top_p=_first(body.top_p, own.get("top_p"), 1.0),
            top_k=max(0, int(_first(body.top_k, own.get("top_k"), 0))),
            min_p=_first(body.min_p, own.get("min_p"), 0.0),
            repetition_penalty=_first(body.repetition_penalty, own.get("repetition_penalty"), 1.0),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=tuple((int(k), v) for k, v in (body.logit_bias or {}).items()),
            max_new_tokens=max_new,
        )

    def _seed(self) -> int:
        return secrets.randbits(48) if self.options.seed is None else self.options.seed

    @property
    def hidden_ids(self) -> frozenset[int]:
        """Special tokens that are not written as text; markup is."""
        return self._hidden(())

    def _hidden(self, stop: Sequence[str]) -> frozenset[int]:
        """Special tokens, apart from those that a stop string waits for, and from markup, which is
        read out of the text.
        """
        return frozenset(i for t, i in self._special.items() if not any(s in t or t in s for s in stop))

    def _think_id(self) -> int | None:
        """The token with which a model opens its thinking by itself, where it is of a kind that
        does.
        """
        return self.tokenizer.token_id(THINK_OPEN) if "think" in self.chat.template.source else None

    async def compile(self, grammar: str, param: str) -> Callable[[], GrammarMatcher]:
        """Off the event loop: a large schema takes a second."""
        try:
            return await asyncio.to_thread(self.grammars.compile, grammar, param)
        except UsageError as error:
            raise RequestRefused(str(error), param.partition(".")[0]) from None

    @asynccontextmanager
    async def running(self, requests: Sequence[GenerationRequest], *, streamed: bool) -> AsyncIterator[RequestGroup]:
        """The requests under way; whatever ends the block ends them."""
        group = self.start(requests, streamed=streamed)
        try:
            yield group
        finally:
            self.end(group)

    def start(self, requests: Sequence[GenerationRequest], *, streamed: bool) -> RequestGroup:
        if self.runner.full:
            raise queue_full()
        if self.recorder is not None:
            requests = self.recorder.admit(requests)
        group = self.runner.submit(requests, streamed=streamed)
        self.versions.begin(group)
        if self.recorder is not None:
            self.recorder.begin(group)
        return group

    def end(self, group: RequestGroup) -> None:
        if self.recorder is not None:
            self.recorder.end(group, self.versions)
        self.versions.end(group)
        if group.close():
            for samples in group.samples:
                for sample in samples:
                    self.metrics.note(self.options.name, sample)

    # -- answers -----------------------------------------------------------------------------------

    def ending(self, s: TokenSequence) -> dict[str, Any]:
        """finish_reason, and stop_reason with what ended it."""
        assert s.stop_reason is not None
        if s.matcher is not None and s.matcher.failed:
            raise InfraError(f"the answer cannot be held to its schema any further ({s.matcher.failed[:200]})")
        if s.stop_reason is StopReason.ABORT:
            raise InfraError("the request was stopped by the server")
        cause: str | int | None = s.stopped_by if s.stop_reason is StopReason.STOP else None
        if s.stop_reason is StopReason.LOOP or s.loop_in_thinking:
            cause = "loop"
        return {"finish_reason": FINISH.get(s.stop_reason, "length"), "stop_reason": cause}

    def usage(self, groups: list[list[TokenSequence]]) -> dict[str, Any]:
        samples = [s for g in groups for s in g]
        prompt, new = sum(g[0].num_prompt for g in groups if g), sum(len(s.ids) for s in samples)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "completion_tokens_details": {"reasoning_tokens": sum(s.num_thinking for s in samples)},
            "prompt_tokens_details": {"cached_tokens": sum(min(s.num_cached for s in g) for g in groups if g)},
        }

    def timings(self, groups: list[list[TokenSequence]]) -> dict[str, Any]:
        """Times in milliseconds, named as llama.cpp's server names them, and time in the queue."""
        samples = [s for g in groups for s in g if len(s.times) > 1 and s.admitted is not None]
        if not samples:
            return {}
        admitted = min(s.admitted for s in samples if s.admitted is not None)
        first, last = min(s.times[1] for s in samples), max(s.times[-1] for s in samples)
        cached, prompt = (
            sum(min(s.num_cached for s in g) for g in groups if g),
            sum(g[0].num_prompt for g in groups if g),
        )
        new = sum(len(s.ids) for s in samples)
        prompt_s, new_s = max(first - admitted, 1e-9), max(last - first, 1e-9)
        computed = prompt - cached
        return {
            "queued_ms": round(1000 * (admitted - min(s.times[0] for s in samples)), 3),
            "cache_n": cached,
            "prompt_n": computed,
            "prompt_ms": round(1000 * prompt_s, 3),
            "prompt_per_token_ms": round(1000 * prompt_s / max(computed, 1), 3),
            "prompt_per_second": round(computed / prompt_s, 3),
            "predicted_n": new,
            "predicted_ms": round(1000 * new_s, 3),
            "predicted_per_token_ms": round(1000 * new_s / max(new - 1, 1), 3),
            "predicted_per_second": round((new - 1) / new_s, 3) if new > 1 else 0.0,
            "thinking_n": sum(s.num_thinking for s in samples),
        }

    def head(self, kind: str, prefix: str) -> dict[str, Any]:
        return {"id": new_id(prefix), "object": kind, "created": int(time.time()), "model": self.options.name}

    def token(self, id: int) -> dict[str, Any]:
        data = self.tokenizer.token_bytes[id] if id < self.tokenizer.vocab_size else b""
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data)}

    def token_logprob(self, c: SampledToken) -> dict[str, Any]:
        top = [self.token(i) | {"logprob": p} for i, p in c.top]
        # A token that a thinking budget wrote was not sampled: its log-probability is 0, as its
        # probability was 1.
        return self.token(c.id) | {"logprob": 0.0 if c.raw is None else c.raw, "top_logprobs": top}


def usage_wanted(body: Common) -> tuple[bool, bool]:
    """Whether a stream is to end with the counts, and whether every event is to have them."""
    options = body.stream_options
    return bool(options and options.include_usage), bool(options and options.continuous_usage_stats)


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not None)
