"""What the inputs of a model's matrices look like on the prompts of a task: the importance of
columns for llama.cpp's K-quants, and the Hessians of GPTQ.

The importance of a column is the mean square of its input, as llama.cpp's `llama-imatrix` computes
it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qwq.errors import DataError
from qwq.model.gguf import gguf_name
from qwq.model.layouts import Packed
from qwq.model.names import fused_parts
from qwq.model.transformer import Transformer
from qwq.tasks import registry
from qwq.tasks.procedural.base import Family
from qwq.text.template import ChatFormat

MATRICES = ("qkv", "o", "gate_up", "down")  # of a block
MOST_PROBLEMS = 4000


def task_windows(task: str, split: str, chat: ChatFormat, num_tokens: int, longest: int) -> list[list[int]]:
    """Conversations of a task's split as token ids, about `num_tokens` in all, each cut at
    `longest`: prompts, with the worked answers of tasks that have them.

    DataError where the split has none.
    """
    owner, rng = registry.get(task), random.Random(0)
    out: list[list[int]] = []
    held = 0
    for problem in owner.problems(split, min(MOST_PROBLEMS, max(50, num_tokens // 20))):
        if isinstance(owner, Family):
            turns = owner.demonstrate(problem, rng)
            ids = chat.training_example([*problem.messages, *turns], problem.tools)[0]
        else:
            ids = chat.prompt_ids(problem.messages, problem.tools)
        out.append(ids[:longest])
        held += len(out[-1])
        if held >= num_tokens:
            break
    if not out:
        raise DataError(f"task {task} has no {split} problems to measure on: name another with --task")
    return out


@contextmanager
def watching(modules: Sequence[nn.Module], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """During the block, `see(i, x)` gets the input (N, columns) of module i whenever it runs."""

    def hook(i: int) -> Callable[[nn.Module, Any], None]:
        return lambda module, args: see(i, args[0])

    handles = [m.register_forward_pre_hook(hook(i)) for i, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def importance(model: Transformer, windows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Mean square of each input column of every matrix, float32, by GGUF's name of the matrix."""
    kinds = [(f"blocks.{i}.{kind}", getattr(block, kind)) for i, block in enumerate(model.blocks) for kind in MATRICES]
    sums = [torch.zeros(module.in_features, dtype=torch.float64) for _, module in kinds]
    head = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    tokens = 0

    def see(i: int, x: Tensor) -> None:
        sums[i] += x.double().square().sum(0)

    with watching([module for _, module in kinds], see):
        for ids in windows:
            hidden = model(torch.tensor(ids), Packed([len(ids)]))
            head += hidden.double().square().sum(0)
            tokens += len(ids)
    parts = {ours: [name for name, _ in names] for ours, names in fused_parts(model.config)}
    out = {
        gguf_name(name): (total / tokens).float().numpy()
        for (ours, _), total in zip(kinds, sums, strict=True)
        for name in parts[f"{ours}.weight"]
    }
    output = "token_embd.weight" if model.config.tie_embeddings else "output.weight"
    return out | {output: (head / tokens).float().numpy()}
