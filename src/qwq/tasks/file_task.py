"""Tasks whose rows are in files: one reader of a set for RL, SFT, distillation and evaluation.

A set is one class: `read` makes a problem of a row, `owns` says to which split it belongs. Splits:
a file's name says which published split it holds. Validation is carved out of the training file by
a hash of the question (`VALIDATION_SHARE`), so `train` never holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from qwq.data.examples import FileUse
from qwq.data.messages import Malformed
from qwq.data.row_files import split_in_name
from qwq.errors import DataError
from qwq.tasks.base import Task
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.procedural.base import digest
from qwq.types import Problem

NO_ANSWER = "without an answer"
VALIDATION_SHARE = 5  # percent of a training file

_log = logging.getLogger(__name__)
_said: set[tuple[str, str, int]] = set()  # files read more than once, and for several splits, are told of once


class FileTask(Task):
    """Base of tasks that read files; `published` says where they are to be had."""

    published: ClassVar[Published | None] = None
    reads_files = True
    makes_rows: ClassVar[bool] = False  # whether it has problems without any file too
    patterns: ClassVar[tuple[str, ...]] = ()  # of the files in a folder, for sets that have many
    folders: ClassVar[tuple[str, ...]] = ()  # other names of its folder in that of `--data`
    own_folder: ClassVar[bool] = False  # whether `--data` may be its folder itself, which its patterns tell
    without: ClassVar[str] = ""  # files whose rows have this field hold something else than problems
    prefix: str = ""  # what ids and sources of its problems begin with; "" is its name

    def __init__(self, part: str = "") -> None:
        super().__init__(part)
        self.prefix = self.prefix or self.name

    def data(self, place: Path | None = None) -> DataFiles:
        """The task's files in the folder of `--data`, in one file, or as published."""
        patterns = self.patterns if self.own_folder else ()
        return DataFiles.of(self.name, self.published, place, folders=self.folders, patterns=patterns)

    def problems(
        self, split: str, num: int | None = None, *, data: DataFiles | None = None, use: FileUse | None = None
    ) -> list[Problem]:
        data = DataFiles(self.name, self.published) if data is None else data
        use = FileUse(data.name, noun="problems") if use is None else use
        problems = self.load(data, split, use)
        use.used = len(problems)
        return self.first([self.owned(p) for p in problems], num)

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        """All problems of a split, in the order of the files.

        DataError names the file, row and field at fault.
        """
        files = data.files(split, self.patterns)
        if data.place and Path(data.place).expanduser().is_file():
            _check_split(files[0], split)
        problems: list[Problem] = []
        for path, row in data.rows(split, patterns=self.patterns, without=self.without):
            use.rows += 1
            use.shapes[self.prefix] += 1
            file_split = split_in_name(path.name)
            # The parts of one set have one name for their split: their rows are told apart by the
            # part's own name.
            label = file_split if file_split and len(files) == 1 else path.stem
            try:
                problem = self.read(row.fields, row.where, f"{self.prefix}/{label}/{row.number}")
            except Malformed as reason:
                raise DataError(f"{row.where}: {reason}") from None
            if problem is None:
                use.leave_out(NO_ANSWER, row.where)
            elif self.owns(problem, split, file_split):
                problems.append(problem)
            else:
                use.leave_out(self.left_out(split), row.where)
        unanswered = use.left_out[NO_ANSWER]
        said = (str(data.place or ""), data.name, unanswered)
        if unanswered and said not in _said:
            _said.add(said)
            _log.warning("%s: %d rows without an answer are left out", data.name, unanswered)
        if not problems:
            why = self.why_none(split, use.rows - unanswered)
            raise DataError(f"{data.name} holds no {split} problems of {self.prefix}{why}: name another file or split")
        return problems

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem | None:
        """The problem of a row; None for a row without an answer. DataError or Malformed for one
        that cannot be read.

        `where` is its file and line, `ident` an id made of them.
        """
        raise NotImplementedError

    def owns(self, problem: Problem, split: str, file_split: str | None) -> bool:
        """Whether a problem belongs to `split`;

        `file_split` is the split that its file's name claims.
        """
        if split == "test" or file_split == "validation":
            return True
        held_out = digest(f"validation/{problem.canonical}") % 100 < VALIDATION_SHARE
        return held_out == (split == "validation")

    def left_out(self, split: str) -> str:
        """Why rows of a file are not in `split`, for the account of its rows."""
        return "held back for validation" if split == "train" else f"not of the {split} split"

    def why_none(self, split: str, rows: int) -> str:
        """In brackets, how the rows of a file are divided, if that leaves none."""
        if split == "test" or not rows:
            return ""
        return (
            f" ({rows} rows; about {VALIDATION_SHARE} in a hundred, by a hash of the question, are validation and "
            "the rest train)"
        )


def _check_split(path: Path, split: str) -> None:
    file_split = split_in_name(path.name)
    serves = {None: ("train", "validation", "test"), "train": ("train", "validation")}.get(file_split, (file_split,))
    if split not in serves:
        raise DataError(
            f"{path} holds {file_split} rows by its name, split {split!r} is asked for: "
            f"name the {split} file or set split = {file_split!r}"
        )
