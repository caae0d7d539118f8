"""`qwq serve MODEL`: loads the model, says what it takes, listens."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from qwq.engine.load import EngineOptions, load_engine, say
from qwq.errors import ConfigError
from qwq.serve.access import AccessLog
from qwq.serve.app import create_app
from qwq.serve.core import Core, ServeOptions
from qwq.text.template import ChatFormat, ChatTemplate


class _Server(uvicorn.Server):
    """Asked to end, it takes no more requests, lets answers under way finish for a while, then has the engine cut them off,
    so that every stream still gets its last event."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._core: Core = app.state.core
        self._closing = app.state.closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut_off())
        await super().shutdown(sockets)
        cutting.cancel()

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._core.options.shutdown_s)
        self._core.runner.abort_all()
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


def serve(model: str, options: EngineOptions, serving: ServeOptions, *, host: str, port: int) -> int:
    """Serve until SIGINT or SIGTERM."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Before the model is loaded: a port that is taken should not cost a minute to find out.
            listener.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): give another --port") from None
        # libgomp keeps a team of threads for every thread that computed, and with more of them than cores each one sleeps
        # between two products: the engine, in its own thread, would be a tenth slower. The loader's team ends with its thread.
        template = None if serving.chat_template is None else read_template(serving.chat_template)
        _check_files(serving)
        with ThreadPoolExecutor(1) as loader:
            opened = loader.submit(load_engine, model, options).result()
        if template is not None:
            opened.chat = ChatFormat(opened.chat.tokenizer, template)
        app = create_app(opened, serving)
        core: Core = app.state.core
        listener.listen(1024)
        certificate, key = serving.ssl_files or (None, None)
        scheme = "https" if certificate else "http"
        say(
            f"{serving.names[0]}: ready on {scheme}://{host}:{listener.getsockname()[1]}/v1, context {core.max_len} tokens"
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises again what it was stopped by; having been asked to end is no failure.
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=int(serving.shutdown_s) + 10, ws="none",
            ssl_certfile=certificate, ssl_keyfile=key,
        )  # fmt: skip
        _Server(config, app).run(sockets=[listener])
    return 0
