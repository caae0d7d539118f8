"""The plan of a recipe for a cluster: what each GPU holds, seconds of each part of a step, hours.
`qwq explain` prints it, expected and at most. Imports without torch.

Assumed: FSDP2 over all GPUs for the trainer (bfloat16 weights, float32 copies, gradients and
AdamW's moments, all sharded; one layer gathered at a time and the next one under way), replicas of
`tensor_parallel` GPUs for the sampler, taking turns on the same GPUs. With `cluster.context` so
many of them divide the tokens of a pass. At most: every completion as long as it may be and every
refill full. Expected: lengths with a long tail around `expected_tokens` (`simulate.py`), refills of
`expected_zero_signal` of the prompts, and failures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from qwq.common.memory import GIB
from qwq.config import Cluster, RlConfig
from qwq.model.config import ModelConfig
from qwq.model.footprint import DENSE_MASK, FLOAT, mask_entries, shared_copies, update_parts
from qwq.pipeline.plan.counts import PlanContext, count
from qwq.pipeline.plan.micro_batches import micro_batches_of
from qwq.pipeline.plan.peak import own_share, trained_parameters
from qwq.pipeline.plan.simulate import DecodeCost, fleet_seconds, tailed_lengths, with_failures

SAVING_SHARE = 0.04  # train.checkpoint saves no more often than this share of the time allows
BF16 = 2
HOST_BYTES_S = 20e9  # pinned memory to a GPU over PCIe 4.0 x16, which carries 32 at most; not measured here


def offloaded_bytes(tokens: float, config: ModelConfig, width: int) -> float:
    """What `compute.offload` copies for passes over so many tokens: each layer's input, to the host
    and back.
    """
    return 2.0 * width * tokens * config.hidden_size * config.num_layers


class Watched(NamedTuple):
    """Validation problems that a stage looks at before its first step and every `every` steps; with
    `at_end` also after its last. A reward model scores `scored` answers at each look.
    """

    problems: int = 0
    every: int = 1
    scored: int = 0
    at_end: bool = True

    def looks(self, steps: int) -> int:
        """How often it looks in `steps` steps; 0 where there is nothing to look at."""
        if not self.problems:
            return 0
        return 1 + (-(-steps // self.every) if self.at_end else steps // self.every)


def validation_of(stage: RlConfig) -> Watched:
    """What `validation` looks at: so many problems of each task and source."""
    every, sets = stage.validation.every, len(stage.mix.weights()) + len(stage.sources)
    return Watched(stage.validation.problems * sets, every, at_end=False) if every else Watched()


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one step, by part, and tokens sampled in it."""

    parts: dict[str, float]
    tokens: float
    longest_s: float  # the longest completion alone on an engine

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def bottleneck(self) -> str:
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """One RL stage on a cluster: bytes on each GPU, seconds of a step, hours of the stage.

    `rows` and `engine_tokens_s` are those of one engine that is full, by the bandwidth alone.
    """

    training: dict[str, float]
    sampling: dict[str, float]
    rows: int
    gpu_tokens_s: float
    roofline_tokens_s: float
    expected: Times
    at_most: Times
    steps: int
    hours: float  # expected, with failures
    hours_at_most: float
    failures: float
    checkpoint_bytes: int
    sync_bytes: float


def decode_cost(config: ModelConfig, cluster: Cluster, share: float) -> DecodeCost:
    """Of one engine of `tensor_parallel` GPUs that reaches `share` of their bandwidth."""
    rate = cluster.hbm_gb_s * 1e9 * share * cluster.tensor_parallel
    return DecodeCost(BF16 * config.num_parameters / rate, 0.0, kv_bytes(config) / rate)


def kv_bytes(config: ModelConfig) -> int:
    """Of one token in the KV cache."""
    return 2 * BF16 * config.num_layers * config.num_kv_heads * config.head_dim


def full_engine(config: ModelConfig, cluster: Cluster, rows: int, context: float, share: float) -> float:
    """Tokens a second of one GPU whose engine decodes `rows` sequences of `context` tokens."""
    cost = decode_cost(config, cluster, share)
    return rows / (cost.step_s + cost.token_s * rows * context) / cluster.tensor_parallel


def _training_bytes(stage: RlConfig, cluster: Cluster, context: PlanContext, prompt: int) -> dict[str, float]:
    recipe, config = context.recipe, context.config
    parameters, trained = config.num_parameters, trained_parameters(stage.lora, config)
    # A micro-batch holds whole completions, and a part of a group its prompt.
    micro = micro_batches_of(stage, recipe.compute.micro_batch_tokens)
    shape = (micro.completions, stage.max_new_tokens)
    tokens = max(recipe.compute.micro_batch_tokens, stage.max_new_tokens) + micro.prompts * prompt
    own, laid_out = own_share(recipe, config, tokens, shared_copies(config, *shape, micro.prompts, prompt))
    update = update_parts(
        config, own, laid_out=laid_out, trained=trained, recompute=recipe.compute.recompute,
        offload=recipe.compute.offload, width=BF16, device="cuda",
    )  # fmt: skip
    training = {
        "weights": BF16 * parameters / cluster.gpus,
        "gradients": FLOAT * trained / cluster.gpus,
        "AdamW and float32 copies": 12 * trained / cluster.gpus,
        "gathered layers": 2 * BF16 * parameters / config.num_layers,
        "activations": float(update["activations"]),
        "logits": float(update["logits"]),
    }
    if (mask := mask_entries(*shape, prompt)) <= DENSE_MASK:
        training["attention mask"] = float(BF16 * mask)
    if stage.kl > 0 and stage.lora is None:
        training["reference"] = BF16 * parameters / cluster.gpus
    return training


@dataclass(frozen=True, slots=True)
class _Step:
    """What the seconds of a step are worked out from."""

    stage: RlConfig
    cluster: Cluster
    context: PlanContext
    prompt: int
    rows: int
    watched: Watched
    scored: float  # share of the rollouts that a reward model scores

    @property
    def rate(self) -> float:
        """FLOPs a second that training reaches on all GPUs."""
        return self.cluster.gpus * self.cluster.tflops * 1e12 * self.cluster.mfu

    def _sampling(self, lengths: list[int]) -> float:
        """Decoding of the slowest engine, behind the prompts' prefill."""
        engines = max(1, self.cluster.gpus // self.cluster.tensor_parallel)
        config, cluster = self.context.config, self.cluster
        cost = decode_cost(config, cluster, cluster.hbm_share)
        prefill = len(lengths) / self.stage.samples * self.prompt * config.flops_per_token(self.prompt) / self.rate
        if cluster.sample_tokens_s is None:
            return prefill + fleet_seconds(lengths, engines, max(1, self.rows), cost, self.prompt)
        alone = fleet_seconds([max(lengths)], 1, 1, cost, self.prompt)
        return prefill + max(alone, sum(lengths) / (cluster.sample_tokens_s * cluster.gpus))

    def times(self, mean: float, refilled: float) -> Times:
        """Seconds of a step with completions of `mean` tokens, where each refill replaces the share
        `refilled` of the prompts before it.
        """
        stage, cluster, config = self.stage, self.cluster, self.context.config
        sampling, sampled = 0.0, 0
        for turn in range(1 + stage.refill):
            num = round(stage.prompts * refilled**turn) * stage.samples
            if num:
                lengths = tailed_lengths(num, mean, stage.max_new_tokens)
                sampling, sampled = sampling + self._sampling(lengths), sampled + num
        kept = stage.prompts * stage.samples * (1.0 if refilled == 1.0 or stage.refill else 1 - refilled)
        kept = kept if stage.drop_zero_signal and stage.kl == 0 else stage.prompts * stage.samples
        micro = micro_batches_of(stage, self.context.recipe.compute.micro_batch_tokens)
        fed = kept * mean + kept / stage.samples * micro.parts * self.prompt
        flops = config.flops_per_token(round(self.prompt + mean / 2))
        passes = 3 * stage.updates + (1 if stage.kl > 0 else 0)
        passes += stage.updates if self.context.recipe.compute.recompute else 0
        judged = max(0.0, sampled / cluster.verdicts_s - sampling) + cluster.slowest_verdict_s
        parts = {"sampling": sampling, "verifiers": judged, "training": passes * fed * flops / self.rate}
        if self.context.recipe.compute.offload:
            parts["offload"] = offloaded_bytes(stage.updates * fed, config, BF16) / (cluster.gpus * HOST_BYTES_S)
        parts["weight sync"] = sync_bytes(config, cluster) / (cluster.net_gb_s * 1e9) + cluster.sync_latency_s
        if self.scored:
            parts["reward model"] = self.scored * sampled * (self.prompt + mean) * flops / self.rate
        if self.watched.problems:
            lengths = tailed_lengths(self.watched.problems, mean, stage.max_new_tokens)
            parts["contract checks"] = self._sampling(lengths) * self.watched.looks(stage.steps) / stage.steps
        if (validation := validation_of(stage)).problems:
            lengths = tailed_lengths(validation.problems, mean, stage.max_new_tokens)
            parts["validation"] = self._sampling(lengths) * validation.looks(stage.steps) / stage.steps
        step = sum(parts.values())
        saved = checkpoint_bytes(stage, config) / (cluster.disk_gb_s * 1e9)
        between = max(step, self.context.recipe.compute.checkpoint_interval_s, saved / SAVING_SHARE)
        parts["checkpoints"] = saved * step / between
        alone = fleet_seconds(
            [stage.max_new_tokens], 1, 1, decode_cost(config, cluster, cluster.hbm_share), self.prompt
        )
        return Times(parts, sampled * mean, alone)


def sync_bytes(config: ModelConfig, cluster: Cluster) -> float:
    """What each GPU receives: its engine's part of the bfloat16 weights."""
    return BF16 * config.num_parameters / cluster.tensor_parallel


def checkpoint_bytes(stage: RlConfig, config: ModelConfig) -> int:
    """Weights in bfloat16, float32 copies and two moments of what is trained."""
    trained = trained_parameters(stage.lora, config)
    return BF16 * trained + 12 * trained


def rl_on_cluster(
    stage: RlConfig,
    cluster: Cluster,
    context: PlanContext,
    prompt: int,
    watched: Watched | None = None,
    scored: float = 0.0,
) -> ClusterPlan:
    """Plan of an RL stage with prompts of `prompt` tokens; `watched` are the contract's problems,
    `scored` the share of rollouts that a reward model scores.
    """
    config = context.config
    mean = min(stage.max_new_tokens, stage.expected_tokens or stage.max_new_tokens // 4)
    training = _training_bytes(stage, cluster, context, prompt)
    weights, resting = sync_bytes(config, cluster), training["AdamW and float32 copies"]
    room = max(0.0, 0.9 * cluster.gpu_gib * GIB - weights - resting) * cluster.tensor_parallel
    engines = max(1, cluster.gpus // cluster.tensor_parallel)
    asked = -(-stage.prompts * stage.samples // engines)
    fits = {n: min(asked, int(room // (kv_bytes(config) * (prompt + n)))) for n in (mean, stage.max_new_tokens)}
    rows, held = fits[stage.max_new_tokens], fits[mean] * (prompt + mean)
    sampling = {
        "weights": weights,
        "AdamW and float32 copies": resting,
        "KV cache": held * kv_bytes(config) / cluster.tensor_parallel,
    }
    watched = watched or Watched()
    expected = _Step(stage, cluster, context, prompt, fits[mean], watched, scored).times(
        mean, stage.expected_zero_signal
    )
    at_most = _Step(stage, cluster, context, prompt, rows, watched, scored).times(stage.max_new_tokens, 1.0)
    saved = checkpoint_bytes(stage, config) / (cluster.disk_gb_s * 1e9)
    hours, failures = [], 0.0
    for times in (expected, at_most):
        lost = cluster.restart_s + max(times.total, saved / SAVING_SHARE) / 2  # half the way to a checkpoint
        seconds, failures = with_failures(stage.steps * times.total, cluster.gpus, cluster.mtbf_hours, lost)
        hours.append((seconds / 3600, failures))
    full = fits[mean], prompt + mean / 2
    return ClusterPlan(
        training, sampling, fits[mean] if rows else 0, full_engine(config, cluster, *full, cluster.hbm_share),
        full_engine(config, cluster, *full, 1.0), expected, at_most, stage.steps, hours[0][0], hours[1][0], hours[0][1],
        checkpoint_bytes(stage, config), weights,
    )  # fmt: skip


def cluster_lines(cluster: Cluster, name: str, plan: ClusterPlan, larger: ClusterPlan) -> list[str]:
    """The plan of stage `name` in words; `larger` is the plan with one more node."""

    def parts(found: dict[str, float]) -> str:
        total = sum(found.values())
        verdict = "fits" if total <= cluster.gpu_gib * GIB else f"DOES NOT FIT in {cluster.gpu_gib:g}"
        return ", ".join(f"{k} {v / GIB:.1f}" for k, v in found.items()) + f": {total / GIB:.1f} GiB a GPU, {verdict}"

    def seconds(times: Times) -> str:
        shown = ", ".join(f"{part} {s:,.0f}" for part, s in times.parts.items())
        return f"{times.total:,.0f} s a step ({shown}), {count(times.tokens)} tokens"

    rows = (
        f"{plan.rows} sequences at once an engine" if plan.rows else "NO ROOM for a single row: raise tensor_parallel"
    )
    worst, gain = plan.expected.bottleneck, plan.hours - larger.hours
    nodes = cluster.gpus + cluster.gpus_per_node
    lines = [
        f"  {name}: {plan.steps} steps in {plan.hours:,.1f} hours expected, {plan.hours_at_most:,.1f} at most"
        f"{money(cluster, plan.hours, plan.hours_at_most)}",
        f"    expected  {seconds(plan.expected)}",
        f"    at most   {seconds(plan.at_most)}",
        f"    bottleneck: {worst}, {plan.expected.parts[worst] / plan.expected.total:.0%} of a step; the longest "
        f"completion alone takes {plan.expected.longest_s:,.0f} s; one more node ({nodes} GPUs) saves "
        f"{gain:,.1f} hours, {gain / plan.hours:.0%}",
        f"    weight sync {plan.sync_bytes / 1e9:.1f} GB to each GPU, checkpoint "
        f"{plan.checkpoint_bytes / 1e9:,.0f} GB, {plan.failures:.1f} failures expected",
        f"    training  {parts(plan.training)}",
        f"    sampling  {parts(plan.sampling)}; {rows}; a full engine decodes {plan.gpu_tokens_s:,.0f} tokens/s a GPU",
    ]
    if cluster.sample_tokens_s and cluster.sample_tokens_s > plan.roofline_tokens_s:
        lines.append(
            f"    sample_tokens_s is {cluster.sample_tokens_s:,.0f}, and {plan.rows} sequences at these lengths reach "
            f"{plan.roofline_tokens_s:,.0f} with all of the bandwidth: leave it out, or lower it"
        )
    return lines


def money(cluster: Cluster, hours: float, most: float) -> str:
    """What the hours cost, where a price is given."""
    price = cluster.price_gpu_hour
    if price is None:
        return ""
    return f", {hours * cluster.gpus * price:,.0f} to {most * cluster.gpus * price:,.0f} at {price:g} a GPU-hour"
