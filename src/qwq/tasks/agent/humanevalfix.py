"""HumanEvalFix, Python: a function with one bug is mended, the tests decide (Muennighoff et al.
2023, arXiv 2308.07124, HumanEvalPack).

The prompt has the function, its tests as plain asserts and the authors' instruction ("Fix bugs in
NAME."); the program is judged as HumanEval's is. `--tries 2` gives a second try after what the
tests say.

    {"task_id", "declaration", "buggy_solution", "test", "entry_point"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwq.errors import DataError
from qwq.tasks.agent.base import AgentTask
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.humaneval import run_tests, whole_program
from qwq.tasks.questions import CODE_INSTRUCTION, need
from qwq.types import ParsedResponse, Problem, Response, Verdict

TIMEOUT_S = 5.0  # of each test
_LAST_CALL = re.compile(r"\n\s*check\([\w.]+\)\s*\Z")


class HumanEvalFix(AgentTask):
    name = "humanevalfix"
    published = Published("humanevalpack.jsonl", "https://huggingface.co/datasets/bigcode/humanevalpack (data/python)")

    def make(self, row: Mapping[str, Any], where: str, folder: Path, data: DataFiles) -> Problem | str:
        from qwq.verify.code import asserts_from_check

        names = ("task_id", "declaration", "buggy_solution", "entry_point", "test")
        ident, declaration, buggy, entry, test = (need(row, key, where) for key in names)
        if not ident.startswith("Python/"):
            return "in another language than Python"
        try:
            setup, asserts = asserts_from_check(_LAST_CALL.sub("\n", test), entry)
        except (SyntaxError, DataError, ValueError) as error:
            raise DataError(f"{where}: field 'test': {error}") from None
        program = f"{declaration}{buggy}".strip("\n")
        tools = "\n\nYou can run programs with your tools." if self.has_tools else ""
        # Not the authors' `check` and its call: small models write the call behind their program.
        shown = "\n".join([setup, *asserts]).strip()
        prompt = (
            f"```python\n{program}\n```\n\nIts tests:\n\n```python\n{shown}\n```\n\nFix bugs in {entry}."
            f"{tools}{CODE_INSTRUCTION}"
        )
        truth = {
            "tests": {"kind": "asserts", "setup": setup, "asserts": asserts},
            "prompt": declaration,
            "entry_point": entry,
        }
        return self.problem(ident.removeprefix("Python/"), prompt, str(row.get("prompt") or program), truth)

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        return self._tested(problem, self.answer(response))

    def _tested(self, problem: Problem, answer: str) -> Verdict:
        code = whole_program(answer, problem.truth["prompt"], problem.truth["entry_point"])
        if code is None:
            return self.verdict(None, "the answer holds no code")
        return replace(run_tests(code, problem.truth["tests"], timeout_s=TIMEOUT_S), answer=code)

    def feedback(self, problem: Problem, turn: ParsedResponse) -> str:
        verdict = self._tested(problem, turn.final)
        if verdict.correct:
            return ""
        return f"The tests fail: {verdict.reason}\n\nFix the program.{CODE_INSTRUCTION}"
