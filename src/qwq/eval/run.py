"""The one evaluation: jobs are played, graded, and become records, and the records become figures.

The life of a sample: a `EpisodeJob` for each (problem, number, thinking budget); the `Episode` that
`rollout.play` makes of it; its mark by the task; the record. `qwq eval` keeps records in a folder
(`run`), and makes only those that it lacks; a run's own evaluations after each stage keep them in
memory (`evaluate`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwq.common.files import atomic_file, write_atomic
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import LOOP_TOKENS
from qwq.errors import ConfigError, InfraError, Interrupted
from qwq.eval.folder import Key, agree, locked, open_samples, read_object
from qwq.eval.meter import Meter
from qwq.eval.options import NO_BUDGET, EvalOptions, TaskSelection
from qwq.eval.records import Record, failed, graded, key_of_job, record_of, response_of
from qwq.eval.summarise import describe, entry, summarise
from qwq.model.transformer import Transformer
from qwq.rollout.budget import NO_LIMITS, EpisodeLimits
from qwq.rollout.collect import group_seed
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.rollout.policy import Policy
from qwq.rollout.store import SampleStore
from qwq.tasks.base import Figures, Mark, Protocol
from qwq.text.template import ChatFormat
from qwq.types import Outcome, Problem, Response
from qwq.verify.grade import Grader

GRADE_TRIES = 3
MAX_LOOP = 5  # turns of calls that bring nothing new end a sample's calls
TELL_AT = 0.8  # of the calls: the model is told, once
EVAL_SEED = 20_250_306  # sampling seed of every evaluation of a run; it does not depend on the run's

Ask = Callable[[Iterator[EpisodeJob]], Iterator[Episode]]  # episodes of jobs, in the order in which they end


def gather(
    ask: Ask,
    jobs: Sequence[EpisodeJob],
    *,
    store: SampleStore[Key] | None = None,
    meter: Meter | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> tuple[list[Record | None], list[str]]:
    """Make and grade the samples of all jobs, whose `key` is their item.

    Returns the record of each job, None where there is no answer of the model, and why there is
    none. With a `store`, what it holds is not made again, and replies and records go into it one by
    one. `decode` makes the text that records keep. Grading runs beside the sampling. InfraError if
    a verdict failed by infrastructure.
    """
    gathering = _Gathering(store, meter, decode)
    waiting = {} if store is None else dict(store.ungraded)
    done = {} if store is None else dict(store.records)
    try:
        for job in jobs:
            if key_of_job(job) in waiting:
                gathering.grade(job, waiting[key_of_job(job)])
        for episode in ask(j for j in jobs if key_of_job(j) not in done and key_of_job(j) not in waiting):
            gathering.take(episode)
        gathering.grader.results()
    finally:
        gathering.grader.close()
    records = gathering.records
    return [records.get(_name(job)) or done.get(key_of_job(job)) for job in jobs], gathering.failures


class _Gathering:
    """The records of an evaluation that is under way."""

    def __init__(
        self,
        store: SampleStore[Key] | None,
        meter: Meter | None,
        decode: Callable[[Sequence[int]], str] | None,
    ) -> None:
        self.store, self.meter, self.decode = store, meter, decode
        self.records: dict[tuple[str, Key], Record] = {}
        self.failures: list[str] = []
        self.grader = Grader(retries=GRADE_TRIES - 1, judge=_judge, on_verdict=self._keep)

    def take(self, episode: Episode) -> None:
        """An episode has ended: keep its reply, and have it graded."""
        record = record_of(episode, self.decode(episode.ids) if self.decode else "")
        if episode.failure:
            self.failures.append(episode.failure)
            if self.store is not None:
                self.store.add_failure(failed(record, episode.failure, episode.job.key.name))
            return
        if self.store is not None:
            self.store.reply(record)
        self.grade(episode.job, record, episode.response())
        self.grader.check()
        if self.meter is not None:
            self.meter.saw(episode.num_tokens, self.grader.num_correct)

    def grade(self, job: EpisodeJob, record: Record, response: Response | None = None) -> None:
        self.grader.submit(_name(job), job.problem, (job.key, record, response))

    def _keep(self, name: tuple[str, Key], mark: Any) -> None:
        verdict = getattr(mark, "verdict", mark)
        if verdict.outcome is Outcome.INFRA_ERROR:
            again = "a score cannot be given, run the same command again"
            again = again if self.store is None else "the reply is stored, the same command resumes"
            raise InfraError(f"grading {name[1][0]}: {verdict.reason}; {again}")
        _, record, _ = self.grader.submitted[name][1]
        self.records[name] = graded(record, mark)
        if self.store is not None:
            self.store.add(self.records[name])


def _judge(problem: Problem, answer: tuple[TaskSelection, Record, Response | None]) -> Mark:
    item, record, response = answer
    return item.task.mark(problem, response or response_of(record))


def _name(job: EpisodeJob) -> tuple[str, Key]:
    return job.key.name, key_of_job(job)


def sampling(protocol: Protocol) -> SamplingParams:
    """A protocol as the engine takes it."""
    return SamplingParams(protocol.temperature, protocol.top_k, protocol.top_p, max_new_tokens=protocol.max_new_tokens)


def limits(protocol: Protocol) -> EpisodeLimits:
    """The limits of a sample's calls, those of `qwq agent`. Where they are used up, one more turn
    may answer.
    """
    if protocol.tools is None:
        return NO_LIMITS
    return EpisodeLimits(max_calls=protocol.max_calls, max_loop=MAX_LOOP, last_turn=True, tell_at=TELL_AT)


# -- with a folder ---------------------------------------------------------------------------------


def run(
    policy: Policy, items: Sequence[TaskSelection], options: EvalOptions, out: Path, *, model: str
) -> dict[str, Figures]:
    """Sample and grade what `out` lacks; returns and writes its results.

    Interrupted on Ctrl-C, with everything stored. InfraError where a server failed: a task that
    lacks samples gets no score, the others do.
    """
    from qwq.eval.page import write_page

    print(f"samples and results go to {out}", file=sys.stderr, flush=True)
    missing: list[str] = []
    results: dict[str, Figures] = {}
    with locked(out):
        for item in items:
            item = _with_tools(item, policy, options)
            try:
                records = _stored(policy, item, options, out)
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; {out} keeps every finished sample, the same command continues") from None
            except _Incomplete as error:
                missing.append(str(error))
                continue
            figures = summarise(item, records, options.seed) | {"model": model}
            results = read_object(out / "results.json") | {item.name: figures}
            write_atomic(out / "results.json", json.dumps(results, indent=1))
            print(describe(item.name, figures), file=sys.stderr, flush=True)
        if results:
            write_page(out)
    if missing:
        raise InfraError(f"{'; '.join(missing)}; the others are stored, the same command resumes with these")
    return {item.name: results[item.name] for item in items}


class _Incomplete(InfraError):
    """A task has samples without an answer."""


def _with_tools(item: TaskSelection, policy: Policy, options: EvalOptions) -> TaskSelection:
    """The item with tools offered as the model can take them."""
    if item.problems[0].tools and item.protocol.tools is not None and not policy.native_tools:
        raise ConfigError(
            f"{item.name}: the chat template of {policy.name} has no tools: --tools none asks without them"
        )
    native = policy.native_tools if options.tool_format == "auto" else options.tool_format == "native"
    return item if native or not item.task.two_tool_formats else item.with_tools_in_the_prompt(options.n)


def _stored(policy: Policy, item: TaskSelection, options: EvalOptions, out: Path) -> list[Record]:
    """All records of a task, old and new, in the order of samples, problems and budgets.
    _Incomplete if some are missing.
    """
    agree(out, item.name, {"model": dict(policy.identity), **item.settings(options.seed)})
    jobs = jobs_of(item, options)
    store = open_samples(out, item.name)
    meter = Meter(item.name, len(jobs), sum(key_of_job(j) in store.records for j in jobs))
    try:
        ask = partial(
            play, policy, params=sampling(item.protocol), limits=limits(item.protocol), concurrency=options.concurrency,
            loop_tokens=LOOP_TOKENS,
        )  # fmt: skip
        records, failures = gather(ask, jobs, store=store, meter=meter)
    finally:
        store.close()
        meter.end()
    if failures:
        raise _Incomplete(
            f"{item.name}: {len(failures):,} of {len(jobs):,} samples have no answer of the model ({failures[-1]})"
        )
    return [record for record in records if record is not None]


def jobs_of(item: TaskSelection, options: EvalOptions) -> list[EpisodeJob]:
    """Every sample of a task, the first sample of each problem before the second."""
    return [
        EpisodeJob(
            problem,
            number,
            sample_seed(options.seed, item.name, problem.id, number),
            key=item,
            thinking_budget=None if budget == NO_BUDGET else budget,
        )
        for number in range(item.protocol.samples)
        for problem in item.problems
        for budget in options.budgets or (NO_BUDGET,)
    ]


def sample_seed(seed: int, task: str, problem: str, sample: int) -> int:
    """Each sample's own seed; the same under every thinking budget."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{task}/{problem}/{sample}".encode(), digest_size=6).digest(), "big")


# -- a run's own -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One benchmark of a run, and its records in the order of its problems."""

    item: TaskSelection
    records: list[Record]

    @property
    def passed(self) -> list[float]:
        """1.0 or 0.0 for each problem."""
        return [float(r["verdict"]["outcome"] == Outcome.CORRECT) for r in self.records]

    def summary(self) -> Figures:
        """Its entry of the run's results.json."""
        return entry(self.item.task, self.records, self.item.protocol)


def evaluate(
    model: Transformer,
    chat: ChatFormat,
    benchmarks: Mapping[str, Sequence[Problem]],
    params: SamplingParams,
    *,
    max_rows: int = 256,
    seed: int = EVAL_SEED,
    budget: int | None = None,
) -> dict[str, Evaluated]:
    """One answer of the trainer's model to every problem, under a thinking budget if there is one:
    the run's own protocol.

    All benchmarks are sampled in one batch. InfraError when any verdict failed by infrastructure.
    """
    protocol = Protocol(1, params.temperature, params.top_p, params.top_k, params.max_new_tokens)
    items = [TaskSelection.of(name, problems, protocol) for name, problems in benchmarks.items()]
    asked = [(item, problem) for item in items for problem in item.problems]
    jobs = [
        EpisodeJob(problem, seed=group_seed(seed, number), thinking_budget=budget, key=item)
        for number, (item, problem) in enumerate(asked)
    ]
    policy = TrainerPolicy(model, chat, max_rows=max_rows, count_thinking=True)
    ask = partial(play, policy, params=params, limits=EpisodeLimits(max_tokens=params.max_new_tokens))
    records, failures = gather(ask, jobs, decode=chat.tokenizer.decode)
    if failures:
        raise InfraError(
            f"evaluation: {len(failures)} of {len(jobs)} samples failed ({failures[-1]}); run the same command again"
        )
    by_item = {item.name: [r for j, r in zip(jobs, records, strict=True) if j.key is item and r] for item in items}
    return {item.name: Evaluated(item, by_item[item.name]) for item in items}


def write_transcripts(path: Path, results: Mapping[str, Evaluated]) -> None:
    """One line a problem: what was asked, what came (`text`), the verdict. Readable with less."""
    with atomic_file(path) as file:
        for name, result in results.items():
            for problem, record in zip(result.item.problems, result.records, strict=True):
                row = {"benchmark": name, "canonical": problem.canonical, "level": problem.level, **record}
                file.write(json.dumps(row).encode() + b"\n")
