"""AdamW, its schedule and the clipped step, with a state that can be saved and put back exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qwq.config import Optim
from qwq.errors import ConfigError, InfraError

MAX_SKIPPED = 5
MASTER = "master"


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
    """AdamW on all parameters that train; only matrices are decayed. `step` clips, updates and clears the gradient.

    Parameters in 16 bits have a float32 copy that is the one updated, since a small step would vanish in their rounding.
    """

    def __init__(self, model: nn.Module, config: Optim, num_steps: int, extra: list[nn.Parameter] | None = None) -> None:
        self.config, self.num_steps = config, num_steps
        named = [*model.named_parameters(), *((f"extra.{i}", p) for i, p in enumerate(extra or []))]
        named = [(n, p) for n, p in named if p.requires_grad]
        self.names = [n for n, _ in named]
        self.params = [p for _, p in named]
        self.masters = [p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in self.params]
        self.skipped_in_a_row = 0
        groups = [
            {"params": [p for p in self.masters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.masters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )

    def step(self, index: int) -> dict[str, float]:
        """Apply the gathered gradient as step `index`. A gradient that is not finite is dropped and said; a run of them stops.

        Raises InfraError after `MAX_SKIPPED` dropped gradients in a row, ConfigError where the step makes a weight NaN or infinite.
        """
        norm = nn.utils.clip_grad_norm_(self.params, self.config.grad_clip)
        rate = learning_rate(self.config, index, self.num_steps)
        finite = bool(torch.isfinite(norm))
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise InfraError(
                f"{MAX_SKIPPED} gradients in a row were not finite (the last has norm {float(norm)}): the weights are those of the last good "
                f"step; lower optim.lr (now {self.config.lr:g}) or train in float32, and run again from the last checkpoint"
            )
        if finite:
            for group in self.adam.param_groups:
                group["lr"] = rate
            self._update()
            self._check_weights(index, rate)
        for p in self.params:
            p.grad = None
        return {"lr": rate, "grad_norm": float(norm), "skipped": 0.0 if finite else 1.0}

    def _update(self) -> None:
        copies = [(m, p) for m, p in zip(self.masters, self.params, strict=True) if m is not p]
        for master, p in copies:
            master.grad = None if p.grad is None else p.grad.float()
        self.adam.step()
        with torch.no_grad():
            for master, p in copies:
                p.copy_(master)
                master.grad = None

    def _check_weights(self, index: int, rate: float) -> None:
        """Weights that are not finite can be neither sampled from nor trained further; they reach no checkpoint and no model folder."""
        with torch.no_grad():
            largest = torch.stack([torch.linalg.vector_norm(p, math.inf).to(self.params[0].device) for p in self.params])  # passes a NaN on
        if not bool(largest.isfinite().all()):
            name = self.names[int((~largest.isfinite()).nonzero()[0, 0])]
            raise ConfigError(
                f"step {index + 1} made weights NaN or infinite ({name} is the first) at a learning rate of {rate:g}: lower optim.lr "
                f"(now {self.config.lr:g}) and start anew with --fresh; nothing of this step was saved"
            )

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name, and the float32 copies there are."""
        out: dict[str, Tensor] = {}
        for name, p, master in zip(self.names, self.params, self.masters, strict=True):
            for key, value in self.adam.state.get(master, {}).items():
                out[f"{name}/{key}"] = value
            if master is not p:
                out[f"{name}/{MASTER}"] = master.detach()
        return out

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, p, master in zip(self.names, self.params, self.masters, strict=True):
            entries = {k.rsplit("/", 1)[1]: v for k, v in state.items() if k.rsplit("/", 1)[0] == name}
            if MASTER in entries:
                with torch.no_grad():
                    value = entries.pop(MASTER)
                    master.copy_(value)
            if entries:
                self.adam.state[master] = {k: v if k == "step" else v.to(p.device) for k, v in entries.items()}
