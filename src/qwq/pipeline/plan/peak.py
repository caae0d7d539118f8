"""Estimated peaks of memory, part by part.

Covered: weights, gradients, AdamW's moments, reference and reward model, KV cache, activations,
logits, what glibc's heap does not return. Not covered: worker processes of the verifiers and the
sandbox.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwq.common.memory import Memory, on_cuda
from qwq.config import Lora, Recipe
from qwq.model.config import ModelConfig
from qwq.model.footprint import (
    FLOAT,
    PROGRAM,
    allocator_bytes,
    exchanged_values,
    lora_parameters,
    packed_copies,
    sampling_parts,
    update_parts,
)
from qwq.pipeline.plan.lengths import Lengths, longest_prompt

# Parts of a phase in bytes, and the options that shrink them.
Phase = tuple[dict[str, int], dict[str, str]]


def trained_parameters(adapters: Lora | None, config: ModelConfig) -> int:
    """Parameters that are trained: all, or the adapters'."""
    return lora_parameters(config, adapters.rank) if adapters else config.num_parameters


def weight_bytes(recipe: Recipe) -> int:
    """Bytes of a weight, and of an activation."""
    return 2 if recipe.compute.dtype == "bfloat16" else FLOAT


def training_base(recipe: Recipe, config: ModelConfig, trained: int) -> dict[str, int]:
    """What is held as long as a stage trains `trained` parameters: weights, moments, and the
    process itself on a CPU.
    """
    small = recipe.compute.dtype == "bfloat16"
    base = {"weights": (2 if small else FLOAT) * config.num_parameters, "AdamW": 2 * FLOAT * trained}
    # Parameters in 16 bits have a float32 copy.
    base |= {"float32 copies": FLOAT * trained} if small else {}
    if recipe.compute.background_checkpoints and not on_cuda(recipe.compute.device):
        # What a checkpoint holds, copied for the thread that writes it.
        copied = (2 if small else FLOAT) * trained + base["AdamW"] + base.get("float32 copies", 0)
        base["checkpoint copy"] = copied
    return base | ({} if on_cuda(recipe.compute.device) else {"program": PROGRAM})


def own_share(recipe: Recipe, config: ModelConfig, tokens: int, laid_out: int) -> tuple[int, int]:
    """Of a pass over `tokens` tokens, whose attention lays out `laid_out` numbers a layer: what is
    one process's where `cluster.context` of them divide it.
    """
    each = recipe.cluster.context if recipe.cluster else 1
    own = math.ceil(tokens / each)
    return own, math.ceil(laid_out / each) + exchanged_values(config, own, each)


def update_phase(
    recipe: Recipe,
    config: ModelConfig,
    tokens: int,
    trained: int,
    *,
    laid_out: int = 0,
    head: bool = True,
    divided: bool = True,
) -> dict[str, int]:
    """Parts of one forward and backward pass over `tokens` tokens; `laid_out` and `head` as in
    `footprint.update_parts`. `divided`: whether the stage divides a pass's tokens where the recipe
    asks for it.
    """
    if divided:
        tokens, laid_out = own_share(recipe, config, tokens, laid_out)
    width = weight_bytes(recipe)
    parts = update_parts(
        config, tokens, laid_out=laid_out, head=head, trained=trained, recompute=recipe.compute.recompute,
        offload=recipe.compute.offload, width=width, device=recipe.compute.device,
    )  # fmt: skip
    if not on_cuda(recipe.compute.device):
        parts["allocator"] = allocator_bytes(config, tokens, width=width)
    return parts


def sampling_phase(
    recipe: Recipe, config: ModelConfig, rows: int, prompt: int, new: int, prompts: int
) -> dict[str, int]:
    """Parts of sampling a step's rollouts, as in `footprint.sampling_parts`; a CPU reads packed
    copies of weights in 16 bits (`model.packed`).
    """
    parts = sampling_parts(config, rows, prompt, new, prompts, width=weight_bytes(recipe))
    if recipe.compute.dtype == "bfloat16" and not on_cuda(recipe.compute.device):
        parts["packed weights"] = 2 * config.num_parameters
    return parts


def documents_phase(
    recipe: Recipe, config: ModelConfig, batch_tokens: int, lengths: Lengths, trained: int
) -> dict[str, int]:
    """The same over the largest batch of documents: one token short of full, and a longest document
    behind it. A document's last token is not fed.
    """
    fed = batch_tokens - 1 + lengths.longest - 1
    rows = math.ceil(fed / max(1.0, lengths.mean - 1))
    laid_out = packed_copies(config, rows, lengths.longest - 1, lengths.mean - 1)
    return update_phase(recipe, config, fed, trained, laid_out=laid_out)


def peak(base: dict[str, int], phases: Sequence[Phase]) -> Memory:
    """The largest phase on top of `base`."""
    parts, repairs = max(phases, key=lambda phase: sum(phase[0].values()))
    return Memory(base | parts, repairs)


def evaluation_memory(recipe: Recipe, config: ModelConfig) -> Memory:
    """Estimated peak of the benchmarks after a stage, when the optimiser is gone."""
    problems = sum(recipe.eval.counts().values()) + sum(s.limit or 1000 for s in recipe.eval.sources)
    prompt = longest_prompt(recipe.eval.counts(), recipe.eval.sources, config.vocab_size)
    rows = min(recipe.compute.max_rows, problems)
    new = recipe.eval.max_new_tokens
    parts = sampling_phase(recipe, config, rows, prompt, new, rows)
    base = {"weights": weight_bytes(recipe) * config.num_parameters}
    base |= {} if on_cuda(recipe.compute.device) else {"program": PROGRAM}
    repair = f"max_rows (now {rows}) or max_new_tokens (now {new})"
    return Memory(base | parts, {part: repair for part in parts if part != "packed weights"})
