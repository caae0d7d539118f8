"""LoRA: a low-rank change beside each frozen matrix (Hu et al. 2021, arXiv 2106.09685).

y = x W^T + (alpha / rank) (x A^T) B^T, with A of small random numbers and B of zeros, so training
starts at the frozen model. Our fused matrices hold several of Hugging Face's projections; each
projection has an A and a B of its own here too, so that an adapter is what PEFT reads and writes:
`adapter_config.json` and `adapter_model.safetensors`.

    add(model, rank=8)                   frozen weights, trainable A and B
    with switched_off(model): ...        the model as it was before training
    save_adapter / load_adapter          PEFT's folder format
    merge(model)                         the change added to the weights, adapters gone:
                                         save_model then writes a plain folder
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qwq.errors import ModelError
from qwq.model.linear import Linear, linear, product
from qwq.model.model_folder import read_header, read_json
from qwq.model.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Our matrix: where it is in a Hugging Face layer, and the projections it holds.
FUSED = {
    "qkv": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "o": ("self_attn", ("o_proj",)),
    "gate_up": ("mlp", ("gate_proj", "up_proj")),
    "down": ("mlp", ("down_proj",)),
}


def _add_change(out_NO: Tensor, x_ND: Tensor, a: Tensor, b: Tensor, sizes: list[int], scale: float) -> Tensor:
    """Add scale (x A^T) B^T, part by part, to the frozen matrix's output in place, so that no
    second tensor of its size is made. Returns x A^T (N, parts x rank).
    """
    inner = F.linear(x_ND, a)
    for out, h, part in zip(out_NO.split(sizes, -1), inner.split(b.shape[1], -1), b.split(sizes), strict=True):
        out.addmm_(h, part.t(), alpha=scale)
    return inner


class _Adapted(torch.autograd.Function):
    """The frozen matrix with its change, and gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_OD: Tensor, bias_O: Tensor | None, a: Tensor, b: Tensor, sizes: list[int],
        scale: float,
    ) -> Tensor:  # fmt: skip
        out_NO = linear(x_ND, weight_OD, bias_O)
        inner = _add_change(out_NO, x_ND, a, b, sizes, scale)
        ctx.save_for_backward(x_ND, weight_OD, a, b, inner)
        ctx.sizes, ctx.scale = sizes, scale
        return out_NO

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor):
        x_ND, weight_OD, a, b, inner = ctx.saved_tensors
        rank, parts = b.shape[1], list(zip(grad_NO.split(ctx.sizes, -1), b.split(ctx.sizes), strict=True))
        grad_inner = torch.cat([grad @ part for grad, part in parts], -1).mul_(ctx.scale)
        grad_b = torch.cat([grad.t() @ h for (grad, _), h in zip(parts, inner.split(rank, -1), strict=True)])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_NO.contiguous(), weight_OD.t()).addmm_(grad_inner, a)
        return grad_x, None, None, grad_inner.t() @ x_ND, grad_b.mul_(ctx.scale), None, None


class LoraLinear(Linear):
    """A frozen `Linear` with a trainable A (parts x rank, in) and B (out, rank); `sizes` are the
    parts' output widths.
    """

    def __init__(self, base: Linear, sizes: list[int], rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.sizes, self.rank, self.scale, self.on = sizes, rank, alpha / rank, True
        self.lora_a = nn.Parameter(base.weight.new_empty(len(sizes) * rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        if not self.on:
            return super().forward(input)
        if torch.is_grad_enabled():
            return _Adapted.apply(input, self.weight, self.bias, self.lora_a, self.lora_b, self.sizes, self.scale)
        out = super().forward(input)
        _add_change(out, input, self.lora_a, self.lora_b, self.sizes, self.scale)
        return out

    def change(self) -> Tensor:
        """What training has added to the weight: (out, in)."""
        pairs = zip(self.lora_b.split(self.sizes), self.lora_a.split(self.rank), strict=True)
        return self.scale * torch.cat([b.float() @ a.float() for b, a in pairs])


def _sizes(model: Transformer, kind: str) -> list[int]:
    c = model.config
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    return {"qkv": [q, kv, kv], "o": [c.hidden_size], "gate_up": [c.intermediate_size] * 2, "down": [c.hidden_size]}[
        kind
    ]


def adapters(model: Transformer) -> dict[str, LoraLinear]:
    """The model's adapters by the name of their matrix (`blocks.0.qkv`); empty without LoRA."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def add(model: Transformer, *, rank: int, alpha: float | None = None, seed: int = 0) -> Transformer:
    """Freeze the model and put an adapter beside every matrix of its blocks. `alpha` is 2 x rank
    unless given.

    A is drawn by Kaiming's rule from `seed`, as in PEFT. ModelError where there are adapters
    already.
    """
    if adapters(model):
        raise ModelError("the model has adapters already: merge them before adding others")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for kind in FUSED:
            made = LoraLinear(getattr(block, kind), _sizes(model, kind), rank, 2.0 * rank if alpha is None else alpha)
            bound = 1 / math.sqrt(made.in_features)
            with torch.no_grad():
                made.lora_a.copy_(torch.empty(made.lora_a.shape).uniform_(-bound, bound, generator=generator))
            setattr(block, kind, made)
    return model


@contextmanager
def switched_off(model: Transformer) -> Iterator[None]:
    """The frozen model itself, for a reference that costs no second copy of the weights."""
    found = list(adapters(model).values())
    for m in found:
        m.on = False
    try:
        yield
    finally:
        for m in found:
            m.on = True


@torch.no_grad()
def merge(model: Transformer) -> Transformer:
    """Add each change to its weight and take the adapters out; all weights are trainable again."""
    for name, m in adapters(model).items():
        m.weight.copy_((m.weight.float() + m.change()).to(m.weight.dtype))
        plain = Linear(1, 1, bias=False)
        plain.in_features, plain.out_features, plain.weight = m.in_features, m.out_features, m.weight
        plain.register_parameter("bias", m.bias)
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], plain)
    return model.requires_grad_(True)


# -- PEFT's folder ---------------------------------------------------------------------------------


def _names(name: str) -> list[str]:
    """PEFT's module names of one fused matrix, in the order of its parts."""
    _, layer, kind = name.split(".")
    where, projections = FUSED[kind]
    return [f"base_model.model.model.layers.{layer}.{where}.{p}" for p in projections]


def save_adapter(model: Transformer, folder: str | Path, *, base: str = "") -> None:
    """Write the adapters as PEFT reads them.

    `base` is the name of the frozen model, for readers.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = adapters(model)
    tensors: dict[str, Tensor] = {}
    for name, m in found.items():
        pieces = zip(_names(name), m.lora_a.detach().split(m.rank), m.lora_b.detach().split(m.sizes), strict=True)
        for theirs, a, b in pieces:
            tensors[f"{theirs}.lora_A.weight"], tensors[f"{theirs}.lora_B.weight"] = a.cpu().clone(), b.cpu().clone()
    one = next(iter(found.values()))
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": one.rank, "lora_alpha": one.scale * one.rank,
        "lora_dropout": 0.0, "bias": "none", "base_model_name_or_path": base,
        "target_modules": sorted(p for _, ps in FUSED.values() for p in ps), "inference_mode": True,
    }  # fmt: skip
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_adapter(model: Transformer, folder: str | Path) -> Transformer:
    """Put a folder's adapters (ours or PEFT's, on all seven projections) beside the model's
    matrices.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no adapter: {CONFIG} and {WEIGHTS} are wanted")
    config = read_json(folder / CONFIG)
    read_header(folder / WEIGHTS)  # says what is wrong with a file that is cut short
    odd = [k for k in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(k)]
    if config.get("peft_type") != "LORA" or odd:
        raise ModelError(
            f"{folder}: only plain LoRA is read, this is {config.get('peft_type')} with "
            f"{', '.join(odd) or 'nothing special'}"
        )
    add(model, rank=int(config["r"]), alpha=float(config["lora_alpha"]))
    with safe_open(folder / WEIGHTS, framework="pt") as file, torch.no_grad():
        stored = set(file.keys())
        for name, m in adapters(model).items():
            for theirs, a, b in zip(_names(name), m.lora_a.split(m.rank), m.lora_b.split(m.sizes), strict=True):
                for target, key in ((a, f"{theirs}.lora_A.weight"), (b, f"{theirs}.lora_B.weight")):
                    if key not in stored:
                        raise ModelError(
                            f"{folder}: {key} is missing; an adapter here covers all of {config['target_modules']}"
                        )
                    tensor = file.get_tensor(key)
                    if tensor.shape != target.shape:
                        raise ModelError(
                            f"{folder}: {key} is {list(tensor.shape)}, the model asks for {list(target.shape)}"
                        )
                    target.copy_(tensor)
                    stored.discard(key)
    if stored:
        raise ModelError(
            f"{folder}: {len(stored)} tensors fit no matrix of the model, the first is {sorted(stored)[0]}"
        )
    return model
