"""`qwq serve MODEL`: loads the model, says what it takes, listens."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import uvicorn

from qwq.engine.open import EngineOptions, open_engine, say
from qwq.errors import ConfigError
from qwq.serve.app import create_app


def serve(
    model: str, options: EngineOptions, *, host: str, port: int, served_name: str | None = None, loop_tokens: int, max_waiting: int
) -> int:
    """Serve until SIGINT or SIGTERM; answers that are under way are finished first (10 s at most)."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Before the model is loaded: a port that is taken should not cost a minute to find out.
            listener.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): give another --port") from None
        opened = open_engine(model, options)
        name = served_name or Path(model).name
        app = create_app(opened, served_name=name, loop_tokens=loop_tokens, max_waiting=max_waiting)
        listener.listen(1024)
        say(f"{name}: ready on http://{host}:{listener.getsockname()[1]}/v1, context {opened.engine.max_len} tokens")
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises again what it was stopped by; having been asked to end is no failure.
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10)
        uvicorn.Server(config).run(sockets=[listener])
    return 0
