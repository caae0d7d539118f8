"""`qwq eval` with stored samples: asks what is not there yet, grades, stores, counts, reports.

The life of a sample: a `TurnRequest` for each (problem, number, thinking budget) that the folder does not hold; the policy's `Turn`, with
further turns where the benchmark has them; the reply on disk; its mark by the benchmark; the record on disk. Then the
records become the benchmark's entry in results.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwq.common import estimates
from qwq.common.files import write_atomic
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import LOOP_TOKENS
from qwq.errors import ConfigError, InfraError, Interrupted
from qwq.eval.folder import agree, key_of, locked, open_samples, read_object
from qwq.eval.meter import Meter
from qwq.eval.registry import BENCHMARKS, benchmark
from qwq.rollout.policy import Policy, TurnRequest
from qwq.rollout.store import SampleStore
from qwq.tasks.benchmark import Benchmark, Figures, Mark, Protocol
from qwq.tasks.downloads import DataFolder
from qwq.text.response import parse, reopens_thinking, written
from qwq.types import Message, Outcome, ParsedResponse, Problem, StopReason, ToolCall, Turn, Verdict
from qwq.verify.grade import Grader

GRADE_TRIES = 3
RUNS_PROGRAMS = ("humaneval", "mbpp", "livecodebench", "livebench", "code")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line may set. None: the benchmark's own protocol."""

    n: int | None = None
    samples: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = estimates.BOOTSTRAP_SEED
    budgets: tuple[int, ...] = ()
    concurrency: int = 16
    tool_format: str = "auto"

    def __post_init__(self) -> None:
        for name, value in (
            ("n", self.n),
            ("samples", self.samples),
            ("max-new-tokens", self.max_new_tokens),
            ("concurrency", self.concurrency),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}: give at least 1")
        if self.tool_format not in ("auto", "native", "prompt"):
            raise ConfigError(f"--tool-format {self.tool_format}: give auto, native or prompt")
        if any(b < 0 for b in self.budgets) or len(set(self.budgets)) < len(self.budgets):
            raise ConfigError(f"--thinking-budget {self.budgets}: give different numbers of 0 or more")
        if (
            not (self.temperature is None or self.temperature >= 0)
            or not (self.top_p is None or 0 < self.top_p <= 1)
            or not (self.top_k is None or self.top_k >= 0)
        ):
            raise ConfigError("sampling: temperature and top-k are 0 or more, top-p is above 0 and at most 1")

    def protocol(self, own: Protocol) -> Protocol:
        given = {
            f: getattr(self, f)
            for f in ("samples", "max_new_tokens", "temperature", "top_p", "top_k")
            if getattr(self, f) is not None
        }
        if self.temperature == 0:
            given = {"samples": 1, **given}  # greedy samples are all the same
        return replace(own, **given)


@dataclass(slots=True)
class Prepared:
    """A benchmark with its problems, read before the model is."""

    name: str
    bench: Benchmark
    protocol: Protocol
    data: DataFolder
    problems: list[Problem]


def prepare(names: Sequence[str], data: Path | None, options: Options) -> list[Prepared]:
    """Every benchmark's problems. ConfigError or DataError before anything is loaded."""
    if not names:
        raise ConfigError(f"name at least one benchmark: {', '.join(BENCHMARKS)}")
    doubled = next((n for n, count in Counter(names).items() if count > 1), None)
    if doubled:
        raise ConfigError(f"benchmark {doubled} is named twice: name each once")
    if data is not None and not data.expanduser().is_dir():
        raise ConfigError(f"--data {data}: no such folder; it holds BENCH/*.jsonl for each benchmark")
    out = []
    for name in names:
        bench = benchmark(name)
        folder = DataFolder(bench.name, None) if not bench.needs_data else DataFolder.of(bench.name, data)
        out.append(Prepared(bench.label(name), bench, options.protocol(bench.protocol), folder, []))
    for item in out:
        item.problems = _distinct(item.bench.load(item.data))
    return out


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Problems under ids of their own: a repeated id gets its number."""
    seen: Counter[str] = Counter()
    out = []
    for problem in problems:
        seen[problem.id] += 1
        out.append(problem if seen[problem.id] == 1 else replace(problem, id=f"{problem.id}#{seen[problem.id]}"))
    return out


def run(policy: Policy, prepared: Sequence[Prepared], options: Options, out: Path, *, model: str) -> dict[str, Figures]:
    """Sample and grade what `out` lacks; returns and writes its results.

    Interrupted on Ctrl-C, with everything stored. InfraError where a server failed: a benchmark that lacks samples gets no score, the others do.
    """
    from qwq.eval.page import write_page

    failed: list[str] = []
    results: dict[str, Figures] = {}
    with locked(out):
        for item in prepared:
            _choose(item, policy, options)
            try:
                records = _sample(policy, item, options, out)
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; {out} keeps every finished sample, the same command goes on") from None
            except _Incomplete as error:
                failed.append(str(error))
                continue
            figures = summarise(item, records, options) | {"model": model}
            results = read_object(out / "results.json") | {item.name: figures}
            write_atomic(out / "results.json", json.dumps(results, indent=1))
            print(describe(item.name, figures), file=sys.stderr, flush=True)
        if results:
            write_page(out)
    if failed:
        raise InfraError(f"{'; '.join(failed)}; the others are stored, the same command goes on with these")
    return {item.name: results[item.name] for item in prepared}


def _choose(item: Prepared, policy: Policy, options: Options) -> None:
    """Settle how tools are offered and which problems are asked; then agree with what the folder holds."""
    native = policy.native_tools if options.tool_format == "auto" else options.tool_format == "native"
    if item.bench.name == "bfcl" and not native:
        item.bench = benchmark(item.name, native_tools=False)
        item.problems = _distinct(item.bench.load(replace(item.data, quiet=True)))
    item.problems = item.bench.first(item.problems, options.n)


def _settings(policy: Policy, item: Prepared, options: Options) -> Figures:
    protocol = {k: v for k, v in asdict(item.protocol).items() if k != "samples"}
    tools = {"native_tools": item.bench.native_tools} if item.bench.name == "bfcl" else {}
    return {
        "model": dict(policy.identity),
        **protocol,
        "seed": options.seed,
        "data": dict(sorted(item.data.checksums.items())),
        **tools,
    }


def sample_seed(seed: int, bench: str, problem: str, sample: int) -> int:
    """Each sample's own seed; the same under every thinking budget."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{bench}/{problem}/{sample}".encode(), digest_size=6).digest(), "big")


class _Incomplete(InfraError):
    """A benchmark has samples without an answer."""


def _sample(policy: Policy, item: Prepared, options: Options, out: Path) -> list[dict[str, Any]]:
    """All records of the benchmark, old and new, in the order of problems, samples and budgets. _Incomplete where some are missing."""
    agree(out, item.name, _settings(policy, item, options))
    store = open_samples(out, item.name)
    budgets: tuple[int | None, ...] = options.budgets or (None,)
    keys = [(p.id, s, b) for s in range(item.protocol.samples) for p in item.problems for b in budgets]
    by_id = {p.id: p for p in item.problems}
    grader = _grader(item, store)
    meter = Meter(item.name, len(keys), sum(k in store.records for k in keys))
    try:
        for key in [k for k in keys if k in store.ungraded]:
            grader.submit(key, by_id[key[0]], store.ungraded[key])
        asks = deque(
            _ask(item, by_id[k[0]], k, options) for k in keys if k not in store.records and k not in store.ungraded
        )
        turns: dict[Any, list[Turn]] = {}
        failures: list[str] = []
        for ask, reply in policy.generate(lambda: asks.popleft() if asks else None, options.concurrency):
            replies = turns.setdefault(ask.key, [])
            replies.append(reply)
            problem = by_id[ask.key[0]]
            if reply.failure:
                failures.append(reply.failure)
                store.add_failure(_failed(_record(item, problem, ask, turns.pop(ask.key)), item.name))
                continue
            more = item.bench.go_on(problem, replies)
            if more is not None:
                ask.messages, ask.tools = [*ask.messages, _assistant(reply), *more], item.bench.tools(problem, replies)
                asks.appendleft(ask)
                continue
            record = _record(item, problem, ask, turns.pop(ask.key))
            store.reply(record)
            grader.submit(ask.key, problem, record)
            grader.check()
            meter.saw(reply, grader.num_correct)
        grader.results()
    finally:
        grader.close()
        store.close()
        meter.end()
    if failures:
        raise _Incomplete(
            f"{item.name}: {len(failures):,} of {len(keys):,} samples have no answer of the model ({failures[-1]})"
        )
    return [store.records[k] for k in keys]


def _ask(item: Prepared, problem: Problem, key: tuple[str, int, int | None], options: Options) -> TurnRequest:
    p = item.protocol
    params = SamplingParams(p.temperature, p.top_k, p.top_p, max_new_tokens=p.max_new_tokens)
    seed = sample_seed(options.seed, item.name, problem.id, key[1])
    return TurnRequest(
        key, params, problem.messages, problem.tools, seed=seed, thinking_budget=key[2], loop_tokens=LOOP_TOKENS
    )


def _assistant(reply: Turn) -> Message:
    """A turn as the next one is shown it."""
    return Message("assistant", written(reply.parts), reply.calls)


def _record(item: Prepared, problem: Problem, ask: TurnRequest, replies: Sequence[Turn]) -> dict[str, Any]:
    last = replies[-1]
    record: dict[str, Any] = {
        "problem_id": problem.id, "sample": ask.key[1], "thinking_budget": ask.key[2], "group": problem.source, "seed": ask.seed,
        "prompt": problem.messages[-1].content, "output": written(last.parts), "stop_reason": last.stop_reason.value,
        "tokens": sum(r.num_tokens for r in replies), "thinking_tokens": sum(r.num_thinking for r in replies),
        "seconds": round(sum(r.seconds for r in replies), 3), "made": round(time.time(), 3),
    }  # fmt: skip
    if len(problem.messages) > 1:
        record["messages"] = [m.to_dict() for m in problem.messages]
    if last.finish:
        record["finish"] = last.finish
    record["turns"] = [_turn(r) for r in replies]
    return record


def _failed(record: Mapping[str, Any], verifier: str) -> dict[str, Any]:
    """The record of a server's failure. It has no score, since nobody answered."""
    verdict = Verdict(Outcome.INFRA_ERROR, record["turns"][-1]["failure"], verifier)
    return {k: v for k, v in record.items() if k != "turns"} | {
        "verdict": verdict.to_dict(),
        "score": None,
        "detail": {},
    }


def _turn(reply: Turn) -> dict[str, Any]:
    return {
        "thinking": reply.parts.thinking or "", "answer": reply.answer, "stop": reply.stop_reason.value, "tokens": reply.num_tokens,
        "thinking_tokens": reply.num_thinking, "calls": [{"name": c.name, "arguments": dict(c.arguments)} for c in reply.calls],
        "malformed": len(reply.malformed), "seconds": reply.seconds, "estimated": reply.estimated, "finish": reply.finish,
        "failure": reply.failure, "thinking_closed": reply.parts.thinking_closed,
    }  # fmt: skip


def turns_of(record: Mapping[str, Any]) -> list[Turn]:
    """The turns behind a record, as the benchmark marks them."""
    return [_turn_of(t) for t in record["turns"]]


def _turn_of(t: Mapping[str, Any]) -> Turn:
    parts = ParsedResponse(
        t["thinking"] or None, t["answer"], tuple(ToolCall(c["name"], c["arguments"]) for c in t["calls"]),
        thinking_closed=t.get("thinking_closed", bool(t["answer"] or t["calls"]) or not t["thinking"]),
        malformed_calls=("",) * t["malformed"], reopened=reopens_thinking(t["answer"]),
    )  # fmt: skip
    return Turn(
        parts, StopReason(t["stop"]), num_tokens=t["tokens"], num_thinking=t["thinking_tokens"], seconds=t["seconds"],
        estimated=t["estimated"], finish=t.get("finish", ""), failure=t.get("failure", ""),
    )  # fmt: skip


def _grader(item: Prepared, store: SampleStore[Any]) -> Grader:
    """Marks replies beside the sampling; a record is stored when its verdict is there."""

    def judge(problem: Problem, record: Mapping[str, Any]) -> Mark:
        return item.bench.mark(problem, turns_of(record))

    def keep(key: Any, mark: Any) -> None:
        verdict = getattr(mark, "verdict", mark)
        if verdict.outcome is Outcome.INFRA_ERROR:
            raise InfraError(f"grading {key[0]}: {verdict.reason}; the reply is stored, the same command goes on")
        store.add(_graded(grader.submitted[key][1], mark))

    workers = 2 if item.bench.name in RUNS_PROGRAMS else 1
    grader = Grader(workers=workers, retries=GRADE_TRIES - 1, judge=judge, on_verdict=keep)
    return grader


def _graded(record: Mapping[str, Any], mark: Mark) -> dict[str, Any]:
    # The turns repeat the output; they are kept where there is more than that.
    turns = record["turns"] if len(record["turns"]) > 1 or any(t["calls"] for t in record["turns"]) else None
    stored = {k: v for k, v in record.items() if k != "turns"} | ({"turns": turns} if turns else {})
    return stored | {"verdict": mark.verdict.to_dict(), "score": mark.score, "detail": mark.detail}


# -- figures ------------------------------------------------------------------------------------------------------------------


def summarise(item: Prepared, records: Sequence[Mapping[str, Any]], options: Options) -> Figures:
    """A benchmark's entry of results.json; of several thinking budgets the largest is the headline, all stand in `by_budget`."""
    by_budget: dict[int | None, list[Mapping[str, Any]]] = {}
    for record in records:
        by_budget.setdefault(key_of(record)[2], []).append(record)
    entries = {b: _entry(item.bench, rows, item.protocol) for b, rows in by_budget.items()}
    headline = max(entries, key=lambda b: float("inf") if b is None else b)
    out = entries[headline] | {"thinking_budget": headline, "protocol": asdict(item.protocol), "seed": options.seed}
    if len(entries) > 1:
        kept = ("score", "ci95", "mean_tokens", "mean_thinking_tokens", "outcomes")
        out["by_budget"] = [
            {"thinking_budget": b, **{k: e[k] for k in kept}}
            for b, e in sorted(entries.items(), key=lambda x: x[0] or 0)
        ]
    return out


def _entry(bench: Benchmark, records: Sequence[Mapping[str, Any]], protocol: Protocol) -> Figures:
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
        "score": float(bench.combine(means)), "ci95": estimates.bootstrap(strata, bench.combine), "n": len(problems),
        "mean_tokens": tokens / count, "mean_thinking_tokens": thinking / count, "mean_answer_tokens": (tokens - thinking) / count,
        "closed_thinking": sum(_thought_and_answered(r["output"]) for r in records) / count,
        "samples": protocol.samples, "outcomes": dict(sorted(Counter(r["verdict"]["outcome"] for r in records).items())),
    }  # fmt: skip
    if protocol.samples > 1:
        right = [sum(r["score"] == 1 for r in rows) for rows in problems.values()]
        n = protocol.samples
        out["pass_at_k"] = {
            str(k): sum(estimates.pass_at_k(n, c, k) for c in right) / len(right) for k in estimates.ks_for(n)
        }
        if bench.majority_votes:
            out[f"maj_at_{n}"] = sum(_majority(rows) for rows in problems.values()) / len(problems)
    return out | bench.figures(means, records)


def _thought_and_answered(output: str) -> bool:
    parts = parse(output, tools=())
    return parts.thinking is not None and parts.thinking_closed


def _majority(rows: Sequence[Mapping[str, Any]]) -> float:
    from qwq.verify.math.normal import clean

    answers = [clean(r["verdict"]["answer"]) if r["verdict"].get("answer") else None for r in rows]
    return estimates.majority(answers, [r["score"] for r in rows])


def describe(name: str, figures: Mapping[str, Any]) -> str:
    """One benchmark in one line, for people."""
    low, high = figures["ci95"]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in figures["outcomes"].items())
    samples = f" x {figures['samples']} samples" if figures["samples"] > 1 else ""
    closed = (
        f" ({100 * figures['closed_thinking']:.1f}% think and come to an answer)"
        if figures["mean_thinking_tokens"]
        else ""
    )
    missing = f"; not run: {', '.join(figures['not_run'])}" if figures.get("not_run") else ""
    return (
        f"{name}: {100 * figures['score']:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {figures['n']}{samples} ({outcomes}); "
        f"{figures['mean_tokens']:.0f} tokens an answer, {figures['mean_thinking_tokens']:.0f} of them thinking{closed}{missing}"
    )
