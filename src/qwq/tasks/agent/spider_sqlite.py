"""Spider's questions over SQLite databases (Yu et al. 2018, arXiv 1809.08887), by execution
accuracy.

A folder holds `questions.jsonl` and `databases/DB.sqlite`. The answer is a query; it is right where
its rows are those of the gold query, columns in any order, rows in order only where the gold query
sorts (`verify/answers/result_sets.py`). Rows whose gold query gives nothing say nothing: they are
left out and counted. `--tries 2` gives a second try where the query fails, after the database's
words. With databases cut to fewer rows, as InterCode's are, scores do not compare
with published ones.

    {"db", "gold", "query", "hardness"}; `question` and `db_id` will do as names too
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.errors import DataError
from qwq.tasks.agent.base import CALL_FIRST, MAX_CALLS, AgentTask
from qwq.tasks.agent.figures import is_error, rate
from qwq.tasks.base import Figures, Protocol
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.questions import need, text_of
from qwq.types import Outcome, ParsedResponse, Problem, Response, Verdict
from qwq.verify.answers.queries import run_queries, schema_of, trusted_rows
from qwq.verify.answers.result_sets import is_ordered, same_result

END = "End your answer with the one query that gives the result, in a ```sql block."
_BLOCK = re.compile(r"```[ \t]*(\w*)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_STATEMENT = re.compile(r"(?:select|with|insert|update|delete|values)\b", re.IGNORECASE)

gold_rows = functools.lru_cache(maxsize=8192)(trusted_rows)


class SpiderSqlite(AgentTask):
    name = "spider_sqlite"
    protocol = Protocol(tools="sql", tries=1, max_calls=MAX_CALLS)
    patterns = ("questions.jsonl",)
    published = Published("questions.jsonl", "https://github.com/princeton-nlp/intercode (data/sql/spider), as SQLite")

    def make(self, row: Mapping[str, Any], where: str, folder: Path, data: DataFiles) -> Problem | str:
        name = need(row, "db" if "db" in row else "db_id", where)
        question = text_of(row, "question" if "question" in row else "query", where)
        gold = text_of(row, "gold", where)
        database = folder / "databases" / f"{name}.sqlite"
        if not database.is_file():
            return "without their database"
        data.note(database)
        try:
            rows = gold_rows(database, gold)
        except DataError:
            return "whose gold query fails"
        if not rows:
            return "whose gold query gives no rows"
        number = where.rpartition(" ")[2]
        prompt = self._about(database, question)
        truth = {"gold": gold, "database": str(database), "hardness": str(row.get("hardness", ""))}
        return self.problem(f"{name}/{number}", prompt, question, truth, scope=name, files={database.name: database})

    def _about(self, database: Path, question: str) -> str:
        """The schema comes first: the prompts of a database share it, and so its KV cache."""
        schema = f"The tables of the SQLite database {database.name}:\n\n```sql\n{schema_of(database)}\n```\n\n"
        tools = f"{CALL_FIRST} " if self.has_tools else ""
        return f"{schema}Question: {question}\n\n{tools}{END}"

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        query = read_query(self.answer(response)) or last_query(response)
        if query is None:
            return self.verdict(None, "the answer holds no query")
        database = Path(problem.truth["database"])
        result = run_queries(database.read_bytes(), [query])[0]
        if result.timed_out:
            return Verdict(Outcome.TIMEOUT, result.error, self.name, answer=query)
        if result.error:
            return self.verdict(False, f"the query fails: {result.error}", answer=query)
        expected = gold_rows(database, problem.truth["gold"])
        right = same_result(result.rows, expected, ordered=is_ordered(problem.truth["gold"]))
        reason = f"{len(result.rows)} rows, {'as' if right else 'not as'} the gold query's {len(expected)}"
        return self.verdict(right, reason, answer=query)

    def feedback(self, problem: Problem, turn: ParsedResponse) -> str:
        """What the database says of a query that fails; of one that runs nothing is told."""
        query = read_query(turn.final)
        if query is None:
            return f"There is no query in the answer. {END}"
        result = run_queries(Path(problem.truth["database"]).read_bytes(), [query])[0]
        return f"The query fails: {result.error}\n\nMend it. {END}" if result.error else ""

    def detail(self, problem: Problem, response: Response, verdict: Verdict) -> Figures:
        return {**super().detail(problem, response, verdict), "hardness": problem.truth["hardness"]}

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        grades = sorted({r["detail"].get("hardness", "") for r in records} - {""})
        by_grade = {g: [r for r in records if r["detail"].get("hardness") == g] for g in grades}
        return {
            **super().figures(means, records),
            "hardness": {grade: rate(rows, lambda r: r["score"]) for grade, rows in by_grade.items()},
        }


def read_query(answer: str) -> str | None:
    """The query of an answer: its last ```sql block, else its last block that is a statement, else
    the whole answer where that is one. None without any.
    """
    blocks = [(tag.lower(), body.strip()) for tag, body in _BLOCK.findall(answer) if body.strip()]
    own = [body for tag, body in blocks if tag in ("sql", "sqlite", "sqlite3")]
    own = own or [body for _, body in blocks if _STATEMENT.match(body)]
    if own:
        return own[-1]
    return answer if not blocks and _STATEMENT.match(answer) else None


def last_query(response: Response) -> str | None:
    """The last query that a tool ran without an error: InterCode takes the last result for the
    answer.
    """
    for call, result in zip(reversed(response.calls), reversed(response.results), strict=False):
        query = call.arguments.get("query")
        if isinstance(query, str) and _STATEMENT.match(query.strip()) and not is_error(result):
            return query
    return None
