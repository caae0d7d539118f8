"""A recipe's or distillation's source of problems: a task, with the files, split and limits that
the source names.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qwq.config import Source
from qwq.data.examples import FileUse
from qwq.errors import DataError
from qwq.tasks.base import Task, some
from qwq.tasks.constraints import BUILTIN
from qwq.tasks.decontaminate import build_index
from qwq.tasks.downloads import DataFiles
from qwq.tasks.questions import question_of
from qwq.tasks.registry import get
from qwq.types import Problem

# Kinds of sources whose name is a procedural family's too: rows in files.
KINDS = {"math": "math-rows", "code": "code-rows"}

_log = logging.getLogger(__name__)
_said: set[tuple[str, ...]] = set()  # a recipe's plan reads a source several times, and one warning is enough


def task_of(source: Source) -> Task:
    """The task whose problems a source has."""
    if source.kind == "task":
        return get(source.path)
    if source.kind == "arithmetic":
        return get(f"arithmetic:{source.level}")
    return get(KINDS.get(source.kind, source.kind))


def load_source(source: Source, use: FileUse | None = None) -> list[Problem]:
    """The problems of one split of a source in the file's order, the first `source.limit` of them;
    `use` is told what became of each row.

    Rows of MATH whose answer is null or blank cannot be judged; they are left out and counted in a
    warning. So are problems that share words with the benchmarks in `source.decontaminate`. Raises
    DataError for a file that is missing, empty or of another split, and for a bad row (file and
    line).
    """
    task = task_of(source)
    use = FileUse(source.path, noun="problems") if use is None else use
    data = DataFiles(task.name, getattr(task, "published", None), source.path) if task.reads_files else None
    # A task that makes its own problems makes as many as are asked for.
    makes = task.endless or source.path == BUILTIN
    num = source.limit if makes and not source.decontaminate else None
    problems = some(task, source.split, task.problems(source.split, num, data=data, use=use))
    if source.decontaminate:
        problems = _decontaminated(source, problems, use)
    if source.limit is not None and len(problems) > source.limit:
        use.beyond, use.limit = len(problems) - source.limit, f"limit = {source.limit:,}"
        problems = problems[: source.limit]
    use.used = len(problems)
    return problems


def _decontaminated(source: Source, problems: Sequence[Problem], use: FileUse) -> list[Problem]:
    """Those that share no words with the benchmarks, as a warning says."""
    index = build_index(source.decontaminate)
    clean, dropped = index.without(problems, question_of)
    for problem, match in dropped:
        use.leave_out(f"in the benchmark {match.benchmark}", problem.id)
    said = (source.path, source.split, *source.decontaminate)
    if dropped and said not in _said:
        _said.add(said)
        problem, match = dropped[0]
        benchmarks = ", ".join(sorted({m.benchmark for _, m in dropped}))
        _log.warning(
            "%s: %d problems are also in %s and are left out, such as %s: %r",
            source.path, len(dropped), benchmarks, problem.id, match.words,
        )  # fmt: skip
    if not clean:
        raise DataError(
            f"{source.path}: every problem is also in {', '.join(source.decontaminate)}: is it the benchmark itself?"
        )
    return clean
