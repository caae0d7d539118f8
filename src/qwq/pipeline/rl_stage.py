"""What the RL stages share beside their keys (`config.rl_config`): their problems, their plan, and
how one is run. Imports without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qwq.common.memory import Memory, on_cuda
from qwq.config import Cluster, Recipe, RlConfig, RolloutSection, Source
from qwq.data.examples import FileUse
from qwq.envs.base import environment_class, with_environment
from qwq.errors import ConfigError
from qwq.model.config import ModelConfig
from qwq.model.footprint import DENSE_MASK, FLOAT, ROLLOUT_TOKEN, mask_entries, shared_copies
from qwq.pipeline.plan.cluster import ClusterPlan, Watched, rl_on_cluster
from qwq.pipeline.plan.counts import PlanContext, StagePlan, times
from qwq.pipeline.plan.lengths import Lengths, prompt_lengths
from qwq.pipeline.plan.machine import Machine
from qwq.pipeline.plan.micro_batches import micro_batches_of
from qwq.pipeline.plan.minutes import Span, rl_seconds
from qwq.pipeline.plan.peak import Phase, peak, sampling_phase, training_base, update_phase
from qwq.pipeline.preview import DataSummary, preview_source
from qwq.pipeline.stage import CompletionLimit, Stage
from qwq.report.view import Panel
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural.preference import Preference
from qwq.tasks.registry import get
from qwq.text.template import ChatFormat
from qwq.types import Problem

if TYPE_CHECKING:
    from qwq.model.transformer import Transformer
    from qwq.pipeline.inputs import RunInputs
    from qwq.pipeline.job import StageJob
    from qwq.reward.mixing import Scorer
    from qwq.train.rl import RlTrainer

Pools = dict[str, tuple[float, list[Problem]]]  # by label: weight, problems


class StageHooks(Protocol):
    """What a kind adds to the RL loop."""

    def begin(self) -> None:
        """Before the first step, or the first one after a resume."""

    def after_step(self, step: int, metrics: dict[str, Any]) -> None:
        """After each step; may add to its metrics."""

    def finish(self, *, changed: bool) -> Mapping[str, Any]:
        """After the last step, `changed` if the weights are no longer those of that step; gives
        what the stage's record keeps.
        """


def _check_environment(stage: RlConfig, name: str, recipe: Recipe) -> None:
    """ConfigError where the stage's environment or program is not there."""
    if stage.environment:
        environment_class(stage.environment)
    if stage.harness is not None:
        from qwq.pipeline.harness_sampler import check_harness

        check_harness(f"stages.{name}.harness", stage.harness, recipe)


def _use_harness(stage: RlConfig, trainer: RlTrainer, seed: int) -> None:
    if stage.harness is not None:
        from qwq.pipeline.harness_sampler import HarnessSampler

        trainer.harness = HarnessSampler(
            trainer.policy, stage.harness, trainer.params, samples=stage.samples, seed=seed
        )


class RlStage(RlConfig, Stage):
    """Reinforcement learning with verifiable rewards; `rl1` and `rl2` are its kinds."""

    panels: ClassVar[tuple[Panel, ...]] = (
        Panel("share correct", "pass_rate", unit=True),
        Panel("completion length, tokens", "length"),
        Panel("entropy, nats a token", "entropy"),
        Panel("responses cut at max_new_tokens", "truncated", unit=True),
        Panel("groups without signal", "zero_signal", unit=True),
        Panel("tokens clipped", "clip_fraction", unit=True),
        Panel("KL to the reference model", "kl"),
        Panel("KL to the reference model, measured only", "kl_to_start"),
        Panel("gradient norm", "grad_norm"),
        Panel("sampler against trainer, nats", "mismatch_max", log=True),
    )

    # -- plan --------------------------------------------------------------------------------------

    def prompt_lengths(self, context: PlanContext) -> Lengths:
        return prompt_lengths(self.mix.weights(), self.sources, context.config.vocab_size, self.environment)

    def plan(self, context: PlanContext) -> StagePlan:
        """Sampling (prompts once a group, every new token once) and updates (three forward passes'
        worth each).
        """
        prompt = self.prompt_lengths(context).mean
        rounds = 1 + self.refill
        rollouts = self.prompts * self.samples
        micro = micro_batches_of(self, context.recipe.compute.micro_batch_tokens)
        new = rollouts * self.max_new_tokens
        fed = self.prompts * micro.parts * prompt + new
        one = context.config.flops_per_token(int(prompt + self.max_new_tokens / 2))
        passes = 3 * self.updates + (1 if self.kl > 0 else 0)
        computed = rounds * (self.prompts * prompt + new) + passes * fed
        work = f"{self.prompts} prompts x {self.samples} samples x {self.max_new_tokens} new tokens"
        work += f", {times(micro.count, 'micro-batch', 'micro-batches')} x {times(self.updates, 'update')}"
        work += f", up to {times(self.refill, 'refill')}" if self.refill else ""
        return StagePlan(self.steps, work, self.steps * rounds * new, float(self.steps * computed * one))

    def extra_memory(
        self, context: PlanContext, base: Mapping[str, int]
    ) -> tuple[dict[str, int], list[dict[str, int]]]:
        """What a kind holds besides, given the bytes of `base`: parts that stay, and phases of
        their own.
        """
        return {}, []

    def memory(self, context: PlanContext) -> Memory:
        """The larger of sampling and updating, on top of what stays in both."""
        recipe, config, compute = context.recipe, context.config, context.recipe.compute
        trained = self.trained_parameters(recipe, config)
        base = training_base(recipe, config, trained)
        weights, longest = base["weights"], self.prompt_lengths(context).longest
        common: dict[str, str] = {}
        if (self.kl > 0 or self.watch_kl) and self.lora is None:
            base = base | {"reference": weights}
            which = f"kl to 0 (now {self.kl:g}" if self.kl > 0 else f"watch_kl to 0 (now {self.watch_kl}"
            common["reference"] = f"stages.{context.name}.{which}: it needs a second copy of the weights)"
        stays, own = self.extra_memory(context, base)
        step = self.prompts * self.samples * self.max_new_tokens
        if not on_cuda(compute.device):
            stays = stays | {"rollouts": ROLLOUT_TOKEN * step}
            common["rollouts"] = f"stages.{context.name}.samples (now {self.samples})"
        rows = min(compute.max_rows, self.prompts * self.samples)
        new = min(self.max_new_tokens, config.max_positions)  # of one segment
        sampling = sampling_phase(recipe, config, rows, longest, new, self.prompts)
        micro = micro_batches_of(self, compute.micro_batch_tokens)
        tokens = min(step, max(compute.micro_batch_tokens, new)) + micro.prompts * longest
        # Micro-batches hold whole completions: below that, micro_batch_tokens changes nothing.
        option = f"compute.micro_batch_tokens (now {compute.micro_batch_tokens})"
        if new >= compute.micro_batch_tokens:
            option = f"stages.{context.name}.max_new_tokens (now {self.max_new_tokens})"
        shape = (micro.completions, new)
        copies = shared_copies(config, *shape, micro.prompts, longest)
        update = update_phase(recipe, config, tokens, trained, laid_out=copies)
        mask = mask_entries(*shape, longest)
        update["attention mask"] = FLOAT * mask if mask <= DENSE_MASK else 0
        phases: list[Phase] = [
            (sampling, common | dict.fromkeys(sampling, f"compute.max_rows (now {compute.max_rows})")),
            (update, common | {"activations": option}),
            *((phase, common) for phase in own),
        ]
        return peak(base | stays, phases)

    def completion_limit(self, context: PlanContext) -> CompletionLimit | None:
        longest = self.prompt_lengths(context).longest
        limit = CompletionLimit(f"stages.{context.name}.max_new_tokens", longest, self.max_new_tokens)
        return None if self.tools.compact else limit

    def on_cluster(self, clusters: Sequence[Cluster], context: PlanContext) -> list[ClusterPlan]:
        prompt, watched = int(self.prompt_lengths(context).mean), self.watched_on_cluster()
        return [rl_on_cluster(self, c, context, prompt, watched, self.scored_share) for c in clusters]

    @property
    def scored_share(self) -> float:
        """Share of the prompts that a reward model judges, of the mix and of sources."""
        scored = self.mix.preference + sum(s.weight for s in self.sources if s.domain == Preference.domain)
        return scored / (sum(self.mix.weights().values()) + sum(s.weight for s in self.sources)) if scored else 0.0

    def seconds(self, context: PlanContext, machine: Machine) -> Span:
        trained = self.trained_parameters(context.recipe, context.config)
        prompt, watched = self.prompt_lengths(context).mean, self.watched_on_cluster()
        return rl_seconds(self, prompt, trained, watched, context, machine, self.scored_share)

    def watched_on_cluster(self) -> Watched:
        """Validation problems that it samples while it trains."""
        return Watched()

    # -- problems ----------------------------------------------------------------------------------

    def preview(self, chat: ChatFormat, *, max_positions: int | None = None, rows: int = 1) -> list[DataSummary]:
        return [preview_source(chat, s, rows) for s in self.sources if s.path and s.path != "builtin"]

    def check(self, name: str, inputs: RunInputs, config: ModelConfig) -> list[str]:
        """The loss, advantage form, reward functions and problems; that completions have room."""
        from qwq.train.losses import load_advantage, load_loss

        if self.max_new_tokens >= config.max_positions and not self.tools.compact:
            raise ConfigError(
                f"stages.{name}.max_new_tokens is {self.max_new_tokens:,}, and the model has "
                f"{config.max_positions:,} positions for prompt and completion together: give less than that by as "
                "much as the prompts are long, or set tools.compact"
            )
        load_loss(self.loss)
        self.check_rollout(name, inputs.recipe.rollout)
        _check_environment(self, name, inputs.recipe)
        load_advantage(self.advantage)
        inputs.functions(self.rewards)
        self.sample_problems(inputs)
        if self.validation.every:
            self.watched(inputs)
        return []

    def check_rollout(self, name: str, rollout: RolloutSection) -> None:
        """ConfigError where engines over HTTP cannot sample as the stage asks."""
        if self.refill and rollout.max_lag:
            raise ConfigError(
                f"stages.{name}.refill is {self.refill} and rollout.max_lag {rollout.max_lag}: which prompts follow "
                "depends on verdicts that are not there when they are sampled ahead; set one of them to 0"
            )
        if self.refill and rollout.stragglers != "wait":
            raise ConfigError(
                f"stages.{name}.refill is {self.refill} and rollout.stragglers {rollout.stragglers!r}: set refill to "
                '0, or stragglers to "wait"'
            )
        if self.thinking_budgets and rollout.policy == "vllm":
            raise ConfigError(
                f"stages.{name}.thinking_budgets are enforced by this engine, and none is sent to vLLM: leave them "
                'out, or set rollout.policy to "qwq"'
            )

    def sample_problems(self, inputs: RunInputs) -> Sequence[Problem]:
        drawn = [ProblemMix(0, "sample", {name: 1.0}).problem(0) for name in self.mix.weights()]
        return self.equipped(drawn + [problems[0] for _, problems in self.pools(inputs).values()])

    def equipped(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems with the tools of the stage's environment, where they bring none of their
        own.
        """
        return [with_environment(p, self.environment) for p in problems]

    def pools(self, inputs: RunInputs, tell: Callable[[FileUse], None] | None = None) -> Pools:
        """Training problems of each source with its weight.

        `tell` hears what became of each source's rows.
        """
        pools: Pools = {}
        for source in self.sources:
            problems, use = inputs.problems_of(source)
            pools[source.label] = (source.weight, problems)
            if tell and use.rows:
                tell(use)
        return pools

    def watched(self, inputs: RunInputs) -> dict[str, list[Problem]]:
        """The validation problems that `validation` looks at, by task and source."""
        num = self.validation.problems
        tasks = {get(name).label: get(name).fixed("validation", num) for name in self.mix.weights()}
        watched = tasks | {s.label: self.held_out(inputs, s)[:num] for s in self.sources}
        return {name: self.equipped(problems) for name, problems in watched.items()}

    def held_out(self, inputs: RunInputs, source: Source) -> list[Problem]:
        """The validation problems of one of the stage's sources, without those that the stage
        trains on. ConfigError where that leaves none.
        """
        rows, _ = inputs.problems_of(source.model_copy(update={"split": "validation", "limit": None}))
        trained = {p.canonical for s in self.sources for p in inputs.problems_of(s)[0]}
        kept = [p for p in rows if p.canonical not in trained]
        if not kept:
            raise ConfigError(
                f"source {source.label}: all of its validation rows are trained on as well, so nothing can be "
                'measured on them: set split = "train"'
            )
        return kept

    # -- run ---------------------------------------------------------------------------------------

    def scorer(self, job: StageJob) -> Scorer | None:
        """The reward model that judges what no rule can."""
        return None

    def hooks(self, trainer: RlTrainer, job: StageJob) -> StageHooks | None:
        """What the kind does between the steps."""
        return None

    def train(self, model: Transformer, job: StageJob) -> dict[str, Any]:
        from qwq.reward.mixing import Rewarder
        from qwq.reward.shaping import LengthShaping
        from qwq.train.best import BestCheckpoint
        from qwq.train.rl import RlTrainer

        run, inputs = job.run, job.inputs
        mix = ProblemMix(job.seed, job.name, self.mix.weights(), self.pools(inputs, run.tell_data))
        scorer = self.scorer(job)
        shaping = LengthShaping(self.max_new_tokens, self.overlong_buffer, self.overlong_penalty, self.length_weight)
        rewarder = Rewarder(
            partial_credit=self.partial_credit, scorer=scorer, shaping=shaping if shaping.active else None,
            functions=inputs.functions(self.rewards),
        )  # fmt: skip
        trainer = RlTrainer(
            model, job.chat, self, job.compute, run, mix, rewarder, seed=job.seed,
            load_reference=lambda: job.start_model().requires_grad_(False),
        )  # fmt: skip
        trainer.sample_on(job.recipe.rollout)
        _use_harness(self, trainer, job.seed)
        hooks = self.hooks(trainer, job)
        best = None
        if self.validation.every:
            watched = self.watched(inputs)
            best = BestCheckpoint(
                self.validation, model, run, lambda: job.outcomes(model, watched, self.max_new_tokens)
            )
        trainer.prepare()
        if hooks:
            hooks.begin()
        if best:
            best.begin()
        # The validation comes first: the hooks have to know whether this was the last step.
        after = [one.after_step for one in (best, hooks) if one]

        def after_step(step: int, metrics: dict[str, Any]) -> None:
            for callback in after:
                callback(step, metrics)

        trainer.after_step = after_step
        trainer.train()
        changed = best.finish() if best else False
        record = dict(hooks.finish(changed=changed)) if hooks else {}
        record |= {"validation": best.state.validation} if best else {}
        return record | ({"ended": run.state.ended} if run.state.ended else {})
