"""AdamW, its schedule and the clipped step, with a state that can be saved and put back exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qwq.config import Optim


def learning_rate(config: Optim, step: int, num_steps: int) -> float:
    """Rate at `step` (from 0) of `num_steps`: linear warm-up to `lr`, then the chosen decay to `final_lr * lr`."""
    warmup = max(1, round(config.warmup * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if config.decay == "constant":
        return config.lr
    shape = 1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final_lr + (1 - config.final_lr) * shape)


class Optimizer:
    """AdamW on all parameters; only matrices are decayed. `step` clips, updates and clears the gradient."""

    def __init__(self, model: nn.Module, config: Optim, num_steps: int, extra: list[nn.Parameter] | None = None) -> None:
        self.config, self.num_steps = config, num_steps
        named = [*model.named_parameters(), *((f"extra.{i}", p) for i, p in enumerate(extra or []))]
        self.names = [n for n, _ in named]
        self.params = [p for _, p in named]
        groups = [
            {"params": [p for p in self.params if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )

    def step(self, index: int) -> dict[str, float]:
        """Apply the gathered gradient as step `index`. A gradient that is not finite is dropped and said."""
        norm = nn.utils.clip_grad_norm_(self.params, self.config.grad_clip)
        rate = learning_rate(self.config, index, self.num_steps)
        finite = bool(torch.isfinite(norm))
        if finite:
            for group in self.adam.param_groups:
                group["lr"] = rate
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return {"lr": rate, "grad_norm": float(norm), "skipped": 0.0 if finite else 1.0}

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name."""
        out: dict[str, Tensor] = {}
        for name, p in zip(self.names, self.params, strict=True):
            for key, value in self.adam.state.get(p, {}).items():
                out[f"{name}/{key}"] = value
        return out

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, p in zip(self.names, self.params, strict=True):
            entries = {k.rsplit("/", 1)[1]: v for k, v in state.items() if k.rsplit("/", 1)[0] == name}
            if entries:
                self.adam.state[p] = entries
