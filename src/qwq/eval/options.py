"""What an evaluation asks: the options, and each task with its protocol and problems, read before
the model is.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from qwq.common import estimates
from qwq.data.examples import FileUse
from qwq.errors import ConfigError
from qwq.tasks import registry
from qwq.tasks.base import Protocol, Task, some
from qwq.tasks.downloads import DataFiles
from qwq.tasks.file_task import FileTask
from qwq.tasks.procedural.base import Family
from qwq.tasks.sources import named_task, reader_of
from qwq.tasks.suites import SUITES
from qwq.types import Problem

NO_BUDGET = -1  # as `thinking_budgets` of a recipe has it


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What the command line may set. None: the task's own protocol."""

    n: int | None = None
    samples: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = estimates.BOOTSTRAP_SEED
    budgets: tuple[int, ...] = ()  # thinking tokens; NO_BUDGET for thinking as long as it takes
    concurrency: int = 16
    tool_format: str = "auto"
    tools: str | None = None
    tries: int | None = None
    max_calls: int | None = None

    def __post_init__(self) -> None:
        for name in ("n", "samples", "max_new_tokens", "concurrency", "tries", "max_calls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}: give at least 1")
        if self.tool_format not in ("auto", "native", "prompt"):
            raise ConfigError(f"--tool-format {self.tool_format}: give auto, native or prompt")
        if any(b < NO_BUDGET for b in self.budgets) or len(set(self.budgets)) < len(self.budgets):
            raise ConfigError(
                f"--thinking-budget {self.budgets}: give different numbers of 0 or more, or {NO_BUDGET} for none"
            )
        if (
            not (self.temperature is None or self.temperature >= 0)
            or not (self.top_p is None or 0 < self.top_p <= 1)
            or not (self.top_k is None or self.top_k >= 0)
        ):
            raise ConfigError("sampling: temperature and top-k are 0 or more, top-p is above 0 and at most 1")

    @staticmethod
    def check_place(endpoint: str | None, opens_thinking: bool | None, local: Mapping[str, Any]) -> None:
        """That the options fit where the model runs.

        `local` are those of a model that runs here.
        """
        chosen = [f"--{k}" for k, v in local.items() if v not in (None, False, "cpu", "auto")]
        if endpoint is not None and chosen:
            raise ConfigError(
                f"{chosen[0]} is about a model run here, and the one at {endpoint} runs there: leave it out"
            )
        if endpoint is None and opens_thinking is not None:
            raise ConfigError(
                "--opens-thinking is about a server's chat template: give --endpoint URL, or leave it out"
            )

    def protocol(self, own: Protocol) -> Protocol:
        """A task's protocol with what the options set."""
        chosen = {f.name: v for f in fields(Protocol) if (v := getattr(self, f.name)) is not None}
        if self.temperature == 0:
            chosen = {"samples": 1, **chosen}  # greedy samples are all the same
        return replace(own, **chosen)


@dataclass(slots=True)
class TaskSelection:
    """A task with the problems that are asked, and how they are sampled."""

    name: str
    task: Task
    problems: list[Problem]
    protocol: Protocol = field(default_factory=Protocol)
    data: DataFiles | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    use: FileUse | None = None  # what became of the files' rows

    @classmethod
    def of(cls, name: str, problems: Sequence[Problem], protocol: Protocol) -> TaskSelection:
        """Problems that a run has at hand, by the task whose verifier judges them."""
        own = problems[0].task
        return cls(name, registry.get(own) if own else Task(), _distinct(problems), protocol)

    def with_tools_in_the_prompt(self, num: int | None) -> TaskSelection:
        """The same item for a model whose chat template has no tools."""
        task = type(self.task)(self.task.part, native_tools=False)  # type: ignore[call-arg]
        assert self.data is not None
        problems = _distinct(task.problems("test", num, data=replace(self.data, quiet=True)))
        return replace(self, task=task, problems=problems)

    def settings(self, seed: int) -> dict[str, Any]:
        """What may not change between two starts, beside the model."""
        tools = {"native_tools": getattr(self.task, "native_tools", True)} if self.task.two_tool_formats else {}
        sampling = {k: v for k, v in chosen(self.protocol).items() if k != "samples"}
        return sampling | {"seed": seed, "data": dict(self.checksums), "prompt": _wording(self.problems[0]), **tools}


def chosen(protocol: Protocol) -> dict[str, Any]:
    """A protocol as it is recorded: without what is not for its task."""
    return {k: v for k, v in asdict(protocol).items() if v is not None}


def prepare(names: Sequence[str | Task], data: Path | None, options: EvalOptions) -> list[TaskSelection]:
    """Every task's problems. ConfigError or DataError before anything is loaded.

    A name is that of a task, of a part of one, of a suite, `file.py:Name`, or NAME=PATH for a task
    that reads files; `data` is a folder with NAME/*.jsonl, or the file of the one task that reads
    files.
    """
    if not names:
        raise ConfigError(f"name at least one task: {', '.join((*registry.names(), *SUITES))}")
    wanted = _without_suites(names, options)
    places = _places([name for name, _ in wanted], data)
    items: list[TaskSelection] = []
    for (task, place), (_, own) in zip(places, wanted, strict=True):
        if not task.scored:
            raise ConfigError(
                f"task {task.name} has no verifier, so an evaluation cannot score it: give one with `verify`"
            )
        if any(task.label == item.name for item in items):
            raise ConfigError(f"task {task.label} is named twice: name each once")
        protocol = own.protocol(task.protocol)
        task = task.under(protocol)
        files = _files(task, place, data)
        use = None if files is None else FileUse(files.name, noun="problems")
        problems = _distinct(some(task, "test", task.problems("test", own.n, data=files, use=use)))
        checksums = {} if files is None else files.checksums()
        if files is not None and use is not None and use.left_out:
            files.say(use.note())
        items.append(TaskSelection(task.label, task, problems, protocol, files, checksums, use))
    return items


def _without_suites(names: Sequence[str | Task], options: EvalOptions) -> list[tuple[str | Task, EvalOptions]]:
    """Each name with its options; a suite is its tasks, with its numbers where the options have
    none.
    """
    out: list[tuple[str | Task, EvalOptions]] = []
    for name in names:
        suite = SUITES.get(name) if isinstance(name, str) else None
        if suite is None:
            out.append((name, options))
            continue
        samples = suite.samples if options.samples is None and options.temperature != 0 else options.samples
        out += [
            (task, replace(options, n=num if options.n is None else options.n, samples=samples))
            for task, num in suite.tasks.items()
        ]
    return out


def _places(names: Sequence[str | Task], data: Path | None) -> list[tuple[Task, str | None]]:
    """Each task with the path that its name gives, or that a file as `data` gives the one task that
    reads files.
    """
    places = [(name, None) if isinstance(name, Task) else named_task(name) for name in names]
    if data is None or data.expanduser().is_dir():
        return places
    if not data.expanduser().is_file():
        raise ConfigError(f"--data {data}: no such file or folder; a folder holds NAME/*.jsonl for each task")
    readers = [i for i, (task, path) in enumerate(places) if task.reads_files and path is None]
    readers = readers or [i for i, (task, _) in enumerate(places) if isinstance(task, Family) and task.files_task]
    if len(readers) != 1:
        raise ConfigError(
            f"--data {data} is a file, and {len(readers)} of the tasks read files: write NAME=PATH for each, such "
            f"as {shlex.quote(f'gsm8k={data}')}"
        )
    places[readers[0]] = (reader_of(places[readers[0]][0], str(data)), str(data))
    return places


def _files(task: Task, place: str | None, data: Path | None) -> DataFiles | None:
    if not isinstance(task, FileTask):
        return None
    if place is not None:
        return DataFiles(task.name, task.published, place)
    return task.data(data if data is not None and data.expanduser().is_dir() else None)


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Problems under ids of their own: a repeated id gets its number."""
    seen: Counter[str] = Counter()
    out = []
    for problem in problems:
        seen[problem.id] += 1
        out.append(problem if seen[problem.id] == 1 else replace(problem, id=f"{problem.id}#{seen[problem.id]}"))
    return out


def _wording(problem: Problem) -> str:
    """A checksum of the first prompt: samples of another wording do not mix with these."""
    text = "\n".join(f"{m.role}: {m.content}" for m in problem.messages)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
