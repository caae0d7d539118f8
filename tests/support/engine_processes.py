"""Rollout engines in processes of their own, and what can happen to them: killed, stopped, slow,
their link cut (a network namespace with a veth pair, where this user may make one).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import QWQ, Command

KEY = "a-key-of-the-tests"


class EngineProcess:
    """`qwq serve FOLDER --rollout-engine`; `prefix` is put before the command."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", port: int = 0, prefix: tuple[str, ...] = ()) -> None:
        self.folder, self.prefix, self.host = folder, prefix, host
        self.slow_down: threading.Event | None = None
        self.start(port)

    def start(self, port: int) -> None:
        words = ["serve", str(self.folder), "--port", str(port), "--host", self.host,
                 "--threads", "1", "--rollout-engine", "--no-page", "--api-key", KEY]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if self.prefix:
            command = [*self.prefix, QWQ, *words]
            self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        else:
            self.process = Command(*words, stderr=subprocess.PIPE, env=environment)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if match := re.search(r"ready on (https?://[\d.:]+)/v1", line):
                self.url = match[1]
                break
        else:
            raise AssertionError("".join(said))
        self.reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.reader.start()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Killed, and there again at the same address, with its first weights."""
        self.kill()
        self._ended()
        self.start(self.port)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def slow(self) -> None:
        """A tenth of its speed from now on: stopped for nine tenths of the time."""
        self.slow_down = threading.Event()

        def pulse(over: threading.Event) -> None:
            while not over.is_set() and self.process.poll() is None:
                self.process.send_signal(signal.SIGSTOP)
                time.sleep(0.18)
                self.process.send_signal(signal.SIGCONT)
                time.sleep(0.02)

        threading.Thread(target=pulse, args=(self.slow_down,), daemon=True).start()

    def close(self) -> None:
        if self.slow_down is not None:
            self.slow_down.set()
        self.kill()
        self._ended()

    def _ended(self) -> None:
        self.reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Namespace:
    """A host of its own behind a link: 10.77.N.2 from here."""

    def __init__(self, number: int) -> None:
        self.name, self.link = f"qwqfleet{number}", f"qwqveth{number}"
        self.host = f"10.77.{number}.2"
        for command in (
            f"netns add {self.name}",
            f"link add {self.link} type veth peer name inside netns {self.name}",
            f"addr add 10.77.{number}.1/24 dev {self.link}",
            f"link set {self.link} up",
            f"-n {self.name} addr add {self.host}/24 dev inside",
            f"-n {self.name} link set inside up",
            f"-n {self.name} link set lo up",
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        subprocess.run(["ip", "link", "set", self.link, "down"], check=True)

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


def may_make_namespaces() -> bool:
    try:
        Namespace(250).close()
    except (OSError, subprocess.CalledProcessError):
        subprocess.run(["ip", "netns", "del", "qwqfleet250"], check=False, capture_output=True)
        return False
    return True


@contextmanager
def afterwards(delay_s: float, act: Callable[[], None]) -> Iterator[None]:
    """`act` is called after `delay_s`, if the block lasts so long."""
    timer = threading.Timer(delay_s, act)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
