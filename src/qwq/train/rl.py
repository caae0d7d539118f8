"""The RL loop: sample groups, judge them, turn rewards into advantages, take one clipped
policy-gradient step.

Read `RlTrainer.step` first, which is the whole algorithm, then `policy_update.PolicyUpdater` for
its optimiser steps. It is GRPO (arXiv 2402.03300) with these departures:

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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from qwq.config import ComputeSection, RlConfig, RolloutSection
from qwq.engine.sampler import SamplingParams
from qwq.envs.base import with_environment
from qwq.errors import InfraError
from qwq.model.transformer import Transformer
from qwq.reward.mixing import Rewarder
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.collect import OnResponse, collect
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.rollout.store import RolloutStore
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural.base import digest
from qwq.text.template import ChatFormat
from qwq.train.alarms import Watch, mismatch_alarms
from qwq.train.checkpoint import StageRun
from qwq.train.fleet_sampler import FleetSampler, check_lag
from qwq.train.groups import TRUNCATED, Group, after_refills, count_undecided, form_groups, without_truncated
from qwq.train.losses import AdvantageForm, load_advantage
from qwq.train.optim import Optimizer
from qwq.train.policy_update import PolicyUpdater
from qwq.train.reference import ReferenceModel
from qwq.types import Outcome, Problem, Rollout


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


class HarnessRollouts(Protocol):
    """Makes rollouts by programs (`pipeline.harness_sampler`); `figures` are of the last ones."""

    figures: dict[str, Any]

    def collect(
        self, problems: Sequence[Problem], first_group: int, *, version: int,
        budgets: Sequence[int | None] | None = None, on_response: OnResponse | None = None,
    ) -> list[Rollout]: ...  # fmt: skip


class RlTrainer:
    """One RL stage: each process samples its share of the prompts from the whole weights, which the
    trainer shares or has put there, and all of them know all rollouts. Where `rollout` names
    engines that sample (`sample_on`), the first process asks them.
    """

    fleet: FleetSampler | None = None
    harness: HarnessRollouts | None = None  # a program that makes the rollouts
    has_engines = False
    max_lag = 0

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
        self.world = run.world
        self.mix, self.rewarder, self.seed, self.after_step = mix, rewarder, seed, after_step
        self.optimizer = Optimizer(
            model, config.optim, config.steps * config.updates, division=run.divide(model, tokens=True)
        )
        self.policy = TrainerPolicy(model, chat, max_rows=compute.max_rows, name=f"the policy of stage {run.name}")
        self.limits = EpisodeLimits(**config.tools.model_dump())
        self.params = SamplingParams(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        self.store = RolloutStore(run.rollouts_folder)
        self.reference = ReferenceModel(model, load_reference, context=self.optimizer.division.context)
        self.updater = PolicyUpdater(model, config, compute, self.optimizer, self.reference)
        self.state = run.state.part(RlState)
        self.watch = Watch(self.state.watch)

    def sample_on(self, rollout: RolloutSection) -> None:
        """Sample where `rollout` says, instead of on the trainer's own tensors."""
        self.updater.sampler, self.max_lag = rollout, rollout.max_lag
        self.has_engines = rollout.policy != "local"
        if self.has_engines and self.world.leads:
            self.fleet = FleetSampler(
                self.model, self.chat, self.config, rollout, self.run, self.params, self.limits, seed=self.seed
            )

    def prepare(self) -> None:
        """Before anything else: keep the start as the reference model, where the KL term needs a
        copy, and resume.
        """
        if self.config.kl > 0:
            self.reference.keep()
        self.run.resume(self.model, self.optimizer)
        self.mix.shares = self.mix.base_shares | self.state.mix
        self.state.mix = dict(self.mix.shares)
        self.watch = Watch(self.state.watch)

    def train(self) -> None:
        """Take the steps that are left; `prepare` comes first."""
        try:
            self.run.run(self.config.steps, self.model, self.optimizer, self.step)
        finally:
            if self.fleet is not None:
                self.fleet.close()
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
        rollouts = self._stored(step)
        if rollouts is None:
            rollouts = sampled = self.sample(step)
            self.world.alone(lambda: self.store.write(step, sampled))
        if self.fleet is not None:
            self.fleet.written(step)
        # A straggler that was cut or carried leaves its number behind.
        numbers = {r.group for r in rollouts}
        self.state.next_problem += len(numbers) if self.config.refill or not self.has_engines else self.config.prompts

        batch = after_refills(rollouts, self.config.prompts) if self.config.refill else rollouts
        lags = check_lag(rollouts, step, self.config.updates, self.max_lag)
        groups = form_groups(batch, advantage=self.advantage)
        learnt = [g for g in groups if g.has_signal] if self._may_drop else groups
        metrics = self._describe(rollouts, form_groups(rollouts))
        started = time.perf_counter()
        learnt = without_truncated(learnt) if self.config.mask_truncated else learnt
        metrics |= self.updater.update(step, learnt, batch=batch)
        totals.training_s += time.perf_counter() - started
        totals.trained_tokens += metrics["trained_tokens"]
        metrics |= totals.seconds_since(before)
        if self.fleet is not None:
            metrics |= {"lag_mean": sum(lags) / max(1, len(lags)), "lag_max": max(lags, default=0)}
            metrics["fleet"] = self.fleet.figures()
        if self.harness is not None and self.harness.figures:
            metrics["harness"] = self.harness.figures
        if alarms := self.watch.alarms(metrics) + mismatch_alarms(
            metrics, self.updater.sampler, exact=self.updater.exact
        ):
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
        own: list[tuple[int, list[Rollout]]] = []
        verifying_s = 0.0
        for block in self._blocks(len(problems)):
            grader = self.rewarder.grader()
            rollouts = self._collect(problems[block.start : block.stop], first + block.start, grader.submit)
            sampled = time.perf_counter()
            # What is left of grading: most verdicts were reached while other rows still decoded.
            self.rewarder.finish(grader, rollouts, step=self.run.state.step)
            verifying_s += time.perf_counter() - sampled
            own.append((block.start, rollouts))
        rollouts = self._of_all(own)
        totals.verifying_s += verifying_s
        totals.sampling_s += time.perf_counter() - started - verifying_s  # the wait for other processes too
        totals.sampled_tokens += sum(r.num_sampled for r in rollouts)
        failed = [r for r in rollouts if r.reward is None]
        if len(failed) > self.config.max_infra_error_rate * len(rollouts):
            raise InfraError(
                f"{len(failed)} of {len(rollouts)} verdicts failed by infrastructure, at most "
                f"{self.config.max_infra_error_rate:.0%} may: {failed[0].verdicts[-1].reason}; the step was not "
                "trained on"
            )
        return rollouts

    def _blocks(self, num_prompts: int) -> list[range]:
        """The prompts that this process has sampled and judges, in ranges: all of them by the first
        where engines sample.
        """
        if self.has_engines:
            return [range(num_prompts)] if self.world.leads else []
        return self.optimizer.division.blocks(num_prompts)

    def _collect(self, problems: list[Problem], first: int, on_response: OnResponse) -> list[Rollout]:
        version, budgets = self.run.state.step * self.config.updates, self._budgets(first, len(problems))
        if self.fleet is None:
            self.policy.update_weights(version)
            if self.harness is not None:
                return self.harness.collect(problems, first, version=version, budgets=budgets, on_response=on_response)
            return collect(
                self.policy, problems, self.params, samples=self.config.samples, seed=self.seed, first_group=first,
                budgets=budgets, limits=self.limits, on_response=on_response,
            )[0]  # fmt: skip
        ahead = []
        for later in range(1, self.max_lag + 1):
            if self.run.state.step + later < self.config.steps:
                at = first + later * self.config.prompts
                more = [
                    with_environment(self.mix.problem(at + i), self.config.environment) for i in range(len(problems))
                ]
                ahead.append((at, more, self._budgets(at, len(more))))
        return self.fleet.sample((first, problems, budgets), version, on_response, ahead=ahead)

    def _stored(self, step: int) -> list[Rollout] | None:
        """The step's rollouts, where they were sampled before."""
        if self.world.size == 1:
            return self.store.read(step, self.config.samples)

        def read() -> list[dict[str, Any]] | None:
            found = self.store.read(step, self.config.samples)
            return None if found is None else [r.to_dict() for r in found]

        stored = self.world.alone(read)
        return None if stored is None else [Rollout.from_dict(r) for r in stored]

    def _of_all(self, own: list[tuple[int, list[Rollout]]]) -> list[Rollout]:
        """The rollouts of all processes, in the order of their prompts."""
        if self.world.size > 1:
            found = self.world.gather([(start, [r.to_dict() for r in block]) for start, block in own], slow=True)
            own = [(start, [Rollout.from_dict(r) for r in block]) for blocks in found for start, block in blocks]
        return [r for _, block in sorted(own, key=lambda entry: entry[0]) for r in block]

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
    def advantage(self) -> AdvantageForm:
        return load_advantage("group_std" if self.config.scale_advantage else self.config.advantage)

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
        tokens = sum(r.num_tokens for r in rollouts)
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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
