"""`qwq serve MODEL ...`: loads the model, says what it takes, listens."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from qwq.engine.load import EngineOptions, LoadedModel, describe_model, load_engine, say
from qwq.errors import ConfigError
from qwq.serve.access import AccessLog
from qwq.serve.app import create_app
from qwq.serve.catalogue import ModelCard
from qwq.serve.core import Core, ServeOptions, check_template_kwargs
from qwq.serve.switch import Entry, ModelSwitch
from qwq.text.template import ChatFormat, ChatTemplate


@dataclass(frozen=True, slots=True)
class Served:
    """A model and what requests may call it, the usual name first."""

    model: str
    names: tuple[str, ...]


class _Server(uvicorn.Server):
    """Asked to end, it takes no more requests, lets answers under way finish for a while, then has the engine cut them off,
    so that every stream still gets its last event."""

    def __init__(
        self, config: uvicorn.Config, *, shutdown_s: float, abort_all: Callable[[], None], closing: list[Any]
    ) -> None:
        super().__init__(config)
        self._shutdown_s, self._abort_all, self._closing = shutdown_s, abort_all, closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut_off())
        await super().shutdown(sockets)
        cutting.cancel()

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._shutdown_s)
        self._abort_all()
        # What is mounted keeps streams open of its own; they have to end before uvicorn's own limit cuts connections.
        while self._closing:
            await self._closing.pop()()


def read_template(given: str) -> ChatTemplate:
    """A chat template from a file's path or from its own text. ConfigError or ModelError where it is none."""
    if "{" in given:
        return ChatTemplate(given)
    try:
        return ChatTemplate(Path(given).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--chat-template {given}: {getattr(error, 'strerror', None) or error}: give a Jinja file"
        ) from None


def _check_files(serving: ServeOptions) -> None:
    """What a server would fail for once its model is loaded."""
    if serving.ssl_files is not None:
        certificate, key = serving.ssl_files
        if certificate is None:
            raise ConfigError("--ssl-keyfile needs --ssl-certfile")
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"--ssl-certfile {certificate}: {error}: give a certificate and its key in PEM form"
            ) from None
    if serving.access_log not in (None, "-"):
        AccessLog(None, serving.access_log)


def serve(models: Sequence[Served], options: EngineOptions, serving: ServeOptions, *, host: str, port: int) -> int:
    """Serve until SIGINT or SIGTERM. Of several models one is in memory at a time."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Before the model is loaded: a port that is taken should not cost a minute to find out.
            listener.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): give another --port") from None
        template = None if serving.chat_template is None else read_template(serving.chat_template)
        _check_files(serving)
        certificate, key = serving.ssl_files or (None, None)
        address = f"{'https' if certificate else 'http'}://{host}:{listener.getsockname()[1]}/v1"
        entries = [_entry(m, options, serving, template) for m in models]
        if len(models) > 1:
            switch = ModelSwitch(
                entries,
                serving,
                lambda: say(f"{', '.join(m.names[0] for m in models)}: ready on {address}, one in memory at a time"),
            )
            app, abort_all, closing = switch.guarded(), switch.abort_all, switch.closing
        else:
            # libgomp keeps a team of threads for every thread that computed, and with more of them than cores each one sleeps between
            # two products: the engine, in its own thread, would be a tenth slower. The loader's team ends with its thread.
            with ThreadPoolExecutor(1) as loader:
                opened = loader.submit(entries[0].open).result()
            app = create_app(opened, serving)
            core: Core = app.state.core
            abort_all, closing = core.runner.abort_all, app.state.closing
        listener.listen(1024)
        if len(models) == 1:
            say(f"{serving.names[0]}: ready on {address}, context {core.max_len} tokens")
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises again what it was stopped by; having been asked to end is no failure.
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=int(serving.shutdown_s) + 10, ws="none",
            ssl_certfile=certificate, ssl_keyfile=key,
        )  # fmt: skip
        server = _Server(config, shutdown_s=serving.shutdown_s, abort_all=abort_all, closing=closing)
        server.run(sockets=[listener])
    return 0 if server.started else 1


def _entry(served: Served, options: EngineOptions, serving: ServeOptions, template: ChatTemplate | None) -> Entry:
    """A model that is there and fits the options: what it cannot be served with is an error before the first one is loaded."""
    card = ModelCard.of(served.names, describe_model(served.model, options), template)
    check_template_kwargs(serving, card.template)
    return Entry(card, partial(_open, served.model, options, template))


def _open(model: str, options: EngineOptions, template: ChatTemplate | None) -> LoadedModel:
    opened = load_engine(model, options)
    if template is not None:
        opened.chat = ChatFormat(opened.chat.tokenizer, template)
    return opened
