"""What an RL step does with its groups: micro-batches, the loss token by token, the optimiser's
steps.

Before the batch's first optimiser step the trainer's log-probabilities are compared with the
sampler's (promise 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor

from qwq.cluster.division import combined
from qwq.config import ComputeSection, RlConfig, RolloutSection
from qwq.errors import InfraError
from qwq.model.transformer import Transformer
from qwq.train.groups import Group, by_segment, with_tokens
from qwq.train.losses import BatchSize, ImportanceRule, Loss, PolicyTerms, load_loss, policy_terms
from qwq.train.optim import Optimizer
from qwq.train.packing import PackedBatch, batch_logprobs, micro_batches, pack_groups
from qwq.train.reference import ReferenceModel
from qwq.types import Rollout

# Promise 1, for real models; the tiny one stays under 1e-4 (tests).
MISMATCH_MAX, MISMATCH_MEAN = 1e-3, 1e-5
IMPORTANCE_CAP = 2.0  # in 16 bits, where a recipe names none; the value of Yao et al. 2025


@dataclass(slots=True)
class MicroBatch:
    """What one backward pass is computed on: groups, which are packed when their turn comes (the
    masks of all micro-batches together would outgrow one's activations).

    `reference_N` are the reference model's log-probabilities, None without a KL term; `old_N` those
    before the batch's first optimiser step, None before that.
    """

    groups: list[Group]
    reference_N: Tensor | None
    old_N: Tensor | None = None


class PolicyUpdater:
    """Updates of the policy on one batch of groups; the model is the one that sampled them."""

    def __init__(
        self,
        model: Transformer,
        config: RlConfig,
        compute: ComputeSection,
        optimizer: Optimizer,
        reference: ReferenceModel,
    ) -> None:
        self.model, self.config, self.compute = model, config, compute
        self.optimizer, self.reference, self.division = optimizer, reference, optimizer.division
        self.sampler = RolloutSection()
        self.version = 0  # of the weights before the batch's first update

    @cached_property
    def loss(self) -> Loss:
        return load_loss(self.config.loss)

    @property
    def exact(self) -> bool:
        """Whether sampler and trainer compute in float32, where they agree within rounding."""
        return self.model.embed.weight.dtype == torch.float32

    @property
    def importance_cap(self) -> float:
        """Cap of the sampler's importance weight; 0: none."""
        if (cap := self.config.importance_cap) is not None:
            return cap
        return IMPORTANCE_CAP if not self.exact or self.sampler.policy == "vllm" or self.sampler.max_lag else 0.0

    def update(self, step: int, groups: list[Group], *, batch: Sequence[Rollout] | None = None) -> dict[str, Any]:
        """`updates` optimiser steps on `groups`; metrics of the step. Without a token to learn from
        none is taken.

        `batch` are the step's rollouts before any was left out, which the normaliser counts;
        default: those of `groups`.
        """
        self.version = step * self.config.updates
        batch = [r for g in with_tokens(groups) for r in g.rollouts] if batch is None else batch
        groups = with_tokens(by_segment(groups))
        if not groups:
            return {"loss": 0.0, "trained_tokens": 0}
        normaliser = self._normaliser(batch)
        shards = [self._micro_batches(shard) for shard in self.division.shards(groups)]
        updates: list[dict[str, float]] = []
        for update in range(self.config.updates):
            sums = self.division.gradient(shards, lambda part: self._backward(part, normaliser), self.optimizer.masters)
            updates.append(sums)
            if update == 0:
                self._check_mean_mismatch(sums["mismatch_sum"] / max(1, sums["compared"]))
            stepped = self.optimizer.step(step * self.config.updates + update)
        every = self.config.watch_kl
        watched = self._watched_kl(shards) if every and self.config.kl == 0 and step % every == 0 else {}
        return stepped | watched | self._metrics(combined(updates))

    def _watched_kl(self, shards: list[list[MicroBatch]]) -> dict[str, float]:
        """Mean KL (k3) of the weights that sampled to the stage's start."""
        with self.reference.loaded() as start:
            own = [[self._kl_sums(part, start) for part in shard] for shard in shards]
        found = self.division.figures(own)
        return {"kl_to_start": found["kl"] / found["terms"]}

    def _kl_sums(self, part: MicroBatch, start: Transformer | None) -> dict[str, float]:
        assert part.old_N is not None, "the first update comes before"
        return self.reference.kl_sums(self._pack(part.groups), part.old_N, self.config.temperature, start)

    def _normaliser(self, batch: Sequence[Rollout]) -> float:
        c = self.config
        return self.loss.normaliser(
            BatchSize(c.prompts, c.samples, c.max_new_tokens, sum(r.num_sampled for r in batch))
        )

    def _micro_batches(self, groups: list[Group]) -> list[MicroBatch]:
        most = self.compute.micro_batch_tokens
        parts = [part for group in groups for part in group.split(most)]
        batches = [[parts[i] for i in chosen] for chosen in micro_batches([p.num_tokens for p in parts], most)]
        temperature, kl = self.config.temperature, self.config.kl > 0
        return [MicroBatch(b, self.reference.logprobs(self._pack(b), temperature) if kl else None) for b in batches]

    def _backward(self, micro: MicroBatch, normaliser: float) -> dict[str, float]:
        """Add one micro-batch's gradient; returns the sums of its terms.

        Its log-probabilities before the batch's first optimiser step are kept in it.
        """
        part, first = self._pack(micro.groups), micro.old_N is None
        trained = cast(Transformer, self.division.module)
        logprob, entropy = batch_logprobs(trained, part, self.config.temperature, self.division.context)
        found = self._check_mismatch(logprob.detach(), part) if first else {}
        terms = self._terms(part, logprob, micro.old_N, micro.reference_N)
        weights = self.loss.weights(part.extra["sequence"])
        loss = (terms.loss_N if weights is None else terms.loss_N * weights).sum() / normaliser
        loss.backward()
        found |= {"loss": loss.item(), "clipped": float(terms.clipped_N.sum()), "kl": float(terms.kl_N.sum())}
        found |= {"entropy": float(entropy.sum()), "terms": len(logprob), "fed": part.num_tokens}
        if terms.importance_N is not None:
            assert terms.beyond_N is not None
            beyond = float(terms.beyond_N.sum())
            found |= {"importance": float(terms.importance_N.sum()), "importance_capped": beyond}
        if first:
            micro.old_N = logprob.detach()
        return found

    def _terms(
        self, part: PackedBatch, logprob_N: Tensor, old_N: Tensor | None, reference_N: Tensor | None
    ) -> PolicyTerms:
        """The objective of one micro-batch, token by token."""
        c = self.config
        return policy_terms(
            logprob_N, part.extra["advantage"], loss=self.loss, sequence_N=part.extra["sequence"], old_logprob_N=old_N,
            sampler_logprob_N=part.extra["sampler"] if self.importance_cap else None, reference_logprob_N=reference_N,
            clip_low=c.clip_low, clip_high=c.clip_high, dual_clip=c.dual_clip, kl=c.kl, kl_estimator=c.kl_estimator,
            importance=ImportanceRule(self.importance_cap, c.importance_level, c.importance_beyond, c.importance_floor),
        )  # fmt: skip

    def _pack(self, groups: list[Group]) -> PackedBatch:
        first = list(accumulate((len(g.rollouts) for g in groups), initial=0))
        batch = pack_groups(
            [g.rollouts[0].prompt_ids for g in groups],
            [[r.completion_ids for r in g.rollouts] for g in groups],
            [[r.sampled_mask for r in g.rollouts] for g in groups],
            {
                "advantage": [
                    [[a] * len(r.completion_ids) for r, a in zip(g.rollouts, g.advantages, strict=True)] for g in groups
                ],
                "sampler": [[r.sampler_logprobs for r in g.rollouts] for g in groups],
                # How many versions back the weights are that sampled a token.
                "behind": [[[float(self.version - v) for v in r.weight_versions] for r in g.rollouts] for g in groups],
                # The number of each token's completion; float32 holds it exactly up to 16 million.
                "sequence": [
                    [[float(n)] * len(r.completion_ids) for n, r in enumerate(g.rollouts, at)]
                    for g, at in zip(groups, first, strict=False)
                ],
            },
            self.model.device,
        )
        batch.extra["sequence"] = batch.extra["sequence"].long()
        return batch

    def _metrics(self, sums: dict[str, float]) -> dict[str, Any]:
        """Means over the tokens of all updates."""
        n, updates = int(sums["terms"]), self.config.updates
        corrected = (
            {"importance_mean": sums["importance"] / n, "importance_capped": sums["importance_capped"] / n}
            if self.importance_cap
            else {}
        )
        return corrected | {
            "loss": sums["loss"] / updates,
            "entropy": sums["entropy"] / n,
            "kl": sums["kl"] / n,
            "clip_fraction": sums["clipped"] / n,
            "mismatch_max": sums["mismatch_max"],
            "mismatch_mean": sums["mismatch_sum"] / max(1, sums["compared"]),
            "trained_tokens": n // updates,
            "fed_tokens": int(sums["fed"]) // updates,
        }

    # -- promise 1: what the sampler computed is what the trainer computes ------------------------

    def _check_mismatch(self, logprob: Tensor, batch: PackedBatch) -> dict[str, float]:
        """The largest difference of any token of the current weights, and the sum of all. Tokens of
        earlier weights differ by what was learnt since.
        """
        difference = (logprob - batch.extra["sampler"]).abs()[batch.extra["behind"] == 0]
        if not len(difference):
            return {"mismatch_max": 0.0, "mismatch_sum": 0.0, "compared": 0}
        worst = float(difference.max())
        self._hold("at most", worst, MISMATCH_MAX)
        return {"mismatch_max": worst, "mismatch_sum": float(difference.sum()), "compared": len(difference)}

    def _check_mean_mismatch(self, mean: float) -> None:
        """Before the batch's first update: also the mean difference is no more than rounding."""
        self._hold("on average", mean, MISMATCH_MEAN)

    def _hold(self, what: str, difference: float, allowed: float) -> None:
        if self.sampler.policy != "local":
            return  # an alarm of its own limit tells (`alarms`)
        if not difference <= allowed and self.exact:  # nor is NaN
            raise InfraError(
                f"sampler and trainer disagree: log-probabilities differ by {difference:.2e} {what}, {allowed:.0e} is "
                "allowed; the rollouts do not come from these weights (delete the stage's rollouts folder and run "
                "again)"
            )
