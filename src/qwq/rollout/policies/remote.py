"""One rollout engine over HTTP as a policy: `qwq serve --rollout-engine`, or vLLM. It is
token-exact: token ids go in and come out, with the log-probability that each was drawn with.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qwq.endpoint.parallel import concurrently
from qwq.endpoint.reply import RequestFailed
from qwq.endpoint.rollout_client import RolloutClient, Sample, SampleRequest
from qwq.errors import ConfigError, InfraError
from qwq.rollout.policies.local import writes_tools
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.text.response import parse
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import TextStream
from qwq.types import ParsedResponse, StopReason, Turn, tool_schemas

_NUMBERS = itertools.count()
# Their age is not known then, so that `max_lag` could not be held.
UNLABELLED = (
    "{of} gave tokens without the version of the weights that sampled them (`weight_versions`): sample with "
    "`qwq serve --rollout-engine`, or a vLLM that labels its tokens"
)


class RemotePolicy:
    """Turns from one engine, which holds weights `name`, the trainer's number `version`.

    `number_of` gives the trainer's number of a name that the engine puts on tokens. Every request
    ends by `deadline` (time.monotonic). An engine that fails ends `generate` with InfraError: what
    it was to sample belongs to another one.
    """

    token_exact = True

    def __init__(
        self, client: RolloutClient, chat: ChatFormat, *, name: str, version: int,
        number_of: Callable[[str], int], deadline: float, context: int | None = None, concurrency: int = 16,
    ) -> None:  # fmt: skip
        self.client, self.chat = client, chat
        self.version, self.context = version, context
        self._name, self._number_of, self._deadline = name, number_of, deadline
        self._concurrency = concurrency
        self.under_way: set[str] = set()  # ids of requests

    @property
    def name(self) -> str:
        return self.client.url

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"engine": self.client.url}

    @property
    def native_tools(self) -> bool:
        return writes_tools(self.chat)

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        for request, got in concurrently(next_request, self._ask, concurrency or self._concurrency):
            assert not isinstance(got, RequestFailed)  # `_ask` raises InfraError
            yield request, got

    def _ask(self, request: TurnRequest) -> Turn:
        started, params = time.monotonic(), request.params
        check_plain(request)
        if request.version is not None and request.version != self.version:
            raise InfraError(f"version {request.version} of the weights is to answer, {self.name} holds {self.version}")
        prompt = request.prompt_ids
        if prompt is None:
            prompt = self.chat.prompt_ids(request.messages, request.tools)
        room = params.max_new_tokens if self.context is None else self.context - len(prompt)
        if room < 1:
            return Turn(ParsedResponse(None, ""), StopReason.CONTEXT)
        ident = f"qwq-{next(_NUMBERS)}-{time.time_ns():x}"
        asked = SampleRequest(
            ident, prompt, min(params.max_new_tokens, room), params.temperature, self._name, request.seed,
            request.stream, request.offset, self.chat.eos_ids, thinking_budget=request.thinking_budget,
            keep=request.keep,
        )  # fmt: skip
        self.under_way.add(ident)
        try:
            sample = self.client.sample(asked, self._deadline - started)
        finally:
            self.under_way.discard(ident)
        return self._turn(request, sample, time.monotonic() - started)

    def _turn(self, request: TurnRequest, sample: Sample, seconds: float) -> Turn:
        stop, ids = self._stop_reason(request, sample), sample.token_ids
        stream = TextStream(self.chat.tokenizer)
        ended = stop is StopReason.END
        text = stream.push_all(ids[:-1] if ended else ids) + (stream.finish() if ended else "")
        parts = parse(text, thinking_open=self.chat.thinking_open, tools=tool_schemas(request.tools), cut=stop.cut)
        if not all(sample.versions):
            raise InfraError(UNLABELLED.format(of=self.name))
        versions = [self._number_of(name) for name in sample.versions]
        return Turn(
            parts, stop, text, len(ids), seconds=seconds, ids=ids, sampled_mask=sample.sampled_mask,
            logprobs=sample.logprobs, weight_versions=versions,
        )  # fmt: skip

    def _stop_reason(self, request: TurnRequest, sample: Sample) -> StopReason:
        last, asked = sample.token_ids[-1], request.params.max_new_tokens
        if sample.stop_reason:
            stop = StopReason(sample.stop_reason)
        elif sample.finish == "stop":
            if last not in self.chat.eos_ids:
                raise InfraError(f"{self.name} says that a sample stopped, and its last token {last} ends no turn")
            stop = StopReason.END
        else:
            stop = StopReason.LENGTH
        cut_by_context = stop is StopReason.LENGTH and len(sample.token_ids) < asked
        return StopReason.CONTEXT if cut_by_context else stop

    def abandon(self, timeout_s: float) -> None:
        """Tell the engine that nobody waits for what it is sampling. InfraError where it does not
        hear.
        """
        if idents := sorted(self.under_way):
            self.client.abort(idents, timeout_s)

    def pause(self) -> None:
        self.client.pause("keep", self._left())

    def update_weights(self, version: int) -> None:
        raise InfraError(f"{self.name} gets its weights from the fleet (`rollout.fleet`), which probes them")

    def resume(self) -> None:
        self.client.resume(self._left())

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def close(self) -> None:
        """The client is its owner's."""


def check_plain(request: TurnRequest) -> None:
    """ConfigError unless the request is plain sampling: what an engine leaves out it renormalises,
    and its log-probabilities are then of another distribution than the trainer's.
    """
    p = request.params
    if p.top_p < 1 or p.top_k or p.min_p or p.needs_history or p.logit_bias or request.loop_tokens:
        raise ConfigError(
            f"rollouts over HTTP are sampled plainly, and {p} with loop_tokens {request.loop_tokens} is asked for: "
            "leave top_p at 1, the others off"
        )
