"""A user's own task as a benchmark: the same rows, environment and verifier that RL trains with, under the task's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.envs import answer_calls, environment_for
from qwq.tasks.base import Task
from qwq.tasks.benchmark import Benchmark, Mark, marked
from qwq.text.response import written
from qwq.types import Message, Problem, Response, Turn
from qwq.verify.grade import grade


class TaskBenchmark(Benchmark):
    needs_data = False

    def __init__(self, task: Task, *, native_tools: bool = True) -> None:
        super().__init__(native_tools=native_tools)
        self.task, self.name, self.protocol = task, task.name, task.protocol

    def label(self, asked: str) -> str:
        return self.name  # not the path that it was asked for by

    def load(self, data: Any) -> list[Problem]:
        return self.task.problems("test")

    def go_on(self, problem: Problem, replies: Sequence[Turn]) -> list[dict[str, Any]] | None:
        """The environment's answers. A sample may have begun in another process, so its earlier calls are replayed first."""
        last = replies[-1]
        if not last.finished or not last.calls or not problem.tools:
            return None
        made = environment_for(problem)
        assert made is not None
        if sum(len(r.calls) for r in replies[:-1]) >= made.max_calls:
            return None
        answers: list[Message] = []
        for reply in replies:
            answers = answer_calls(made, reply.calls)
        return [m.to_dict() for m in answers]

    def judge(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        last = replies[-1]
        made = environment_for(problem)
        calls = tuple(c for r in replies[:-1] for c in r.calls)
        results = tuple(m.content for r in replies[:-1] for m in answer_calls(made, r.calls)) if made else ()
        malformed = sum(len(r.malformed) for r in replies) + len(last.calls)
        response = Response(
            written(last.parts), calls=calls, results=results, malformed_calls=malformed, parts=last.parts
        )
        return marked(grade(problem, response))
