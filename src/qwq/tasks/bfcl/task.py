"""BFCL: function calls against possible answers (Patil et al., Berkeley Function Calling
Leaderboard, versions 3 and 4).

Categories come from the files' names, BFCL_v4_CATEGORY.json; the answers from possible_answer/
beside them. Models whose chat template has tools are asked with tools, others by BFCL's own system
prompt. The headline is version 3's overall if all three of its parts are there: the mean of
non-live, live and multi-turn (`multi_turn.py`); otherwise the mean of the parts that are. Web
search and memory, which version 4 adds, are not run, and `not_run` names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.jsonl import read_objects
from qwq.data.examples import FileUse
from qwq.envs.base import UNANSWERED
from qwq.errors import DataError
from qwq.tasks.base import Figures, Mark, marked
from qwq.tasks.bfcl import aggregate as rules
from qwq.tasks.bfcl import calls as bfcl_calls
from qwq.tasks.bfcl import multi_turn as bfcl_multi_turn
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.questions import need
from qwq.text.response import parts_of
from qwq.types import Message, Outcome, Problem, Response, Verdict
from qwq.verify.tools import bfcl

Row = Mapping[str, Any]

# The leaderboard's column of each category: (part, column).
COLUMNS = {
    "simple": ("non_live", "Simple AST"),
    "simple_python": ("non_live", "Python Simple AST"),
    "simple_java": ("non_live", "Java Simple AST"),
    "simple_javascript": ("non_live", "JavaScript Simple AST"),
    "java": ("non_live", "Java Simple AST"),
    "javascript": ("non_live", "JavaScript Simple AST"),
    "multiple": ("non_live", "Multiple AST"),
    "parallel": ("non_live", "Parallel AST"),
    "parallel_multiple": ("non_live", "Parallel Multiple AST"),
    "irrelevance": ("non_live", "Irrelevance Detection"),
    "live_simple": ("live", "Python Simple AST"),
    "live_multiple": ("live", "Python Multiple AST"),
    "live_parallel": ("live", "Python Parallel AST"),
    "live_parallel_multiple": ("live", "Python Parallel Multiple AST"),
    "live_irrelevance": ("live", "Irrelevance Detection"),
    "live_relevance": ("live", "Relevance Detection"),
    "multi_turn_base": ("multi_turn", "Base"),
    "multi_turn_miss_func": ("multi_turn", "Miss Func"),
    "multi_turn_miss_param": ("multi_turn", "Miss Param"),
    "multi_turn_long_context": ("multi_turn", "Long Context"),
}
AGENTIC = ("web_search", "memory")
# What version 3's overall cannot do without; Java's and JavaScript's simple categories are part of
# a mean.
WHOLE = tuple(c for c in COLUMNS if c not in ("simple", "java", "javascript", "simple_java", "simple_javascript"))
NO_ANSWER_FILE = ("irrelevance", "live_irrelevance", "live_relevance")
# In version 3 `simple` is Python and `java` and `javascript` are sets beside it.
V3_PYTHON = {"simple": "simple_python"}


def language_of(category: str) -> str:
    return "java" if category.endswith("java") else "javascript" if category.endswith("javascript") else "python"


class Bfcl(FileTask):
    """`native_tools`: functions are offered as the chat template or server offers tools, else by
    BFCL's system prompt.
    """

    name = "bfcl"
    domain = "tools"
    parts = ("non_live", "live", "multi_turn", *COLUMNS)
    two_tool_formats = True
    patterns = ("*.json", "*.jsonl")
    published = Published(
        "BFCL_v4_simple_python.json", url="https://pypi.org/project/bfcl-eval/ (folder bfcl_eval/data)"
    )

    def __init__(self, part: str = "", *, native_tools: bool = True) -> None:
        super().__init__(part)
        self.native_tools = native_tools

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        problems: list[Problem] = []
        found = {re.sub(r"^BFCL_v\d+_", "", p.stem): p for p in data.files(split, self.patterns)}
        for category in [c for c in COLUMNS if c in found]:
            if self.part and self.part not in (category, COLUMNS[category][0], V3_PYTHON.get(category)):
                continue
            problems += self._category(category, found[category], data)
        skipped = [c for c in AGENTIC if c in found and not self.part]
        if skipped:
            data.say(f"not run: {', '.join(skipped)}")
        if not problems:
            wanted = self.part or ", ".join(WHOLE)
            raise DataError(f"{data.place} has no file BFCL_v4_CATEGORY.json of {wanted}: bfcl-eval's data has them")
        return problems

    def _category(self, category: str, path: Path, data: DataFiles) -> list[Problem]:
        data.note(path)
        answers: dict[str, Any] = {}
        if category not in NO_ANSWER_FILE:
            file = path.parent / "possible_answer" / path.name
            if not file.is_file():
                raise DataError(f"no {file}: {category} needs its possible answers (bfcl-eval's data has both)")
            data.note(file)
            answers = {need(r, "id", w): need(r, "ground_truth", w, list) for w, r in json_rows(file)}
        out = []
        for where, row in json_rows(path):
            ident = need(row, "id", where)
            truth = [] if category in NO_ANSWER_FILE else answers.get(ident)
            if truth is None:
                raise DataError(f"{where}: field 'id': {ident!r} has no line in possible_answer/{path.name}")
            if category.startswith("multi_turn"):
                out.append(bfcl_multi_turn.problem(category, row, truth, path.parent, where, native=self.native_tools))
            else:
                out.append(self._single(category, ident, row, truth, where))
        return out

    def _single(self, category: str, ident: str, row: Row, truth: list[Any], where: str) -> Problem:
        functions, question = need(row, "function", where, list), need(row, "question", where, list)
        if (
            len(question) != 1
            or not isinstance(question[0], list)
            or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in question[0])
        ):
            raise DataError(f"{where}: field 'question' must be one list of messages")
        for function in functions:
            parameters = function.get("parameters") if isinstance(function, dict) else None
            if (
                not isinstance(parameters, dict)
                or not isinstance(parameters.get("properties"), dict)
                or not isinstance(function.get("name"), str)
            ):
                raise DataError(f"{where}: field 'function' must hold objects with name and parameters.properties")
        messages = [Message(need(m, "role", where), m["content"]) for m in question[0]]
        language = language_of(category)
        offered: tuple[Mapping[str, Any], ...] = ()
        if self.native_tools:
            offered = tuple(bfcl_calls.tools(functions, language))
        else:
            system = bfcl_calls.system_prompt(functions, language)
            if messages[0].role == "system":
                messages[0] = Message("system", f"{system}\n\n{messages[0].content}")
            else:
                messages.insert(0, Message("system", system))
        about = {"category": category, "functions": functions, "ground_truth": truth}
        # The calls of one turn are judged, and nobody answers them.
        return Problem(ident, "tools", tuple(messages), about, ident, offered, source=category, environment=UNANSWERED)

    def verify(self, problem: Problem, response: Response) -> Verdict:
        return self.mark(problem, response).verdict

    def mark(self, problem: Problem, response: Response) -> Mark:
        # An empty answer is right where no function fits.
        if unanswered := self.unanswered(response, silence=True):
            return marked(unanswered)
        if problem.source.startswith("multi_turn"):
            return marked(bfcl_multi_turn.judge(problem, [*response.turns, parts_of(response)]))
        truth, parts = problem.truth, parts_of(response)
        calls: Any
        if problem.tools:
            calls = None if parts.malformed_calls else [{c.name: dict(c.arguments)} for c in parts.tool_calls]
        else:
            try:
                calls = bfcl_calls.read_calls(parts.answer, language_of(problem.source)) if parts.answer else []
            except bfcl_calls.NotCalls:
                calls = None
        if not calls and "irrelevance" not in problem.source:
            outcome = Outcome.WRONG if parts.answer or parts.malformed_calls else Outcome.NO_ANSWER
            return marked(
                Verdict(outcome, "format: the calls cannot be read" if calls is None else "no call", self.name),
                calls=[],
            )
        # BFCL's version 3 calls Python's simple category `simple`.
        category = V3_PYTHON.get(problem.source, problem.source)
        return marked(bfcl.verify(category, truth["functions"], truth["ground_truth"], calls), calls=calls or [])

    def combine(self, means: Mapping[str, Any]) -> Any:
        parts = part_means(means)
        return sum(parts.values()) / len(parts)

    def figures(self, means: Mapping[str, float], records: Sequence[Row]) -> Figures:
        parts = part_means(means)
        missing = (
            []
            if self.part
            else [c for c in WHOLE if c not in means and not (c == "simple_python" and "simple" in means)]
        )
        whole = not self.part and not missing
        return {
            "categories": dict(means), "parts": parts, "overall_v3": sum(parts.values()) / 3 if whole else None,
            "overall_v4": None, "not_run": [*missing, *(AGENTIC if not self.part else ())],
            "tool_format": "native" if self.native_tools else "prompt",
        }  # fmt: skip


def part_means(means: Mapping[str, Any]) -> dict[str, Any]:
    """Version 3's parts from the categories' figures; a part with only some of its categories is
    their mean by the same rule.
    """
    columns: dict[str, dict[str, Any]] = {}
    for category, value in means.items():
        part, column = COLUMNS[category]
        columns.setdefault(part, {})[column] = value
    out: dict[str, Any] = {}
    for part, found in columns.items():
        if part == "live":
            out[part] = rules.live_v3(found)
        elif part == "non_live" and ("Simple AST" in found or set(rules.LANGUAGES) & set(found)):
            out[part] = rules.non_live_v3(_simple_as_python(found))
        else:
            out[part] = sum(found.values()) / len(found)
    return out


def _simple_as_python(found: Mapping[str, Any]) -> dict[str, Any]:
    """Version 3's file `simple` holds Python's problems; the languages' mean is the leaderboard's
    simple column.
    """
    return {("Python Simple AST" if k == "Simple AST" else k): v for k, v in found.items()}


def json_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """BFCL's .json files hold one object a line."""
    return [(f"{path}, line {number}", row) for number, row in read_objects(path, "BFCL's rows, one object a line")]
