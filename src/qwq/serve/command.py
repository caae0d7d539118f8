"""`qwq serve MODEL ...`: loads the model, says what it takes, listens."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from qwq.engine.load import LoadedModel, describe_model, load_engine, say
from qwq.engine.options import EngineOptions
from qwq.errors import ConfigError
from qwq.rollout.call_log import CallLog
from qwq.rollout.policies.local import model_files
from qwq.serve.access import AccessLog
from qwq.serve.app import create_app
from qwq.serve.catalogue import ModelCard
from qwq.serve.core import Core, check_template_kwargs
from qwq.serve.model_turns import ModelEntry
from qwq.serve.options import ServeOptions
from qwq.serve.recorder import PLAIN, Recorder
from qwq.serve.switch import ModelSwitch
from qwq.text.template import ChatFormat, ChatTemplate


@dataclass(frozen=True, slots=True)
class Served:
    """A model and the names requests may use for it, the usual one first."""

    model: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Application:
    """What is served. `abort_all` cuts answers off; `closing` are coroutine functions to await when
    the server stops.
    """

    app: Any
    abort_all: Callable[[], None]
    closing: list[Any]
    max_len: int = 0


class _DrainingServer(uvicorn.Server):
    """On a stop it accepts no more requests, lets running answers finish for a while, then has the
    engine cut them off, so that every stream still gets its last event.
    """

    def __init__(self, config: uvicorn.Config, application: _Application, *, shutdown_s: float) -> None:
        super().__init__(config)
        self._application, self._shutdown_s = application, shutdown_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut_off())
        await super().shutdown(sockets)
        cutting.cancel()

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._shutdown_s)
        self._application.abort_all()
        # The page keeps streams of its own open; they have to end before uvicorn's own limit cuts
        # connections.
        while self._application.closing:
            await self._application.closing.pop()()


def read_template(text: str) -> ChatTemplate:
    """A chat template from a file's path or from its own text.

    ConfigError or ModelError where it is none.
    """
    if "{" in text:
        return ChatTemplate(text)
    try:
        return ChatTemplate(Path(text).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--chat-template {text}: {getattr(error, 'strerror', None) or error}: give a Jinja file"
        ) from None


def served_models(paths: Sequence[str], names: tuple[str, ...], locate: Callable[[str], str]) -> list[Served]:
    """The models of a command line and their names.

    `locate` turns a run's folder into that of its model.
    """
    if len(paths) > 1 and names:
        raise ConfigError("--served-model-name is for one model: with several write NAME=MODEL for each")
    if any(not path.strip() for path in paths):
        raise ConfigError("the model is empty: give a folder, a GGUF file or a hub's name")
    models = [_named(path, names) for path in paths]
    used = [m.names[0] for m in models]
    if repeated := next((name for name in used if used.count(name) > 1), None):
        raise ConfigError(f"two models would be called {repeated}: write NAME=MODEL for one of them")
    return [replace(m, model=locate(m.model)) for m in models]


def _named(text: str, names: tuple[str, ...]) -> Served:
    """A model and its names: those of the option, else the NAME of NAME=MODEL, else the file's or
    folder's.
    """
    name, equals, path = text.partition("=")
    if equals and re.fullmatch(r"[\w.:-]+", name) and path and not Path(text).exists():
        return Served(path, (name,))
    own = Path(text).stem if text.endswith(".gguf") else Path(text).name
    if names[:1] == ("*",):
        return Served(text, (own or "model", *names))
    return Served(text, names or (own,))


def _check_files(options: ServeOptions) -> None:
    """Fail before the model is loaded if a file of the options cannot be used."""
    if options.ssl_certfile is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                options.ssl_certfile, options.ssl_keyfile
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"--ssl-certfile {options.ssl_certfile}: {error}: give a certificate and its key in PEM form"
            ) from None
    if options.access_log not in (None, "-"):
        AccessLog(None, options.access_log)


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket, before the model is loaded: a port in use should not take a minute to
    report.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): give another --port") from None
    return listener


def serve(paths: Sequence[str], engine: EngineOptions, options: ServeOptions, *, locate: Callable[[str], str]) -> int:
    """Serve until SIGINT or SIGTERM. Of several models one is in memory at a time."""
    models = served_models(paths, options.served_model_name, locate)
    options = replace(options, served_model_name=models[0].names)
    with _listener(options.host, options.port) as listener:
        template = None if options.chat_template is None else read_template(options.chat_template)
        _check_files(options)
        entries = [_entry(m, engine, options, template) for m in models]
        scheme = "https" if options.ssl_certfile else "http"
        address = f"{scheme}://{options.host}:{listener.getsockname()[1]}/v1"
        for option, used in (("--rollout-engine", options.rollout_engine), ("--record", options.record is not None)):
            if used and len(entries) > 1:
                raise ConfigError(f"{option} serves one model, {len(entries)} are given: start a server for each")
        if len(entries) == 1:
            application = _one_model(entries[0], options, _call_log(models[0], entries[0], options))
        else:
            application = _several(entries, options, address)
        listener.listen(1024)
        if len(entries) == 1:
            say(f"{options.name}: ready on {address}, context {application.max_len} tokens")
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises the signal again that stopped it; a requested stop is no failure.
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(
            application.app,
            log_level="warning",
            timeout_graceful_shutdown=int(options.shutdown_timeout) + 10,
            ws="none",
            ssl_certfile=options.ssl_certfile,
            ssl_keyfile=options.ssl_keyfile,
        )
        server = _DrainingServer(config, application, shutdown_s=options.shutdown_timeout)
        server.run(sockets=[listener])
    return 0 if server.started else 1


def _call_log(served: Served, entry: ModelEntry, options: ServeOptions) -> CallLog | None:
    """Where calls are recorded, if they are; says where the model's own settings keep calls from
    being trained on.
    """
    if options.record is None:
        return None
    folder = options.record.expanduser()
    about = {"id": uuid.uuid4().hex, "model": served.model, "started": round(time.time(), 3)}
    log = CallLog(folder, about | model_files(served.model))
    own = {k: v for k, v in entry.card.sampling.items() if k != "temperature" and v != getattr(PLAIN, k, v)}
    if own:
        said = ", ".join(f"{k} {v}" for k, v in own.items())
        say(
            f"note: calls that leave the sampling to this model's files ({said}) cannot be trained on: "
            "--plain-sampling samples from the model's own distribution"
        )
    say(f"recording into {log.path}; name the episode by the base URL: .../episodes/NAME/v1")
    return log


def _one_model(entry: ModelEntry, options: ServeOptions, log: CallLog | None = None) -> _Application:
    # libgomp keeps a team of threads for every thread that computed, and with more of them than
    # cores each one sleeps between two products: the engine, in its own thread, would be a tenth
    # slower. The loader's team ends with its thread.
    with ThreadPoolExecutor(1) as loader:
        loaded = loader.submit(entry.open).result()
    recorder = None if log is None else Recorder(loaded.chat, log.append, server=log.server)
    app = create_app(loaded, options, recorder=recorder)
    core: Core = app.state.core
    return _Application(app, core.runner.abort_all, app.state.closing, core.max_len)


def _several(entries: Sequence[ModelEntry], options: ServeOptions, address: str) -> _Application:
    names = ", ".join(entry.name for entry in entries)
    switch = ModelSwitch(entries, options, lambda: say(f"{names}: ready on {address}, one in memory at a time"))
    return _Application(switch.guarded(), switch.abort_all, switch.closing)


def _entry(served: Served, engine: EngineOptions, options: ServeOptions, template: ChatTemplate | None) -> ModelEntry:
    """A model that exists and fits the options.

    Errors come here, before the first model is loaded.
    """
    described = describe_model(served.model, engine)
    card = ModelCard.of(
        served.names, described if options.model_sampling else replace(described, sampling={}), template
    )
    check_template_kwargs(options, card.template)
    return ModelEntry(card, partial(_open, served.model, engine, template, own_sampling=options.model_sampling))


def _open(
    model: str, options: EngineOptions, template: ChatTemplate | None, *, own_sampling: bool = True
) -> LoadedModel:
    loaded = load_engine(model, options)
    if not own_sampling:
        loaded.sampling = {}
    if template is not None:
        loaded.chat = ChatFormat(loaded.chat.tokenizer, template)
    return loaded
