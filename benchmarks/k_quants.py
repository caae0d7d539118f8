"""K-quants of a model whose widths divide by 256, and what an importance matrix gains: perplexity
per quantisation, with paired intervals.

    python benchmarks/k_quants.py [--steps 150] [--tokens 150000] [--orders 60] [--seed 0]
                                  [--uneven 0.4] [--keep FOLDER]
    python benchmarks/k_quants.py --spread MODEL [MODEL ...]  # how uneven channels are

SmolLM2, the 0.5B model and the demo's have widths that do not divide by 256, so most of their
tensors fall back to other encodings and their perplexities rank nothing. This trains a small model
(256 wide, 4 layers) on the training problems of the shipped tasks, exports it, and reads the files
back in float32 on test problems. The importance matrix is made from training problems. Needs
llama-cpp-python (`make install-gguf`).

In a model of some minutes all channels are about as strong, and a matrix that says which matter has
little to say (`--uneven 0`). Those of real models differ, so the norms' gains start unevenly: 0.4
gives the importance of the inputs of attention and feed-forward layers a deviation of 0.8 in the
logarithm; `--spread` gives 0.5 to 0.9 for SmolLM2-135M's and Qwen2.5-Coder-0.5B's.

How the rounding of one file falls out moves its loss by more than a matrix gains at four bits: to
first order a rounding error is multiplied by the gradient, whatever its sign. So the gain is taken
over `--orders` orders of the model's channels: each is the same function, and other numbers share
a block of the encoding. Its interval is over these orders. The last lines are JSON. Fails where
the K-quants come out in another order, or where it is not certain that the importance matrix
lowers the perplexity of Q4_K_M and Q3_K_M.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from arguments import at_least

from qwq.model.config import ModelConfig, preset
from qwq.model.layouts import Packed
from qwq.model.model_folder import resolve_folder
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model
from qwq.release.activations import importance, task_windows
from qwq.release.model_source import open_source
from qwq.release.read_back import read_back
from qwq.release.to_gguf import export_gguf
from qwq.tasks import registry
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

Columns = dict[str, np.ndarray]  # importance of input columns by GGUF's name of the matrix
TASKS = ("math", "code", "instructions")
BATCH_TOKENS = 4096
QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M")
REORDERED = ("Q4_K_M", "Q3_K_M")  # whose gain is taken over orders of the channels
CALIBRATION = 40_000  # tokens of each task
SPREAD = 2_000  # tokens of each task where only the columns' spread is asked for
DOCUMENTS = 32  # of a pass
ORDER_TOKENS = 20_000  # of test problems, on which each order is read


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


def train(chat: ChatFormat, steps: int, seed: int, uneven: float) -> Transformer:
    config = preset(
        "small", vocab_size=chat.tokenizer.vocab_size, num_layers=4, num_heads=4, head_dim=64, intermediate_size=768
    )
    model = Transformer(config).init_weights(torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, gain in model.named_parameters():
            if "norm" in name and gain.ndim == 1:
                gain.mul_(torch.exp(uneven * torch.randn(gain.shape, generator=draw)))
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


@torch.inference_mode()
def losses(model: Transformer, windows: list[list[int]]) -> torch.Tensor:
    """Mean loss of every document, several in a pass."""
    means: list[torch.Tensor] = []
    for first in range(0, len(windows), DOCUMENTS):
        lengths = [len(ids) for ids in windows[first : first + DOCUMENTS]]
        ids = torch.tensor([i for document in windows[first : first + DOCUMENTS] for i in document])
        targets = torch.cat([torch.tensor([*part[1:].tolist(), -100]) for part in ids.split(lengths)])
        each = F.cross_entropy(model.logits(model(ids, Packed(lengths))).double(), targets, reduction="none")
        means += [part.sum() / (len(part) - 1) for part in each.split(lengths)]
    return torch.stack(means)


def paired(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor) -> tuple[float, float, float]:
    """Mean of a - b over tokens, and its 95% interval over documents."""
    share = weights / weights.sum()
    mean = float(((a - b) * share).sum())
    spread = float((share * ((a - b) - mean)).square().sum().sqrt())
    return mean, mean - 1.96 * spread, mean + 1.96 * spread


def held_out_windows(chat: ChatFormat, num_tokens: int) -> tuple[list[list[int]], torch.Tensor]:
    """Test problems of all tasks, and the tokens of each that are predicted."""
    share = num_tokens // len(TASKS)
    windows = [ids for task in TASKS for ids in task_windows(task, "test", chat, share, 1024)]
    return windows, torch.tensor([len(ids) - 1.0 for ids in windows], dtype=torch.float64)


def column_importance(model: Transformer, chat: ChatFormat, num_tokens: int = CALIBRATION) -> Columns:
    return importance(model, [ids for task in TASKS for ids in task_windows(task, "train", chat, num_tokens, 512)])


def unevenness(columns: Columns) -> dict[str, float]:
    """The deviation of the logarithm of importance within a matrix, by kind of matrix (the median
    of its layers).
    """
    found: dict[str, list[float]] = {}
    for name, column in columns.items():
        found.setdefault(name.split(".")[-2], []).append(float(np.log(np.maximum(column, 1e-12)).std()))
    return {kind: round(float(np.median(values)), 2) for kind, values in found.items()}


def quantised_losses(
    folder: Path, quant: str, columns: Columns | None, windows: list[list[int]], config: ModelConfig
) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "m.gguf"
        export_gguf(open_source(str(folder)), path, quant, importance=columns)
        return losses(read_back(path, "gguf", config, 4), windows)


def measured(folder: Path, num_tokens: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Losses of every document by the name of the file, and the documents' tokens."""
    model, chat = load_model(folder), open_source(str(folder)).chat
    windows, weights = held_out_windows(chat, num_tokens)
    table, columns = {"float32": losses(model, windows)}, column_importance(model, chat)
    print(f"deviation of the logarithm of importance: {unevenness(columns)}", flush=True)
    for quant in QUANTS:
        table[quant] = quantised_losses(folder, quant, None, windows, model.config)
        if quant != "Q8_0":
            table[f"{quant} imatrix"] = quantised_losses(folder, quant, columns, windows, model.config)
    return table, weights


def reordered(model: Transformer, columns: Columns, seed: int) -> tuple[Transformer, Columns]:
    """The same function with its hidden channels, and the inner ones of each feed-forward layer,
    in a random order; and the importance of its columns.
    """
    config, draw = model.config, torch.Generator().manual_seed(seed)
    hidden = torch.randperm(config.hidden_size, generator=draw)
    inner = [torch.randperm(config.intermediate_size, generator=draw) for _ in model.blocks]
    other = Transformer(config)
    state = {}
    for name, weight in model.state_dict().items():
        part = name.removesuffix(".weight").rpartition(".")[2]
        if name.endswith("bias"):  # of queries, keys and values, whose heads stay in their order
            pass
        elif part == "down":
            weight = weight[hidden][:, inner[int(name.split(".")[1])]]
        elif part == "gate_up":
            order = inner[int(name.split(".")[1])]
            weight = torch.cat([half[order] for half in weight.chunk(2)])[:, hidden]
        elif part == "o" or weight.ndim == 1:  # projections into the hidden channels, and norms
            weight = weight[hidden]
        else:
            weight = weight[:, hidden]
        state[name] = weight
    other.load_state_dict(state)
    moved = {}
    for name, column in columns.items():  # of inputs; attention's heads stay in their order
        if "ffn_down" in name:
            moved[name] = column[inner[int(name.split(".")[1])].numpy()]
        else:
            moved[name] = column if "attn_output" in name else column[hidden.numpy()]
    return other, moved


def gains_over_orders(folder: Path, orders: int) -> dict[str, torch.Tensor]:
    """What the importance matrix changes of the loss, by quantisation: one number an order."""
    model, chat = load_model(folder), open_source(str(folder)).chat
    windows, weights = held_out_windows(chat, ORDER_TOKENS)
    share, columns, whole = weights / weights.sum(), column_importance(model, chat), losses(model, windows[:20])
    found: dict[str, list[float]] = {quant: [] for quant in REORDERED}
    with tempfile.TemporaryDirectory() as place:
        for order in range(orders):
            other, moved = reordered(model, columns, order)
            torch.testing.assert_close(losses(other, windows[:20]), whole, rtol=1e-4, atol=1e-5)
            same = Path(place) / f"{order}"
            save_model(other, same)
            chat.save(same)
            for quant in REORDERED:
                ours, plain = (quantised_losses(same, quant, c, windows, model.config) for c in (moved, None))
                found[quant].append(float(((ours - plain) * share).sum()))
            shutil.rmtree(same)
            if (order + 1) % 20 == 0:
                print(f"{order + 1} orders of {orders}", flush=True)
    return {quant: torch.tensor(values, dtype=torch.float64) for quant, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=at_least(1), default=150)
    parser.add_argument("--tokens", type=at_least(1), default=150_000)
    parser.add_argument("--orders", type=at_least(2), default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--uneven", type=float, default=0.4, help="deviation of the logarithm of the norms' first gains"
    )
    parser.add_argument("--keep", type=Path, help="the trained model's folder; one that is there is not trained again")
    parser.add_argument("--spread", nargs="+", metavar="MODEL", help="print this of models, and measure nothing else")
    args = parser.parse_args()
    if args.spread:
        for name in args.spread:
            columns = column_importance(load_model(resolve_folder(name)), open_source(name).chat, SPREAD)
            print(f"{name}: {unevenness(columns)}", flush=True)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = args.keep or Path(place) / "model"
        if not folder.exists():
            texts = [p.messages[-1].content for task in TASKS for p in registry.get(task).problems("test", 300)]
            chat = ChatFormat(train_bpe(texts, 768), default_template())
            save_model(train(chat, args.steps, args.seed, args.uneven), folder)
            chat.save(folder)
        table, weights = measured(folder, args.tokens)
        over_orders = gains_over_orders(folder, args.orders)
    share = weights / weights.sum()
    perplexities = {name: math.exp(float((row * share).sum())) for name, row in table.items()}
    for name, row in table.items():
        mean, low, high = paired(row, table["float32"], weights)
        print(f"{name:16} perplexity {perplexities[name]:.4f}, loss {mean:+.5f} [{low:+.5f}, {high:+.5f}] over float32")
    print(f"{int(weights.sum())} tokens, {len(weights)} documents")
    rows = []
    for quant in QUANTS[1:]:
        mean, low, high = paired(table[f"{quant} imatrix"], table[quant], weights)
        print(f"imatrix on {quant}: loss {mean:+.5f} [{low:+.5f}, {high:+.5f}], in this order of channels")
        ours, theirs = perplexities[f"{quant} imatrix"], perplexities[quant]
        rows.append(
            {"name": f"perplexity of {quant} with imatrix", "ours": ours, "theirs": theirs, "ratio": ours / theirs}
        )
    certain = {}
    for quant, changes in over_orders.items():
        mean, spread = float(changes.mean()), float(changes.std()) / math.sqrt(len(changes))
        low, certain[quant] = mean - 1.96 * spread, mean + 1.96 * spread
        print(
            f"imatrix on {quant}, {len(changes)} orders: loss {mean:+.5f} [{low:+.5f}, {certain[quant]:+.5f}], "
            f"deviation of one order {float(changes.std()):.5f}"
        )
    for finer, coarser in itertools.pairwise(QUANTS[1:]):
        mean, low, high = paired(table[coarser], table[finer], weights)
        print(f"{coarser} over {finer}: loss {mean:+.5f} [{low:+.5f}, {high:+.5f}]")
        assert mean > 0, f"{coarser} has a lower perplexity than {finer}"
    for row in rows:
        print(json.dumps(row))
    assert max(certain.values()) < 0, "not certain that the importance matrix gains"


if __name__ == "__main__":
    main()
