"""A task: what is asked, what the model may use meanwhile, how an answer is judged, how an
evaluation samples it.

One class in one file is enough to train on it (`sources = [{ kind = "task", path = "sums.py:Sums"
}]`), to distil for it and to evaluate it (`qwq eval MODEL sums.py:Sums`):

    class Sums(Task):
        name = "sums"

        def rows(self, split):
            rng = random.Random(split)
            for _ in range(500):
                a, b = rng.randrange(100), rng.randrange(100)
                yield {"prompt": f"What is {a} + {b}?", "answer": str(a + b)}

        def verify(self, problem, response):
            return self.verdict(problem.truth["answer"] in self.answer(response))

A split's rows are read once and kept. Splits must not share problems: `canonical` of a row (its
prompt if it has none) names a problem up to rewording, and a problem that two splits share is
refused.

Sets in files are `file_task.FileTask`, endless families `procedural.base.Family`; `registry.py` has
them all by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from qwq.common.estimates import mean_of_means
from qwq.data.examples import FileUse
from qwq.envs import ENVIRONMENTS, Environment
from qwq.envs.base import environment_class
from qwq.errors import ConfigError, DataError
from qwq.tasks.downloads import DataFiles
from qwq.text.response import parts_of
from qwq.types import SPLITS, Message, Outcome, Problem, Response, Verdict
from qwq.verify.grade import VERIFIERS, grade

SPECIAL = ("prompt", "messages", "id", "canonical", "level")
TOOL_KEYS = ("tools", "tries", "max_calls")  # fields of `Protocol` for tasks that choose tools
REOPENED = "the response ends inside another thought"

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a task is sampled in an evaluation.

    The defaults are those of QwQ's own evaluation (QwenLM/QwQ, eval/README.md). The last three are
    for tasks that choose tools (`Task.under`), None for all others: the environment that problems
    are asked in ("none" for none), the answers a problem may be given, each after what was wrong
    with the one before, and the calls of a sample.
    """

    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 40
    max_new_tokens: int = 32_768
    tools: str | None = None
    tries: int | None = None
    max_calls: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The verdict on a response, its score from 0 to 1, and what else the task's figures need."""

    verdict: Verdict
    score: float
    detail: Figures = field(default_factory=dict)


def marked(verdict: Verdict, **detail: Any) -> Mark:
    """A mark of 1 for a correct response, and of 0 for any other."""
    return Mark(verdict, float(verdict.correct), detail)


def some(task: Task, split: str, problems: list[Problem]) -> list[Problem]:
    """The problems of a split. DataError if there are none."""
    if not problems:
        raise DataError(f"task {task.name} has no {split} rows: its rows({split!r}) is empty")
    return problems


class Task:
    """Base of all tasks. `name` is one word; it names the task's rewards, scores and verdicts
    everywhere.

    `domain` groups tasks in mixes, rewards and reports, and names the verifier if the task has none
    of its own; "" is the task's name. `parts` are what NAME:PART may choose.
    """

    name: ClassVar[str] = ""
    domain: ClassVar[str] = ""
    protocol: ClassVar[Protocol] = Protocol()
    environment: ClassVar[str | type[Environment]] = ""  # a class, a registered name or file.py:Class; "" for none
    parts: ClassVar[tuple[str, ...]] = ()
    majority_votes: ClassVar[bool] = False  # whether equal answers mean the same, so that samples can vote
    reads_files: ClassVar[bool] = False  # whether its rows come from data files
    two_tool_formats: ClassVar[bool] = False  # whether tools can also be offered in the prompt; see `Bfcl`
    scored: ClassVar[bool] = True  # whether a verifier judges it, so that an evaluation can score it
    endless: ClassVar[bool] = False  # whether `problem` draws from a stream
    swept: ClassVar[tuple[str, ...]] = ()  # of its figures, those that are shown for each thinking budget

    def __init__(self, part: str = "") -> None:
        self.part = part

    @property
    def label(self) -> str:
        """What results and files call it: its name, with the part if it is one."""
        return f"{self.name}:{self.part}" if self.part else self.name

    def under(self, protocol: Protocol) -> Task:
        """The task as a protocol samples it: with its tools and tries. ConfigError for a task that
        does not choose them.
        """
        chosen = [f"--{k.replace('_', '-')}" for k in TOOL_KEYS if getattr(protocol, k) is not None]
        if chosen:
            raise ConfigError(f"{chosen[0]}: task {self.name} has no tools to choose: leave it out")
        return self

    # -- problems ----------------------------------------------------------------------------------

    def rows(self, split: str) -> Iterable[Mapping[str, Any]]:
        """Rows of `train`, `validation` or `test`, in a fixed order.

        A row has `prompt` (text) or `messages`; `id`, `canonical` and `level` where it wants to set
        them; whatever else it has is `problem.truth`, which the verifier alone reads.
        """
        raise NotImplementedError

    def problems(
        self, split: str, num: int | None = None, *, data: DataFiles | None = None, use: FileUse | None = None
    ) -> list[Problem]:
        """The split as problems: `num` of them as `first` chooses, all by default.

        `data` are the files to read instead of the published ones, for tasks that read files; `use`
        counts their rows. DataError for a bad row, and for one that an earlier split has too.
        """
        if data is not None and data.given:
            raise ConfigError(f"task {self.name} makes its own problems and reads no file: leave {data.place} out")
        cache: dict[str, list[Problem]] = self.__dict__.setdefault("_problems", {})
        if split not in cache:
            cache[split] = [self._problem(row, split, number) for number, row in enumerate(self.rows(split))]
            for other in (s for s in SPLITS if s != split and s in cache):
                shared = {p.canonical for p in cache[other]} & {p.canonical for p in cache[split]}
                if shared:
                    first = min(shared)
                    del cache[split]
                    raise DataError(
                        f"task {self.name}: {len(shared)} problems are both in {other} and in {split}, such as "
                        f"{first[:60]!r}: keep the splits apart"
                    )
        return self.first(cache[split], num)

    def first(self, problems: list[Problem], num: int | None) -> list[Problem]:
        """`num` of the problems in their order, taken from the groups (`Problem.source`) in turn,
        so that a few cover them all.
        """
        if num is None:
            return problems
        groups: dict[str, list[Problem]] = {}
        for problem in problems:
            groups.setdefault(problem.source, []).append(problem)
        longest = max(map(len, groups.values()), default=0)
        rounds = [g[i] for i in range(longest) for g in groups.values() if i < len(g)]
        chosen = {p.id for p in rounds[:num]}
        return [p for p in problems if p.id in chosen]

    def fixed(self, split: str, num: int) -> list[Problem]:
        """The first `num` problems of a split as `first` chooses, the same in every run; fewer if
        it has no more. DataError if it has none.
        """
        return some(self, split, self.problems(split, num))

    def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
        """Turns that answer the problem, for pretraining and SFT.

        ConfigError for a task that has none.
        """
        raise ConfigError(f"task {self.name} has no demonstrations: give it `demonstrate`, or train on it with RL")

    def drill(self, rng: random.Random) -> list[tuple[str, str]]:
        """A page of plain exercises, (question, answer) pairs, as a textbook has them; empty if the
        task has none.

        Pretraining mixes such pages in: they teach the single steps at a fraction of the tokens. A
        page never holds a whole problem: its steps are single where problems have two or more, or
        of the training split.
        """
        return []

    def _problem(self, row: Mapping[str, Any], split: str, number: int) -> Problem:
        where = f"task {self.name}, {split} row {number + 1}"
        if not isinstance(row, Mapping) or ("prompt" in row) == ("messages" in row):
            raise DataError(f"{where}: a row is an object with `prompt` or `messages`, not {str(row)[:60]!r}")
        messages: tuple[Message, ...]
        if "prompt" in row:
            messages = (Message("user", row["prompt"]),)
        else:
            messages = tuple(m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in row["messages"])
        if not messages or not all(isinstance(m.content, str) and m.content.strip() for m in messages):
            raise DataError(f"{where}: the prompt is empty or no text")
        problem = Problem(
            id=str(row.get("id", f"{self.name}/{split}/{number}")),
            domain=self.domain or self.name,
            messages=messages,
            truth={k: v for k, v in row.items() if k not in SPECIAL},
            canonical=str(row.get("canonical", messages[-1].content)),
            level=int(row.get("level", 1)),
            source=self.name,
        )
        return self.owned(problem)

    def owned(self, problem: Problem) -> Problem:
        """The problem with the task's environment, and with its name if its own verifier judges
        it.
        """
        if self.judges:
            VERIFIERS[self.name] = self.verify
            problem = replace(problem, task=self.name)
        environment = self._environment()
        if environment is None:
            return problem
        return replace(problem, environment=environment, tools=environment_class(environment)().schemas())

    def _environment(self) -> str | None:
        """The name under which the task's environment is registered."""
        if isinstance(self.environment, str):
            return self.environment or None
        name = f"task:{self.name}"
        ENVIRONMENTS[name] = self.environment
        return name

    # -- verdicts ----------------------------------------------------------------------------------

    @property
    def judges(self) -> bool:
        """Whether the task has a verifier of its own."""
        return type(self).verify is not Task.verify

    def verify(self, problem: Problem, response: Response) -> Verdict:
        """The verdict on a finished response, by the domain's verifier unless the task has its own.

        Called on several threads at once.
        """
        return grade(problem, response)

    def mark(self, problem: Problem, response: Response) -> Mark:
        """The mark of a response in an evaluation, finished or not:

        1 for correct, unless the task gives shares or details.
        """
        return marked(grade(problem, response))

    def answer(self, response: Response) -> str:
        """The final answer of a response: what follows the thinking, without calls; "" if there is
        none.
        """
        return parts_of(response).final

    def verdict(self, correct: bool | None, reason: str = "", *, answer: str | None = None) -> Verdict:
        """A verdict of this task's verifier; None says that there is no answer to judge."""
        outcome = Outcome.NO_ANSWER if correct is None else Outcome.CORRECT if correct else Outcome.WRONG
        return Verdict(outcome, reason or outcome.value.replace("_", " "), self.name, answer=answer)

    def unanswered(self, response: Response, *, silence: bool = False) -> Verdict | None:
        """The verdict on a response that did not end or has no final answer, None for any other.

        `silence`: an empty answer can be right.
        """
        if not response.finished:
            return Verdict(Outcome.UNFINISHED, "the response never ended", self.name)
        parts = parts_of(response)
        if parts.open and not parts.tool_calls:
            return self.verdict(None, REOPENED if parts.reopened else "the thinking was never closed")
        if not silence and not parts.answer and not parts.tool_calls and not parts.malformed_calls:
            return self.verdict(None, "nothing after the thinking")
        return None

    # -- figures -----------------------------------------------------------------------------------

    def combine(self, means: Mapping[str, Any]) -> Any:
        """The headline from the groups' means (shares, or arrays of them)."""
        return mean_of_means(means)

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        """Further entries of the task's results. `records` are its samples as they are stored."""
        return {}
