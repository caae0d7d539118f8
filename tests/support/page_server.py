"""A scripted server of the page in a process of its own, which can be killed and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PAGE_TESTS = Path(__file__).resolve().parents[1] / "page"
PATIENCE_S = 90.0


class PageServer:
    """`python tests/page/SCRIPT PORT PLACE` on a free port of loopback."""

    def __init__(self, script: str, place: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [sys.executable, str(PAGE_TESTS / script), str(self.port), str(place)]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url + "v1/models", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        self.kill()
        raise RuntimeError("the scripted server did not start")

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, by: signal.Signals) -> None:
        self.process.send_signal(by)
        self.process.wait()
