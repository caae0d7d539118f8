"""GGUF files that `qwq export` writes, held against llama.cpp: does it load them, does it write the
same greedy text, has it the same perplexity?

    python benchmarks/exports.py MODEL... [--quants F16,Q8_0,Q4_K_M] [--tokens 20000]

MODEL is a folder, a run or a hub id. Ours is the folder in float32 by this project's own module;
theirs is the exported file by llama.cpp. Greedy: 20 prompts x 60 tokens of llama.cpp's, read by our
module at every position; they may part only where our two best logits are within 1e-2. Perplexity:
documents of at least --tokens tokens in windows of 512. Needs llama-cpp-python (`make
install-gguf`). The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from arguments import at_least, model_folder, one_of

from qwq.model.gguf_metadata import FILE_TYPES
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model
from qwq.release.export import ExportOptions, export
from qwq.release.quality import QualityOptions
from qwq.tasks import registry
from qwq.text.template import ChatFormat

WINDOW, NEW_TOKENS, CLOSE = 512, 60, 1e-2
PROMPTS = [
    "Name three primary colours.", "What is 17 times 23?", "Write a Python function that reverses a list.",
    "Translate 'good morning' into French.", "Why is the sky blue?", "List the first ten prime numbers.",
    "Explain recursion in one paragraph.", "Who wrote Hamlet?", "Give a synonym of 'happy'.",
    "What is the capital of Australia?", "Write a haiku about rain.", "How many legs do two spiders have?",
    "Sort these numbers: 9, 4, 7, 1.", "What does HTTP stand for?", "Describe a cat to someone who never saw one.",
    "Convert 100 degrees Celsius to Fahrenheit.", "What comes after Wednesday?", "Solve x + 5 = 12.",
    "Write a SQL query that counts rows of a table.", "Tell a short story about a lost key.",
]  # fmt: skip


def documents(chat: ChatFormat, num_tokens: int, *, procedural: bool) -> list[list[int]]:
    """Windows of token ids, `num_tokens` of them in all: this project's documents, or for a model
    trained here the test problems of its tasks with their demonstrations.
    """
    if procedural:
        ids: list[int] = []
        rng = random.Random(0)
        families = [registry.get(name) for name in ("math", "code", "instructions", "tools")]
        for number in range(10_000):
            family = families[number % len(families)]
            problem = family.problem(-1, "test", number)
            turns = family.demonstrate(problem, rng)
            ids += chat.training_example([*problem.messages, *turns], problem.tools)[0]
            if len(ids) >= num_tokens + 2 * WINDOW:
                break
    else:
        root = Path(__file__).parent.parent
        text = "\n\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "docs").glob("*.md")))
        ids = chat.tokenizer.encode(text)
    num_windows = min(len(ids) // WINDOW, -(-num_tokens // (WINDOW - 1)))  # a window's first token has no loss
    return [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(num_windows)]


def log_losses(logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Of every token but the first."""
    return F.cross_entropy(torch.from_numpy(logits[:-1]), torch.tensor(ids[1:]), reduction="none").double().numpy()


@torch.inference_mode()
def our_logits(model: Transformer, ids: Sequence[int]) -> np.ndarray:
    return model.logits(model(torch.tensor(ids), Packed([len(ids)]))).numpy()


def their_logits(llama, ids: Sequence[int]) -> np.ndarray:
    llama.reset()
    llama.eval(list(ids))
    return llama._scores[: len(ids)]


def greedy(llama, prompt: Sequence[int], stops: Sequence[int]) -> list[int]:
    """llama.cpp's most probable continuation."""
    llama.reset()
    llama.eval(list(prompt))
    out: list[int] = []
    while len(out) < NEW_TOKENS:
        token = int(llama._scores[llama.n_tokens - 1].argmax())
        out.append(token)
        if token in stops:
            break
        llama.eval([token])
    return out


def compare_greedy(model: Transformer, llama, chat: ChatFormat) -> tuple[int, int, float]:
    """Prompts with the same text, prompts that part, and the widest gap of logits at a parting."""
    same = parted = 0
    widest = 0.0
    for text in PROMPTS:
        prompt = chat.prompt_ids([{"role": "user", "content": text}])
        reply = greedy(llama, prompt, chat.eos_ids)
        logits = our_logits(model, [*prompt, *reply])[len(prompt) - 1 : -1]
        places = np.flatnonzero(logits.argmax(1) != reply)
        same += not len(places)
        if len(places):
            parted += 1
            row = logits[places[0]]
            widest = max(widest, float(row.max() - row[reply[places[0]]]))
    return same, parted, widest


def options(quant: str) -> ExportOptions:
    return ExportOptions(quant=quant, quality=QualityOptions(skip=True))


def check(model: str, quants: Sequence[str], num_tokens: int, folder: Path) -> list[dict]:
    from llama_cpp import Llama

    source = model
    chat = ChatFormat.from_folder(source)
    ours = load_model(source)
    windows = documents(chat, num_tokens, procedural=ours.config.vocab_size < 4096)
    losses = np.concatenate([log_losses(our_logits(ours, w), w) for w in windows])
    perplexity = math.exp(losses.mean())
    print(f"{model}: {len(losses)} tokens, perplexity {perplexity:.4f} in float32", flush=True)
    rows = []
    for quant in quants:
        started = time.perf_counter()
        (file,) = export(source, folder / f"{quant}.gguf", options(quant)).files
        seconds = time.perf_counter() - started
        threads = torch.get_num_threads()
        llama = Llama(
            str(file.path), n_ctx=WINDOW + 128, n_batch=WINDOW, n_threads=threads, n_threads_batch=threads,
            logits_all=True, verbose=False,
        )  # fmt: skip
        theirs = np.concatenate([log_losses(their_logits(llama, w), w) for w in windows])
        row = {
            "name": f"perplexity of {Path(source).name if '/final' not in source else model} as {quant}",
            "ours": perplexity,
            "theirs": math.exp(theirs.mean()),
            "ratio": math.exp(theirs.mean() - losses.mean()),
            "bytes": file.num_bytes,
            "export_s": round(seconds, 1),
        }
        if quant in ("F16", "F32", "BF16"):
            same, parted, widest = compare_greedy(ours, llama, chat)
            row |= {"greedy_same": same, "greedy_parted": parted, "widest_gap_at_parting": widest}
        del llama
        file.path.unlink()
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=model_folder, nargs="+")
    parser.add_argument("--quants", type=one_of(*FILE_TYPES), default="F16,Q8_0,Q4_K_M")
    parser.add_argument("--tokens", type=at_least(1), default=20_000)
    args = parser.parse_args()
    rows = []
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += check(model, args.quants, args.tokens, Path(folder))
    for row in rows:
        print(json.dumps(row))
    limits = {"F16": 1.005, "Q8_0": 1.01}
    assert all(abs(math.log(r["ratio"])) < math.log(limits.get(r["name"].split()[-1], 10)) for r in rows)
    assert all(r.get("widest_gap_at_parting", 0) < CLOSE for r in rows)


if __name__ == "__main__":
    main()
