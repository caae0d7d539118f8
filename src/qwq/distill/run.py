"""`qwq data distill`: problems to a teacher, its answers to a store, the good ones to an SFT file.

Two files: OUT.samples.jsonl gets each sample as it is made, with its verdict, and is what a killed run goes on from (its first line
says how it was begun; a torn last line is cut off). OUT is written whole from the store when all samples are there, so other limits
or another `keep` cost no new samples.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwq.common.files import cut_torn_line, whole_lines, write_atomic
from qwq.common.jsonl import to_line
from qwq.config import Source
from qwq.distill.filters import Answer, conversation, parts_of, reason_against
from qwq.distill.teacher import Job, Sampling, Teacher
from qwq.errors import ConfigError, DataError, InfraError, nearest
from qwq.tasks.procedural import FAMILIES, family
from qwq.tasks.procedural.base import digest
from qwq.tasks.sets import load_source
from qwq.types import CUSTOM, Outcome, Problem, Response, Verdict
from qwq.verify.grade import grade_many

REAL = ("gsm8k", "math", "code", "mbpp", "prompts", "constraints")
FAMILY_NAMES = tuple(
    f"family:{name}" for name in FAMILIES if name != "tools"
)  # tools need an environment beside the teacher
SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. `keep` answers of a problem at most, the shortest thoughts first; `wrap` as in `filters.parts_of`."""

    sources: tuple[str, ...]
    num: int | None = None
    samples: int = 4
    keep: int = 1
    wrap: bool = False
    decontaminate: tuple[str, ...] = ()


def load_problems(plan: Plan) -> list[Problem]:
    """The training problems of all sources, `plan.num` of each. ConfigError for a source that cannot be."""
    if not plan.sources:
        raise ConfigError(
            f"name at least one source: {', '.join(f'{k}=PATH' for k in REAL[:5])}, constraints, {', '.join(FAMILY_NAMES)}"
        )
    problems: list[Problem] = []
    for name in plan.sources:
        kind, _, path = name.partition("=")
        if kind in FAMILY_NAMES:
            drawn = family(kind.removeprefix("family:"))
            problems += [drawn.problem(0, "train", i) for i in range(plan.num or 500)]
            continue
        if kind not in REAL:
            raise ConfigError(f"no source {kind!r}: {nearest(kind, (*REAL, *FAMILY_NAMES))}")
        if not path and kind != "constraints":
            raise ConfigError(f"source {kind} has no path: write {kind}=FILE")
        fields = {
            "kind": kind,
            "path": path or "builtin",
            "split": "train",
            "limit": plan.num,
            "decontaminate": list(plan.decontaminate),
        }
        problems += load_source(Source.model_validate(fields))
    return _with_own_ids(problems)


def _with_own_ids(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once. Rows of two files of one name have one id: the later ones get an id of their own."""
    unique: dict[str, Problem] = {}
    for problem in problems:
        ident = problem.id
        if ident in unique and unique[ident] != problem:
            ident = f"{ident}/{digest(repr(problem)):016x}"
        unique.setdefault(ident, replace(problem, id=ident))
    return list(unique.values())


class Store:
    """Samples on disk, one JSON line each, the settings in the first."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        lines = whole_lines(path)
        if lines:
            self._check(json.loads(lines[0]).get("settings", {}), settings)
            for line in lines[1:]:
                row = json.loads(line)
                if row["text"] or row.get(
                    "finish"
                ):  # else of a version that took a server's failure for an empty answer
                    self.rows[row["problem_id"], row["number"]] = row
        self._file = path.open("ab")
        if not lines:
            self._write({"settings": settings})

    def _check(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        for key, value in new.items():
            if old.get(key) != value:
                raise ConfigError(
                    f"{self.path} was begun with {key} = {old.get(key)!r}, now it is {value!r}: give the same, another --out, or remove the file"
                )

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["problem_id"], row["number"]] = row
        self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(to_line(row))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def distill(plan: Plan, teacher: Teacher, sampling: Sampling, out: Path, *, workers: int = 2) -> dict[str, Any]:
    """Make what is missing, then write `out`; returns the counts. InfraError where teacher or sandbox fail for good."""
    if plan.samples < 1 or plan.keep < 1:
        raise ConfigError(f"--samples is {plan.samples}, --keep-per-problem {plan.keep}: give at least 1 of each")
    problems = load_problems(plan)
    settings = {"teacher": teacher.name, **asdict(sampling)}
    store = Store(out.with_name(out.name + ".samples.jsonl"), settings)
    try:
        _sample(problems, plan, teacher, sampling, store, workers)
    finally:
        store.close()
    return _write(problems, plan, teacher, store, out)


def _sample(
    problems: Sequence[Problem], plan: Plan, teacher: Teacher, sampling: Sampling, store: Store, workers: int
) -> None:
    jobs = [Job(p, k) for p in problems for k in range(plan.samples) if (p.id, k) not in store.rows]
    total, started = len(problems) * plan.samples, time.monotonic()
    said, done, correct = started, total - len(jobs), 0
    _say(f"{len(problems)} problems, {total} samples, {done} of them there already")
    with ThreadPoolExecutor(workers) as pool:
        # Verdicts are made while the teacher goes on; a sample is stored with its verdict.
        waiting: list[Any] = []
        made: Iterator[tuple[Job, Answer]] = teacher.answers(iter(jobs), sampling)
        try:
            for job, answer in made:
                waiting.append(pool.submit(_judged, job, answer))
                while waiting and (waiting[0].done() or len(waiting) > 4 * workers):
                    done, correct = done + 1, correct + _keep(store, waiting.pop(0).result())
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    rate = (done - total + len(jobs)) / (said - started)
                    left = f", {(total - done) / rate / 60:.0f} minutes left" if rate else ""
                    _say(f"{done} of {total} samples, {correct} correct{left}")
        finally:  # also where the teacher fails: what it has answered is kept
            for future in waiting:
                _keep(store, future.result())


def _keep(store: Store, row: dict[str, Any]) -> bool:
    store.add(row)
    return row["verdict"]["outcome"] == Outcome.CORRECT.value


def _judged(job: Job, answer: Answer) -> dict[str, Any]:
    response = Response(answer.text, finished=answer.finished, thinking_open=answer.thinking_open)
    if job.problem.domain == CUSTOM:
        verdict = Verdict(Outcome.UNDECIDED, "no verifier judges an open prompt", CUSTOM)
    else:
        verdict = grade_many([(job.problem, response)], workers=1, retries=2)[0]
    if verdict.outcome is Outcome.INFRA_ERROR:
        raise InfraError(
            f"{job.problem.id} could not be judged ({verdict.reason}): mend that, then run the same command again"
        )
    return {
        "problem_id": job.problem.id, "number": job.number, "text": answer.text, "finished": answer.finished,
        "thinking_open": answer.thinking_open, "finish": answer.finish, "verdict": verdict.to_dict(),
    }  # fmt: skip


def _write(problems: Sequence[Problem], plan: Plan, teacher: Teacher, store: Store, out: Path) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    lines, solved = [], 0
    for problem in problems:
        good: list[tuple[int, int, Answer]] = []
        texts: set[str] = set()
        for number in range(plan.samples):
            row = store.rows[problem.id, number]
            answer = Answer(row["text"], row["finished"], row["thinking_open"])
            reason = reason_against(problem, answer, Verdict.from_dict(row["verdict"]), wrap=plan.wrap)
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
                "messages": conversation(problem, answer, wrap=plan.wrap), "problem_id": problem.id, "source": problem.source,
                "teacher": teacher.name, "sample": number,
            }  # fmt: skip
            lines.append(json.dumps(row, ensure_ascii=False))
    summary = {
        "problems": len(problems), "samples": len(problems) * plan.samples, "kept": len(lines), "problems_kept": solved,
        "dropped": {k: v for k, v in sorted(dropped.items()) if v}, "out": str(out),
    }  # fmt: skip
    if not lines:
        raise DataError(
            f"no answer of {teacher.name} is worth keeping ({_counts(summary)}): take easier problems, another teacher, or --wrap"
        )
    write_atomic(out, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
    _say(f"{summary['kept']} answers to {solved} of {len(problems)} problems in {out}; dropped: {_counts(summary)}")
    return summary


def _counts(summary: dict[str, Any]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items()) or "none"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
