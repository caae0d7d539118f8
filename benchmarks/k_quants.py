"""K-quants of a model whose widths divide by 256, and what an importance matrix gains: perplexity
per quantisation, with paired intervals.

    python benchmarks/k_quants.py [--steps 300] [--tokens 300000] [--seed 0] [--keep FOLDER]

SmolLM2, the 0.5B model and the demo's have widths that do not divide by 256, so most of their
tensors fall back to other encodings and their perplexities rank nothing. This trains a small model
(256 wide, 4 layers) on the training problems of the shipped tasks, exports it, and reads the files
back in float32 on test problems. The importance matrix is made from training problems. Needs
llama-cpp-python (`make install-gguf`). The last lines are JSON. Fails where the K-quants come out
in another order, or where it is not certain that the importance matrix lowers the perplexity of
Q4_K_M and Q3_K_M.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from arguments import at_least

from qwq.model.config import preset
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model
from qwq.release.activations import importance, task_windows
from qwq.release.model_source import open_source
from qwq.release.quality import mean_loss
from qwq.release.read_back import read_back
from qwq.release.to_gguf import export_gguf
from qwq.tasks import registry
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

TASKS = ("math", "code", "instructions")
BATCH_TOKENS = 4096
QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M")


def batches(chat: ChatFormat, seed: int) -> Iterator[list[list[int]]]:
    rng = random.Random(seed)
    number, batch, held = 0, [], 0
    while True:
        family = registry.get(TASKS[number % len(TASKS)])
        problem = family.problem(seed, "train", number)
        number += 1
        batch.append(chat.training_example([*problem.messages, *family.demonstrate(problem, rng)], problem.tools)[0])
        held += len(batch[-1])
        if held >= BATCH_TOKENS:
            yield batch
            batch, held = [], 0


def train(chat: ChatFormat, steps: int, seed: int) -> Transformer:
    config = preset(
        "small", vocab_size=chat.tokenizer.vocab_size, num_layers=4, num_heads=4, head_dim=64, intermediate_size=768
    )
    model = Transformer(config).init_weights(torch.Generator().manual_seed(seed))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    source, started = batches(chat, seed), time.perf_counter()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min((step + 1) / 20, 1) * (1 - 0.95 * step / steps)
        rows = next(source)
        ids = torch.tensor([i for row in rows for i in row])
        logits = model.logits(model(ids, Packed([len(row) for row in rows])))
        targets = torch.tensor([i for row in rows for i in [*row[1:], -100]])
        loss = F.cross_entropy(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 25 == 0 or step == steps - 1:
            print(
                f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s "
                f"({time.process_time():.0f} s of processor time)",
                flush=True,
            )
    return model.requires_grad_(False)


def losses(model: Transformer, windows: list[list[int]]) -> torch.Tensor:
    """Mean loss of every document."""
    return torch.tensor([mean_loss(model, [ids]) for ids in windows], dtype=torch.float64)


def paired(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor) -> tuple[float, float, float]:
    """Mean of a - b over tokens, and its 95% interval over documents."""
    share = weights / weights.sum()
    mean = float(((a - b) * share).sum())
    spread = float((share * ((a - b) - mean)).square().sum().sqrt())
    return mean, mean - 1.96 * spread, mean + 1.96 * spread


def measured(folder: Path, num_tokens: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Losses of every document by the name of the file, and the documents' tokens."""
    model, source = load_model(folder), open_source(str(folder))
    share = num_tokens // len(TASKS)
    windows = [ids for task in TASKS for ids in task_windows(task, "test", source.chat, share, 1024)]
    calibration = [ids for task in TASKS for ids in task_windows(task, "train", source.chat, 8_000, 512)]
    table, columns = {"float32": losses(model, windows)}, importance(model, calibration)
    with tempfile.TemporaryDirectory() as place:
        for quant in QUANTS:
            for name, weighed in ((quant, None), (f"{quant} imatrix", columns)):
                if weighed is not None and quant == "Q8_0":
                    continue
                path = Path(place) / "m.gguf"
                export_gguf(source, path, quant, importance=weighed)
                table[name] = losses(read_back(path, "gguf", model.config, 4), windows)
                path.unlink()
    return table, torch.tensor([len(ids) - 1.0 for ids in windows], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=at_least(1), default=300)
    parser.add_argument("--tokens", type=at_least(1), default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="the trained model's folder; one that is there is not trained again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = args.keep or Path(place) / "model"
        if not folder.exists():
            texts = [p.messages[-1].content for task in TASKS for p in registry.get(task).problems("test", 300)]
            chat = ChatFormat(train_bpe(texts, 768), default_template())
            save_model(train(chat, args.steps, args.seed), folder)
            chat.save(folder)
        table, weights = measured(folder, args.tokens)
    share = weights / weights.sum()
    perplexities = {name: math.exp(float((row * share).sum())) for name, row in table.items()}
    for name, row in table.items():
        mean, low, high = paired(row, table["float32"], weights)
        print(f"{name:16} perplexity {perplexities[name]:.4f}, loss {mean:+.5f} [{low:+.5f}, {high:+.5f}] over float32")
    print(f"{int(weights.sum())} tokens, {len(weights)} documents")
    rows, gains = [], {}
    for quant in QUANTS[1:]:
        mean, low, gains[quant] = paired(table[f"{quant} imatrix"], table[quant], weights)
        print(f"imatrix on {quant}: loss {mean:+.5f} [{low:+.5f}, {gains[quant]:+.5f}]")
        ours, theirs = perplexities[f"{quant} imatrix"], perplexities[quant]
        rows.append(
            {"name": f"perplexity of {quant} with imatrix", "ours": ours, "theirs": theirs, "ratio": ours / theirs}
        )
    for finer, coarser in itertools.pairwise(QUANTS[1:]):
        mean, low, high = paired(table[coarser], table[finer], weights)
        print(f"{coarser} over {finer}: loss {mean:+.5f} [{low:+.5f}, {high:+.5f}]")
        assert mean > 0, f"{coarser} has a lower perplexity than {finer}"
    for row in rows:
        print(json.dumps(row))
    assert gains["Q4_K_M"] < 0 and gains["Q3_K_M"] < 0, "not certain that the importance matrix gains"


if __name__ == "__main__":
    main()
