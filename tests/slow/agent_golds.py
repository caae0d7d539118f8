"""Gold answers of the whole sets for agents score 100%, and what is known to be wrong 0%.

    make test-agent-sets DATA=DIR                      # DIR holds dabench/, spider_sqlite/, ...
    python tests/slow/agent_golds.py DIR [NAME...]

Prints a JSON line a set: how many gold answers are right, how many wrong ones are, and the
exceptions. The exit status is 1 where there is one. About two minutes on one core, most of it
programs of HumanEvalFix that do not end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qwq.tasks import registry
from qwq.tasks.agent.base import NO_TOOLS, AgentTask
from qwq.types import Problem, Response

Answer = Callable[[Problem], str]


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def answers(name: str, root: Path) -> tuple[Answer, Answer]:
    """The gold answer of a problem, and one that is wrong."""
    if name == "humanevalfix":
        lines = (root / name / "humanevalpack.jsonl").read_text(encoding="utf-8").splitlines()
        rows = {row["task_id"].partition("/")[2]: row for row in map(json.loads, lines)}

        def program(key: str) -> Answer:
            return lambda p: block(rows[p.id.partition("/")[2]]["declaration"] + rows[p.id.partition("/")[2]][key])

        return program("canonical_solution"), program("buggy_solution")
    if name == "polyglot":
        folder = next(root / n for n in ("polyglot", "polyglot_python") if (root / n).is_dir())
        return (
            lambda p: block((folder / p.id.partition("/")[2] / ".meta/example.py").read_text(encoding="utf-8")),
            lambda p: block((folder / p.id.partition("/")[2] / p.truth["solution"]).read_text(encoding="utf-8")),
        )
    plain: dict[str, tuple[Answer, Answer]] = {
        "dabench": (lambda p: p.truth["gold"], lambda p: p.truth["gold"].replace("[", "[9", 1)),
        "spider_sqlite": (
            lambda p: block(p.truth["gold"], "sql"),
            lambda p: block(f"SELECT *, 1 FROM ({p.truth['gold'].rstrip(';')})", "sql"),
        ),
        "wtq": (lambda p: f"Answer: {p.truth['gold']}", lambda p: f"Answer: {p.truth['gold']} | and another"),
        "cruxeval": (
            lambda p: f"[ANSWER]{p.truth['gold']}[/ANSWER]",
            lambda p: f"[ANSWER]({p.truth['gold']}, 1)[/ANSWER]",
        ),
        "dbbench": (
            lambda p: block(p.truth["gold"], "sql") if "md5" in p.truth else f"Final Answer: {p.truth['answers']}",
            lambda p: block("SELECT 1", "sql") if "md5" in p.truth else "Final Answer: ['no', 'such', 'thing']",
        ),
    }
    return plain[name]


def check(name: str, root: Path) -> bool:
    task = registry.get(name)
    assert isinstance(task, AgentTask)
    task = task.under(replace(task.protocol, tools=NO_TOOLS))
    problems = task.problems("test", data=task.data(root))
    started = time.monotonic()
    right, wrong = ([task.mark(p, Response(answer(p))).verdict for p in problems] for answer in answers(name, root))
    odd = [f"{p.id}: gold {v.outcome}, {v.reason}" for p, v in zip(problems, right, strict=True) if not v.correct]
    odd += [f"{p.id}: a wrong answer passes" for p, v in zip(problems, wrong, strict=False) if v.correct]
    line = {
        "name": name, "problems": len(problems), "gold_right": sum(v.correct for v in right),
        "wrong_right": sum(v.correct for v in wrong), "exceptions": odd,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return not odd


if __name__ == "__main__":
    names = sys.argv[2:] or ["dabench", "spider_sqlite", "wtq", "humanevalfix", "polyglot", "cruxeval", "dbbench"]
    sys.exit(0 if all([check(name, Path(sys.argv[1])) for name in names]) else 1)
