"""What the sets for agents share: tools that an option chooses, files in the workspace, several
tries, metrics.

A set's own protocol says which tools it is asked with (`Protocol.tools`, "none" for none), how many
tries there are and how many calls; `--tools`, `--tries` and `--max-calls` set others, and the
results record what was used. The sets are held out: they are evaluated on and never trained on,
unless `trains` says otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from qwq.data.examples import FileUse
from qwq.envs.base import ENVIRONMENTS, environment_class
from qwq.errors import ConfigError, DataError
from qwq.tasks.agent.figures import agent_figures
from qwq.tasks.agent.tries import retrying, shows_a_call
from qwq.tasks.base import Figures, Mark, Protocol, marked
from qwq.tasks.downloads import DataFiles
from qwq.tasks.file_task import FileTask
from qwq.tasks.questions import canonical
from qwq.types import Message, ParsedResponse, Problem, Response, Verdict

NO_TOOLS = "none"
MAX_CALLS = 10
CALL_FIRST = "First call a tool to find out what is asked; answer when you have seen the result."


class AgentTask(FileTask):
    """Base of the sets for agents. A subclass gives `make` (or `load`) and `verify`; `feedback`
    where there can be a second try.
    """

    protocol = Protocol(tools="python", tries=1, max_calls=MAX_CALLS)
    own_folder = True
    trains: ClassVar[bool] = False  # whether its training rows may be trained on

    def __init__(self, part: str = "") -> None:
        super().__init__(part)
        self.tools: str = self.protocol.tools or NO_TOOLS
        self.tries: int = self.protocol.tries or 1

    def under(self, protocol: Protocol) -> Self:
        """The task with the protocol's tools and tries. ConfigError for tools that do not exist."""
        if protocol.tools not in (None, NO_TOOLS):
            environment_class(str(protocol.tools))
        if (protocol.tries or 1) > 1 and not self.gives_feedback:
            raise ConfigError(f"--tries {protocol.tries}: {self.name} has no tests to show after a wrong answer")
        task = copy.copy(self)
        task.tools, task.tries = protocol.tools or self.tools, protocol.tries or self.tries
        return task

    @property
    def has_tools(self) -> bool:
        return self.tools != NO_TOOLS

    # -- problems ----------------------------------------------------------------------------------

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        self.check_split(split)
        problems: list[Problem] = []
        for path, row in data.rows(split, patterns=self.patterns):
            use.rows += 1
            use.shapes[self.name] += 1
            made = self.make(row.fields, row.where, path.parent, data)
            if isinstance(made, Problem):
                problems.append(made)
            else:
                use.leave_out(made, row.where)
        return self.loaded(problems, data, use)

    def loaded(self, problems: list[Problem], data: DataFiles, use: FileUse) -> list[Problem]:
        """The problems, counted. DataError where there are none."""
        if not problems:
            raise DataError(f"{data.name} holds no problems of {self.label}: {use.note()}")
        return problems

    def check_split(self, split: str) -> None:
        if split != "test" and not self.trains:
            raise DataError(f"{self.name} is held out: it is evaluated on, and has no {split} problems")

    def make(self, row: Mapping[str, Any], where: str, folder: Path, data: DataFiles) -> Problem | str:
        """The problem of a row whose file is in `folder`, or why the row is left out.

        DataError for a row that cannot be read.
        """
        raise NotImplementedError

    def problem(
        self, ident: object, prompt: str, question: str, truth: Mapping[str, Any], *, scope: str = "",
        files: Mapping[str, Path] | None = None,
    ) -> Problem:  # fmt: skip
        """A problem asked in one turn. `question` is the set's own; with `scope`, the table or
        database that it is about, it names the problem. `files` are put into the workspace where
        there are tools.
        """
        seeded = {name: str(path) for name, path in (files or {}).items()} if self.has_tools else {}
        return Problem(
            f"{self.name}/{ident}", self.domain or self.name, (Message("user", prompt),),
            {**truth, "question": question}, canonical(self.name, f"{scope} {question}"), source=self.name,
            files=seeded,
        )  # fmt: skip

    def questions(self, place: Path) -> list[str]:
        """The questions of the set in a folder, without what the prompts add: what training data
        is cleared of.
        """
        return [p.truth["question"] for p in self.problems("test", data=self.data(place))]

    def _environment(self) -> str | None:
        if self.tries == 1 and not self.has_tools:
            return None
        name = f"task:{self.name}:{self.tools}:{self.tries}"
        if name not in ENVIRONMENTS:
            ENVIRONMENTS[name] = retrying(self.tools if self.has_tools else None, self.tries, self.feedback)
        return name

    # -- verdicts ----------------------------------------------------------------------------------

    @property
    def gives_feedback(self) -> bool:
        return type(self).feedback is not AgentTask.feedback

    def feedback(self, problem: Problem, turn: ParsedResponse) -> str:
        """What the user says after a wrong answer where a try is left; "" after a right one."""
        return ""

    def mark(self, problem: Problem, response: Response) -> Mark:
        verdict = super().mark(problem, response).verdict
        return marked(verdict, **self.detail(problem, response, verdict))

    def detail(self, problem: Problem, response: Response, verdict: Verdict) -> Figures:
        """What the figures need of a sample beside its verdict."""
        if self.tries == 1:
            return {}
        answers = [t for t in response.turns if not t.calls_in_order and not shows_a_call(t, problem.tools)]
        return {"tries": 1 + len(answers)}

    def figures(self, means: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> Figures:
        return agent_figures(records, self.tools, self.tries)
