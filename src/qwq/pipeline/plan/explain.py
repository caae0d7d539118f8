"""The plan of a recipe as text: `qwq explain`, and what `qwq train --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qwq.common.memory import GIB, free_memory
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.errors import CapacityError, ConfigError
from qwq.model.config import ModelConfig
from qwq.model.footprint import FLOAT
from qwq.pipeline.plan.cluster import cluster_lines, money
from qwq.pipeline.plan.counts import PlanContext, count
from qwq.pipeline.plan.extrapolate import SIZES, simulation_lines, sized
from qwq.pipeline.plan.lengths import ASSUMED_PROMPT, longest_prompt
from qwq.pipeline.plan.machine import Machine, can_measure, measure
from qwq.pipeline.plan.minutes import evaluation_seconds, minutes_rows
from qwq.pipeline.plan.peak import evaluation_memory
from qwq.pipeline.plan.processes import check_context, free_for_each, in_each_process, process_lines
from qwq.pipeline.plan.rows import read_own_data
from qwq.pipeline.plan.shape import model_config
from qwq.pipeline.preflight import missing_lines
from qwq.pipeline.stage import stage_of


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns as wide as their widest cell, the first `left` of them to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# Parts of memory in the order of the table; a kind of stage may have others, which come behind
# them.
PARTS = (
    "program", "weights", "gradients", "AdamW", "float32 copies", "reference", "reward model", "last good check",
    "checkpoint copy", "key/value cache", "activations", "logits", "allocator",
)  # fmt: skip


def explain(
    recipe: Recipe, runs: Path = Path("runs"), *, one_device: bool = True, machine: Machine | None = None
) -> str:
    """The plan as text: model, a line for each stage with what it does and, for one device, a line
    with what memory it needs; with `machine` also one with its minutes there.
    """
    config, folder = model_config(recipe), RunFolder(runs / recipe.run_name)
    check_context(recipe, config)
    uses, data_lines = read_own_data(recipe, folder, config.max_positions)
    contexts = [
        PlanContext(recipe, name, config, uses.get(stage.data_owner(name))) for name, stage in recipe.stages.items()
    ]
    kind = f"{config.family}, {config.num_layers} layers, hidden {config.hidden_size}, vocabulary {config.vocab_size:,}"
    title, size = recipe.model.preset or recipe.model.path, count(config.num_parameters).replace("G", "B")
    lines = [f"{folder}: {title}, {size} parameters ({kind}), {recipe.compute.dtype} on {recipe.compute.device}", ""]
    lines += [*_aligned(_work_table(contexts, folder), 4), ""]
    lines += process_lines(recipe, config)
    lines += _evaluation_lines(recipe)
    own_lines = [line for context in contexts for line in stage_of(recipe, context.name).plan_lines(context)]
    lines += [*own_lines, ""] if own_lines else []
    lines += data_lines + missing_lines(recipe, f"prompts of {ASSUMED_PROMPT} tokens")
    lines += [line for note in position_notes(recipe, config) for line in (note, "")]
    if not one_device:
        return "\n".join(lines)
    try:
        free = free_memory(recipe.compute.device)
        there = f"Free: {free / GIB:.1f} GiB. "
    except CapacityError:
        free, there = None, f"No {recipe.compute.device} here, so nothing says whether it fits. "
    lines += [*_aligned(_memory_table(contexts, free), 1), ""]
    lines += _time_lines(contexts, machine) if machine else []
    disk = 3 * FLOAT * max(stage_of(recipe, name).trained_parameters(recipe, config) for name in recipe.stages) / GIB
    lines.append(f"Tokens are the most there can be. {there}A checkpoint takes {disk:.2f} GiB of disk.")
    return "\n".join(lines)


def _work_table(contexts: Sequence[PlanContext], folder: RunFolder) -> list[list[str]]:
    """What each stage does; `folder` is the run's."""
    rows = [["stage", "kind", "from", "work of a step", "steps", "tokens", "FLOPs"]]
    for context in contexts:
        recipe, name = context.recipe, context.name
        stage = stage_of(recipe, name)
        plan = stage.plan(context)
        done = " (done)" if folder.record_file(name).is_file() else ""
        numbers = [count(n) if n is not None else "?" for n in (plan.steps, plan.tokens, plan.flops)]
        start = recipe.start_of(name) or recipe.model.preset or "model"
        rows.append([name + done, stage.kind, start, plan.work, *numbers])
    return rows


def _time_lines(contexts: Sequence[PlanContext], machine: Machine) -> list[str]:
    """Minutes of each stage on `machine`, what they cost, and by which rates."""
    recipe = contexts[0].recipe
    spans = {context.name: stage_of(recipe, context.name).seconds(context, machine) for context in contexts}
    evaluations = recipe.eval.start + sum(s.evaluate and s.trains_policy for s in recipe.stages.values())
    evaluation = evaluation_seconds(contexts[0], machine)
    rows = minutes_rows(spans, evaluations if evaluation.at_most else 0, evaluation, machine)
    price = "" if machine.price is None else f", {machine.price:g} an hour"
    return [
        *_aligned(rows, 1),
        f"By {machine.flops_s / 1e9:,.0f} GFLOP/s of products of this model's size and {machine.bytes_s / 1e9:,.1f} "
        f"GB/s of memory, {machine.origin}{price}. Expected: completions of expected_tokens; at most: all of them "
        "as long as they may be.",
        "",
    ]


def _memory_table(contexts: Sequence[PlanContext], free: int | None) -> list[list[str]]:
    """What each stage and the evaluation need, in GiB; `free` bytes are there."""
    recipe, config = contexts[0].recipe, contexts[0].config
    free = None if free is None else free_for_each(free, recipe)
    needs = {}
    for context in contexts:
        stage = stage_of(recipe, context.name)
        trained = stage.trained_parameters(recipe, config)
        needs[context.name] = in_each_process(stage.memory(context), recipe, config, trained)
    if recipe.eval.counts() or recipe.eval.sources:
        needs["evaluation"] = evaluation_memory(recipe, config)
    columns = list(dict.fromkeys([*PARTS, *(part for need in needs.values() for part in need.parts)]))
    of_each = " of each process" if recipe.cluster and recipe.cluster.processes > 1 else ""
    rows = [[f"GiB at the peak{of_each}", *columns, "sum", "fits"]]
    for name, need in needs.items():
        cells = [f"{need.parts[c] / GIB:.2f}" if c in need.parts else "-" for c in columns]
        fits = "?" if free is None else "yes" if need.total <= free else "NO"
        rows.append([name, *cells, f"{need.total / GIB:.2f}", fits])
    return rows


def position_notes(recipe: Recipe, config: ModelConfig, names: Iterable[str] | None = None) -> list[str]:
    """Where prompts and completions together may fill the model's positions, by the longest prompt
    there is.
    """
    limits = [
        (limit.key, limit.prompt, limit.limit)
        for name in (recipe.stages if names is None else names)
        if (limit := stage_of(recipe, name).completion_limit(PlanContext(recipe, name, config)))
    ]
    if recipe.eval.counts() or recipe.eval.sources:
        limits.append(
            (
                "eval.max_new_tokens",
                longest_prompt(recipe.eval.counts(), recipe.eval.sources, config.vocab_size),
                recipe.eval.max_new_tokens,
            )
        )
    return [
        f"{key} is {limit:,} and the longest prompt about {prompt:,} tokens, and the model has "
        f"{config.max_positions:,} positions: a response that fills them ends there, unfinished"
        for key, prompt, limit in limits
        if prompt + limit > config.max_positions
    ]


def _evaluation_lines(recipe: Recipe) -> list[str]:
    if not recipe.eval.counts() and not recipe.eval.sources:
        return ["No evaluation.", ""]
    stages = sum(s.evaluate and s.trains_policy for s in recipe.stages.values())
    sets = [f"{n:,} {d}" for d, n in recipe.eval.counts().items()] + [
        f"{s.limit or 'all'} {s.kind} ({s.path or 'level ' + str(s.level)})" for s in recipe.eval.sources
    ]
    readings = "sampled and greedy" if recipe.eval.greedy else "sampled"
    return [
        f"Evaluation {'at the start and ' if recipe.eval.start else ''}after {stages} stages, {readings}, "
        f"{recipe.eval.max_new_tokens} new tokens at most: " + ", ".join(sets),
        "",
    ]


def machine_of(recipe: Recipe, tflops: float | None, gb_s: float | None, price: float | None) -> Machine | None:
    """The machine that minutes are planned for: by both rates where they are given, else the one
    here; None where the recipe's device is not here. ConfigError for one rate alone.
    """
    if (tflops is None) != (gb_s is None):
        raise ConfigError(f"--tflops is {tflops} and --gb-s is {gb_s}: give both, or neither to measure this machine")
    if tflops is not None and gb_s is not None:
        return Machine(tflops * 1e12, gb_s * 1e9, "as given", price)
    return measure(recipe, model_config(recipe), price) if can_measure(recipe.compute.device) else None


def explain_with_cluster(
    recipe: Recipe,
    runs: Path = Path("runs"),
    *,
    simulate: bool = False,
    tflops: float | None = None,
    gb_s: float | None = None,
    price: float | None = None,
) -> str:
    """`explain` with the minutes on one machine (`machine_of`); for a recipe with a cluster the
    plan of that below it instead, with `simulate` also the RL stages on other numbers of GPUs.
    ConfigError where there is no cluster to simulate, or a rate of one machine beside a cluster.
    """
    for option, value in (("--tflops", tflops), ("--gb-s", gb_s), ("--price", price)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{option} {value:g}: give a number above 0")
    cluster = recipe.compute.cluster
    if simulate and cluster is None:
        raise ConfigError(
            f"{recipe.name} has no [compute.cluster] to simulate: give its gpus, or take a recipe with one"
        )
    if cluster is None:
        return explain(recipe, runs, machine=machine_of(recipe, tflops, gb_s, price))
    if tflops is not None or gb_s is not None:
        raise ConfigError(
            f"{recipe.name} has [compute.cluster]: set --compute.cluster.tflops and --compute.cluster.hbm_gb_s "
            "instead of --tflops and --gb-s"
        )
    if price is not None:
        cluster = cluster.model_copy(update={"price_gpu_hour": price / min(cluster.gpus, cluster.gpus_per_node)})
    text = explain(recipe, runs, one_device=False)
    config = model_config(recipe)
    sampled = f"{cluster.hbm_gb_s:,.0f} GB/s at {cluster.hbm_share:.0%}"
    if cluster.sample_tokens_s is not None:
        sampled = f"{cluster.sample_tokens_s:,.0f} sampled tokens/s each"
    lines = [
        f"On {cluster.gpus} GPUs of {cluster.gpu_gib:g} GiB, {cluster.tflops:g} TFLOP/s at {cluster.mfu:.0%}, "
        f"{sampled}, {cluster.tensor_parallel} to a copy when sampling; exactly {config.num_parameters:,} parameters:",
    ]
    hours, most = 0.0, 0.0
    simulated: list[str] = []
    sizes = [cluster.gpus, cluster.gpus + cluster.gpus_per_node]
    sizes += [gpus for n in SIZES for gpus in (n, n // 2)] if simulate else []
    for name in recipe.stages:
        context, stage = PlanContext(recipe, name, config), stage_of(recipe, name)
        if plans := stage.on_cluster([sized(cluster, gpus) for gpus in sizes], context):
            plan, larger, *others = plans
            lines += cluster_lines(cluster, name, plan, larger)
            hours, most = hours + plan.hours, most + plan.hours_at_most
            if simulate:
                simulated += simulation_lines(
                    name, dict(zip(SIZES, zip(others[::2], others[1::2], strict=True), strict=True)), cluster
                )
        elif flops := stage.plan(context).flops:
            again = 4 / 3 if recipe.compute.recompute else 1.0
            stage_hours = again * flops / (cluster.gpus * cluster.tflops * 1e12 * cluster.mfu) / 3600
            lines.append(f"  {name}: {count(flops)} FLOPs, {60 * stage_hours:,.1f} minutes")
            hours, most = hours + stage_hours, most + stage_hours
    lines.append(f"All stages: {hours:,.1f} hours expected, {most:,.1f} at most{money(cluster, hours, most)}")
    return text + "\n".join(lines + simulated)
