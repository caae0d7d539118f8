"""The plan of a recipe for a cluster: what each GPU holds, tokens of a step, hours. `qwq explain`
prints it.

Assumed: FSDP2 over all GPUs for the trainer (bfloat16 weights and gradients, float32 copies and
AdamW's moments, all sharded; one layer gathered at a time), replicas of `tensor_parallel` GPUs for
the sampler, taking turns on the same GPUs. The rates are the recipe's own (`compute.cluster`), so
hours are as good as those are. Imports without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwq.common.memory import GIB
from qwq.config import Cluster, RlConfig
from qwq.model.footprint import activation_values
from qwq.pipeline.plan.counts import PlanContext, count
from qwq.pipeline.plan.lengths import prompt_lengths
from qwq.pipeline.plan.peak import trained_parameters

LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """One RL stage on a cluster: bytes on each GPU, tokens and seconds of a step."""

    training: dict[str, float]
    sampling: dict[str, float]
    rows: int
    tokens: int
    sampling_s: float
    training_s: float
    steps: int

    @property
    def hours(self) -> float:
        return self.steps * (self.sampling_s + self.training_s) / 3600


def rl_on_cluster(stage: RlConfig, cluster: Cluster, context: PlanContext) -> ClusterPlan:
    """Plan of an RL stage.

    Tokens are the most there can be: every completion as long as it may be.
    """
    recipe, config = context.recipe, context.config
    prompt = int(prompt_lengths(stage.mix.weights(), stage.sources, config.vocab_size).mean)
    parameters, trained = config.num_parameters, trained_parameters(stage.lora, config)
    longest = prompt + stage.max_new_tokens
    micro = max(recipe.compute.micro_batch_tokens, longest)  # a sequence is not divided
    values = activation_values(config, micro)
    if recipe.compute.recompute:
        values = values // (config.num_layers + 1) + micro * config.hidden_size * config.num_layers
    training = {
        "weights": 2 * parameters / cluster.gpus,
        "gradients": 2 * trained / cluster.gpus,
        "AdamW and float32 copies": 12 * trained / cluster.gpus,
        "gathered layers": 2 * 2 * parameters / config.num_layers,
        "activations": 2 * values,
        "logits": 3 * 4 * LOGITS_AT_ONCE,
    }
    if stage.kl > 0 and stage.lora is None:
        training["reference"] = 2 * parameters / cluster.gpus
    replicas = cluster.gpus / cluster.tensor_parallel
    kv_token = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
    wanted = math.ceil(stage.prompts * stage.samples / replicas)
    resting = training["AdamW and float32 copies"]
    weights = 2 * parameters / cluster.tensor_parallel
    room = max(0.0, 0.9 * cluster.gpu_gib * GIB - weights - resting) * cluster.tensor_parallel
    rows = min(wanted, int(room // (kv_token * longest)))
    sampling = {
        "weights": weights,
        "AdamW and float32 copies": resting,
        "key/value cache": rows * longest * kv_token / cluster.tensor_parallel,
    }
    rounds = 1 + stage.refill
    tokens = stage.prompts * stage.samples * stage.max_new_tokens
    fed = tokens + stage.prompts * prompt
    passes = 3 * stage.updates + (1 if stage.kl > 0 else 0) + (stage.updates if recipe.compute.recompute else 0)
    flops = passes * fed * config.flops_per_token(longest // 2)
    return ClusterPlan(
        training, sampling, rows, tokens,
        rounds * tokens / (cluster.sample_tokens_s * cluster.gpus),
        flops / (cluster.gpus * cluster.tflops * 1e12 * cluster.mfu), stage.steps,
    )  # fmt: skip


def cluster_lines(cluster: Cluster, name: str, plan: ClusterPlan) -> list[str]:
    """The plan of stage `name` in words."""

    def parts(found: dict[str, float]) -> str:
        total = sum(found.values())
        verdict = "fits" if total <= cluster.gpu_gib * GIB else f"DOES NOT FIT in {cluster.gpu_gib:g}"
        return ", ".join(f"{k} {v / GIB:.1f}" for k, v in found.items()) + f": {total / GIB:.1f} GiB a GPU, {verdict}"

    rows = f"{plan.rows} rows at once a copy" if plan.rows else "NO ROOM for a single row: raise tensor_parallel"
    return [
        f"  {name}: {count(plan.tokens)} tokens a step, sampling {plan.sampling_s:,.0f} s, training "
        f"{plan.training_s:,.0f} s, {plan.steps} steps in {plan.hours:,.1f} hours",
        f"    training  {parts(plan.training)}",
        f"    sampling  {parts(plan.sampling)}; {rows}",
    ]
