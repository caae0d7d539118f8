"""A task: what is asked, what the model may use meanwhile, how an answer is judged, how it is sampled.

One class in one file is enough to train on it (`sources = [{ kind = "task", path = "sums.py:Sums" }]`), to distil for it and to
evaluate it (`qwq eval MODEL sums.py:Sums`):

    class Sums(Task):
        name = "sums"

        def rows(self, split):
            rng = random.Random(split)
            for _ in range(500):
                a, b = rng.randrange(100), rng.randrange(100)
                yield {"prompt": f"What is {a} + {b}?", "answer": str(a + b)}

        def verify(self, problem, response):
            return self.verdict(problem.truth["answer"] in self.answer(response))

A split's rows are asked for once and kept. Splits must not share problems: `canonical` of a row (its prompt where it has none)
names a problem up to rewording, and a problem that two splits share is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qwq.envs import ENVIRONMENTS, Environment
from qwq.envs.base import environment_class
from qwq.errors import DataError
from qwq.text.response import parts_of
from qwq.types import SPLITS, Message, Outcome, Problem, Response, Verdict

SPECIAL = ("prompt", "messages", "id", "canonical", "level")


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a task is sampled in an evaluation. The defaults are those of QwQ's own evaluation (QwenLM/QwQ, eval/README.md)."""

    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 40
    max_new_tokens: int = 32_768


class Task:
    """Base of a user's own tasks. `name` is one word; it names the task's rewards, scores and verdicts everywhere."""

    name: ClassVar[str] = ""
    protocol: ClassVar[Protocol] = Protocol()
    environment: ClassVar[str | type[Environment]] = ""  # a class, a registered name or file.py:Class; "" for none

    def rows(self, split: str) -> Iterable[Mapping[str, Any]]:
        """Rows of `train`, `validation` or `test`, in a fixed order.

        A row has `prompt` (text) or `messages`; `id`, `canonical` and `level` where it wants to set them; whatever else it has is
        `problem.truth`, which the verifier alone reads.
        """
        raise NotImplementedError

    def verify(self, problem: Problem, response: Response) -> Verdict:
        """The verdict on a finished or unfinished response. Called on several threads at once."""
        raise NotImplementedError

    def answer(self, response: Response) -> str:
        """The final answer of a response: what follows the thinking, without calls; "" if there is none."""
        return parts_of(response).final

    def verdict(self, correct: bool | None, reason: str = "", *, answer: str | None = None) -> Verdict:
        """A verdict of this task's verifier; None says that there is no answer to judge."""
        outcome = Outcome.NO_ANSWER if correct is None else Outcome.CORRECT if correct else Outcome.WRONG
        return Verdict(outcome, reason or outcome.value.replace("_", " "), self.name, answer=answer)

    def problems(self, split: str) -> list[Problem]:
        """The split as problems. DataError for a bad row, and for one that an earlier split has too."""
        cache: dict[str, list[Problem]] = self.__dict__.setdefault("_problems", {})
        if split not in cache:
            cache[split] = [self._problem(row, split, number) for number, row in enumerate(self.rows(split))]
            for other in (s for s in SPLITS if s != split and s in cache):
                shared = {p.canonical for p in cache[other]} & {p.canonical for p in cache[split]}
                if shared:
                    first = min(shared)
                    del cache[split]
                    raise DataError(
                        f"task {self.name}: {len(shared)} problems stand in {other} and in {split}, such as {first[:60]!r}: keep the splits apart"
                    )
        return cache[split]

    def _problem(self, row: Mapping[str, Any], split: str, number: int) -> Problem:
        where = f"task {self.name}, {split} row {number + 1}"
        if not isinstance(row, Mapping) or ("prompt" in row) == ("messages" in row):
            raise DataError(f"{where}: a row is an object with `prompt` or `messages`, not {str(row)[:60]!r}")
        if "prompt" in row:
            messages = (Message("user", row["prompt"]),)
        else:
            messages = tuple(m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in row["messages"])
        if not messages or not all(isinstance(m.content, str) and m.content.strip() for m in messages):
            raise DataError(f"{where}: the prompt is empty or no text")
        problem = Problem(
            id=str(row.get("id", f"{self.name}/{split}/{number}")),
            domain=self.name,
            messages=messages,
            truth={k: v for k, v in row.items() if k not in SPECIAL},
            canonical=str(row.get("canonical", messages[-1].content)),
            level=int(row.get("level", 1)),
            source=self.name,
        )
        environment = self._environment()
        return (
            problem
            if environment is None
            else replace(problem, environment=environment, tools=environment_class(environment)().schemas())
        )

    def _environment(self) -> str | None:
        """The name under which the task's environment is registered."""
        if isinstance(self.environment, str):
            return self.environment or None
        name = f"task:{self.name}"
        ENVIRONMENTS[name] = self.environment
        return name
