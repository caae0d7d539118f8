"""IFEval: 541 prompts with instructions that a program can check (Zhou et al. 2023, arXiv
2311.07911).

The headline is the share of prompts all of whose instructions are followed, read strictly; the
loose reading and the shares of instructions are beside it. As its authors do, an evaluation checks
an answer that was cut off like any other; its outcome says so.

    {"prompt", "instruction_id_list", "kwargs"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwq.tasks.base import Figures, Mark
from qwq.tasks.constraints import listed_row
from qwq.tasks.downloads import Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.published import QWEN
from qwq.types import Outcome, Problem, Response, Verdict
from qwq.verify.instructions import ifeval


class IfEval(FileTask):
    name = "ifeval"
    domain = "instructions"
    published = Published(
        "prompts.jsonl", QWEN + "ifeval.jsonl", "04c069cf5d5770952244f7b6bb38eb7b6e5faa143fc70995457a85de455e4cd2"
    )
    without = "response"  # graded responses, which some keep beside the prompts

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem:
        problem = listed_row(row, where, ident)
        return replace(problem, id=f"ifeval/{row['key']}") if "key" in row else problem

    def verify(self, problem: Problem, response: Response) -> Verdict:
        return self.mark(problem, response).verdict

    def mark(self, problem: Problem, response: Response) -> Mark:
        answer, truth = self.answer(response), problem.truth
        names = truth["instruction_id_list"]
        strict, loose = ifeval.grade(answer, names, truth["kwargs"], truth["prompt"])
        if all(strict):
            outcome, reason = Outcome.CORRECT, "every instruction is followed"
        else:
            outcome = Outcome.WRONG if answer else Outcome.NO_ANSWER
            outcome = outcome if response.finished else Outcome.UNFINISHED
            reason = "not followed: " + ", ".join(n for n, ok in zip(names, strict, strict=True) if not ok)
        verdict = Verdict(outcome, reason, self.name, sum(strict), len(strict))
        return Mark(verdict, float(all(strict)), {"strict": strict, "loose": loose})

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        out: Figures = {}
        for reading in ("strict", "loose"):
            lists = [r["detail"][reading] for r in records]
            out[f"prompt_{reading}"] = sum(map(all, lists)) / len(lists)
            out[f"instruction_{reading}"] = sum(map(sum, lists)) / sum(map(len, lists))
        return out
