"""What a server says of itself and of its tokens: state, metrics, models, version, tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Response

from qwq.serve import errors
from qwq.serve.catalogue import Catalogue, ModelCard
from qwq.serve.core import Core
from qwq.serve.metrics import ServerMetrics
from qwq.serve.prompt import make_prompt
from qwq.serve.schema import DetokenizeRequest, TokenizeRequest
from qwq.serve.sse import Json


def install(app: FastAPI, core: Core) -> None:
    """The paths, `core` answering them."""

    def health() -> Response:
        if core.runner.failure is not None:
            return errors.error_response(500, "the engine has stopped: restart the server", "server_error")
        return Json({"status": "ok"})

    install_lists(app, core.catalogue, core.metrics, health)
    _tokens(app, core)


def install_lists(app: FastAPI, catalogue: Catalogue, metrics: ServerMetrics, health: Callable[[], Response]) -> None:
    """The paths that need no loaded model."""

    def entry(name: str, card: ModelCard) -> dict[str, Any]:
        about: dict[str, Any] = {"root": card.names[0], "parent": None, "max_model_len": card.max_len}
        about["sampling"] = card.sampling  # the model's own defaults, which the page shows
        return {"id": name, "object": "model", "created": catalogue.started, "owned_by": "qwq"} | about

    @app.get("/health")
    async def state() -> Response:
        return health()

    @app.get("/ping", include_in_schema=False)
    async def ping() -> Response:
        return health()

    @app.get("/version")
    async def version() -> Response:
        return Json({"version": metadata.version("qwq")})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def counts() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [entry(name, card) for name, card in catalogue.listed()]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        return Json(entry(model, catalogue.find(model)))


def _tokens(app: FastAPI, core: Core) -> None:
    tokenizer, options = core.tokenizer, core.options

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> Response:
        """What a client needs to make the tokens itself, under the names of tokenizer_config.json
        (vLLM's path).
        """
        named = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token")) | tokenizer.named_specials
        if named["eos_token"] is None:
            named["eos_token"] = tokenizer.token(core.chat.eos_ids[0])
        more = {
            "tokenizer_class": tokenizer.config.get("tokenizer_class", "PreTrainedTokenizerFast"),
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": core.max_len,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "additional_special_tokens": [t for t in tokenizer.special_tokens if t not in named.values()],
        }
        return Json(named | more | {"chat_template": core.chat.template.source})

    @app.post("/v1/tokenize", include_in_schema=False)
    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        core.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise errors.RequestRefused("tokenize: give either prompt or messages", "prompt")
        if body.messages is None:
            ids = tokenizer.encode_rendered(body.prompt or "")
        else:
            ids = make_prompt(
                core.chat, body.messages, body.tools or [], body, defaults=options.default_chat_template_kwargs
            ).ids
        out: dict[str, Any] = {"count": len(ids), "max_model_len": core.max_len, "tokens": ids, "token_strs": None}
        if body.return_token_strs:
            out["token_strs"] = [core.token(i)["token"] for i in ids]
        return Json(out)

    @app.post("/v1/detokenize", include_in_schema=False)
    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        core.check_model(body.model)
        bad = [i for i in body.tokens if i >= tokenizer.vocab_size]
        if bad:
            raise errors.RequestRefused(
                f"tokens: id {bad[0]} is outside the vocabulary of {tokenizer.vocab_size}", "tokens"
            )
        return Json({"prompt": tokenizer.decode(body.tokens)})
