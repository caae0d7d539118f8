"""A real vLLM in a process of its own, as docs/fleet.md starts it: small, on loopback, its log in a
file.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx2

READY_S = 600.0  # vLLM on a busy CPU imports and compiles for minutes
# A request with a seed whose prompt is computed in chunks ends the engine of the CPU build.
FLAGS = ("--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--enforce-eager",
         "--no-enable-chunked-prefill")  # fmt: skip


class VllmServer:
    """vLLM on FOLDER, of the environment whose interpreter is `python`.

    `max_model_len` bounds the KV cache of a test (1 GiB is held for it).
    """

    def __init__(
        self, python: str, folder: Path, log: Path, *, dtype: str = "float32", max_model_len: int | None = None
    ) -> None:
        self.python, self.folder, self.log, self.dtype, self.max_model_len = python, folder, log, dtype, max_model_len
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        # The command `vllm` asks for a package of that name, which the CPU build's is not.
        words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder), "--served-model-name", "m",
                 "--host", "127.0.0.1", "--port", str(self.port), "--dtype", self.dtype, *FLAGS]  # fmt: skip
        if self.max_model_len:
            words += ["--max-model-len", str(self.max_model_len)]
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        # Its defaults for CPUs take most of the memory and bind threads to cores.
        small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
                 "VLLM_TARGET_DEVICE": "cpu"}  # fmt: skip
        quiet = {"VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, *words], env=clean | small | quiet,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers. SystemExit with the end of its log where it does not."""
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                if httpx2.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx2.RequestError:
                pass
            time.sleep(0.5)
        self.kill()
        raise SystemExit(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def kill(self) -> None:
        """The server and the processes that it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def hits(self) -> int:
        """Prompt tokens that came out of its prefix cache, since it started."""
        text = httpx2.get(f"{self.url}/metrics", timeout=30).text
        found = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    def __enter__(self) -> VllmServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
