"""What Ollama's clients ask about the models of a server: the lists, one model's details, the
version.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError

from qwq.serve.catalogue import Catalogue, ModelCard
from qwq.serve.errors import RequestRefused, first_fault
from qwq.serve.schema_ollama import OllamaName, OllamaRequest
from qwq.serve.sse import Json

VERSION = "0.12.0"
_Body = TypeVar("_Body", bound=BaseModel)


def install_lists(app: FastAPI, catalogue: Catalogue) -> None:
    """The paths that need no loaded model."""

    @app.get("/api/version", include_in_schema=False)
    async def version() -> Response:
        return Json({"version": VERSION})

    @app.get("/api/tags", include_in_schema=False)
    async def tags() -> Response:
        return Json({"models": [_entry(catalogue, name, card) for name, card in catalogue.listed()]})

    @app.get("/api/ps", include_in_schema=False)
    async def ps() -> Response:
        card = catalogue.loaded
        if card is None:
            return Json({"models": []})
        always = {"expires_at": "2318-01-01T00:00:00Z", "size_vram": 0, "context_length": card.max_len}
        return Json({"models": [_entry(catalogue, card.names[0], card) | always]})

    @app.post("/api/show", include_in_schema=False)
    async def show(request: Request) -> Response:
        return Json(_shown(catalogue, card_of(catalogue, await read_body(request, OllamaName))))

    @app.post("/api/pull", include_in_schema=False)
    async def pull(request: Request) -> Response:
        card_of(catalogue, await read_body(request, OllamaName))
        return Json({"status": "success"})  # it is here


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The body, whatever it says of itself. RequestRefused where it is not what is asked for."""
    if "origin" in request.headers and "json" not in request.headers.get("content-type", ""):
        raise RequestRefused("a web page's request needs the header Content-Type: application/json")
    try:
        return kind.model_validate(orjson.loads(await request.body()))
    except orjson.JSONDecodeError as error:
        raise RequestRefused(f"the body is not JSON ({error})") from None
    except ValidationError as error:
        raise RequestRefused(*first_fault(error.errors())[::2]) from None


def card_of(catalogue: Catalogue, body: OllamaName | OllamaRequest) -> ModelCard:
    name = body.model or getattr(body, "name", None)
    if not name:
        raise RequestRefused("model: names the model", "model")
    return catalogue.find(own_name(catalogue, name))


def own_name(catalogue: Catalogue, name: str) -> str:
    """A name without Ollama's `:latest`, unless a model is served with it."""
    return name if any(name in card.names for card in catalogue.cards) else name.removesuffix(":latest")


def _details(card: ModelCard) -> dict[str, Any]:
    config, name = card.config, card.source
    level = re.search(r"(I?Q\d\w*|[BF]F?(?:16|32))(?=\.gguf$)", name, re.IGNORECASE)
    return {
        "parent_model": "",
        "format": "gguf" if name.endswith(".gguf") else "safetensors",
        "family": config.family,
        "families": [config.family],
        "parameter_size": _size(config.num_parameters),
        "quantization_level": level[1].upper() if level else "",
    }


def _size(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _entry(catalogue: Catalogue, name: str, card: ModelCard) -> dict[str, Any]:
    digest = hashlib.sha256(f"{card.source} {card.config.num_parameters}".encode()).hexdigest()
    about = {"size": card.weights_bytes, "digest": digest, "details": _details(card)}
    return {"name": name, "model": name, "modified_at": created_at(catalogue.started)} | about


def _shown(catalogue: Catalogue, card: ModelCard) -> dict[str, Any]:
    config, template = card.config, card.template
    capabilities = ["completion", *(["insert"] if card.fills_in else [])]
    capabilities += [
        *(["tools"] if "tools" in template.variables else []),
        *(["thinking"] if "think" in template.source else []),
    ]
    info = {
        "general.architecture": config.family,
        "general.parameter_count": config.num_parameters,
        "general.basename": Path(card.source).stem,
        f"{config.family}.context_length": card.max_len,
        f"{config.family}.embedding_length": config.hidden_size,
        f"{config.family}.block_count": config.num_layers,
        f"{config.family}.attention.head_count": config.num_heads,
        f"{config.family}.attention.head_count_kv": config.num_kv_heads,
    }
    parameters = "\n".join(f"{name:<30} {value}" for name, value in card.sampling.items())
    return {
        "modelfile": f"FROM {card.names[0]}\n",
        "parameters": parameters,
        "template": template.source,
        "details": _details(card),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": created_at(catalogue.started),
    }


def created_at(seconds: float) -> str:
    return (
        datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )
