"""A simulator of RL steps: sampling with a long tail of lengths, weight sync, steps of lag,
failures. Deterministic, and without torch.

Decoding is bound by memory bandwidth: a step of one engine reads the weights once and the keys and
values of every running sequence (Pope et al. 2022, arXiv 2211.05102). Sequences join when a slot is
free and leave when they end, so a step lasts as long as its slowest engine. Departures from a real
fleet: 1. an engine keeps its share of the prompts; none moves to an idle one; 2. slots are counted
by mean lengths, so none is preempted; 3. failures are spread evenly over the time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

TAIL = 0.8  # standard deviation of the logarithm of lengths where a recipe gives a mean alone


def tailed_lengths(num: int, mean: float, longest: int, tail: float = TAIL) -> list[int]:
    """`num` lengths of a log-normal distribution, cut at `longest`, whose mean is `mean` after the
    cut; in a fixed random order.
    """
    if mean >= longest:
        return [longest] * num
    shape = [NormalDist(0.0, tail).inv_cdf((i + 0.5) / num) for i in range(num)]
    low, high = 1.0, 64.0 * longest  # of the median
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(min(longest, middle * math.exp(x)) for x in shape)
        low, high = (middle, high) if total < mean * num else (low, middle)
    lengths = [max(1, round(min(longest, high * math.exp(x)))) for x in shape]
    random.Random(0).shuffle(lengths)
    return lengths


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds of one decoding step of an engine: `step_s`, and `row_s` for each sequence, and
    `token_s` for each token that the sequences hold.
    """

    step_s: float
    row_s: float = 0.0
    token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an engine did: its steps, sequences added up over the steps, tokens held likewise."""

    steps: int
    rows: int
    held: float

    def seconds(self, cost: DecodeCost) -> float:
        return cost.step_s * self.steps + cost.row_s * self.rows + cost.token_s * self.held


def decode(lengths: Sequence[int], slots: int, prompt: float = 0.0) -> Decoded:
    """Continuous batching of sequences of `lengths` new tokens behind `prompt` tokens, in order, at
    most `slots` at once. O(n log n).
    """
    if slots < 1:
        raise ValueError(f"{slots} slots: an engine needs room for a sequence")
    steps = rows = at = 0
    held = context = 0.0  # tokens that the running sequences hold now
    running: list[tuple[int, int]] = []  # the step at which each ends, and its length
    while at < len(lengths) or running:
        while at < len(lengths) and len(running) < slots:
            heapq.heappush(running, (steps + lengths[at], lengths[at]))
            context += prompt
            at += 1
        num, k = len(running), running[0][0] - steps
        # The context grows by one token a sequence and step.
        held += k * context + num * k * (k + 1) / 2
        context += num * k
        steps, rows = steps + k, rows + num * k
        while running and running[0][0] == steps:
            context -= prompt + heapq.heappop(running)[1]
    return Decoded(steps, rows, held)


def fleet_seconds(lengths: Sequence[int], engines: int, slots: int, cost: DecodeCost, prompt: float = 0.0) -> float:
    """Seconds until the slowest of `engines` has decoded its share of the sequences."""
    shares = {tuple(lengths[i::engines]) for i in range(min(engines, len(lengths)))}
    return max((decode(share, slots, prompt).seconds(cost) for share in shares), default=0.0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A run of steps on trainer and engines: seconds in all, shares of it in which each is idle,
    and the largest number of versions between sampling and training.
    """

    total_s: float
    trainer_idle: float
    sampler_idle: float
    lag: int


def schedule(steps: int, sampling_s: float, training_s: float, sync_s: float, max_lag: int = 0) -> Schedule:
    """Steps whose rollouts are at most `max_lag` versions behind the weights that they train; 0: in
    turn. Step k samples with the newest version there is, and waits for version k - `max_lag`.
    """
    ready = [0.0]  # when version v is on the engines
    sampler_free = trainer_free = 0.0
    largest = 0
    for step in range(steps):
        begins = max(sampler_free, ready[max(0, step - max_lag)])
        version = max(v for v, at in enumerate(ready) if at <= begins)
        sampler_free = begins + sampling_s
        trainer_free = max(sampler_free, trainer_free) + training_s
        ready.append(trainer_free + sync_s)
        largest = max(largest, step - version)
    total = ready[-1]
    return Schedule(total, 1 - steps * training_s / total, 1 - steps * sampling_s / total, largest)


def with_failures(seconds: float, gpus: int, mtbf_hours: float, lost_s: float) -> tuple[float, float]:
    """Seconds of a run that loses `lost_s` with each failure, and how many there are; failures also
    fall into the time that is lost. Infinite where each costs more than the time between two.
    """
    rate = gpus / (mtbf_hours * 3600)
    share = rate * lost_s
    total = seconds / (1 - share) if share < 1 else float("inf")
    return total, rate * total
