r"""Competition and school maths: AIME 2024 and 2025, GSM8K, MATH-500.

Asked as QwQ's evaluation asks AIME: one user turn that ends in the sentence about `\boxed{}`. The answer is read after
the thinking and compared by `verify.math`, which also accepts an answer in words where there is no box. AIME is sampled
64 times a problem (avg@64).

    aime24, aime25  {"prompt", "answer"}, or {"problem" or "question", "answer"}
    gsm8k           {"question", "answer": "... #### 42"}
    math500         {"problem", "answer"}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwq.errors import DataError
from qwq.tasks.benchmark import Benchmark, Mark, Protocol, Row, marked, need
from qwq.tasks.sets import MATH_INSTRUCTION
from qwq.types import Message, Problem, Turn
from qwq.verify import math

SUFFIX = MATH_INSTRUCTION.strip()


class Maths(Benchmark):
    """Reads (question, gold answer) rows and grades the final answer."""

    majority_votes = True

    def load(self, data: Any) -> list[Problem]:
        problems = []
        for number, (where, row) in enumerate(data.rows(), 1):
            question, gold = self.read(row, where)
            ident = str(row.get("id") or row.get("unique_id") or number)
            prompt = question if SUFFIX in question else f"{question}\n{SUFFIX}"
            problems.append(
                Problem(
                    f"{self.name}/{ident}", "math", (Message("user", prompt),), {"gold": gold}, ident, source=self.name
                )
            )
        return problems

    def read(self, row: Row, where: str) -> tuple[str, str]:
        key = next((k for k in ("prompt", "problem", "question") if k in row), "prompt")
        gold = str(need(row, "answer", where, (str, int, float))).strip()
        return need(row, key, where).strip(), gold

    def judge(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        return marked(math.verify(replies[-1].parts, problem.truth["gold"]))


class Aime24(Maths):
    name = "aime24"
    protocol = Protocol(samples=64)


class Aime25(Maths):
    name = "aime25"
    protocol = Protocol(samples=64)


class Math500(Maths):
    name = "math500"


class Gsm8k(Maths):
    name = "gsm8k"

    def read(self, row: Row, where: str) -> tuple[str, str]:
        question, answer = need(row, "question", where), need(row, "answer", where)
        _, mark, gold = answer.rpartition("####")
        if not mark or not gold.strip():
            raise DataError(f"{where}: field 'answer' has no '#### RESULT' at its end")
        return question.strip(), gold.strip().replace(",", "")
