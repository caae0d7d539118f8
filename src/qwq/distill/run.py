"""`qwq data distill`: problems to a teacher, its answers to a store, the good ones to an SFT file.

Two files: OUT.samples.jsonl (a `rollout.store.SampleStore`) gets each sample with its verdict as it
is made, and a killed run resumes from it (answers without a verdict wait in OUT.samples.pending).
OUT is written whole from the store when all samples are there, so other limits or another `keep`
cost no new samples.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwq.common.files import write_atomic
from qwq.distill.filters import Answer, conversation, parts_of, reason_against
from qwq.distill.own_pairs import need_pairs, pairs_of
from qwq.endpoint.openai_client import GO_ON
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import LOOP_TOKENS
from qwq.errors import ConfigError, DataError, InfraError
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policy import Policy
from qwq.rollout.store import SampleStore
from qwq.tasks.file_task import FileTask
from qwq.tasks.procedural.base import digest
from qwq.tasks.registry import names
from qwq.tasks.sources import load_task, named_task
from qwq.types import CUSTOM, Message, Outcome, Problem, Response, StopReason, Verdict
from qwq.verify.grade import Grader, grade

FAMILY = "family:"  # may stand before the name of a procedural family
SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class DistillPlan:
    """What is asked for.

    `keep` answers of a problem at most, the shortest thoughts first; `wrap` as in
    `filters.parts_of`. `pairs`: rows of right against wrong answers (`own_pairs.py`), `keep` of a
    problem.
    """

    sources: tuple[str, ...]
    num: int | None = None
    samples: int = 4
    keep: int = 1
    wrap: bool = False
    decontaminate: tuple[str, ...] = ()
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class TeacherSampling:
    """How the teacher is sampled.

    `system` is a prompt for the teacher alone: the SFT set does not keep it.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 2048
    seed: int = 0
    system: str | None = None

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens)

    def job(self, problem: Problem, number: int) -> EpisodeJob:
        """Sample `number` of a problem; its key is (problem, number)."""
        asked = problem
        if self.system is not None:
            asked = replace(problem, messages=(Message("system", self.system), *problem.messages))
        return EpisodeJob(asked, number, digest(f"{self.seed}/{problem.id}/{number}") % 2**31, key=(problem, number))


def load_problems(plan: DistillPlan) -> list[Problem]:
    """The training problems of all sources, `plan.num` of each.

    ConfigError for a source that cannot be.
    """
    if not plan.sources:
        raise ConfigError(f"name at least one source, NAME or NAME=FILE: {', '.join(names())}")
    problems: list[Problem] = []
    for name in plan.sources:
        task, path = named_task(name.removeprefix(FAMILY))
        if not task.scored and task.domain != CUSTOM:
            raise ConfigError(f"source {name}: no verifier judges its answers: distil its rows as prompts=PATH")
        if isinstance(task, FileTask) and path is None and not task.makes_rows:
            raise ConfigError(f"source {task.name} has no path: write {task.name}=FILE")
        problems += load_task(task, path, "train", limit=plan.num, decontaminate=plan.decontaminate)
        if problems and problems[-1].tools:
            raise ConfigError(f"source {name}: its answers need tools, and an SFT row of distillation is one turn")
    return _with_own_ids(problems)


def _with_own_ids(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once.

    Rows of two files of one name have one id: the later ones get an id of their own.
    """
    unique: dict[str, Problem] = {}
    for problem in problems:
        ident = problem.id
        if ident in unique and unique[ident] != problem:
            ident = f"{ident}/{digest(repr(problem)):016x}"
        unique.setdefault(ident, replace(problem, id=ident))
    return list(unique.values())


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["problem_id"], row["number"]


def _is_sample(row: Mapping[str, Any]) -> bool:
    """Whether a row holds what the teacher said.

    One that says nothing, and not how it ended, is a server's failure.
    """
    return bool(row["text"] or row.get("finish"))


def distill(
    plan: DistillPlan, teacher: Policy, sampling: TeacherSampling, out: Path, *, workers: int = 2
) -> dict[str, Any]:
    """Make what is missing, then write `out`; returns the counts.

    InfraError where teacher or sandbox fail for good.
    """
    if plan.samples < 1 or plan.keep < 1:
        raise ConfigError(f"--samples is {plan.samples}, --keep-per-problem {plan.keep}: give at least 1 of each")
    problems = load_problems(plan)
    settings = {"teacher": teacher.name, **asdict(sampling)}
    path = out.with_name(out.name + ".samples.jsonl")
    store = SampleStore(
        path, _key, counts=_is_sample, settings=settings, pending=path.with_suffix(".pending"), durable=True
    )
    try:
        _sample(problems, plan, teacher, sampling, store, workers)
    finally:
        store.close()
    made = JudgedSamples(problems, plan, teacher.name, store.records)
    return (_write_pairs if plan.pairs else _write)(made, out)


def _sample(
    problems: Sequence[Problem],
    plan: DistillPlan,
    teacher: Policy,
    sampling: TeacherSampling,
    store: SampleStore[tuple[str, int]],
    workers: int,
) -> None:
    keys = [(p.id, k) for p in problems for k in range(plan.samples)]
    by_id = {p.id: p for p in problems}
    waiting = [k for k in keys if k in store.ungraded]
    jobs = [k for k in keys if k not in store.records and k not in store.ungraded]
    said = started = time.monotonic()
    before, done = len(keys) - len(jobs), 0
    failures: list[str] = []
    _say(f"{len(problems)} problems, {len(keys)} samples, {before} of them there already")

    def keep(key: tuple[str, int], verdict: Verdict) -> None:
        if verdict.outcome is Outcome.INFRA_ERROR:
            raise InfraError(
                f"{key[0]} could not be judged ({verdict.reason}): mend that, then run the same command again"
            )
        store.add(grader.submitted[key][1] | {"verdict": verdict.to_dict()})

    # Verdicts are made while the teacher works on other problems.
    grader = Grader(workers=workers, retries=2, judge=_judge, on_verdict=keep)
    try:
        for key in waiting:
            grader.submit(key, by_id[key[0]], store.ungraded[key])
        asked = (sampling.job(by_id[k[0]], k[1]) for k in jobs)
        for episode in play(teacher, asked, sampling.params, loop_tokens=LOOP_TOKENS):
            problem, number = episode.job.key
            if episode.failure:
                failures.append(episode.failure)
                continue
            answer = _answer(episode)
            row = {"problem_id": problem.id, "number": number, **asdict(answer)}
            store.reply(row)
            grader.submit(_key(row), problem, row)
            grader.check()
            done += 1
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                left = (len(jobs) - done) * (said - started) / done / 60
                correct = grader.num_correct
                _say(f"{before + done} of {len(keys)} samples, {correct} correct, {left:.0f} minutes left")
    finally:  # also if the teacher fails: what it has answered is kept
        grader.results()
    if failures:
        raise InfraError(f"{len(failures):,} samples have no answer ({failures[-1]}); {GO_ON}")


def _answer(episode: Episode) -> Answer:
    last = episode.turns[-1]
    finished = episode.stop_reason is StopReason.END
    return Answer(last.text, finished, episode.thinking_open, last.finish or last.stop_reason.value)


def _judge(problem: Problem, row: Mapping[str, Any]) -> Verdict:
    if problem.domain == CUSTOM:
        return Verdict(Outcome.UNDECIDED, "no verifier judges an open prompt", CUSTOM)
    return grade(problem, Response(row["text"], finished=row["finished"], thinking_open=row["thinking_open"]))


@dataclass(frozen=True, slots=True)
class JudgedSamples:
    """All samples of the teacher named `teacher` with their verdicts; `records` by problem and
    number.
    """

    problems: Sequence[Problem]
    plan: DistillPlan
    teacher: str
    records: Mapping[tuple[str, int], dict[str, Any]]

    def of(self, problem: Problem) -> list[tuple[Answer, Verdict]]:
        """The answers to one problem, in the order of their numbers."""
        rows = [self.records[problem.id, number] for number in range(self.plan.samples)]
        return [(Answer(r["text"], r["finished"], r["thinking_open"]), Verdict.from_dict(r["verdict"])) for r in rows]

    @property
    def counts(self) -> dict[str, int]:
        return {"problems": len(self.problems), "samples": len(self.problems) * self.plan.samples}


def _write(made: JudgedSamples, out: Path) -> dict[str, Any]:
    plan = made.plan
    dropped: Counter[str] = Counter()
    lines, solved = [], 0
    for problem in made.problems:
        good: list[tuple[int, int, Answer]] = []
        texts: set[str] = set()
        for number, (answer, verdict) in enumerate(made.of(problem)):
            reason = reason_against(problem, answer, verdict, wrap=plan.wrap)
            if reason is None and answer.text in texts:
                reason = "duplicate"
            if reason is not None:
                dropped[reason] += 1
                continue
            texts.add(answer.text)
            good.append((len(parts_of(problem, answer, wrap=plan.wrap)[0] or ""), number, answer))
        solved += bool(good)
        dropped["beyond_keep"] += max(0, len(good) - plan.keep)
        for _, number, answer in sorted(good, key=lambda g: g[:2])[: plan.keep]:
            row = {
                "messages": conversation(problem, answer, wrap=plan.wrap), "problem_id": problem.id,
                "source": problem.source, "teacher": made.teacher, "sample": number,
            }  # fmt: skip
            lines.append(json.dumps(row, ensure_ascii=False))
    summary = made.counts | {
        "kept": len(lines), "problems_kept": solved, "dropped": {k: v for k, v in sorted(dropped.items()) if v},
        "out": str(out),
    }  # fmt: skip
    if not lines:
        raise DataError(
            f"no answer of {made.teacher} is worth keeping ({_counts(summary)}): take easier problems, another "
            "teacher, or --wrap"
        )
    write_atomic(out, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
    _say(f"{len(lines)} answers to {solved} of {len(made.problems)} problems in {out}; dropped: {_counts(summary)}")
    return summary


def _write_pairs(made: JudgedSamples, out: Path) -> dict[str, Any]:
    rows = [row for problem in made.problems for row in pairs_of(problem, made.of(problem), made.plan.keep)]
    need_pairs(rows, len(made.problems), made.teacher)
    paired = len({row["problem_id"] for row in rows})
    lines = (json.dumps(row | {"teacher": made.teacher}, ensure_ascii=False) for row in rows)
    write_atomic(out, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
    _say(f"{len(rows)} pairs of {paired} of {len(made.problems)} problems in {out}")
    return made.counts | {"pairs": len(rows), "problems_paired": paired, "out": str(out)}


def _counts(summary: dict[str, Any]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items()) or "none"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
