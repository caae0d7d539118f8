"""A server on loopback over the weights that are trained, for programs that make rollouts.

1. What a program asks of sampling is not used: every token is drawn at the stage's temperature from
   the model's own distribution, by a random stream of (seed, sample, call). What a grammar has
   written is context, as everywhere (`recorder.untrainable`).
2. An episode that has no tokens or calls left is refused (400), and `Quota.limit` says so.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import uvicorn

from qwq.engine.load import LoadedModel
from qwq.engine.request import MAX_SAMPLES, GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.errors import InfraError
from qwq.rollout.call_log import RecordedCall
from qwq.serve.app import create_app
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.episodes import CALLER, Caller
from qwq.serve.errors import RequestRefused
from qwq.serve.options import ServeOptions
from qwq.serve.recorder import Recorder
from qwq.types import StopReason

MODEL_NAME = "policy"  # any other name is accepted, too
START_S = 30.0
CALLS_BITS = 20  # of the number of a random stream: MAX_SAMPLES for each of as many calls


@dataclass(slots=True)
class Quota:
    """What one episode may use: tokens of all its answers, and calls. `limit` is the first that it
    met; `calls` are its calls as they ended.

    The tokens of an answer count when it has ended, so calls at the same time may go beyond.
    """

    seed: int
    sample: int
    max_new_tokens: int
    max_calls: int
    thinking_budget: int | None = None
    version: int = 0
    num_calls: int = 0
    num_tokens: int = 0
    num_open: int = 0  # calls under way, not in `calls` yet
    limit: StopReason | None = None
    calls: list[RecordedCall] = field(default_factory=list)


class TrainingRecorder(Recorder):
    """Samples as a stage asks, within each episode's quota."""

    def __init__(self, loaded: LoadedModel, params: SamplingParams, quotas: Mapping[str, Quota]) -> None:
        super().__init__(loaded.chat, self._take)
        self.params, self.quotas, self.context = params, quotas, loaded.engine.max_len

    def shaped(self, caller: Caller, request: GenerationRequest) -> GenerationRequest:
        quota = self.quotas.get(caller.episode)
        if quota is None:
            raise RequestRefused(f"no episode {caller.episode!r} is under way: keep the base URL as it is", status=404)
        left = quota.max_new_tokens - quota.num_tokens
        if quota.num_calls >= quota.max_calls:
            self._refuse(quota, StopReason.TURNS, f"the episode has made its {quota.max_calls} calls")
        if left < 1:
            self._refuse(quota, StopReason.LENGTH, f"the episode has written its {quota.max_new_tokens} tokens")
        if len(request.prompt_ids) >= self.context:
            self._refuse(quota, StopReason.CONTEXT, f"the prompt fills the context of {self.context} tokens")
        stream = (quota.sample << CALLS_BITS) + quota.num_calls * MAX_SAMPLES
        quota.num_calls += 1
        budgets = [b for b in (request.thinking_budget, quota.thinking_budget) if b is not None]
        return replace(
            request,
            params=replace(self.params, max_new_tokens=min(request.params.max_new_tokens, left)),
            seed=quota.seed, stream=stream, offset=0, thinking_budget=min(budgets, default=None),
            plain_sampling=True, min_new_tokens=0,
        )  # fmt: skip

    def begin(self, group: RequestGroup) -> None:
        super().begin(group)
        caller = CALLER.get()
        if caller is not None and (quota := self.quotas.get(caller.episode)) is not None:
            quota.num_open += len(group.jobs)

    @staticmethod
    def _refuse(quota: Quota, limit: StopReason, words: str) -> None:
        quota.limit = quota.limit or limit
        raise RequestRefused(f"{words}: it is over", code="episode_over")

    def _take(self, call: RecordedCall) -> None:
        quota = self.quotas.get(call.episode)
        if quota is not None:
            quota.calls.append(call)
            quota.num_tokens += sum(len(s.completion_ids) for s in call.samples)
            quota.num_open -= 1


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running server. `environment` is what a program of an episode needs to reach it."""

    url: str
    key: str

    def environment(self, episode: str) -> dict[str, str]:
        base = f"{self.url}/episodes/{episode}"
        return {
            "OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_BASE": f"{base}/v1", "OPENAI_API_KEY": self.key,
            "ANTHROPIC_BASE_URL": base, "ANTHROPIC_API_KEY": self.key, "QWQ_MODEL": MODEL_NAME,
        }  # fmt: skip


@contextmanager
def training_gateway(
    loaded: LoadedModel, params: SamplingParams, quotas: Mapping[str, Quota], *, version: int
) -> Iterator[Gateway]:
    """A server during the block; `version` of the weights answers. InfraError where none starts."""
    key = secrets.token_hex(16)
    options = ServeOptions(served_model_name=(MODEL_NAME, "*"), api_key=(key,), page=False, loop_tokens=0)
    app = create_app(loaded, options, recorder=TrainingRecorder(loaded, params, quotas))
    app.state.core.versions.name = str(version)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", ws="none", timeout_graceful_shutdown=5, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="qwq-gateway", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise InfraError("the server for the stage's programs did not start on 127.0.0.1")
        time.sleep(0.002)
    try:
        yield Gateway(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", key)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
