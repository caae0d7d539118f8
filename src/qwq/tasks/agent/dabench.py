"""InfiAgent-DABench: questions about a CSV table, answers as `@name[value]` (Hu et al. 2024, arXiv
2401.05507).

A folder holds `questions.jsonl` and `labels.jsonl` (the authors' names, `da-dev-questions.jsonl`
and so on, will do) and the tables in `tables/`. A question is right where all its parts are;
`part_share` is the mean share of right parts. The data is CC BY-NC 4.0: it comes with no release
of qwq.

    {"id", "question", "constraints", "format", "file_name", "level"}
    {"id", "common_answers": [[name, value], ...]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.data.examples import FileUse
from qwq.data.row_files import read_rows
from qwq.errors import DataError
from qwq.tasks.agent.base import CALL_FIRST, AgentTask
from qwq.tasks.agent.figures import rate
from qwq.tasks.base import Figures
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.questions import need, text_of
from qwq.types import Problem, Response, Verdict
from qwq.verify.answers.named_values import read_values, right_parts

LEVELS = ("easy", "medium", "hard")
PREVIEW_CHARS = 2000
LABELS = {"questions.jsonl": "labels.jsonl", "da-dev-questions.jsonl": "da-dev-labels.jsonl"}
TABLES = ("tables", "da-dev-tables")


class DaBench(AgentTask):
    name = "dabench"
    parts = LEVELS
    patterns = tuple(LABELS)
    published = Published("da-dev-questions.jsonl", "https://github.com/InfiAgent/InfiAgent (examples/DA-Agent/data)")

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        self._labels: dict[Any, dict[str, str]] = {}
        for questions in data.files(split, self.patterns):
            path = questions.parent / LABELS.get(questions.name, "labels.jsonl")
            if not path.is_file():
                raise DataError(f"no {path}: the labels of {questions.name} are needed beside it")
            data.note(path)
            for row in read_rows(path):
                pairs = need(row.fields, "common_answers", row.where, list)
                if not all(isinstance(p, list) and len(p) == 2 for p in pairs):
                    raise DataError(f"{row.where}: field 'common_answers' must be a list of [name, value]")
                self._labels[row.fields.get("id")] = {str(name): str(value) for name, value in pairs}
        return super().load(data, split, use)

    def make(self, row: Mapping[str, Any], where: str, folder: Path, data: DataFiles) -> Problem | str:
        ident, name = need(row, "id", where, (int, str)), need(row, "file_name", where)
        level = need(row, "level", where)
        if self.part and level != self.part:
            return f"not {self.part}"
        if ident not in self._labels:
            return "without a label"
        table = next((folder / t / name for t in TABLES if (folder / t / name).is_file()), None)
        if table is None:
            return "without their table"
        data.note(table)
        question = text_of(row, "question", where)
        # The table comes first: the prompts of its questions share it, and so its KV cache.
        blank = row.get("constraints") == ""  # a question may have none
        parts = [
            self._about(table), f"Question: {question}", "" if blank else text_of(row, "constraints", where),
            f"End your answer with the result in exactly this form: {text_of(row, 'format', where)}",
        ]  # fmt: skip
        prompt = "\n\n".join(filter(None, parts))
        truth = {"gold": "\n".join(f"@{k}[{v}]" for k, v in self._labels[ident].items()), "level": level}
        truth |= {"values": self._labels[ident]}
        return self.problem(ident, prompt, question, truth, scope=name, files={name: table})

    def _about(self, table: Path) -> str:
        if self.has_tools:
            return f"A table is in the file {table.name} in the working folder of your tools. {CALL_FIRST}"
        with table.open(encoding="utf-8", errors="replace") as file:
            head = file.read(PREVIEW_CHARS + 1)
        if len(head) > PREVIEW_CHARS:
            head = head[:PREVIEW_CHARS].rpartition("\n")[0]
            return f"A table, {table.name}. Its first lines:\n\n{head}"
        return f"A table, {table.name}:\n\n{head.rstrip()}"

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        values = read_values(self.answer(response))
        if not values:
            return self.verdict(None, "the answer holds no @name[value]")
        parts = right_parts(values, problem.truth["values"])
        wrong = [name for name, right in parts.items() if not right]
        shown = " ".join(f"@{name}[{value}]" for name, value in values.items())
        reason = f"wrong or missing: {', '.join(wrong)}" if wrong else "all parts are right"
        return Verdict(
            self.verdict(not wrong).outcome, reason, self.name, len(parts) - len(wrong), len(parts), answer=shown
        )

    def detail(self, problem: Problem, response: Response, verdict: Verdict) -> Figures:
        return {"level": problem.truth["level"], "part_share": verdict.share if verdict.total else 0.0}

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        levels = {level: [r for r in records if r["detail"].get("level") == level] for level in LEVELS}
        return {
            **super().figures(means, records),
            "part_share": rate(records, lambda r: r["detail"].get("part_share", 0.0)),
            "levels": {level: rate(rows, lambda r: r["score"]) for level, rows in levels.items() if rows},
        }
