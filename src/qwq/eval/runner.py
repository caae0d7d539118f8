"""Run benchmarks on a model: one pass of sampling over all of them, graded by the verifiers that reward training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.common.files import atomic_file
from qwq.common.stats import wilson
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import Thinking
from qwq.errors import InfraError
from qwq.model.transformer import Transformer
from qwq.rollout.collect import collect
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.text.template import ChatFormat
from qwq.types import Outcome, Problem, Rollout
from qwq.verify.grade import grade_many

EVAL_SEED = 20_250_306  # sampling seed of every evaluation; it does not depend on the run's


@dataclass(slots=True)
class BenchmarkResult:
    """One benchmark's figures and the rollouts behind them, in the order of its problems."""

    name: str
    rollouts: list[Rollout]
    thinking_tokens: list[int]

    @property
    def passed(self) -> list[float]:
        """1.0 or 0.0 for each problem."""
        return [float(r.verdicts[-1].correct) for r in self.rollouts]

    def summary(self) -> dict[str, Any]:
        """`score` and `ci95` (Wilson) as fractions, `mean_tokens` of completions, as results.json has them."""
        n = len(self.rollouts)
        passed = int(sum(self.passed))
        return {
            "score": passed / n,
            "ci95": wilson(passed, n),
            "n": n,
            "mean_tokens": math.fsum(len(r.completion_ids) for r in self.rollouts) / n,
            "mean_thinking_tokens": math.fsum(self.thinking_tokens) / n,
            "outcomes": dict(sorted(Counter(r.verdicts[-1].outcome.value for r in self.rollouts).items())),
        }


def thinking_tokens(rollout: Rollout, chat: ChatFormat) -> int:
    """Sampled tokens inside the thinking, over all turns of a rollout; the markers do not count."""
    count, control, between = 0, _turn(rollout, chat), False
    for token, sampled in zip(rollout.completion_ids, rollout.sampled_mask, strict=True):
        if between and not sampled:
            continue  # a tool's result, and the next turn's opening
        if between:
            count, control = count + control.num_thinking, _turn(rollout, chat)
        between = token in chat.eos_ids
        if not between:
            control.push(token, forced=not sampled)
    return count + control.num_thinking


def _turn(rollout: Rollout, chat: ChatFormat) -> Thinking:
    return Thinking(chat.tokenizer, opened=chat.thinking_open, budget=None, max_new_tokens=len(rollout.completion_ids))


def evaluate(
    model: Transformer,
    chat: ChatFormat,
    benchmarks: Mapping[str, Sequence[Problem]],
    params: SamplingParams,
    *,
    max_rows: int = 256,
    seed: int = EVAL_SEED,
    budget: int | None = None,
) -> dict[str, BenchmarkResult]:
    """Sample one answer to every problem, under a thinking budget if there is one, and grade it.

    Raises InfraError when any verdict failed by infrastructure.
    """
    problems = [p for group in benchmarks.values() for p in group]
    budgets = None if budget is None else [budget] * len(problems)
    rollouts, responses = collect(
        TrainerPolicy(model, chat, max_rows=max_rows), problems, params, seed=seed, budgets=budgets
    )
    verdicts = grade_many(list(zip(problems, responses, strict=True)), retries=2)
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        rollout.verdicts.append(verdict)
        if verdict.outcome is Outcome.INFRA_ERROR:
            raise InfraError(
                f"evaluation of {rollout.problem_id}: {verdict.reason}; a score cannot be given, run the same command again"
            )
    out, at = {}, 0
    for name, group in benchmarks.items():
        mine = rollouts[at : at + len(group)]
        at += len(group)
        out[name] = BenchmarkResult(name, mine, [thinking_tokens(r, chat) for r in mine])
    return out


def write_transcripts(
    path: Path, results: Mapping[str, BenchmarkResult], problems: Mapping[str, Sequence[Problem]]
) -> None:
    """One line a problem: what was asked, what came, the verdict. Readable with less."""
    with atomic_file(path) as file:
        for name, result in results.items():
            for problem, rollout in zip(problems[name], result.rollouts, strict=True):
                row = {
                    "benchmark": name,
                    "problem_id": problem.id,
                    "canonical": problem.canonical,
                    "level": problem.level,
                    "prompt": problem.messages[-1].content,
                    "text": rollout.text,
                    "verdict": rollout.verdicts[-1].to_dict(),
                    "stop_reason": rollout.stop_reason.value,
                    "tokens": len(rollout.completion_ids),
                }
                file.write(json.dumps(row).encode() + b"\n")
