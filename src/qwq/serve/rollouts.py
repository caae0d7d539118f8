"""What a rollout engine offers (`--rollout-engine`): token ids in and out with the log-probability
that each token was drawn with, and weights that a trainer replaces.

Paths and fields are those of vLLM 0.32 (its OpenAPI document), so that one client speaks to both.
Departures:

1. sampling is plain, or the request is refused: top_p, top_k, min_p and penalties would make the
   log-probabilities those of another distribution;
2. `cache_salt` names the weight version that must answer: another one is refused (409), and no
   cache is salted, since a reload drops every cached prefix here;
3. after a reload the version is "" until it is said, so that an old name cannot stay on new
   weights;
4. `qwq` in a request names the random stream of the sample, so that it is the one that the
   trainer's own engine would have drawn; in a choice it carries the mask of sampled tokens and our
   stop reason.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field

from qwq.engine.reload import check_reloadable, reload_weights
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.sequence import TokenSequence
from qwq.serve.core import FINISH, Core, new_id
from qwq.serve.engine_thread import Gone, RequestGroup
from qwq.serve.errors import RequestRefused
from qwq.serve.fields import WHOLE, OnlyFalse, OnlyOne, OnlyZero, Strict, TokenId, only
from qwq.serve.sse import Json, unless_gone
from qwq.types import StopReason

Whole = Annotated[int, Field(ge=0), WHOLE]


class RolloutSampling(Strict):
    """vLLM's sampling parameters, as far as they are plain sampling."""

    max_tokens: Annotated[int, Field(ge=1), WHOLE] = 16
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    seed: Annotated[int, WHOLE] = 0
    logprobs: Annotated[int | None, only(0, None)] = None
    n: OnlyOne = 1
    top_p: OnlyOne = 1.0
    top_k: Annotated[int, only(0, -1)] = 0
    min_p: OnlyZero = 0.0
    ignore_eos: bool = False
    stop_token_ids: list[TokenId] | None = None
    detokenize: OnlyFalse = False


class SampleStream(Strict):
    """qwq's own: which random numbers a sample draws, and its thinking budget."""

    stream: Whole = 0
    offset: Whole = 0
    thinking_budget: Whole | None = None
    keep: bool = True


class RolloutRequest(Strict):
    token_ids: Annotated[list[TokenId], Field(min_length=1)]
    sampling_params: RolloutSampling
    model: str | None = None
    request_id: str | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    stream: OnlyFalse = False
    qwq: SampleStream = SampleStream()


class RpcRequest(Strict):
    method: Literal["reload_weights"]
    kwargs: dict[str, str]


class VersionRequest(Strict):
    new_version: Annotated[str, Field(max_length=1024)]


class AbortRequest(Strict):
    request_ids: list[str]


class RolloutEngine:
    """The state behind the paths: the version of the weights, and the requests by their ids."""

    def __init__(self, core: Core) -> None:
        check_reloadable(core.loaded.engine)
        self.core, self.versions = core, core.versions
        self.groups: dict[str, RequestGroup] = {}
        root = core.options.rollout_weights
        self.root = None if root is None else root.expanduser().resolve()

    def request(self, body: RolloutRequest) -> GenerationRequest:
        """The engine's request. RequestRefused for another version of the weights."""
        self.core.check_model(body.model)
        if body.cache_salt is not None and body.cache_salt != self.versions.name:
            message = f"version {body.cache_salt!r} of the weights is to answer, {self.versions.name!r} is loaded"
            raise RequestRefused(message, "cache_salt", status=409, code="weight_version")
        s, chat = body.sampling_params, self.core.chat
        return GenerationRequest(
            body.token_ids, SamplingParams(temperature=s.temperature, max_new_tokens=s.max_tokens), seed=s.seed,
            stream=body.qwq.stream, offset=body.qwq.offset, eos_ids=() if s.ignore_eos else chat.eos_ids,
            stop_ids=tuple(i for i in s.stop_token_ids or () if i not in chat.eos_ids),
            thinking_open=chat.thinking_open, thinking_budget=body.qwq.thinking_budget, plain_sampling=True,
            drawn_logprobs=True, keep_prefix=body.qwq.keep,
        )  # fmt: skip

    async def generate(self, body: RolloutRequest) -> dict[str, Any]:
        ident = body.request_id or new_id("rollout-")
        group = self.core.start([self.request(body)], streamed=False)
        self.groups[ident] = group
        try:
            ((sample,),) = await group.finished()
            spans = self.versions.spans(group, sample, len(sample.ids))
        except Gone:
            raise RequestRefused(f"request {ident} was aborted", "request_id", status=409, code="aborted") from None
        finally:
            self.groups.pop(ident, None)
            self.core.end(group)
        return {"request_id": ident, "model": self.core.options.name, "choices": [_choice(sample, spans)]}

    # -- weights -----------------------------------------------------------------------------------

    async def pause(self, mode: str) -> None:
        runner = self.core.runner

        def pause() -> None:
            if mode == "abort":
                runner.abort_running()
            runner.paused = True

        await asyncio.wrap_future(runner.call(pause))

    async def resume(self) -> None:
        await asyncio.wrap_future(self.core.runner.call(lambda: setattr(self.core.runner, "paused", False)))

    async def reload(self, arguments: dict[str, str]) -> None:
        """Weights of a folder, in place; the version is then unknown."""
        if set(arguments) != {"weights_path"}:
            raise RequestRefused("kwargs: reload_weights takes weights_path, a model folder", "kwargs")
        folder = Path(arguments["weights_path"]).expanduser().resolve()
        if self.root is not None and not folder.is_relative_to(self.root):
            raise RequestRefused(f"{folder} is not below --rollout-weights {self.root}", "kwargs", status=403)
        if not folder.is_dir():
            raise RequestRefused(f"no folder {folder} on this machine: share the trainer's weights folder", "kwargs")

        def reload() -> None:
            self.versions.change("")
            reload_weights(self.core.loaded.engine, folder)

        await asyncio.wrap_future(self.core.runner.call(reload))

    async def say_version(self, name: str) -> None:
        await asyncio.wrap_future(self.core.runner.call(lambda: self.versions.change(name)))


def _choice(s: TokenSequence, spans: list[dict[str, Any]]) -> dict[str, Any]:
    assert s.stop_reason is not None
    reason = "abort" if s.stop_reason is StopReason.ABORT else FINISH.get(s.stop_reason, "length")
    content = [{"token_id": i, "logprob": p} for i, p in zip(s.ids, s.drawn_logprobs, strict=True)]
    own = {"stop_reason": s.stop_reason.value, "sampled_mask": [1 - f for f in s.forced]}
    return {
        "index": 0,
        "finish_reason": reason,
        "stop_reason": s.stopped_by,
        "token_ids": list(s.ids),
        "logprobs": {"content": content},
        "weight_versions": spans,
        "qwq": own,
    }


def install(app: FastAPI, core: Core) -> None:
    """The paths, outside the OpenAPI document: they are vLLM's. ConfigError where the engine's
    weights cannot be replaced.
    """
    engine = RolloutEngine(core)

    @app.post("/inference/v1/generate", include_in_schema=False)
    async def generate(body: RolloutRequest, request: Request) -> Response:
        return await unless_gone(request, engine.generate(body))

    @app.post("/inference/v1/abort_requests", include_in_schema=False)
    async def abort_requests(body: AbortRequest) -> Response:
        groups = [g for i in body.request_ids if (g := engine.groups.get(i)) is not None]
        for group in groups:
            core.end(group)
        return Json({"aborted": len(groups)})

    @app.post("/pause", include_in_schema=False)
    async def pause(mode: Literal["abort", "keep"] = "abort") -> Response:
        await engine.pause(mode)
        return Json({"status": "paused"})

    @app.post("/resume", include_in_schema=False)
    async def resume() -> Response:
        await engine.resume()
        return Json({"status": "resumed"})

    @app.get("/is_paused", include_in_schema=False)
    async def is_paused() -> Response:
        return Json({"is_paused": core.runner.paused})

    @app.post("/collective_rpc", include_in_schema=False)
    async def collective_rpc(body: RpcRequest) -> Response:
        await engine.reload(body.kwargs)
        return Json({"results": [None]})

    @app.post("/update_weight_version", include_in_schema=False)
    async def update_weight_version(body: VersionRequest) -> Response:
        await engine.say_version(body.new_version)
        return Json({"weight_version": body.new_version})

    @app.get("/weight_info", include_in_schema=False)
    async def weight_info() -> Response:
        return Json({"weight_version": engine.versions.name})
