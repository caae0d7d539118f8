"""DBBench of AgentBench: questions about a table in a database, and changes to it (Liu et al. 2023,
arXiv 2308.03688).

The table is put into SQLite, every column as text. A question is right where the list of answers is
(`verify/answers/answer_sets.py`), a change where the table's md5 is the expected one after the
statements that ran, which are run again for the verdict. The authors use MySQL: its comparisons
ignore case, SQLite's do not. Without tools the whole table is in the prompt, and the answer to a
change is one statement. The headline is the share of right answers; `kinds` has it by kind.

    {"description", "add_description", "label": [...], "type": ["INSERT"], "answer_md5",
     "table": {"table_name", "table_info": {"columns": [{"name"}], "rows": [[...]]}}}
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.envs.base import Environment, environment, tool
from qwq.errors import DataError
from qwq.tasks.agent.base import MAX_CALLS, AgentTask
from qwq.tasks.agent.figures import is_error, rate
from qwq.tasks.agent.spider_sqlite import read_query
from qwq.tasks.base import Figures, Protocol
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.questions import need, text_of
from qwq.types import Outcome, Problem, Response, Verdict
from qwq.verify.answers.answer_sets import read_final_answer, same_answers, table_md5
from qwq.verify.answers.queries import QueryResult, Statement, run_queries

CHANGES = ("INSERT", "UPDATE", "DELETE")
DESK = "dbbench"
SHOWN_ROWS, SHOWN_CHARS = 100, 6000
_MD5 = re.compile(r"[0-9a-f]{32}")


@environment(DESK)
class TableDesk(Environment):
    """One table in SQLite, in the jail. Each call runs all earlier statements again on a fresh
    database, as the verdict does.
    """

    max_calls = MAX_CALLS

    async def reset(self, problem: Problem) -> None:
        self._statements = setup(problem.truth["table"])

    @tool
    async def execute_sql(self, query: str) -> str:
        """Run one SQL statement (SQLite) on the table. Returns its rows."""
        results = await asyncio.to_thread(run_queries, None, [*self._statements, query])
        if not results[-1].error:
            self._statements.append(query)
        return shown(results[-1])


class DbBench(AgentTask):
    name = "dbbench"
    protocol = Protocol(tools=DESK, tries=1, max_calls=MAX_CALLS)
    patterns = ("*.jsonl",)
    published = Published("dev.jsonl", "https://github.com/THUDM/AgentBench (data/dbbench)")

    def make(self, row: Mapping[str, Any], where: str, folder: Path, data: DataFiles) -> Problem | str:
        kind = need(row, "type", where, list)[0]
        if isinstance(row.get("table"), list):
            return "with several tables"
        table = _table(row, where)
        if len({c.lower() for c in table["columns"]}) < len(table["columns"]):
            return "with two columns of one name"  # SQLite does not tell cases apart
        truth: dict[str, Any] = {"kind": kind, "table": table}
        if kind in CHANGES:
            md5 = _MD5.search(str(row.get("answer_md5", "")))
            if md5 is None:
                return "without the changed table's md5"
            truth |= {"md5": md5[0], "gold": str(need(row, "label", where, list)[0])}
        else:
            answers = [str(value) for value in need(row, "label", where, list)]
            truth |= {"answers": answers, "gold": str(answers)}
        question = text_of(row, "description", where)
        prompt = f"{question}\n\n{str(row.get('add_description') or '').strip()}\n\n{self._about(kind, table)}".strip()
        return self.problem(where.rpartition(" ")[2], prompt, question, truth, scope=table["name"])

    def _about(self, kind: str, table: Mapping[str, Any]) -> str:
        change = kind in CHANGES
        final = 'End with one line `Final Answer: ["ANSWER1", "ANSWER2", ...]`.'
        if self.has_tools:
            work = "Change the table with your tools" if change else "Look into the table with your tools"
            return f"{work}. All columns are text. {'End by saying that it is done.' if change else final}"
        rows = "\n".join(" | ".join(row) for row in (table["columns"], *table["rows"]))
        final = "Answer with the one SQL statement (SQLite) that does it, in a ```sql block." if change else final
        return f"The table, whose columns are all text:\n\n{rows}\n\n{final}"

    def verify(self, problem: Problem, response: Response) -> Verdict:
        truth = problem.truth
        if unanswered := self.unanswered(response, silence=truth["kind"] in CHANGES):
            return unanswered
        if truth["kind"] in CHANGES:
            return self._changed(problem, response)
        answer = read_final_answer(self.answer(response))
        if answer is None:
            return self.verdict(None, "no line `Final Answer: [...]`")
        right = same_answers(answer, truth["answers"])
        return self.verdict(right, "" if right else f"expected {truth['answers']}", answer=str(answer))

    def _changed(self, problem: Problem, response: Response) -> Verdict:
        table = problem.truth["table"]
        ran = [
            str(call.arguments.get("query"))
            for call, result in zip(response.calls, response.results, strict=False)
            if call.name == "execute_sql" and not is_error(result)
        ]
        if not problem.tools and (query := read_query(self.answer(response))):
            ran = [query]
        if not ran:
            return self.verdict(None, "no statement was run")
        columns = ", ".join(map(quoted, table["columns"]))
        results = run_queries(None, [*setup(table), *ran, f"SELECT {columns} FROM {quoted(table['name'])}"])
        last, written = results[-1], "\n".join(ran)
        if last.timed_out:
            return Verdict(Outcome.TIMEOUT, last.error, self.name, answer=written)
        if last.error:
            return self.verdict(False, f"the table cannot be read: {last.error}", answer=written)
        right = table_md5(last.rows) == problem.truth["md5"]
        return self.verdict(right, "" if right else f"another table than after {problem.truth['gold']}", answer=written)

    def detail(self, problem: Problem, response: Response, verdict: Verdict) -> Figures:
        return {"kind": problem.truth["kind"]}

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        kinds = sorted({str(r["detail"].get("kind")) for r in records})
        by_kind = {kind: [r for r in records if r["detail"].get("kind") == kind] for kind in kinds}
        return {
            **super().figures(means, records),
            "kinds": {kind: rate(rows, lambda r: r["score"]) for kind, rows in by_kind.items()},
        }


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def setup(table: Mapping[str, Any]) -> list[Statement]:
    """The statements that make the table and fill it."""
    name, columns = quoted(table["name"]), ", ".join(f"{quoted(c)} TEXT" for c in table["columns"])
    holes = ", ".join("?" * len(table["columns"]))
    insert = f"INSERT INTO {name} VALUES ({holes})"
    return [f"CREATE TABLE {name} ({columns})", *((insert, row) for row in table["rows"])]


def shown(result: QueryResult) -> str:
    """A result as the model reads it."""
    if result.error:
        return f"error: {result.error}"
    if not result.columns:
        return "done"
    lines = [" | ".join(result.columns)]
    lines += [" | ".join("NULL" if v is None else str(v) for v in row) for row in result.rows[:SHOWN_ROWS]]
    if len(result.rows) > SHOWN_ROWS:
        lines.append(f"[{len(result.rows) - SHOWN_ROWS:,} more rows]")
    text = "\n".join(lines)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}\n[{len(text) - SHOWN_CHARS:,} characters cut]"


def _table(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Name, columns and rows (all text) of a row's table. DataError for one of another form."""
    table = need(row, "table", where, dict)
    info = need(table, "table_info", where, dict)
    columns = [str(c["name"]) for c in need(info, "columns", where, list) if isinstance(c, dict) and "name" in c]
    rows = [[str(v) for v in values] for values in need(info, "rows", where, list) if isinstance(values, list)]
    if any(len(values) != len(columns) for values in rows):
        raise DataError(f"{where}: a row of the table has other than its {len(columns)} columns")
    return {"name": need(table, "table_name", where), "columns": columns, "rows": rows}
