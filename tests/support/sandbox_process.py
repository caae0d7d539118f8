"""`qwq sandbox serve` in a process of its own, for the tests that talk to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import httpx2
from commands import QWQ


class Server:
    """`qwq sandbox serve` in a process of its own."""

    def __init__(self, *options: str, port: int = 0, key: str | None = None) -> None:
        env = {k: v for k, v in os.environ.items() if k != "QWQ_SANDBOX_API_KEY"} | (
            {"QWQ_SANDBOX_API_KEY": key} if key else {}
        )
        self.process = subprocess.Popen(
            [QWQ, "sandbox", "serve", "--port", str(port), "--slots", "2", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert self.process.stderr
        line = self.process.stderr.readline()
        found = re.match(r"listening on (http://\S+:(\d+)) with 2 slots, level ", line)
        if not found:
            self.process.kill()  # a fixture that failed has nothing to stop
            rest = self.process.stderr.read()
            self.end()
            raise AssertionError(line + rest)
        self.url, self.port = found[1], int(found[2])

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        status = self.process.wait(30)
        assert self.process.stderr
        self.process.stderr.close()
        return status

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))
