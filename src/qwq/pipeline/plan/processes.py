"""What each of several processes holds and does: the recipe's [cluster] in `qwq explain`, and in
the check of memory before a stage.

Activations are counted as of one process that has the whole batch, so they are the most there can
be; with `cluster.context` as of one that has its share of every pass's tokens. Imports without
torch.
"""

from __future__ import annotations

import math

from qwq.common.memory import Memory, on_cuda
from qwq.config import Recipe
from qwq.errors import ConfigError
from qwq.model.config import ModelConfig
from qwq.model.footprint import FLOAT

MIB = 1 << 20
PASSING = ("activations", "logits", "attention mask", "KV cache")  # that are not there beside a checkpoint
TOKENS = 1024  # for which the plan says what is exchanged
EXACT = 8  # bytes of a float64 sum, in which gradients are added on a CPU


def in_each_process(memory: Memory, recipe: Recipe, config: ModelConfig, trained: int) -> Memory:
    """`memory` of a stage that trains `trained` parameters on one process, as each of the recipe's
    processes holds it.
    """
    cluster = recipe.cluster
    if cluster is None or "AdamW" not in memory.parts:
        return memory
    parts, gpu = dict(memory.parts), on_cuda(recipe.compute.device)
    if cluster.reduction == "fixed" or cluster.processes == 1:
        # The float64 sum, and a message of every process for the largest matrix.
        message = cluster.processes * FLOAT * config.vocab_size * config.hidden_size
        parts["gradients"] = parts.get("gradients", 0) + EXACT * trained + message
        return Memory(parts, memory.repairs)
    share = cluster.processes
    parts.pop("float32 copies", None)
    parts["divided weights"] = math.ceil(FLOAT * config.num_parameters / share)
    parts["AdamW"] = math.ceil(parts["AdamW"] / share)
    if "gradients" in parts:
        parts["gradients"] = math.ceil(FLOAT * trained / share) + (0 if gpu else EXACT * trained)
    if not recipe.compute.background_checkpoints:
        # The first process gathers them all for a checkpoint, when a pass's tensors are gone.
        gathered = memory.parts["AdamW"] + memory.parts.get("float32 copies", 0)
        passing = sum(parts.get(part, 0) for part in PASSING)
        parts["whole moments"] = max(0, gathered - passing)
    return Memory(parts, memory.repairs)


def check_context(recipe: Recipe, config: ModelConfig) -> None:
    """ConfigError where the model's heads do not divide by `cluster.context`."""
    each = recipe.cluster.context if recipe.cluster else 1
    if config.num_heads % each or config.num_kv_heads % each:
        raise ConfigError(
            f"cluster.context is {each}, and the model has {config.num_heads} heads and {config.num_kv_heads} "
            f"key/value heads: give a divisor of {math.gcd(config.num_heads, config.num_kv_heads)}"
        )


def free_for_each(free: int, recipe: Recipe, local_size: int | None = None) -> int:
    """Bytes for each process, of those that are free here: processes share a machine's memory, and
    each has a GPU of its own.
    """
    size = local_size or (recipe.cluster.processes if recipe.cluster else 1)
    return free if on_cuda(recipe.compute.device) else free // size


def process_lines(recipe: Recipe, config: ModelConfig) -> list[str]:
    """What `qwq explain` says of the recipe's processes."""
    cluster = recipe.cluster
    if cluster is None:
        return []
    n, gpu = cluster.processes, on_cuda(recipe.compute.device)
    most = math.ceil(cluster.shards / (n // cluster.context))
    backend = "NCCL" if gpu else "gloo"
    line = f"{n} {'process' if n == 1 else 'processes'}, {cluster.shards} shards a step"
    line += "." if n == 1 else f", at most {most} in each, over {backend}."
    if n > 1 and cluster.reduction == "scatter":
        sent = (FLOAT if gpu else EXACT) * config.num_parameters * (n - 1) / n * (most if gpu else 1)
        line += (
            f" Each sends {sent / MIB:,.1f} MiB of gradients a step, and holds a whole copy of the weights besides its "
            "share of weights and moments."
        )
    elif n > 1:
        sent = FLOAT * config.num_parameters * most * (n - 1)
        line += f" Each sends {sent / MIB:,.1f} MiB of gradients a step, and holds all weights and moments: a check."
    if cluster.context > 1:
        line += f" {cluster.context} processes divide the tokens of each pass" + _exchanged(recipe, config)
    waits = f"A process waits for another at most {cluster.timeout_s:g} s, {cluster.work_timeout_s:g} s for sampling"
    return [line, f"{waits}, evaluation and files.", ""] if n > 1 else [line, ""]


def _exchanged(recipe: Recipe, config: ModelConfig) -> str:
    """What they send: queries, keys, values and outputs, and the gradients of these."""
    assert recipe.cluster is not None
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    width = 2 if recipe.compute.dtype == "bfloat16" else FLOAT
    away = (recipe.cluster.context - 1) / recipe.cluster.context  # a process keeps its own part
    sent = TOKENS * config.num_layers * 2 * (2 * q + 2 * kv) * width * away
    return f" and send {sent / MIB:,.1f} MiB for every {TOKENS:,} of them."
