"""A recipe's or distillation's source of problems: a task, with the files, split and limits that
the source names.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qwq.config import Source
from qwq.data.examples import FileUse
from qwq.errors import ConfigError, DataError
from qwq.tasks.base import Task, some
from qwq.tasks.constraints import BUILTIN
from qwq.tasks.decontaminate import build_index
from qwq.tasks.downloads import DataFiles
from qwq.tasks.procedural.base import Family
from qwq.tasks.questions import question_of
from qwq.tasks.registry import get
from qwq.types import Problem

# Kinds of sources whose name is a procedural family's too: rows in files.
KINDS = {"math": "math-rows", "code": "code-rows", "preference": "preference-rows"}

_log = logging.getLogger(__name__)
_said: set[tuple[str, ...]] = set()  # a recipe's plan reads a source several times, and one warning is enough


def task_of(source: Source) -> Task:
    """The task whose problems a source has."""
    if source.kind == "task":
        return get(source.path)
    if source.kind == "arithmetic":
        return get(f"arithmetic:{source.level}")
    return get(KINDS.get(source.kind, source.kind))


def reader_of(task: Task, path: str) -> Task:
    """The task that reads problems of this name from a file: a family's problems are made, those of
    its domain can be read.
    """
    if isinstance(task, Family) and task.files_task:
        return get(task.files_task)
    if not task.reads_files:
        raise ConfigError(f"task {task.name} makes its own problems and reads no file: leave {path} out")
    return task


def named_task(name: str) -> tuple[Task, str | None]:
    """The task of NAME, `file.py:Name` or NAME=PATH, and the path. ConfigError for a name without a
    task, and for an empty path.
    """
    word, equals, path = name.partition("=")
    if equals and not path:
        raise ConfigError(f"task {name!r} has no path: write {word}=PATH")
    task = get(word)
    return (reader_of(task, path), path) if path else (task, None)


def load_source(source: Source, use: FileUse | None = None) -> list[Problem]:
    """The problems of one split of a source in the file's order, the first `source.limit` of them;
    `use` is told what became of each row. Raises as `load_task` does.
    """
    task = task_of(source)
    path = None if source.kind == "task" else source.path
    return load_task(task, path, source.split, limit=source.limit, decontaminate=source.decontaminate, use=use)


def load_task(
    task: Task, path: str | None, split: str, *, limit: int | None = None, decontaminate: Sequence[str] = (),
    use: FileUse | None = None,
) -> list[Problem]:  # fmt: skip
    """The first `limit` problems of a task's split, in order. `path` is the file to read instead of
    the published ones.

    Rows of MATH whose answer is null or blank cannot be judged; they are left out and counted in a
    warning. So are problems that share words with the benchmarks in `decontaminate`. Raises
    DataError for a file that is missing, empty or of another split, and for a bad row (file and
    line).
    """
    place = path or task.label
    use = FileUse(place, noun="problems") if use is None else use
    data = DataFiles(task.name, getattr(task, "published", None), path) if task.reads_files else None
    # A task that makes its own problems makes as many as are asked for.
    makes = task.endless or path == BUILTIN
    num = limit if makes and not decontaminate else None
    problems = some(task, split, task.problems(split, num, data=data, use=use))
    if decontaminate:
        problems = _decontaminated(place, split, decontaminate, problems, use)
    if limit is not None and len(problems) > limit:
        use.beyond, use.limit = len(problems) - limit, f"limit = {limit:,}"
        problems = problems[:limit]
    use.used = len(problems)
    return problems


def _decontaminated(
    place: str, split: str, benchmarks: Sequence[str], problems: Sequence[Problem], use: FileUse
) -> list[Problem]:
    """Those that share no words with the benchmarks, as a warning says."""
    index = build_index(benchmarks)
    clean, dropped = index.without(problems, question_of)
    for problem, match in dropped:
        use.leave_out(f"in the benchmark {match.benchmark}", problem.id)
    said = (place, split, *benchmarks)
    if dropped and said not in _said:
        _said.add(said)
        problem, match = dropped[0]
        names = ", ".join(sorted({m.benchmark for _, m in dropped}))
        _log.warning(
            "%s: %d problems are also in %s and are left out, such as %s: %r",
            place, len(dropped), names, problem.id, match.words,
        )  # fmt: skip
    if not clean:
        raise DataError(f"{place}: every problem is also in {', '.join(benchmarks)}: is it the benchmark itself?")
    return clean
