"""The engine beside transformers' generate and llama.cpp, on the same weights, prompts and cores,
in one run.

    python benchmarks/engine.py                                   # everything, about half an hour on two cores
    python benchmarks/engine.py --model smollm2 --only float32 --new-tokens 32 --rounds 1      # a quick look

Needs the two models as Hugging Face folders with their GGUF file beside (--models DIR),
transformers, llama-cpp-python and, for the comparison with llama.cpp's server, its `llama-server`
binary (--llama-server PATH). Sides take turns within a round; the figures are medians over the
rounds, with the smallest and the largest. All requests are greedy, and none may end before its
tokens are written. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`, in tokens per
second unless the name says otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from arguments import at_least

from qwq.engine.backends.llama_cpp import LlamaBackend, llama_cpp
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.bench import read_bandwidth
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.model.weights import load_model
from qwq.text.template import ChatFormat

MODELS = {"qwen": "qwen2.5-coder-0.5b-instruct", "smollm2": "smollm2-135m-instruct"}
TOPICS = [
    "a heap", "binary search", "the tides", "how bread rises", "prime numbers", "sorting", "a bank account class",
    "gravity", "reading a CSV file", "volcanoes", "recursion", "the Roman calendar", "matrix products", "a linked list",
    "photosynthesis", "hash tables",
]  # fmt: skip
CODE = '''class Account:
    """A bank account with a history of its movements."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance
        self.history = []

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount
        self.history.append(("deposit", amount))

    def withdraw(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
        self.history.append(("withdraw", amount))

    def report(self):
        for kind, amount in self.history:
            print(f"{self.owner}: {kind} of {amount}")
'''
EDITS = [
    "rename `balance` to `funds`",
    "rename `amount` to `value`",
    "add a type hint to every argument",
    "rename the class to Ledger",
]


def prompts(chat: ChatFormat, count: int, *, shared: str = "") -> list[list[int]]:
    """Prompts of mixed lengths: every one asks about something else, with more or less around
    it.
    """
    out = []
    for i in range(count):
        more = " Please be precise, give an example, and say where it is used in practice." * (i % 5)
        text = f"{shared}Question {i}: explain {TOPICS[i % len(TOPICS)]}.{more}"
        out.append(chat.prompt_ids([{"role": "user", "content": text}]))
    return out


class Table:
    """Rates by side, printed as they come, and the closing JSON lines."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def compare(self, name: str, ours: list[float], theirs: list[float], note: str = "") -> None:
        def spread(x: list[float]) -> str:
            return f"{statistics.median(x):8.2f} ({min(x):.2f} to {max(x):.2f})"

        a, b = statistics.median(ours), statistics.median(theirs)
        print(f"{name:44s} ours {spread(ours)}   theirs {spread(theirs)}   ratio {a / b:.2f}   {note}", flush=True)
        self.rows.append({"name": name, "ours": round(a, 3), "theirs": round(b, 3), "ratio": round(a / b, 3)})

    def finish(self) -> None:
        for row in self.rows:
            print(json.dumps(row))


def run_engine(engine: Engine, all_ids: list[list[int]], new: int | list[int]) -> float:
    """Output tokens per second over all requests, prompts included in the time.

    `new` tokens each, or a number for each.
    """
    counts = [new] * len(all_ids) if isinstance(new, int) else new
    t = time.perf_counter()
    done = engine.run(
        [
            GenerationRequest(ids, SamplingParams(temperature=0, max_new_tokens=n))
            for ids, n in zip(all_ids, counts, strict=True)
        ]
    )
    rate = sum(len(s.ids) for (s,) in done) / (time.perf_counter() - t)
    assert all(len(s.ids) == n for (s,), n in zip(done, counts, strict=True))
    engine.forget()
    return rate


def rounds(count: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Each side once a round, in turn."""
    out: list[list[float]] = [[] for _ in sides]
    for _ in range(count):
        for rates, side in zip(out, sides, strict=True):
            rates.append(side())
    return out


# -- float32 beside transformers -------------------------------------------------------------------


def float32(folder: Path, name: str, args: argparse.Namespace, table: Table) -> None:
    import transformers

    chat = ChatFormat.from_folder(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = load_model(folder)

    def engine(**options: Any) -> Engine:
        return Engine(TorchBackend(model, kv_tokens=1 << 14), chat.tokenizer, prefix_cache=False, **options)

    def generate(all_ids: list[list[int]]) -> float:
        width = max(map(len, all_ids))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in all_ids])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in all_ids])
        t = time.perf_counter()
        out = theirs.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=args.new_tokens,
            min_new_tokens=args.new_tokens,
            pad_token_id=0,
        )
        return (out.shape[1] - width) * len(all_ids) / (time.perf_counter() - t)

    with torch.inference_mode():
        one, many = prompts(chat, 1), prompts(chat, 32)
        run_engine(engine(), one, 4)
        ours, other = rounds(args.rounds, lambda: run_engine(engine(), one, args.new_tokens), lambda: generate(one))
        read = read_bandwidth()
        weights = 4 * sum(p.numel() for p in model.parameters())
        used = statistics.median(ours) * weights / read
        table.compare(f"{name} float32, alone", ours, other, f"{100 * used:.0f}% of {read / 1e9:.1f} GB/s read")
        table.rows.append(
            {
                "name": f"{name} float32, alone, share of read bandwidth",
                "ours": round(used, 3),
                "theirs": 1.0,
                "ratio": round(used, 3),
            }
        )
        ours, other = rounds(args.rounds, lambda: run_engine(engine(), many, args.new_tokens), lambda: generate(many))
        table.compare(f"{name} float32, 32 requests, all of {args.new_tokens} tokens", ours, other)
        # Prompts of 40 to 400 tokens, answers of an eighth to all of the tokens: a static batch
        # pads the ones and waits for the others.
        mixed = [(p * 8)[: 40 + 360 * (i % 8) // 7] for i, p in enumerate(many)]
        wanted = [args.new_tokens * (1 + (3 * i) % 8) // 8 for i in range(32)]
        share = sum(wanted) / (32 * args.new_tokens)
        ours, other = rounds(args.rounds, lambda: run_engine(engine(), mixed, wanted), lambda: share * generate(mixed))
        table.compare(f"{name} float32, 32 requests of mixed lengths", ours, other, "tokens that were asked for")
        fixed = Engine(TorchBackend(model, kv_tokens=1 << 14, deterministic=True), chat.tokenizer, prefix_cache=False)
        costs, plain = rounds(
            max(1, args.rounds // 2),
            lambda: run_engine(fixed, many[:16], args.new_tokens),
            lambda: run_engine(engine(), many[:16], args.new_tokens),
        )
        table.compare(f"{name} float32, 16 requests, deterministic beside not", costs, plain)
        speculation(lambda on: engine(speculate=on), chat, f"{name} float32", args, table)


def speculation(
    make: Callable[[bool], Engine], chat: ChatFormat, name: str, args: argparse.Namespace, table: Table
) -> None:
    """The same requests with and without look-up of earlier text, one at a time: tokens per second
    after the first token.
    """
    edits = [
        chat.prompt_ids(
            [
                {
                    "role": "user",
                    "content": f"Here is a file:\n```python\n{CODE}```\n{e[0].upper() + e[1:]}. Give the whole file.",
                }
            ]
        )
        for e in EDITS
    ]
    other = prompts(chat, 4)
    for what, some in (("code editing", edits), ("elsewhere", other)):

        def side(on: bool, some: list[list[int]] = some) -> float:
            rates = []
            for ids in some:
                engine = make(on)
                params = SamplingParams(temperature=0, max_new_tokens=args.new_tokens)
                ((sample,),) = engine.run([GenerationRequest(ids, params)])
                rates.append((args.new_tokens - 1) / (sample.times[-1] - sample.times[1]))
                engine.forget()
            return statistics.harmonic_mean(rates)

        ours, theirs = rounds(args.rounds, lambda: side(True), lambda: side(False))
        table.compare(f"{name}, n-gram speculation on {what} beside none", ours, theirs)


# -- GGUF beside llama.cpp -------------------------------------------------------------------------


def own_loop(path: Path, args: argparse.Namespace) -> Callable[[list[int]], float]:
    """llama.cpp's plain loop with its own greedy sampler, as its `simple` example does it."""
    L = llama_cpp()
    model = L.llama_model_load_from_file(str(path).encode(), L.llama_model_default_params())
    c = L.llama_context_default_params()
    c.n_ctx, c.n_batch, c.n_threads, c.n_threads_batch = 2048, 512, args.threads, args.threads
    context = L.llama_init_from_model(model, c)
    chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
    L.llama_sampler_chain_add(chain, L.llama_sampler_init_greedy())

    def run(ids: list[int]) -> float:
        L.llama_memory_clear(L.llama_get_memory(context), True)
        t = time.perf_counter()
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        count = len(ids)
        for _ in range(args.new_tokens):
            assert L.llama_decode(context, L.llama_batch_get_one(tokens, count)) == 0
            token = L.llama_sampler_sample(chain, context, -1)
            tokens, count = (ctypes.c_int32 * 1)(token), 1
        return args.new_tokens / (time.perf_counter() - t)

    return run


class LlamaServer:
    """llama.cpp's server on loopback, with `slots` slots."""

    def __init__(self, binary: str, path: Path, slots: int, threads: int, context: int) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [
            binary,
            "-m",
            str(path),
            "--port",
            str(self.port),
            "-np",
            str(slots),
            "-c",
            str(context * slots),
            "-t",
            str(threads),
        ]
        self.process = subprocess.Popen([*command, "--no-warmup"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).read()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"{binary} did not come up")

    def run(self, all_ids: list[list[int]], new: int) -> float:
        counts: list[int] = []

        def ask(ids: list[int]) -> None:
            body = {"prompt": ids, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/completion",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            counts.append(json.load(urllib.request.urlopen(request, timeout=600))["tokens_predicted"])

        t = time.perf_counter()
        threads = [threading.Thread(target=ask, args=(ids,)) for ids in all_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - t)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def resident_bytes() -> int:
    with Path("/proc/self/status").open() as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))


def quantised(folder: Path, name: str, args: argparse.Namespace, table: Table) -> None:
    (path,) = folder.glob("*.gguf")
    chat = ChatFormat.from_folder(folder)
    before = resident_bytes()
    backend = LlamaBackend(path, kv_tokens=16384, max_slots=32, threads=args.threads)

    def engine(speculate: bool = False, cache: bool = False) -> Engine:
        made = Engine(backend, chat.tokenizer, prefix_cache=cache, speculate=speculate)
        return made

    one = prompts(chat, 1)
    run_engine(engine(), one, args.new_tokens)
    held = resident_bytes() - before
    config = json.loads((folder / "config.json").read_text())
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    kv = 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * 16384
    allowed = path.stat().st_size + kv
    print(
        f"{name} GGUF: file {path.stat().st_size / 2**20:.0f} MiB, cache of 16,384 tokens {kv / 2**20:.0f} MiB, "
        f"resident {held / 2**20:.0f} MiB"
    )
    table.rows.append(
        {
            "name": f"{name} GGUF, resident bytes beside file and cache",
            "ours": held,
            "theirs": allowed,
            "ratio": round(held / allowed, 3),
        }
    )
    loop = own_loop(path, args)
    ours, theirs = rounds(args.rounds, lambda: run_engine(engine(), one, args.new_tokens), lambda: loop(one[0]))
    table.compare(f"{name} GGUF, alone, beside llama.cpp's own loop", ours, theirs)
    speculation(lambda on: engine(speculate=on), chat, f"{name} GGUF", args, table)
    if args.llama_server is None:
        print(f"{name}: llama.cpp's server is left out: give --llama-server PATH")
        return
    for count in (4, 16):
        server = LlamaServer(args.llama_server, path, count, args.threads, 2048)
        try:
            beside_server(server, engine, chat, count, name, args, table)
        finally:
            server.stop()


PREAMBLE = "You are a careful teacher who answers in full sentences, with one example for each claim. " * 40


def beside_server(
    server: LlamaServer,
    engine: Callable[..., Engine],
    chat: ChatFormat,
    count: int,
    name: str,
    args: argparse.Namespace,
    table: Table,
) -> None:
    some, shared = prompts(chat, count), prompts(chat, count, shared=PREAMBLE)
    server.run(some[:1], 4)
    length = len(shared[0]) // 100 * 100
    for what, wanted, new in (
        ("", some, args.new_tokens),
        (f", shared prefix of {length}", shared, args.new_tokens // 4),
    ):
        pairs = []
        for number in range(args.rounds):
            # Both caches are on, so another first token each time: neither side may know the
            # prompts from the round before.
            ids = [[1000 + number, *p] for p in wanted]
            pairs.append((run_engine(engine(cache=True), ids, new), server.run(ids, new)))
        table.compare(f"{name} GGUF, {count} at once{what}, beside its server", *map(list, zip(*pairs, strict=True)))


def only_speculation(folder: Path, name: str, args: argparse.Namespace, table: Table) -> None:
    chat = ChatFormat.from_folder(folder)
    (path,) = folder.glob("*.gguf")
    for what in ("GGUF", "float32"):
        backend = (
            LlamaBackend(path, kv_tokens=4096, max_slots=8, threads=args.threads)
            if what == "GGUF"
            else TorchBackend(load_model(folder), kv_tokens=4096)
        )

        def make(on: bool, backend: Any = backend) -> Engine:
            return Engine(backend, chat.tokenizer, prefix_cache=False, speculate=on)

        speculation(make, chat, f"{name} {what}", args, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("~/.cache/qwq-models").expanduser())
    parser.add_argument("--model", choices=[*MODELS, "both"], default="both")
    parser.add_argument("--only", choices=["float32", "gguf", "speculation", "all"], default="all")
    parser.add_argument("--new-tokens", type=at_least(1), default=128)
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count())
    parser.add_argument("--llama-server", default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table()
    for short in MODELS if args.model == "both" else [args.model]:
        folder = args.models / MODELS[short]
        if not folder.is_dir():
            sys.exit(f"no model at {folder}: give --models DIR with {', '.join(MODELS.values())}")
        if args.only == "speculation":
            only_speculation(folder, short, args, table)
        if args.only in ("gguf", "all"):
            quantised(folder, short, args, table)
        if args.only in ("float32", "all"):
            float32(folder, short, args, table)
    table.finish()


if __name__ == "__main__":
    main()
