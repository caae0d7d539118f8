"""What editors and dashboards ask llama.cpp's server for: `/infill`, `/props`, `/slots`,
`/apply-template`.

Its chat and text completions are OpenAI's here, under `/v1`. Fields of `/infill` that are not known
are ignored, and said once in the log, as its server does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import ConfigDict, Field, model_validator

from qwq.engine.notes import note_once
from qwq.engine.request import GenerationRequest
from qwq.engine.sequence import TokenSequence
from qwq.serve.core import Core
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.errors import RequestRefused
from qwq.serve.fields import WHOLE, History
from qwq.serve.infill import infill_of
from qwq.serve.prompt import make_prompt
from qwq.serve.schema import Sampling, TokenizeRequest
from qwq.serve.sse import EventStream, Json, event, unless_gone
from qwq.types import StopReason

STOPS = {StopReason.END: "eos", StopReason.STOP: "word"}


class ExtraFile(History):
    place = "/infill's files"

    filename: str | None = None
    text: str


class InfillRequest(Sampling):
    """`/infill`: what goes between `input_prefix` and `input_suffix`, started by `prompt`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraFile] | None = None
    prompt: str | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _note_unknown(cls, data: Any, handler: Any) -> Any:
        made = handler(data)
        for key in data.keys() - cls.model_fields.keys() if isinstance(data, dict) else ():
            note_once(
                f"infill.{key}", f"requests: /infill carries {key[:60]!r}, which is not known here and is ignored"
            )
        return made


def install(app: FastAPI, core: Core) -> None:
    """The paths, outside the OpenAPI document: llama.cpp's own documentation describes them."""

    @app.post("/infill", include_in_schema=False)
    async def infill(body: InfillRequest, request: Request) -> Response:
        work = infill_request(core, body)
        if not body.stream:
            return await unless_gone(request, _whole(core, work))
        group = core.start([work], streamed=True)
        return EventStream(_events(core, group), lambda: core.end(group))

    @app.get("/props", include_in_schema=False)
    async def props() -> Response:
        named, loaded = core.tokenizer.named_specials, core.loaded
        return Json(
            {
                "default_generation_settings": {"n_ctx": core.max_len, "params": loaded.sampling},
                "total_slots": loaded.engine.max_running,
                "model_alias": core.options.name,
                "model_path": core.options.name,
                "chat_template": core.chat.template.source,
                "bos_token": named.get("bos_token") or "",
                "eos_token": core.tokenizer.token(core.chat.eos_ids[0]),
                "modalities": {"vision": False, "audio": False},
                "build_info": "qwq",
            }
        )

    @app.get("/slots", include_in_schema=False)
    async def slots() -> Response:
        # What the engine's thread holds is not read here: a slot is taken or free.
        taken = min(core.runner.num_open, core.loaded.engine.max_running)
        return Json(
            [
                {"id": i, "n_ctx": core.max_len, "is_processing": i < taken}
                for i in range(core.loaded.engine.max_running)
            ]
        )

    @app.post("/apply-template", include_in_schema=False)
    async def apply_template(body: TokenizeRequest) -> Response:
        core.check_model(body.model)
        if not body.messages:
            raise RequestRefused("messages: are needed", "messages")
        ids = make_prompt(
            core.chat, body.messages, body.tools or [], body, defaults=core.options.default_chat_template_kwargs
        ).ids
        return Json({"prompt": core.tokenizer.decode(ids)})


def infill_request(core: Core, body: InfillRequest) -> GenerationRequest:
    """The engine's request. RequestRefused where the model cannot fill in."""
    tokenizer, infill = core.tokenizer, infill_of(core.tokenizer, "input_suffix")
    files = [(f.filename or "file", f.text) for f in body.input_extra or ()]
    room = core.max_len - (body.max_tokens or 128)
    ids = [
        *infill.ids(tokenizer, body.input_prefix, body.input_suffix, files, room),
        *tokenizer.encode(body.prompt or ""),
    ]
    request = core.request(body, ids, body.max_tokens)
    return replace(request, eos_ids=(*request.eos_ids, *infill.ends))


async def _whole(core: Core, request: GenerationRequest) -> dict[str, Any]:
    async with core.running([request], streamed=False) as group:
        ((sample,),) = await group.finished()
    return {"content": sample.text} | _end(core, sample)


async def _events(core: Core, group: RequestGroup) -> AsyncIterator[bytes]:
    async for updates in group.updates():
        for u in updates:
            yield event(
                {"content": u.text, "stop": False} if not u.done else {"content": u.text} | _end(core, u.sample)
            )


def _end(core: Core, s: TokenSequence) -> dict[str, Any]:
    core.ending(s)  # raises where it was cut off
    usage = core.usage([[s]])
    return {
        "stop": True,
        "model": core.options.name,
        "id_slot": 0,
        "tokens_predicted": usage["completion_tokens"],
        "tokens_evaluated": usage["prompt_tokens"],
        "tokens_cached": usage["prompt_tokens_details"]["cached_tokens"],
        "truncated": False,
        "has_new_line": "\n" in s.text,
        "stop_type": STOPS.get(s.stop_reason or StopReason.LENGTH, "limit"),
        "stopping_word": s.stopped_by if isinstance(s.stopped_by, str) else "",
        "generation_settings": {"n_ctx": core.max_len},
        "timings": core.timings([[s]]),
    }
