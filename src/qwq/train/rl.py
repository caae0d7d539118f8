"""The RL loop: sample groups, judge them, turn rewards into advantages, take one clipped
policy-gradient step.

Read `RlTrainer.step` first; it is the whole algorithm. It is GRPO (arXiv 2402.03300) with these
departures:

1. advantages are not divided by the group's standard deviation, and the loss has a constant
   normaliser, prompts x samples x max_new_tokens (Dr. GRPO, arXiv 2503.20783). Other losses and
   advantage forms: `train.losses`. Whatever the loss, its normaliser is fixed before anything is
   dropped;
2. the clip is asymmetric (DAPO, arXiv 2503.14476) and acts only with more than one update a batch:
   by default the ratio is exactly 1, both of its sides coming from the trainer's own forward pass;
3. no KL term in stage 1; in stage 2 a small one against the end of stage 1;
4. groups whose advantages are all 0 are dropped before the backward pass when nothing else needs
   them;
5. a response that never ends is unfinished, and unfinished is never correct;
6. where sampler and trainer compute in 16 bits, their difference is corrected by truncated
   importance sampling.

A verdict spoiled by infrastructure is no reward: the rollout leaves its group's baseline and the
loss.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from qwq.config import ComputeSection, RlConfig
from qwq.engine.sampler import SamplingParams
from qwq.envs.base import with_environment
from qwq.errors import ConfigError, InfraError
from qwq.model import lora
from qwq.model.transformer import Transformer
from qwq.reward.mixing import Rewarder
from qwq.rollout.budget import Limits
from qwq.rollout.collect import collect
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.rollout.store import RolloutStore
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural.base import digest
from qwq.text.template import ChatFormat
from qwq.train.alarms import Watch
from qwq.train.checkpoint import StageRun
from qwq.train.groups import TRUNCATED, Group, after_refills, count_undecided, form_groups, without_truncated
from qwq.train.losses import (
    AdvantageForm,
    BatchSize,
    Loss,
    PolicyTerms,
    kl_term,
    load_advantage,
    load_loss,
    policy_terms,
    token_logprobs,
)
from qwq.train.optim import Optimizer
from qwq.train.packing import Batch, micro_batches, pack_groups
from qwq.types import Outcome, Problem, Rollout

# Promise 1, for real models; the tiny one stays under 1e-4 (tests).
MISMATCH_MAX, MISMATCH_MEAN = 1e-3, 1e-5
IMPORTANCE_CAP = 2.0  # in 16 bits, where a recipe names none; the value of Yao et al. 2025


@dataclass
class Totals:
    """What a stage's steps took together."""

    sampled_tokens: int = 0
    sampling_s: float = 0.0
    verifying_s: float = 0.0
    trained_tokens: int = 0
    training_s: float = 0.0

    def seconds_since(self, before: Totals) -> dict[str, float]:
        names = ("sampling_s", "verifying_s", "training_s")
        return {name: round(getattr(self, name) - getattr(before, name), 3) for name in names}


@dataclass
class RlState:
    """What the loop remembers from step to step; part of the stage's state."""

    next_problem: int = 0
    mix: dict[str, float] = field(default_factory=dict)  # the shares that are drawn now
    watch: dict[str, list[list[float]]] = field(default_factory=dict)  # see `alarms.Watch`
    totals: Totals = field(default_factory=Totals)


class RlTrainer:
    """One RL stage on one machine: sampler and trainer share the same tensors."""

    def __init__(
        self,
        model: Transformer,
        chat: ChatFormat,
        config: RlConfig,
        compute: ComputeSection,
        run: StageRun,
        mix: ProblemMix,
        rewarder: Rewarder,
        *,
        seed: int,
        after_step: Callable[[int, dict[str, Any]], None] | None = None,
        load_reference: Callable[[], Transformer] | None = None,
    ) -> None:
        self.model, self.chat, self.config, self.compute, self.run = model, chat, config, compute, run
        self.mix, self.rewarder, self.seed, self.after_step = mix, rewarder, seed, after_step
        self.optimizer = Optimizer(model, config.optim, config.steps * config.updates)
        self.policy = TrainerPolicy(model, chat, max_rows=compute.max_rows, name=f"the policy of stage {run.name}")
        self.limits = Limits(**config.tools.model_dump())
        self.params = SamplingParams(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        self.store = RolloutStore(run.rollouts_folder)
        # With LoRA the reference model is the model without its adapters; else KL needs a second
        # copy of the weights.
        self.has_adapters = bool(lora.adapters(model))
        self.load_reference = load_reference
        self.reference: Transformer | None = None
        self.state = run.state.part(RlState)
        self.watch = Watch(self.state.watch)

    def prepare(self) -> None:
        """Before anything else: keep the start as the reference model, where the KL term needs a
        copy, and resume.
        """
        if self.config.kl > 0 and not self.has_adapters:
            self.reference = Transformer(self.model.config).to(self.model.device, self.model.embed.weight.dtype)
            self.reference.load_state_dict(self.model.state_dict())
            self.reference.requires_grad_(False)
        self.run.resume(self.model, self.optimizer)
        self.mix.shares = self.mix.base_shares | self.state.mix
        self.state.mix = dict(self.mix.shares)
        self.watch = Watch(self.state.watch)

    def train(self) -> None:
        """Take the steps that are left; `prepare` comes first."""
        self.run.run(self.config.steps, self.model, self.optimizer, self.step)
        self.run.progress.note(self.throughput())

    def throughput(self) -> str:
        """Useful tokens a second of the stage: sampled ones, and completion tokens that were
        trained on.
        """
        t = self.state.totals
        sampling = t.sampled_tokens / max(t.sampling_s, 1e-9)
        training = t.trained_tokens / max(t.training_s, 1e-9)
        return (
            f"{self.run.name}: useful tokens/s: sampling {sampling:,.1f} ({t.sampled_tokens:,} in "
            f"{t.sampling_s:.1f} s), training {training:,.1f} ({t.trained_tokens:,} in {t.training_s:.1f} s), "
            f"verifying {t.verifying_s:.1f} s"
        )

    def step(self, step: int) -> dict[str, Any]:
        totals = self.state.totals
        before = replace(totals)
        rollouts = self.store.read(step, self.config.samples)
        if rollouts is None:
            rollouts = self.sample(step)
            self.store.write(step, rollouts)
        self.state.next_problem += len({r.group for r in rollouts})

        batch = after_refills(rollouts, self.config.prompts)
        groups = form_groups(batch, advantage=self.advantage)
        learnt = [g for g in groups if g.has_signal] if self._may_drop else groups
        metrics = self._describe(rollouts, form_groups(rollouts))
        started = time.perf_counter()
        learnt = without_truncated(learnt) if self.config.mask_truncated else learnt
        metrics |= self.update(step, learnt, batch=batch) if learnt else {"loss": 0.0, "trained_tokens": 0}
        totals.training_s += time.perf_counter() - started
        totals.trained_tokens += metrics["trained_tokens"]
        metrics |= totals.seconds_since(before)
        if alarms := self.watch.alarms(metrics):
            metrics["alarms"] = alarms
        if self.after_step:
            self.after_step(step, metrics)
            self.state.mix = dict(self.mix.shares)
        return metrics

    @property
    def _may_drop(self) -> bool:
        return self.config.drop_zero_signal and self.config.kl == 0

    def sample(self, step: int) -> list[Rollout]:
        """Groups for this step, judged and rewarded; with `refill`, prompts whose verdicts all
        agree are followed by new ones.
        """
        kept: list[Rollout] = []
        wanted = self.config.prompts
        for _ in range(1 + self.config.refill):
            first = self.state.next_problem + len({r.group for r in kept})
            problems = [with_environment(self.mix.problem(first + i), self.config.environment) for i in range(wanted)]
            kept += self._sample_groups(problems, first)
            wanted = count_undecided(kept, self.config.prompts)
            if wanted <= 0:
                break
        return kept

    def _sample_groups(self, problems: list[Problem], first: int) -> list[Rollout]:
        totals, started = self.state.totals, time.perf_counter()
        grader = self.rewarder.grader()
        self.policy.update_weights(self.run.state.step * self.config.updates)
        rollouts, _ = collect(
            self.policy, problems, self.params, samples=self.config.samples, seed=self.seed, first_group=first,
            budgets=self._budgets(first, len(problems)), limits=self.limits, on_response=grader.submit,
        )  # fmt: skip
        sampled = time.perf_counter()
        totals.sampling_s += sampled - started
        totals.sampled_tokens += sum(r.num_sampled for r in rollouts)
        # What is left of grading: most verdicts were reached while other rows still decoded.
        self.rewarder.finish(grader, rollouts, step=self.run.state.step)
        totals.verifying_s += time.perf_counter() - sampled
        failed = [r for r in rollouts if r.reward is None]
        if len(failed) > self.config.max_infra_error_rate * len(rollouts):
            raise InfraError(
                f"{len(failed)} of {len(rollouts)} verdicts failed by infrastructure, at most "
                f"{self.config.max_infra_error_rate:.0%} may: {failed[0].verdicts[-1].reason}; the step was not "
                "trained on"
            )
        return rollouts

    def _budgets(self, first: int, count: int) -> list[int | None] | None:
        """A thinking budget for each prompt, by its number in the stage."""
        choices = self.config.thinking_budgets
        if not choices:
            return None
        drawn = [
            choices[digest(f"{self.seed}/{self.run.name}/budget/{first + i}") % len(choices)] for i in range(count)
        ]
        return [None if b < 0 else b for b in drawn]

    @cached_property
    def loss(self) -> Loss:
        return load_loss(self.config.loss)

    @cached_property
    def advantage(self) -> AdvantageForm:
        return load_advantage("group_std" if self.config.scale_advantage else self.config.advantage)

    @property
    def importance_cap(self) -> float:
        """Cap of the sampler's importance weight; 0: none."""
        cap = self.config.importance_cap
        return cap if cap is not None else IMPORTANCE_CAP if self.model.embed.weight.dtype != torch.float32 else 0.0

    def update(self, step: int, groups: list[Group], *, batch: Sequence[Rollout] | None = None) -> dict[str, Any]:
        """`updates` optimiser steps on `groups`.

        `batch` are the step's rollouts before any was left out, which the normaliser counts;
        default: those of `groups`.
        """
        whole = [r for g in groups for r in g.rollouts] if batch is None else batch
        size = BatchSize(
            self.config.prompts, self.config.samples, self.config.max_new_tokens, sum(r.num_sampled for r in whole)
        )
        normaliser = self.loss.normaliser(size)
        micro = micro_batches(
            [sum(len(r.completion_ids) for r in g.rollouts) for g in groups], self.compute.micro_batch_tokens
        )
        parts = [self._pack([groups[i] for i in indices]) for indices in micro]
        references = [self._reference_logprobs(part) if self.config.kl > 0 else None for part in parts]
        old: list[Tensor | None] = [None] * len(parts)
        sums: dict[str, float] = defaultdict(float)
        for update in range(self.config.updates):
            for i, part in enumerate(parts):
                logprob, entropy = self._logprobs(self.model, part)
                if update == 0:
                    self._check_mismatch(logprob.detach(), part, sums)
                terms = self._terms(part, logprob, old[i], references[i])
                weights = self.loss.weights(part.extra["sequence"])
                loss = (terms.loss_N if weights is None else terms.loss_N * weights).sum() / normaliser
                loss.backward()
                if update == 0:
                    old[i] = logprob.detach()
                _add(sums, loss=loss.item(), clipped=float(terms.clipped_N.sum()), kl=float(terms.kl_N.sum()))
                _add(sums, entropy=float(entropy.sum()), terms=len(logprob), fed=part.num_tokens)
                if terms.importance_N is not None:
                    capped = float((terms.importance_N > self.importance_cap).sum())
                    _add(sums, importance=float(terms.importance_N.sum()), importance_capped=capped)
            if update == 0:
                self._check_mean_mismatch(sums["mismatch_sum"] / sums["terms"])
            stepped = self.optimizer.step(step * self.config.updates + update)
        every = self.config.watch_kl
        watched = (
            {"kl_to_start": self._kl_to_start(parts, old)}
            if every and self.config.kl == 0 and step % every == 0
            else {}
        )
        return stepped | watched | self._update_metrics(sums)

    def _update_metrics(self, sums: dict[str, float]) -> dict[str, Any]:
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
            "mismatch_mean": sums["mismatch_sum"] * updates / n,
            "trained_tokens": n // updates,
            "fed_tokens": int(sums["fed"]) // updates,
        }

    def _terms(self, part: Batch, logprob_N: Tensor, old_N: Tensor | None, reference_N: Tensor | None) -> PolicyTerms:
        """The objective of one micro-batch, token by token."""
        c = self.config
        return policy_terms(
            logprob_N, part.extra["advantage"], loss=self.loss, sequence_N=part.extra["sequence"], old_logprob_N=old_N,
            sampler_logprob_N=part.extra["sampler"] if self.importance_cap else None, reference_logprob_N=reference_N,
            clip_low=c.clip_low, clip_high=c.clip_high, dual_clip=c.dual_clip, importance_cap=self.importance_cap,
            kl=c.kl, kl_estimator=c.kl_estimator,
        )  # fmt: skip

    def _pack(self, groups: list[Group]) -> Batch:
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

    def _logprobs(self, model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden = model(batch.ids_N, batch.layout).index_select(0, batch.where_M)
        return token_logprobs(hidden, model.head_weight, batch.targets_M, temperature=self.config.temperature)

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch, start: Transformer | None = None) -> Tensor:
        """Log-probabilities under the reference model, which is the stage's start."""
        if self.has_adapters:
            with lora.switched_off(self.model):
                return self._logprobs(self.model, batch)[0]
        model = start or self.reference
        assert model is not None
        return self._logprobs(model, batch)[0]

    def _kl_to_start(self, batches: Sequence[Batch], now: Sequence[Tensor | None]) -> float:
        """Mean KL (k3) to the reference model, of the weights that sampled; the start is loaded for
        it and let go again.
        """
        start = None if self.has_adapters or self.load_reference is None else self.load_reference()
        if start is None and not self.has_adapters:
            raise ConfigError("watch_kl needs the reference model: give RlTrainer load_reference, or train with LoRA")
        total = sum(
            float(kl_term(n, self._reference_logprobs(b, start), "k3").sum())
            for b, n in zip(batches, now, strict=True)
            if n is not None
        )
        return total / sum(len(n) for n in now if n is not None)

    def _check_mismatch(self, logprob: Tensor, batch: Batch, sums: dict[str, float]) -> None:
        """Promise 1: what the sampler computed is what the trainer computes."""
        difference = (logprob - batch.extra["sampler"]).abs()
        worst = float(difference.max())
        sums["mismatch_max"] = max(sums["mismatch_max"], worst)
        sums["mismatch_sum"] += float(difference.sum())
        self._hold("at most", worst, MISMATCH_MAX)

    def _check_mean_mismatch(self, mean: float) -> None:
        """Before the batch's first update: also the mean difference is no more than rounding."""
        self._hold("on average", mean, MISMATCH_MEAN)

    def _hold(self, what: str, found: float, allowed: float) -> None:
        if found > allowed and self.model.embed.weight.dtype == torch.float32:
            raise InfraError(
                f"sampler and trainer disagree: log-probabilities differ by {found:.2e} {what}, {allowed:.0e} is "
                "allowed; the rollouts do not come from these weights (delete the stage's rollouts folder and run "
                "again)"
            )

    def _describe(self, rollouts: list[Rollout], groups: list[Group]) -> dict[str, Any]:
        """What a step's rollouts were like: rewards by domain, outcomes, lengths, alarms."""
        outcomes = Counter(r.verdicts[-1].outcome.value for r in rollouts)
        rewarded = [r for r in rollouts if r.reward is not None]
        domains: dict[str, list[float]] = {}
        terms: dict[str, list[float]] = {}
        for r in rewarded:
            domains.setdefault(r.domain, []).append(r.reward or 0.0)
            for term, value in r.rewards.items():
                terms.setdefault(term, []).append(value)
        tokens = sum(len(r.completion_ids) for r in rollouts)
        metrics: dict[str, Any] = {
            "reward": _mean([r.reward or 0.0 for r in rewarded]),
            "reward_by_domain": {d: _mean(v) for d, v in sorted(domains.items())},
            "reward_terms": {t: _mean(v) for t, v in sorted(terms.items())},
            "pass_rate": outcomes[Outcome.CORRECT] / len(rollouts),
            "outcomes": dict(sorted(outcomes.items())),
            "length": tokens / len(rollouts),
            "tokens": tokens,
            "truncated": sum(r.stop_reason in TRUNCATED for r in rollouts) / len(rollouts),
            "zero_signal": sum(not g.has_signal for g in groups) / max(1, len(groups)),
        }
        return metrics


def _add(sums: dict[str, float], **values: float) -> None:
    for name, value in values.items():
        sums[name] += value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
