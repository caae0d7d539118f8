"""An OpenAI-compatible server as a policy. It takes and gives messages, so it is not token-exact:
it cannot be trained on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwq.endpoint.openai_client import GO_ON, PATIENCE, EndpointClient, EndpointRequest
from qwq.endpoint.parallel import concurrently
from qwq.endpoint.reply import RequestFailed
from qwq.errors import ConfigError, InfraError, QwqError, UsageError
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.types import Message, ParsedResponse, StopReason, Turn

CONCURRENCY = 16


class EndpointPolicy:
    """A server with /v1/chat/completions. Nothing is sent before `connect` or `generate`.

    `api_key` None takes QWQ_API_KEY or OPENAI_API_KEY. `opens_thinking`: whether its chat template
    opens the thinking, None where that is not known (see `endpoint.reply`). `patience`: seconds
    between tries of a server that is away or busy. `after_loss`: what follows for the user where it
    stays away, "" where the caller says it.
    """

    token_exact = False
    native_tools = True  # what its template does with tools cannot be seen from here
    chat = None
    version = 0

    def __init__(
        self,
        url: str,
        model: str,
        *,
        concurrency: int = CONCURRENCY,
        api_key: str | None = None,
        opens_thinking: bool | None = None,
        patience: Sequence[float] = PATIENCE,
        after_loss: str = GO_ON,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"--concurrency is {concurrency}: give at least 1")
        self.concurrency = concurrency
        self.client = EndpointClient(
            url, model, api_key=api_key, opens_thinking=opens_thinking, patience=patience, connections=concurrency,
            after_loss=after_loss,
        )  # fmt: skip
        self._flag = {} if opens_thinking is None else {"opens_thinking": opens_thinking}

    @property
    def name(self) -> str:
        return self.client.model

    @property
    def context(self) -> int | None:
        return self.client.context

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"served": self.name, **self._flag}

    def connect(self) -> EndpointPolicy:
        """Take over the server's name for the model and its context. InfraError where no server
        answers.
        """
        try:
            self.client.connect()
        except QwqError:
            self.client.close()
            raise
        return self

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        """A request without an answer of the model comes back as a turn with `failure`."""
        for request, got in concurrently(next_request, self._ask, concurrency or self.concurrency):
            if isinstance(got, RequestFailed):
                yield request, Turn(ParsedResponse(None, ""), StopReason.ABORT, failure=str(got))
            else:
                yield request, got

    def _ask(self, request: TurnRequest) -> Turn:
        started, params = time.monotonic(), request.params
        if request.prompt_ids is not None:
            raise UsageError(f"{self.client.url} takes messages, not tokens: leave prompt_ids out")
        got = self.client.complete(
            EndpointRequest(
                [m.to_dict() if isinstance(m, Message) else m for m in request.messages], request.seed,
                params.temperature, params.top_p, params.max_new_tokens, params.top_k, request.tools,
                request.thinking_budget, request.schema,
            )
        )  # fmt: skip
        return replace(got, seconds=time.monotonic() - started)

    def pause(self) -> None:
        raise UsageError(f"{self.client.url} is a server of its own: it cannot be paused from here")

    def update_weights(self, version: int) -> None:
        raise InfraError(
            f"{self.client.url} takes no weights, so version {version} cannot be served there: "
            "sample with a local policy"
        )

    def resume(self) -> None:
        raise UsageError(f"{self.client.url} is a server of its own: it cannot be paused from here")

    def close(self) -> None:
        self.client.close()
