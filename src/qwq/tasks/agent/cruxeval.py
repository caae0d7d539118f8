"""CRUXEval, output prediction: what a function returns for an input (Gu et al. 2024, arXiv
2401.03065).

With a tool the function can be run; `cruxeval:alone` is asked without. What both score tells what
the tool gives. The answer is a literal equal to the output; one that repeats the call is wrong, as
the authors have it.

    {"id", "code", "input", "output"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwq.errors import DataError
from qwq.tasks.agent.base import NO_TOOLS, AgentTask
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.questions import need
from qwq.types import Problem, Response, Verdict
from qwq.verify.answers.literals import MISSING, computed, equal_values, literal

ALONE = "alone"
_TAGGED = re.compile(r"\[ANSWER\](.*?)(?:\[/ANSWER\]|\Z)", re.DOTALL)


class CruxEval(AgentTask):
    name = "cruxeval"
    parts = (ALONE,)
    published = Published("cruxeval.jsonl", "https://huggingface.co/datasets/cruxeval-org/cruxeval")

    def __init__(self, part: str = "") -> None:
        super().__init__(part)
        if part == ALONE:
            self.protocol = replace(self.protocol, tools=NO_TOOLS)  # type: ignore[misc]
            self.tools = NO_TOOLS

    def make(self, row: Mapping[str, Any], where: str, folder: Path, data: DataFiles) -> Problem | str:
        ident, code, output = (need(row, key, where) for key in ("id", "code", "output"))
        given = row.get("input")
        if not isinstance(given, str):
            raise DataError(f"{where}: field 'input' must be text, found {str(given)[:40]!r}")
        if literal(output) is MISSING:
            return "whose output is no literal"
        tools = "You can run it with your tools. " if self.has_tools else ""
        prompt = (
            f"```python\n{code}\n```\n\nWhat does `f({given})` return, even if the function has mistakes? {tools}End "
            "with the value as a Python literal between [ANSWER] and [/ANSWER], such as [ANSWER][1, 'a'][/ANSWER]."
        )
        truth = {"gold": output, "code": code, "input": given}
        return self.problem(ident, prompt, code, truth, scope=given)

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        written = read_output(self.answer(response))
        if written is None:
            return self.verdict(None, "no [ANSWER]")
        if f"f({problem.truth['input']})" in written:
            return self.verdict(False, "the answer repeats the call", answer=written)
        value = literal(written)
        if value is MISSING:
            value = computed(problem.truth["code"], written)
        if value is MISSING:
            return self.verdict(False, "the answer is no Python value", answer=written)
        right = equal_values(value, literal(problem.truth["gold"]))
        return self.verdict(right, "" if right else f"expected {problem.truth['gold']}", answer=written)


def read_output(answer: str) -> str | None:
    """The value in an answer: between the last tags, else behind `==` of the last assert, else the
    whole answer where it is one line.
    """
    tagged = _TAGGED.findall(answer)
    text = tagged[-1] if tagged else answer
    lines = [line.strip().strip("`") for line in text.strip().splitlines() if line.strip().strip("`")]
    asserts = [line for line in lines if line.startswith("assert ") and "==" in line]
    if asserts:
        return asserts[-1].partition("==")[2].strip() or None
    if tagged:
        whole = "\n".join(lines)
        return (whole.partition("==")[2].strip() if "f(" in whole and "==" in whole else whole) or None
    return lines[0] if len(lines) == 1 else None
