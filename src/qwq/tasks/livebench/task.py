"""LiveBench (White et al. 2024, arXiv 2406.19314): the mean of its tasks by category, then of its
categories.

Covered are all 18 tasks of the release of 2024-11-25, which the announcement of March 2025 used:
maths (AMPS_Hard, math_comp, olympiad), reasoning (web_of_lies_v2, zebra_puzzle, spatial), coding
(LCB_generation, coding_completion), language (typos, connections, plot_unscrambling), data analysis
(cta, tablejoin, tablereformat) and instruction following (summarize, paraphrase, simplify,
story_generation). Questions of other tasks are left out, and counted in a note. From the hub the
questions of that release are taken, from a folder all that are there.

    {"question_id", "category", "task", "turns", "ground_truth"}; coding has LiveCodeBench's tests, instruction following
    "instruction_id_list" and "kwargs"
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.data.examples import FileUse
from qwq.errors import DataError
from qwq.tasks.base import Figures, Mark, marked
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.humaneval import run_tests
from qwq.tasks.livebench.scorers import SCORERS
from qwq.tasks.livecodebench import last_block
from qwq.tasks.questions import canonical, need
from qwq.types import Message, Outcome, Problem, Response, Verdict

Row = Mapping[str, Any]

RELEASE = "2024-11-25"
CATEGORIES = ("math", "reasoning", "coding", "language", "data_analysis", "instruction_following")
CODING = ("LCB_generation", "coding_completion")
TIMEOUT_S = 6.0


class LiveBench(FileTask):
    name = "livebench"
    parts = CATEGORIES
    published = Published(
        "question.jsonl",
        hub=tuple(
            f"livebench/{c}"
            for c in ("math", "reasoning", "coding", "language", "data_analysis", "instruction_following")
        ),
    )
    patterns = ("*.jsonl", "*.parquet", "*/*.jsonl", "*/*/*.jsonl", "*/*.parquet")

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        problems, unknown = [], Counter[str]()
        for _, (_, where, row) in data.rows(split, patterns=self.patterns):
            task, category = need(row, "task", where), str(row.get("category", ""))
            if (self.part and category != self.part) or (not data.given and not in_release(row)):
                continue
            if task not in (*SCORERS, *CODING):
                unknown[task] += 1
                continue
            problems.append(self.problem(row, task, category, where))
        if unknown:
            data.say(
                "tasks without a scorer here are left out: "
                + ", ".join(f"{t} ({n} questions)" for t, n in unknown.items())
            )
        if not problems:
            raise DataError(
                f"{data.place or 'the hub'} has no question of {self.part or 'the 18 tasks'} of LiveBench {RELEASE}"
            )
        return problems

    def problem(self, row: Row, task: str, category: str, where: str) -> Problem:
        if category not in CATEGORIES:
            raise DataError(f"{where}: field 'category' must be one of {', '.join(CATEGORIES)}, found {category!r}")
        turns = _list(row, "turns")
        if not turns or not isinstance(turns[0], str):
            raise DataError(f"{where}: field 'turns' must be a list of texts")
        truth: dict[str, Any] = {"task": task, "row": {**row, "turns": turns}}
        if task in CODING:
            original = row.get("original_json") or {}
            metadata = (original if isinstance(original, dict) else json.loads(original)).get("metadata", "{}")
            tests = {k: need(row, k, where) for k in ("public_test_cases", "private_test_cases")}
            truth["tests"] = {"kind": "livecodebench", **tests, "metadata": metadata}
        elif category == "instruction_following":
            names, kwargs = _list(row, "instruction_id_list"), _list(row, "kwargs")
            if not names or len(names) != len(kwargs):
                raise DataError(f"{where}: fields 'instruction_id_list' and 'kwargs' must be lists of one length")
            # Parquet files give every instruction all arguments that any has.
            truth["row"] |= {
                "instruction_id_list": names,
                "kwargs": [{k: v for k, v in (a or {}).items() if v is not None} for a in kwargs],
            }
        elif row.get("ground_truth") in (None, ""):
            raise DataError(f"{where}: field 'ground_truth' is empty")
        ident = str(need(row, "question_id", where))
        return Problem(
            f"livebench/{ident}", category, (Message("user", turns[0]),), truth, canonical(category, turns[0]),
            source=f"{category}/{task}",
        )  # fmt: skip

    def verify(self, problem: Problem, response: Response) -> Verdict:
        return self.mark(problem, response).verdict

    def mark(self, problem: Problem, response: Response) -> Mark:
        if unanswered := self.unanswered(response):
            return marked(unanswered)
        answer, row, task = self.answer(response), problem.truth["row"], problem.truth["task"]
        if task in CODING:
            code = last_block(answer)
            if not code:
                return marked(self.verdict(None, "no fenced block in the answer"))
            started = row.get("partial_solution") or ""
            code = code if not started or code.startswith(started) else f"{started}\n{code}"
            return marked(run_tests(code, problem.truth["tests"], timeout_s=TIMEOUT_S))
        score = SCORERS[task](answer, row)
        return Mark(
            Verdict(Outcome.CORRECT if score == 1 else Outcome.WRONG, f"{task}: {score:.3f} of 1", self.name), score
        )

    def combine(self, means: Mapping[str, Any]) -> Any:
        categories = by_category(means)
        return sum(categories.values()) / len(categories)

    def figures(self, means: Mapping[str, float], records: Sequence[Row]) -> Figures:
        return {"tasks": dict(means), "categories": by_category(means)}


def _list(row: Row, key: str) -> list[Any]:
    """A list from JSON or from a parquet file; empty where there is none."""
    value = row.get(key)
    return [] if value is None else list(value)


def by_category(means: Mapping[str, Any]) -> dict[str, Any]:
    groups: dict[str, list[Any]] = {}
    for name, value in means.items():
        groups.setdefault(name.partition("/")[0], []).append(value)
    return {category: sum(values) / len(values) for category, values in groups.items()}


def in_release(row: Row) -> bool:
    """Whether a question belongs to the release: it had come and had not gone."""
    came, went = (str(row.get(f"livebench_{k}_date") or "")[:10] for k in ("release", "removal"))
    return came <= RELEASE and (not went or went > RELEASE)
