"""RL stages of a recipe on other numbers of GPUs, by simulating their steps: `qwq explain RECIPE
--simulate`. Imports without torch.

In turn: all GPUs sample, then all train. Lag: half of the GPUs sample while the other half trains
on rollouts that are at most so many versions older.
"""

from __future__ import annotations

from collections.abc import Mapping

from qwq.common.memory import GIB
from qwq.config import Cluster
from qwq.pipeline.plan.cluster import ClusterPlan, Times
from qwq.pipeline.plan.simulate import schedule, with_failures

SIZES = (8, 64, 512)
LAGS = (1, 4)
SAMPLER_PARTS = ("sampling", "verifiers", "reward model", "contract checks")


def sized(cluster: Cluster, gpus: int) -> Cluster:
    """The same machines, another number of GPUs."""
    return cluster.model_copy(update={"gpus": gpus})


def _halves(times: Times) -> tuple[float, float, float]:
    """Seconds of a step on the sampler's GPUs, on the trainer's, and between them."""
    sampler = sum(s for part, s in times.parts.items() if part in SAMPLER_PARTS)
    sync = times.parts["weight sync"]
    return sampler, times.total - sampler - sync, sync


def simulation_lines(name: str, plans: Mapping[int, tuple[ClusterPlan, ClusterPlan]], cluster: Cluster) -> list[str]:
    """`plans` by number of GPUs: the plan of all of them, and the one of half as many."""
    lines = [f"  {name}, simulated with the expected lengths:"]
    for gpus, (plan, of_half) in plans.items():
        need = max(sum(plan.training.values()), sum(plan.sampling.values()))
        if need > cluster.gpu_gib * GIB or not plan.rows:
            lines.append(f"    {gpus:>4} GPUs  DOES NOT FIT: {need / GIB:.1f} GiB a GPU of {cluster.gpu_gib:g}")
            continue
        half = _halves(of_half.expected)
        cells = [f"in turn {plan.expected.total:,.0f} s a step, {plan.hours:,.1f} hours"]
        for lag in LAGS:
            run = schedule(plan.steps, *half, lag)
            lost = cluster.restart_s + run.total_s / plan.steps
            total, _ = with_failures(run.total_s, gpus, cluster.mtbf_hours, lost)
            cells.append(
                f"lag {lag}: {run.total_s / plan.steps:,.0f} s, {total / 3600:,.1f} hours, trainer idle "
                f"{run.trainer_idle:.0%}, sampler {run.sampler_idle:.0%}"
            )
        rate = plan.expected.tokens / plan.expected.total
        cells.append(f"{rate / gpus:,.0f} tokens/s a GPU in turn, {plan.failures:.1f} failures")
        lines.append(f"    {gpus:>4} GPUs  " + "; ".join(cells))
    return lines
