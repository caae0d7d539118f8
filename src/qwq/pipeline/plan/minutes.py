"""Seconds of each stage and evaluation on one machine, expected and at most, from two rates of the
machine. Imports without torch.

Training: products at `TRAINING_SHARE` of the measured rate, AdamW's pass over memory, and a fixed
time a layer and micro-batch; reward models read at that rate, too. Sampling: continuous batching of
lengths with a long tail (`simulate.py`); a step reads the weights and what is in the KV cache, and
computes each row. An RL stage looks at the problems of its contract and validation before its first
step as well. Departures from a run: 1. what the program does once (reading, the tokenizer, the
first call) and checkpoints are left out; 2. verdicts of programs do not overlap with sampling;
other verdicts cost nothing; 3. tools' replies, and the turns behind them, are not counted; 4. the
host link of `compute.offload` is not measured. At most: every completion as long as it may be and
every refill full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qwq.config import RlConfig, Source, task_domain
from qwq.model.config import ModelConfig
from qwq.pipeline.plan.cluster import HOST_BYTES_S, Watched, offloaded_bytes, validation_of
from qwq.pipeline.plan.counts import PlanContext, StagePlan
from qwq.pipeline.plan.lengths import prompt_lengths
from qwq.pipeline.plan.machine import Machine
from qwq.pipeline.plan.micro_batches import micro_batches_of
from qwq.pipeline.plan.peak import weight_bytes
from qwq.pipeline.plan.simulate import DecodeCost, fleet_seconds, tailed_lengths

# Of the tiny preset on two AVX-512 cores; `benchmarks/plan_minutes.py` compares them with a run.
TRAINING_SHARE = 0.5  # of the rate of products that a forward and backward pass reach
LAYER_S = 4e-3  # a layer of a forward and backward pass, besides its products
DECODE_S, DECODE_LAYER_S = 1.5e-3, 5e-4  # a decoding step, and each of its layers, likewise
ADAM_BYTES = 28  # moved for a parameter: gradient, weight and two moments read, the last three written
PROGRAMS_S = 250.0  # programs that the sandbox judges a second
MOST_SIMULATED = 8192  # completions; more take proportionally longer
UNKNOWN_PROBLEMS = 1000  # of a benchmark that is read whole


class Span(NamedTuple):
    """Seconds, expected and at most."""

    expected: float
    at_most: float

    def __add__(self, other: Span) -> Span:  # type: ignore[override]
        return Span(self.expected + other.expected, self.at_most + other.at_most)

    def times(self, number: float) -> Span:
        return Span(self.expected * number, self.at_most * number)


class Sampled(NamedTuple):
    """`num` completions, each behind a prompt of `prompt` tokens that `prompts` of them do not
    share; `programs` is the share that the sandbox judges.
    """

    num: int
    prompts: int
    prompt: float
    longest: int
    programs: float = 0.0


def sampling_seconds(work: Sampled, mean: float, context: PlanContext, machine: Machine) -> float:
    """Prefill, decoding and the sandbox's verdicts of completions of `mean` tokens."""
    if not work.num:
        return 0.0
    config, size = context.config, weight_bytes(context.recipe)
    prefill = work.prompts * work.prompt * config.flops_per_token(int(work.prompt / 2)) / machine.flops_s
    kv = 2 * size * config.num_layers * config.num_kv_heads * config.head_dim
    cost = DecodeCost(
        DECODE_S + DECODE_LAYER_S * config.num_layers + size * config.num_parameters / machine.bytes_s,
        config.flops_per_token() / machine.flops_s,
        kv / machine.bytes_s,
    )
    simulated = min(work.num, MOST_SIMULATED)
    lengths = tailed_lengths(simulated, mean, work.longest)
    decoding = fleet_seconds(lengths, 1, context.recipe.compute.max_rows, cost, work.prompt) * work.num / simulated
    return prefill + decoding + work.programs * work.num / PROGRAMS_S


def update_seconds(
    flops: float, steps: float, trained: int, config: ModelConfig, machine: Machine, passes: float | None = None
) -> float:
    """`steps` updates of `trained` parameters, whose `passes` forward and backward passes (default:
    one a step) take `flops` operations in all.
    """
    passes = steps if passes is None else passes
    fixed = passes * LAYER_S * config.num_layers + steps * ADAM_BYTES * trained / machine.bytes_s
    return flops / (TRAINING_SHARE * machine.flops_s) + fixed


def offload_seconds(tokens: float, context: PlanContext) -> float:
    """Of the copies that `compute.offload` makes in passes over `tokens` tokens."""
    if not context.recipe.compute.offload:
        return 0.0
    return offloaded_bytes(tokens, context.config, weight_bytes(context.recipe)) / HOST_BYTES_S


def stage_seconds(plan: StagePlan, trained: int, context: PlanContext, machine: Machine) -> Span | None:
    """Of a stage that only trains; None where its plan does not say its steps."""
    if plan.flops is None or plan.steps is None:
        return None
    again = 4 / 3 if context.recipe.compute.recompute else 1.0
    seconds = update_seconds(again * plan.flops, plan.steps, trained, context.config, machine)
    seconds += offload_seconds(plan.tokens or 0, context)
    return Span(seconds, seconds)


def programs_share(weights: Mapping[str, float], sources: Sequence[Source]) -> float:
    """Share of problems whose answers are programs, of those drawn by these weights."""
    drawn = [(w, task_domain(name)) for name, w in weights.items()] + [(s.weight, s.domain) for s in sources]
    total = sum(w for w, _ in drawn)
    return sum(w for w, domain in drawn if domain == "code") / total if total else 0.0


def rl_seconds(
    stage: RlConfig, prompt: float, trained: int, watched: Watched, context: PlanContext, machine: Machine,
    scored_share: float = 0.0,
) -> Span:  # fmt: skip
    """Of an RL stage whose prompts have `prompt` tokens; `watched` are the contract's problems, and
    a reward model judges `scored_share` of the prompts.
    """
    mean = min(stage.max_new_tokens, stage.expected_tokens or stage.max_new_tokens // 4)
    programs, compute = programs_share(stage.mix.weights(), stage.sources), context.recipe.compute

    def step(mean: float, refilled: float) -> float:
        sampling, sampled = 0.0, 0
        for turn in range(1 + stage.refill):
            prompts = round(stage.prompts * refilled**turn)
            work = Sampled(prompts * stage.samples, prompts, prompt, stage.max_new_tokens, programs)
            sampling, sampled = sampling + sampling_seconds(work, mean, context, machine), sampled + work.num
        dropped = refilled if stage.drop_zero_signal and stage.kl == 0 and not stage.refill and refilled < 1 else 0.0
        kept = stage.prompts * stage.samples * (1 - dropped)
        micro = micro_batches_of(stage, compute.micro_batch_tokens)
        fed = kept * mean + kept / stage.samples * micro.parts * prompt
        one = context.config.flops_per_token(round(prompt + mean / 2))
        reference = 1.0 if stage.kl > 0 else 1 / stage.watch_kl if stage.watch_kl else 0.0  # its forward passes
        forwards = stage.updates * (4 if compute.recompute else 3) + reference
        # Micro-batches are filled by the tokens that there are, which are fewer than the most.
        count = min(micro.count, math.ceil(kept * mean / compute.micro_batch_tokens))
        passes = count * (stage.updates + reference / 3)
        training = update_seconds(forwards * fed * one, stage.updates, trained, context.config, machine, passes)
        training += offload_seconds(stage.updates * fed, context)
        scored = read_seconds(scored_share * sampled, mean)
        return sampling + training + scored + sum(looked(w, mean) for w in (watched, validation_of(stage)))

    def read_seconds(answers: float, mean: float) -> float:
        """Of a reward model that reads so many answers with their prompts."""
        one = context.config.flops_per_token(round(prompt + mean / 2))
        return answers * (prompt + mean) * one / (TRAINING_SHARE * machine.flops_s)

    def looked(watched: Watched, mean: float) -> float:
        """Of the looks at validation problems, as a part of each step."""
        work = Sampled(watched.problems, watched.problems, prompt, stage.max_new_tokens, programs)
        look = sampling_seconds(work, mean, context, machine) + read_seconds(watched.scored, mean)
        return look * watched.looks(stage.steps) / stage.steps

    return Span(step(mean, stage.expected_zero_signal), step(stage.max_new_tokens, 1.0)).times(stage.steps)


def evaluation_seconds(context: PlanContext, machine: Machine) -> Span:
    """Of all benchmarks after one stage, in both readings and under each thinking budget."""
    section = context.recipe.eval
    counts = {name: float(n) for name, n in section.counts().items() if n}
    sources = [s.model_copy(update={"weight": float(s.limit or UNKNOWN_PROBLEMS)}) for s in section.sources]
    num = round(sum(counts.values()) + sum(s.weight for s in sources))
    if not num:
        return Span(0.0, 0.0)
    prompt = prompt_lengths(counts, sources, context.config.vocab_size).mean
    work = Sampled(num, num, prompt, section.max_new_tokens, programs_share(counts, sources))
    readings = 1 + section.greedy + len(section.budgets)
    means = (section.max_new_tokens // 4 or 1, section.max_new_tokens)
    return Span(*(sampling_seconds(work, mean, context, machine) for mean in means)).times(readings)


def span_text(span: Span, machine: Machine) -> list[str]:
    """Minutes expected and at most, and what they cost where the machine has a price."""
    cells = [f"{span.expected / 60:,.1f}", f"{span.at_most / 60:,.1f}"]
    if machine.price is not None:
        cells += [f"{machine.money(span.expected):,.2f}", f"{machine.money(span.at_most):,.2f}"]
    return cells


def minutes_rows(
    stages: Mapping[str, Span | None], evaluations: int, evaluation: Span, machine: Machine
) -> list[list[str]]:
    """A table: each stage, the evaluations of the run, and all of it."""
    head = ["minutes on this machine", "expected", "at most"]
    head += ["cost", "at most"] if machine.price is not None else []
    known = {name: span for name, span in stages.items() if span is not None}
    rows = [head, *([name, *span_text(span, machine)] for name, span in known.items())]
    rows += [[name, *["?"] * (len(head) - 1)] for name in stages if name not in known]
    total = Span(sum(s.expected for s in known.values()), sum(s.at_most for s in known.values()))
    if evaluations:
        all_of_them = evaluation.times(evaluations)
        rows.append([f"evaluation, {evaluations} times", *span_text(all_of_them, machine)])
        total = total + all_of_them
    return [*rows, ["all", *span_text(total, machine)]]
