"""The server under load, and beside llama.cpp's.

    python benchmarks/serve_load.py                                    # SmolLM2-135M, 64 clients for 3 minutes, a quarter vanish
    python benchmarks/serve_load.py --seconds 20 --clients 16          # a quick look
    python benchmarks/serve_load.py --llama-server PATH/TO/llama-server

1. Soak: clients ask for streams and for whole answers, with a seed each; a quarter of them vanish
   midway. Each finished answer is compared with the same request alone (deterministic mode).
   Memory, errors and the engine's rows are printed.
2. Throughput through HTTP against the bare engine's, same requests.
3. Time to first token, p50 and p99, with 1, 8 and 32 clients, beside llama.cpp's server on the same
   GGUF file.

The last lines are JSON: {"name", "ours", "theirs", "ratio"}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
from arguments import at_least, positive

MODELS = Path(os.environ.get("QWQ_MODELS", "~/.cache/qwq-models")).expanduser()
TOPICS = ["rivers", "prime numbers", "bread", "the moon", "trains", "bees", "tea", "chess"]
LINES: list[dict[str, Any]] = []


def say(name: str, ours: float, theirs: float, words: str = "") -> None:
    ratio = ours / theirs if theirs else 0.0
    print(f"{name:44} ours {ours:9.3f}   theirs {theirs:9.3f}   ratio {ratio:5.2f}   {words}", flush=True)
    LINES.append({"name": name, "ours": round(ours, 4), "theirs": round(theirs, 4), "ratio": round(ratio, 4)})


class Server:
    def __init__(self, command: list[str], ready: str, base: str | None = None) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self.process.stderr is not None
        self.base = base or ""
        for line in self.process.stderr:
            if match := re.search(ready, line):
                self.base = base or match[1]
                break
        else:
            sys.exit(f"{command[0]} did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def resident(self) -> float:
        """MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def ours(model: Path, *options: str) -> Server:
    return Server(
        [str(Path(sys.executable).with_name("qwq")), "serve", str(model), "--port", "0", *options],
        r"ready on (http://[\d.:]+)/v1",
    )


def theirs(binary: str, model: Path, slots: int) -> Server:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [
        binary,
        "-m",
        str(model),
        "--port",
        str(port),
        "-np",
        str(slots),
        "-c",
        str(1024 * slots),
        "-t",
        "2",
        "--no-webui",
    ]
    return Server(command, r"(listening on|all slots are idle)", f"http://127.0.0.1:{port}")


def body(i: int, tokens: int, stream: bool) -> dict[str, Any]:
    content = f"Tell me fact number {i} about {TOPICS[i % len(TOPICS)]}."
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": i,
        "stream": stream,
    }


def stream_text(
    client: httpx2.Client, asked: dict[str, Any], leave_after: int | None = None
) -> tuple[str | None, float, int]:
    """(text, seconds to the first token, events); no text where the client left midway."""
    started, first, parts = time.perf_counter(), 0.0, []
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert answer.status_code == 200, answer.read()
        ended = False
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                ended = ended or line == "data: [DONE]"
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
            if delta.get("content"):
                first = first or time.perf_counter() - started
                parts.append(delta["content"])
                if leave_after is not None and len(parts) >= leave_after:
                    return None, first, len(parts)
        assert ended, "the stream broke off"
    return "".join(parts), first, len(parts)


def raw_stream(base: str, body: bytes) -> bytes:
    """A stream read to its end without a look at it, so that the client costs the two cores little;
    returns its last 4,000 bytes.
    """
    host, _, port = base.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=600) as s:
        s.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (host.encode(), len(body)) + body
        )
        last = b""
        while b"[DONE]" not in last:
            got = s.recv(65536)
            assert got, "the stream broke off"
            last = (last + got)[-4000:]
    return last


def soak(model: Path, clients: int, seconds: float) -> None:
    server = ours(model, "--deterministic", "--max-num-seqs", "16", "--max-model-len", "512", "--kv-tokens", "16384")
    done: dict[int, set[str]] = {}
    faults: list[str] = []
    lock, deadline = threading.Lock(), time.monotonic() + seconds
    memory: list[float] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        with httpx2.Client(base_url=server.base, timeout=600) as client:
            while time.monotonic() < deadline:
                i = rng.randrange(40)
                try:
                    if number % 4 == 3:
                        stream_text(client, body(i, 48, True), leave_after=rng.randrange(1, 12))
                    elif rng.random() < 0.3:
                        answer = client.post("/v1/chat/completions", json=body(i, 48, False))
                        assert answer.status_code == 200, answer.text
                        with lock:
                            done.setdefault(i, set()).add(answer.json()["choices"][0]["message"]["content"])
                    else:
                        text, _, _ = stream_text(client, body(i, 48, True))
                        with lock:
                            done.setdefault(i, set()).add(text or "")
                except (AssertionError, httpx2.HTTPError) as error:
                    faults.append(f"{type(error).__name__}: {error}"[:200])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        time.sleep(min(5.0, seconds / 8))
        memory.append(server.resident())
    with httpx2.Client(base_url=server.base, timeout=600) as client:
        crossed = 0
        for i, texts in sorted(done.items()):
            alone = client.post("/v1/chat/completions", json=body(i, 48, False)).json()["choices"][0]["message"][
                "content"
            ]
            crossed += texts != {alone}
        metrics = client.get("/metrics").text
    left = {
        key: float(re.search(rf"vllm:{key}{{.*?}} ([\d.e+-]+)", metrics)[1])
        for key in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    }  # type: ignore[index]
    server.stop()
    third = max(1, len(memory) // 3)
    early, late = max(memory[:third]), max(memory[-third:])
    print(
        f"soak: {clients} clients, {seconds:.0f} s, {len(done)} kinds of request; errors {len(faults)} "
        f"{faults[:2]}; differ from alone {crossed}; left {left}"
    )
    say("soak: resident memory late, early (MiB)", late, early)
    say("soak: answers that are as alone, of all", len(done) - crossed, len(done))


def throughput(model: Path, clients: int, tokens: int) -> None:
    """Tokens per second of the same requests, through HTTP and without."""
    code = (
        "import sys,time,json\nfrom qwq.engine.load import *\nfrom qwq.engine.request import GenerationRequest\n"
        "from qwq.engine.sampler import SamplingParams\n"
        f"o=load_engine({str(model)!r},EngineOptions(max_num_seqs=32,max_model_len=1024),report=lambda s:None)\n"
        "def go(n,t):\n"
        " r=[GenerationRequest(o.chat.prompt_ids([{'role':'user','content':f'Tell me fact number "
        "{i}.'}]),SamplingParams(temperature=0.8,max_new_tokens=t),seed=i) for i in range(n)]\n"
        " s=time.perf_counter();o.engine.run(r);return n*t/(time.perf_counter()-s)\n"
        f"go(4,8);print(max(go({clients},{tokens}) for _ in range(3)))"
    )
    bare = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    server = ours(model, "--max-num-seqs", "32", "--max-model-len", "1024")
    best = 0.0
    for _ in range(4):
        counts: list[int] = []

        def ask(i: int, counts: list[int] = counts) -> None:
            asked = {
                "messages": [{"role": "user", "content": f"Tell me fact number {i}."}],
                "max_tokens": tokens,
                "temperature": 0.8,
                "seed": i,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            last = raw_stream(server.base, json.dumps(asked).encode())
            counts.append(int(re.findall(rb'"completion_tokens":(\d+)', last)[-1]))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        started = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        best = max(best, sum(counts) / (time.perf_counter() - started))
    server.stop()
    say(f"tokens/s through HTTP, bare engine, {clients} streams", best, bare, "the client's own work included")


def first_tokens(gguf: Path, binary: str | None) -> None:
    for clients in (1, 8, 32):
        results = []
        for start in (
            lambda: ours(gguf, "--max-num-seqs", "32"),
            *([lambda n=clients: theirs(binary, gguf, n)] if binary else []),
        ):
            server, times = start(), []

            def ask(
                n: int, times: list[float] = times, server: Server = server, rounds: int = max(3, 24 // clients)
            ) -> None:
                for k in range(rounds):  # a connection each: llama.cpp's server closes it behind a stream
                    with httpx2.Client(base_url=server.base, timeout=600) as client:
                        times.append(stream_text(client, body(100 + 40 * n + k, 24, True))[1])

            with httpx2.Client(
                base_url=server.base, timeout=600
            ) as client:  # not counted: what a first request brings into memory
                stream_text(client, body(0, 8, True))
            threads = [threading.Thread(target=ask, args=(n,)) for n in range(clients)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            server.stop()
            times.sort()
            results.append((times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]))
        (p50, p99), (their50, their99) = results[0], results[-1] if binary else (0.0, 0.0)
        say(f"time to first token p50, {clients} clients (s)", p50, their50)
        say(f"time to first token p99, {clients} clients (s)", p99, their99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "smollm2-135m-instruct")
    parser.add_argument("--gguf", type=Path, default=MODELS / "smollm2-135m-instruct" / "smollm2-135m-instruct.gguf")
    parser.add_argument("--clients", type=at_least(1), default=64)
    parser.add_argument("--seconds", type=positive, default=180)
    parser.add_argument("--llama-server", default=None)
    parser.add_argument("--only", choices=["soak", "throughput", "first"], default=None)
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        parser.error(f"no model at {options.model}: give a Hugging Face folder with --model")
    if options.only in (None, "first") and not options.gguf.is_file():
        parser.error(f"no file at {options.gguf}: give one with --gguf")
    if options.only in (None, "throughput"):
        throughput(options.model, 16, 128)
    if options.only in (None, "first"):
        first_tokens(options.gguf, options.llama_server)
    if options.only in (None, "soak"):
        soak(options.model, options.clients, options.seconds)
    for line in LINES:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
