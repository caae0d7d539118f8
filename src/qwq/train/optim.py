"""AdamW, its schedule and the clipped step, with a state that can be saved and put back exactly."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from qwq.cluster.division import WholeBatch
from qwq.config import Optim
from qwq.errors import ConfigError, InfraError

MAX_SKIPPED = 5
MASTER = "master"
OVERFLOWS = math.sqrt(torch.finfo(torch.float32).max)  # 1.8e19: the product of two such weights is infinite


def learning_rate(config: Optim, step: int, num_steps: int) -> float:
    """Rate at `step` (from 0) of `num_steps`: linear warm-up to `lr`, then the chosen decay to
    `final_lr * lr`.
    """
    warmup = max(1, round(config.warmup * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if config.decay == "constant":
        return config.lr
    shape = 1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.final_lr + (1 - config.final_lr) * shape)


def _gather(p: Tensor, master: Tensor) -> None:
    """Move a 16-bit gradient into its master's float32 sum."""
    if p.grad is None:
        return
    if master.grad is None:
        master.grad = p.grad.float()
    else:
        master.grad += p.grad
    p.grad = None


def _gatherer(owner: Optimizer, index: int) -> Callable[[Tensor], None]:
    """What runs after each backward pass on one 16-bit parameter.

    It keeps neither the optimizer nor its float32 copies alive.
    """
    alive = weakref.ref(owner)

    def gather(p: Tensor) -> None:
        if (optimizer := alive()) is not None:
            _gather(p, optimizer.masters[index])

    return gather


class Optimizer:
    """AdamW on all parameters that train; only matrices are decayed. `step` clips, updates and
    clears the gradient.

    A parameter in 16 bits has a float32 copy, its master. The master is what is updated, since a
    small step would vanish in 16-bit rounding. It also sums the gradient: each backward pass adds
    to `master.grad` in float32 and frees `p.grad`, so that a batch in 256 micro-batches has the
    gradient of the same batch in one. One optimizer at a time may own such a parameter.

    `division` says how a batch is divided over processes (default: not at all). Where it divides
    the weights, the masters are the divided ones, and the model's follow them.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Optim,
        num_steps: int,
        extra: list[nn.Parameter] | None = None,
        *,
        division: WholeBatch | None = None,
    ) -> None:
        self.config, self.num_steps = config, num_steps
        self.division = division or WholeBatch(model)
        named = [*model.named_parameters(), *((f"extra.{i}", p) for i, p in enumerate(extra or []))]
        named = [(n, p) for n, p in named if p.requires_grad]
        self.names = [n for n, _ in named]
        self.params = [p for _, p in named]
        self.masters = self.division.masters(dict(named))
        for i, (p, master) in enumerate(zip(self.params, self.masters, strict=True)):
            if p is not master:
                p.register_post_accumulate_grad_hook(_gatherer(self, i))
        self.skipped_in_a_row = 0
        groups = [
            {"params": [p for p in self.masters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.masters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )

    def step(self, index: int) -> dict[str, float]:
        """Apply the gathered gradient as step `index`. A gradient that is not finite is dropped and
        said; a run of them stops.

        Raises InfraError after `MAX_SKIPPED` dropped gradients in a row, ConfigError where the step
        makes a weight NaN, infinite or larger than `OVERFLOWS`.
        """
        for p, master in self._copies():
            _gather(p, master)  # a gradient that was set by hand; those of backward passes are gathered already
        norm = self.division.clip(self.masters, self.config.grad_clip)
        rate = learning_rate(self.config, index, self.num_steps)
        finite = bool(torch.isfinite(norm))
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise InfraError(
                f"{MAX_SKIPPED} gradients in a row were not finite (the last has norm {float(norm)}): the weights "
                f"are those of the last good step; lower optim.lr (now {self.config.lr:g}) or train in float32, and "
                "run again from the last checkpoint"
            )
        if finite:
            for group in self.adam.param_groups:
                group["lr"] = rate
            self._follow()
            self._update()
            self._check_weights(index, rate)
        for p in self.masters:
            p.grad = None
        return {"lr": rate, "grad_norm": float(norm), "skipped": 0.0 if finite else 1.0}

    def _copies(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """The parameters that have a float32 copy, with it."""
        return [(p, m) for p, m in zip(self.params, self.masters, strict=True) if m is not p]

    @torch.no_grad()
    def _follow(self) -> None:
        """Weights that were put back from outside, by the contract's roll-back, are the ones to
        train on: their masters follow them.
        """
        for p, master in self._copies():
            if self.division.holds(master) and not torch.equal(master.to(p.dtype), p):
                master.copy_(p)

    def _update(self) -> None:
        self.adam.step()
        with torch.no_grad():
            for p, master in self._copies():
                p.copy_(self.division.full(master))

    def _check_weights(self, index: int, rate: float) -> None:
        """Weights that are not finite can be neither sampled from nor trained further; they reach
        no checkpoint and no model folder.

        Nor do those beyond `OVERFLOWS`: they are numbers still, and what is computed with them is
        not.
        """
        with torch.no_grad():
            largest = torch.stack(
                [torch.linalg.vector_norm(p, math.inf).to(self.params[0].device) for p in self.params]
            )  # passes a NaN on
        sound = largest <= OVERFLOWS  # false for NaN
        if not bool(sound.all()):
            first = int((~sound).nonzero()[0, 0])
            made = f"as large as {float(largest[first]):.0e}" if bool(largest[first].isfinite()) else "NaN or infinite"
            raise ConfigError(
                f"step {index + 1} made weights {made} ({self.names[first]} is the first) at a learning rate of "
                f"{rate:g}: lower optim.lr (now {self.config.lr:g}) and start over with --fresh; nothing of this "
                "step was saved"
            )

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name, and the float32 copies there are; all whole,
        whatever the division.
        """
        return dict(self.entries())

    def entries(self) -> Iterator[tuple[str, Tensor]]:
        """The same one by one. Every process goes through all of them: what is divided is gathered
        when its turn comes.
        """
        for name, p, master in zip(self.names, self.params, self.masters, strict=True):
            for key, value in self.adam.state.get(master, {}).items():
                yield f"{name}/{key}", self.division.full(value)
            if master.dtype != p.dtype:
                yield f"{name}/{MASTER}", self.division.full(master.detach())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take copies of what `state` gave; the state of a parameter not in it is cleared."""
        for name, p, master in zip(self.names, self.params, self.masters, strict=True):
            entries = {k.rsplit("/", 1)[1]: v for k, v in state.items() if k.rsplit("/", 1)[0] == name}
            stored = entries.pop(MASTER, None)
            if stored is not None or not self.division.holds(master):
                with torch.no_grad():  # divided weights follow the model's, which were put back before
                    master.copy_(self.division.own(p.detach() if stored is None else stored, master))
            self.adam.state.pop(master, None)
            if entries:
                # Copies: AdamW updates them in place, and `state` may be put back a second time.
                # The step count, too, is where the fused kernel needs it: with the parameter.
                self.adam.state[master] = {k: self.division.own(v, master) for k, v in entries.items()}
