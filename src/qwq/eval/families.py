"""The procedural families of the recipes as benchmarks: math, code, instructions, tools, preference.

Endless and made here, so there is no file; sampled at temperature 1 like a run's own evaluations. `tools` goes on after a call with
the calculator's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.envs import CalculatorEnvironment, answer_calls, environment_for
from qwq.tasks.benchmark import Benchmark, Mark, Protocol, marked
from qwq.tasks.procedural import family
from qwq.text.response import written
from qwq.types import DOMAINS, Problem, Response, Turn
from qwq.verify.grade import grade

DEFAULT_N = 500


class Family(Benchmark):
    needs_data = False
    protocol = Protocol(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=512)

    def load(self, data: Any) -> list[Problem]:
        return family(self.name).fixed("test", DEFAULT_N)

    def first(self, problems: list[Problem], n: int | None) -> list[Problem]:
        return family(self.name).fixed("test", n or DEFAULT_N)

    def go_on(self, problem: Problem, replies: Sequence[Turn]) -> list[dict[str, Any]] | None:
        last = replies[-1]
        if (
            not problem.tools
            or not last.finished
            or not last.calls
            or sum(len(r.calls) for r in replies[:-1]) >= CalculatorEnvironment.max_calls
        ):
            return None
        made = environment_for(problem)
        assert made is not None
        return [m.to_dict() for m in answer_calls(made, last.calls)]

    def judge(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        last = replies[-1]
        earlier = [c for r in replies[:-1] for c in r.calls]
        malformed = sum(len(r.malformed) for r in replies) + len(last.calls)
        return marked(
            grade(
                problem,
                Response(written(last.parts), calls=tuple(earlier), malformed_calls=malformed, parts=last.parts),
            )
        )


FAMILIES = {name: type(name.title(), (Family,), {"name": name}) for name in DOMAINS}
