"""Records in, figures out: a task's entry of results.json, and one line about it for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common import estimates
from qwq.common.stats import wilson
from qwq.eval.folder import key_of
from qwq.eval.options import TaskSelection, chosen
from qwq.tasks.base import Figures, Protocol, Task
from qwq.text.response import parse

Records = Sequence[Mapping[str, Any]]


def summarise(item: TaskSelection, records: Records, seed: int) -> Figures:
    """A task's entry of results.json; of several thinking budgets the largest is the headline, all
    are in `by_budget`.
    """
    by_budget: dict[int | None, list[Mapping[str, Any]]] = {}
    for record in records:
        by_budget.setdefault(key_of(record)[2], []).append(record)
    entries = {b: entry(item.task, rows, item.protocol) for b, rows in by_budget.items()}
    headline = max(entries, key=size_of)
    out = entries[headline] | {"thinking_budget": headline, "protocol": chosen(item.protocol), "seed": seed}
    if item.use is not None and item.use.left_out:
        out["rows"] = {"rows": item.use.rows, "used": item.use.used, "left_out": dict(item.use.left_out)}
    if len(entries) > 1:
        kept = ("score", "ci95", "mean_tokens", "mean_thinking_tokens", "outcomes", *item.task.swept)
        out["by_budget"] = [
            {"thinking_budget": b, **{k: e[k] for k in kept}}
            for b, e in sorted(entries.items(), key=lambda x: size_of(x[0]))
        ]
    return out


def size_of(budget: int | None) -> float:
    """A thinking budget in tokens, for ordering: None, which is no budget, comes last."""
    return math.inf if budget is None else budget


def entry(task: Task, records: Records, protocol: Protocol) -> Figures:
    """The figures of records under one thinking budget:

    `score` and `ci95` as shares, tokens per sample, outcomes.
    """
    problems: dict[str, list[Mapping[str, Any]]] = {}
    strata: dict[str, list[float]] = {}
    for record in records:
        problems.setdefault(record["problem_id"], []).append(record)
    for rows in problems.values():
        strata.setdefault(rows[0]["group"], []).append(sum(r["score"] for r in rows) / len(rows))
    means = {name: sum(scores) / len(scores) for name, scores in strata.items()}
    count, tokens = len(records), sum(r["tokens"] for r in records)
    thinking = sum(r["thinking_tokens"] for r in records)
    out: Figures = {
        "score": float(task.combine(means)), "ci95": interval(task, strata), "n": len(problems),
        "mean_tokens": tokens / count, "mean_thinking_tokens": thinking / count,
        "mean_answer_tokens": (tokens - thinking) / count,
        "closed_thinking": sum(_thought_and_answered(r["output"]) for r in records) / count,
        "samples": protocol.samples,
        "outcomes": dict(sorted(Counter(r["verdict"]["outcome"] for r in records).items())),
    }  # fmt: skip
    if protocol.samples > 1:
        right = [sum(r["score"] == 1 for r in rows) for rows in problems.values()]
        n = protocol.samples
        out["pass_at_k"] = {
            str(k): sum(estimates.pass_at_k(n, c, k) for c in right) / len(right) for k in estimates.ks_for(n)
        }
        if task.majority_votes:
            out[f"maj_at_{n}"] = sum(_majority(rows) for rows in problems.values()) / len(problems)
    return out | task.figures(means, records)


def interval(task: Task, strata: Mapping[str, Sequence[float]]) -> list[float]:
    """95% interval of the score:

    Wilson's for a plain share of right answers, else a bootstrap over problems.
    """
    scores = [s for group in strata.values() for s in group]
    if len(strata) == 1 and set(scores) <= {0.0, 1.0}:
        return wilson(int(sum(scores)), len(scores))
    return estimates.bootstrap(strata, task.combine)


def _thought_and_answered(output: str) -> bool:
    parts = parse(output, tools=())
    return parts.thinking is not None and parts.thinking_closed


def _majority(rows: Records) -> float:
    from qwq.verify.math.normal import clean

    answers = [clean(r["verdict"]["answer"]) if r["verdict"].get("answer") else None for r in rows]
    return estimates.majority(answers, [r["score"] for r in rows])


def describe(name: str, figures: Mapping[str, Any]) -> str:
    """One task in one line for people, and a line for each of several thinking budgets."""
    low, high = figures["ci95"]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in figures["outcomes"].items())
    samples = f" x {figures['samples']} samples" if figures["samples"] > 1 else ""
    closed = (
        f" ({100 * figures['closed_thinking']:.1f}% think and come to an answer)"
        if figures["mean_thinking_tokens"]
        else ""
    )
    missing = f"; not run: {', '.join(figures['not_run'])}" if figures.get("not_run") else ""
    if "recoveries" in figures:
        failed, recovered = figures["recoveries"]["samples_with_failed_calls"], figures["recoveries"]["n"]
        closed += (
            f"; {figures['calls']['mean']:.1f} calls a sample, {recovered} of {failed} with a failed call recovered"
        )
    closed += _thinking(figures)
    line = (
        f"{name}: {100 * figures['score']:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {figures['n']}{samples} "
        f"({outcomes}); {figures['mean_tokens']:.0f} tokens an answer, {figures['mean_thinking_tokens']:.0f} of "
        f"them thinking{closed}{missing}"
    )
    return "\n".join([line, *map(_under_budget, figures.get("by_budget", ()))])


def _thinking(figures: Mapping[str, Any]) -> str:
    """How long the thinking is, of a task that says it (`overthinking`)."""
    if "thinking" not in figures:
        return ""
    thinking, cut = figures["thinking"], 100 * figures["cut"]["share"]
    return f", {thinking['p50']:,} at the median, {thinking['p99']:,} at 99%, {cut:.1f}% cut"


def _under_budget(figures: Mapping[str, Any]) -> str:
    """The line of one of several thinking budgets."""
    low, high = figures["ci95"]
    budget = figures["thinking_budget"]
    under = "without a budget" if budget is None else f"under a budget of {budget:,}"
    return (
        f"  {under}: {100 * figures['score']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]; {figures['mean_tokens']:.0f} "
        f"tokens an answer, {figures['mean_thinking_tokens']:.0f} of them thinking{_thinking(figures)}"
    )
