"""The reference model of an RL stage: the model at the stage's start, against which KL is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from qwq.cluster.ulysses import ContextGroup
from qwq.errors import ConfigError
from qwq.model import lora
from qwq.model.transformer import Transformer
from qwq.train.losses import kl_term
from qwq.train.packing import PackedBatch, batch_logprobs


class ReferenceModel:
    """The stage's start.

    With LoRA it is the model without its adapters. Else the KL term needs a second copy of the
    weights (`keep`), and KL that is only watched loads one with `load` each time. `context` are the
    processes that divide each batch's tokens.
    """

    def __init__(
        self,
        model: Transformer,
        load: Callable[[], Transformer] | None = None,
        *,
        context: ContextGroup | None = None,
    ) -> None:
        self.model, self.load, self.context = model, load, context
        self.has_adapters = bool(lora.adapters(model))
        self.copy: Transformer | None = None

    def keep(self) -> None:
        """Keep the weights as they are now."""
        if self.has_adapters:
            return
        self.copy = Transformer(self.model.config).to(self.model.device, self.model.embed.weight.dtype)
        self.copy.load_state_dict(self.model.state_dict())
        self.copy.requires_grad_(False)

    @torch.no_grad()
    def logprobs(self, batch: PackedBatch, temperature: float, start: Transformer | None = None) -> Tensor:
        """Log-probabilities (M,) of a batch's completion tokens; `start` in place of the copy."""
        if self.has_adapters:
            with lora.switched_off(self.model):
                return batch_logprobs(self.model, batch, temperature, self.context)[0]
        model = start or self.copy
        assert model is not None
        return batch_logprobs(model, batch, temperature, self.context)[0]

    @contextmanager
    def loaded(self) -> Iterator[Transformer | None]:
        """The start for KL that is only watched, let go again after the block; None with LoRA.

        ConfigError where there is nothing to load.
        """
        if self.has_adapters:
            yield None
            return
        if self.load is None:
            raise ConfigError("watch_kl needs the reference model: give RlTrainer load_reference, or train with LoRA")
        yield self.load()

    def kl_sums(
        self, batch: PackedBatch, now_N: Tensor, temperature: float, start: Transformer | None
    ) -> dict[str, float]:
        """Sum of the KL (k3) of the weights that sampled, whose log-probabilities are `now_N`, and
        the number of its terms.
        """
        kl_N = kl_term(now_N, self.logprobs(batch, temperature, start), "k3")
        return {"kl": float(kl_N.sum()), "terms": len(now_N)}
