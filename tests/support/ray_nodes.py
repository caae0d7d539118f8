"""A host of a Ray cluster: `ray start` in a process of its own, ended by its ids."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
MARK = "QWQ_TEST_RAY_NODE"  # in the environment of all processes of a node
START_S = 90.0


def environment() -> dict[str, str]:
    """Of commands that speak to it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return kept | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


class RayNode:
    """A head that listens at `address`, or one more host of it; `prefix` is put before commands."""

    def __init__(self, address: str, ip: str, *, head: bool, cpus: int, prefix: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qwqray", dir="/tmp"))  # sockets have short names
        self.address, host = address, address.rpartition(":")[0]
        self.mark = f"{MARK}={self.folder}"
        where = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"] if head else []
        own = environment() | {"HOME": str(self.folder), MARK: str(self.folder)}
        command = [*prefix, RAY, "start", "--block", *(where or [f"--address={address}"]), f"--node-ip-address={ip}"]
        command += [f"--num-cpus={cpus}", "--disable-usage-stats"]
        if head:
            command += [f"--temp-dir={self.folder}"]
        with (self.folder / "said").open("wb") as said:
            self.process = subprocess.Popen(command, env=own, stdout=said, stderr=said, start_new_session=True)
        assert host

    def wait(self, text: str = "runtime started") -> None:
        """Until Ray says that it has started."""
        until = time.monotonic() + START_S
        while text not in (self.folder / "said").read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.folder / "said").read_text(errors="replace"))
            time.sleep(0.2)

    def pids(self) -> list[int]:
        """All its processes, those that it started for a run as well."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def kill(self) -> None:
        """As a host that loses its power."""
        until = time.monotonic() + 20
        while (left := self.pids()) and time.monotonic() < until:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.poll()
            time.sleep(0.1)
        self.process.wait(10)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
