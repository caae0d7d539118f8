"""IFEval: 541 prompts with instructions that a program can check (Zhou et al. 2023, arXiv 2311.07911).

The headline is the share of prompts all of whose instructions are followed, read strictly; the loose reading and the shares of
instructions stand beside it. As its authors do, an answer that was cut off is checked like any other; its outcome says so.

    {"prompt", "instruction_id_list", "kwargs"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwq.errors import DataError, nearest
from qwq.tasks.benchmark import Benchmark, Figures, Mark, Row, need
from qwq.types import Message, Outcome, Problem, Turn, Verdict
from qwq.verify.instructions import ifeval


class IfEval(Benchmark):
    name = "ifeval"

    def load(self, data: Any) -> list[Problem]:
        problems = []
        # Graded responses, which some keep beside the prompts, are no prompts.
        for number, (where, row) in enumerate(data.rows(without="response"), 1):
            prompt = need(row, "prompt", where)
            names, kwargs = need(row, "instruction_id_list", where, list), need(row, "kwargs", where, list)
            if len(names) != len(kwargs) or not names or not all(isinstance(k, dict) for k in kwargs):
                raise DataError(
                    f"{where}: field 'kwargs' must hold an object for each of the {len(names)} instructions"
                )
            unknown = next((n for n in names if n not in ifeval.CHECKS), None)
            if unknown is not None:
                raise DataError(
                    f"{where}: field 'instruction_id_list': unknown {unknown!r}: {nearest(str(unknown), ifeval.CHECKS)}"
                )
            ident = str(row.get("key", number))
            truth = {"names": names, "kwargs": kwargs, "prompt": prompt}
            problems.append(
                Problem(f"ifeval/{ident}", "instructions", (Message("user", prompt),), truth, ident, source=self.name)
            )
        return problems

    def mark(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        last, truth = replies[-1], problem.truth
        answer = last.parts.final
        strict, loose = ifeval.grade(answer, truth["names"], truth["kwargs"], truth["prompt"])
        if all(strict):
            outcome, reason = Outcome.CORRECT, "every instruction is followed"
        else:
            outcome = Outcome.UNFINISHED if not last.finished else Outcome.WRONG if answer else Outcome.NO_ANSWER
            reason = "not followed: " + ", ".join(n for n, ok in zip(truth["names"], strict, strict=True) if not ok)
        verdict = Verdict(outcome, reason, self.name, sum(strict), len(strict))
        return Mark(verdict, float(all(strict)), {"strict": strict, "loose": loose})

    def figures(self, means: Mapping[str, float], records: Sequence[Row]) -> Figures:
        out: Figures = {}
        for reading in ("strict", "loose"):
            lists = [r["detail"][reading] for r in records]
            out[f"prompt_{reading}"] = sum(map(all, lists)) / len(lists)
            out[f"instruction_{reading}"] = sum(map(sum, lists)) / sum(map(len, lists))
        return out
