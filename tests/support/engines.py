"""Rollout engines for tests: `qwq serve --rollout-engine` in this process, on a free port."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from qwq.engine.load import load_engine
from qwq.engine.options import EngineOptions
from qwq.serve.app import create_app
from qwq.serve.options import ServeOptions


class ServedHere:
    """A server around one model folder, in a thread."""

    def __init__(self, folder: Path, *, rows: int = 8, **options: Any) -> None:
        chosen = {"rollout_engine": True, "page": False, "served_model_name": ("m",)} | options
        loaded = load_engine(str(folder), EngineOptions(max_num_seqs=rows, threads=1), report=lambda _: None)
        self.app = create_app(loaded, ServeOptions(**chosen))
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error", ws="none"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> ServedHere:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
