"""An index of many answers: what lists and filters need, in columns, beside the text that a search
reads.

    columns   numpy arrays, one value an answer: where its line is, step, task, outcome, reward,
              advantage, tokens
    text      lower-case UTF-8: every prompt once; of each answer output, reason, expected, problem

An index of a large folder is kept beside it (`.look.index`) and mapped into memory when it is
opened again; files that came since are added. A file that changed makes the index again. Without a
place to write it lives in memory.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import multiprocessing
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwq.common.files import atomic_file
from qwq.errors import DataError, QwqError
from qwq.look.answer_files import NEEDS, AnswerFile, sources
from qwq.look.shown_answers import Brief, ShownAnswer, brief, entry, public, read_light, read_record

FORMAT = "qwq look index 2"
KEPT_FROM_BYTES = 8 << 20  # smaller folders are read faster than a file is worth
DIVIDED_FROM_BYTES = 64 << 20  # from here on several processes read
MOST_PROCESSES = 4
PART_BYTES = 256 << 10  # of a file, read at once
NAMES = ("place", "task", "outcome", "problem", "group")
COLUMNS = {
    "file": "i4", "offset": "i8", "length": "i4", "step": "i4", "tokens": "i4", "prompt": "i4", "reward": "f4",
    "advantage": "f4", **dict.fromkeys(NAMES, "i4"), "text_end": "i8",
}  # fmt: skip

NAN = float("nan")

Column = npt.NDArray[Any]


@dataclass(slots=True)
class AnswerIndex:
    """`columns` by name, arrays of one length; `names` holds the words behind the columns of
    `NAMES`.

    `files` are the answers' files with their size and time; `damaged` counts lines that are no
    answer. Advantages are rewards minus the mean of their group, NaN outside rollouts;
    `prompt_ends` and `text_end` cut the two texts.
    """

    target: Path
    files: list[AnswerFile]
    stamps: list[tuple[int, int]]
    columns: dict[str, Column]
    names: dict[str, list[str]]
    prompt_ends: Column
    prompts: bytes
    text: bytes | bytearray | mmap.mmap
    text_start: int = 0
    damaged: int = 0
    saving: threading.Thread | None = None
    _words: bytes | bytearray | None = None

    def __len__(self) -> int:
        return len(self.columns["file"])

    @property
    def words(self) -> bytes | bytearray:
        """The text of all answers, read when a search first needs it."""
        if self._words is None:
            # A made index has it in memory, and a copy of it costs more than reading the lines did.
            self._words = self.text if isinstance(self.text, bytearray) else bytes(self.mapped)
        return self._words

    @property
    def mapped(self) -> memoryview:
        """The text of all answers where it lies, not copied."""
        end = int(self.columns["text_end"][-1]) if len(self) else 0
        return memoryview(self.text)[self.text_start : self.text_start + end]

    def name(self, column: str, row: int) -> str:
        """The word behind a row's value in a column of `NAMES`."""
        return self.names[column][self.columns[column][row]]

    def entry(self, row: int) -> ShownAnswer:
        """The whole answer, read from its file. DataError if the file changed meanwhile."""
        source = self.files[self.columns["file"][row]]
        try:
            with source.path.open("rb") as file:
                file.seek(int(self.columns["offset"][row]))
                line = file.read(int(self.columns["length"][row]))
            return entry(read_record(line), source.place)
        except (OSError, ValueError):
            raise DataError(
                f"{source.path} changed while it was looked at: run the same command again, or load the page again"
            ) from None

    def public(self, row: int) -> dict[str, Any]:
        """An answer for a program: JSON with all of its text."""
        step = int(self.columns["step"][row])
        where = {"number": row + 1, "stage": self.name("place", row), "step": step + 1 if step >= 0 else None}
        shown = public(self.entry(row))
        return where | shown | {"advantage": self.value("advantage", row)}

    def value(self, column: str, row: int) -> float | None:
        """A reward or an advantage; None without one."""
        value = float(self.columns[column][row])
        return None if np.isnan(value) else round(value, 6)

    def group_of(self, row: int) -> list[int]:
        """The rows that answer the same prompt in the same file, `row` included."""
        same = (self.columns["file"] == self.columns["file"][row]) & (
            self.columns["group"] == self.columns["group"][row]
        )
        return [int(r) for r in np.flatnonzero(same)]


def open_index(target: Path) -> AnswerIndex:
    """The index of a folder or file of answers, made or completed if need be.

    DataError if there are none.
    """
    files = sources(target)
    stamps = [_stamp(s.path) for s in files]
    place = _place(target)
    index = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        index = _load(place, target)
    if index is not None and list(zip(index.files, index.stamps, strict=True)) == list(zip(files, stamps, strict=True)):
        return index
    builder = _Builder(target)
    known = len(index.files) if index else 0
    if index and list(zip(index.files, index.stamps, strict=True)) == list(zip(files, stamps, strict=True))[:known]:
        builder.add(index)
    else:
        known = 0
    _read_all(builder, list(zip(files, stamps, strict=True))[known:])
    index = builder.index()
    if index.damaged and not len(index):
        raise DataError(f"{target} holds no answers ({index.damaged:,} lines are none): {NEEDS}")
    if sum(size for size, _ in stamps) >= KEPT_FROM_BYTES:
        # Nobody waits for the disk; the process ends when the file is whole.
        index.saving = threading.Thread(target=_save, args=(index, place))
        index.saving.start()
    return index


_Stamped = tuple[AnswerFile, tuple[int, int]]


def _read_all(builder: _Builder, files: list[_Stamped]) -> None:
    """Add the answers of `files`. Large ones are read by a process per core: the lines of a run
    are gigabytes of JSON.

    A process with other threads reads alone, because a fork would copy their locks as they are.
    """
    num_processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES) if hasattr(os, "memfd_create") else 1
    size = sum(stamp[0] for _, stamp in files)
    if num_processes == 1 or size < DIVIDED_FROM_BYTES or threading.active_count() > 1:
        _read_into(builder, files)
        return
    first, *others = _parts(files, num_processes)
    with contextlib.ExitStack() as stack:
        texts = [stack.enter_context(os.fdopen(os.memfd_create("qwq look"), "w+b", 0)) for _ in others]
        pool = ProcessPoolExecutor(max(1, len(others)), multiprocessing.get_context("fork"))
        stack.enter_context(pool)
        rest = [
            pool.submit(_read_part, builder.target, part, text.fileno())
            for part, text in zip(others, texts, strict=True)
        ]
        _read_into(builder, first)
        for future, text in zip(rest, texts, strict=True):
            index = future.result()
            if len(index):
                index.text = mmap.mmap(text.fileno(), 0, access=mmap.ACCESS_READ)
            builder.add(index)


def _parts(files: Sequence[_Stamped], num: int) -> list[list[_Stamped]]:
    """At most `num` runs of files, in order, of about the same number of bytes."""
    total, read = sum(stamp[0] for _, stamp in files), 0
    parts: dict[int, list[_Stamped]] = {}
    for file in files:
        parts.setdefault(min(num * read // max(total, 1), num - 1), []).append(file)
        read += file[1][0]
    return list(parts.values())


def _read_part(target: Path, files: Sequence[_Stamped], text: int) -> AnswerIndex:
    """The index of `files`; its text is written into the file of memory `text`, since a pipe would
    copy it five times.
    """
    builder = _Builder(target)
    _read_into(builder, files)
    index = builder.index()
    with os.fdopen(text, "wb", closefd=False) as file:
        file.write(index.text)
    index.text = b""
    return index


def _read_into(builder: _Builder, files: Sequence[_Stamped]) -> None:
    for source, stamp in files:
        builder.read(source, stamp)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _place(target: Path) -> Path:
    return target / ".look.index" if target.is_dir() else target.with_name(f".{target.name}.look.index")


class _Builder:
    """Columns that grow, answer by answer."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.files: list[AnswerFile] = []
        self.stamps: list[tuple[int, int]] = []
        self.columns: dict[str, array[Any]] = {
            name: array({"i4": "i", "i8": "q", "f4": "f"}[kind]) for name, kind in COLUMNS.items()
        }
        self.names: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        self.prompt_of: dict[str, int] = {}
        self.prompt_ends = array("q")
        self.prompts, self.text = bytearray(), bytearray()
        self.damaged = 0
        self._read = bytearray(PART_BYTES)

    def add(self, index: AnswerIndex) -> None:
        """Append what another index of the same target holds."""
        shifts = {"file": len(self.files), "prompt": len(self.prompt_ends), "text_end": len(self.text)}
        for name, kind in COLUMNS.items():
            column = index.columns[name]
            if name in NAMES:
                known = self.names[name]
                numbers = [known.setdefault(word, len(known)) for word in index.names[name]]
                column = np.array(numbers, kind)[column]
            self.columns[name].frombytes((column + shifts.get(name, 0)).astype(kind).tobytes())
        self.prompt_ends.frombytes((index.prompt_ends + len(self.prompts)).tobytes())
        self.prompts += index.prompts
        self.text += index.mapped
        self.files += index.files
        self.stamps += index.stamps
        self.damaged += index.damaged

    def read(self, source: AnswerFile, stamp: tuple[int, int]) -> None:
        """Add a file's answers. A last line without its end is one that is being written."""
        self.files.append(source)
        self.stamps.append(stamp)
        first, places, shown, data = len(self.columns["file"]), [], [], self._read
        for offset, start, end in self._lines(source.path, stamp[0]):
            try:
                record, tokens = read_light(data, start, end)
                shown.append(brief(record, source.place))
                places.append((offset, end - start, tokens))
            except (ValueError, TypeError, AttributeError, KeyError):
                self.damaged += not data.startswith(b'{"settings":', start)
        if shown:
            self._extend(source, places, shown)
        if source.step is not None:
            self._advantages(first)

    def _lines(self, path: Path, size: int) -> Iterator[tuple[int, int, int]]:
        """The lines of a file's first `size` bytes: where each begins in the file, where it begins
        in `self._read` and where it ends there.

        A part at a time, in memory that stays in the processor's cache: fresh memory for whole
        files costs more than reading them.
        """
        data, place, kept = self._read, 0, 0  # data[:kept] is the line that has no end yet, from `place` on
        with path.open("rb", 0) as file:
            while more := file.readinto(memoryview(data)[kept : kept + size - place - kept]):
                start, filled = 0, kept + more
                end = data.find(b"\n", kept, filled)
                while end >= 0:
                    if end > start:
                        yield place + start, start, end
                    start = end + 1
                    end = data.find(b"\n", start, filled)
                data[: filled - start] = data[start:filled]
                place, kept = place + start, filled - start
                if kept == len(data):
                    data += bytes(kept)

    def _extend(self, source: AnswerFile, places: Sequence[tuple[int, int, int]], shown: Sequence[Brief]) -> None:
        """Add the last file's answers; `places` are their offsets, lengths and tokens.

        A column at a time: a row at a time takes twice as long.
        """
        offsets, lengths, tokens = zip(*places, strict=True)
        tasks, outcomes, problems, groups, rewards, prompts, words = zip(*shown, strict=True)
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.prompt_of:
                self.prompt_of[prompt] = len(self.prompt_of)
                self.prompts += prompt.lower().encode("utf-8", "replace")
                self.prompt_ends.append(len(self.prompts))
        joined, start = "".join(words), len(self.text)
        if joined.isascii():  # cases change letter by letter
            self.text += joined.lower().encode()
            sizes = map(len, words)
        else:
            texts = [w.lower().encode("utf-8", "replace") for w in words]
            self.text += b"".join(texts)
            sizes = map(len, texts)
        values: dict[str, Iterable[Any]] = {
            "offset": offsets, "length": lengths, "tokens": tokens, "prompt": map(self.prompt_of.__getitem__, prompts),
            "reward": rewards, "text_end": islice(accumulate(sizes, initial=start), 1, None),
        }  # fmt: skip
        for name, column in (("task", tasks), ("outcome", outcomes), ("problem", problems), ("group", groups)):
            known = self.names[name]
            for word in dict.fromkeys(column):
                known.setdefault(word, len(known))
            values[name] = map(known.__getitem__, column)
        for name, numbers in values.items():
            self.columns[name].extend(numbers)
        known = self.names["place"]
        same = {
            "file": len(self.files) - 1, "step": -1 if source.step is None else source.step, "advantage": NAN,
            "place": known.setdefault(source.place, len(known)),
        }  # fmt: skip
        for name, value in same.items():
            self.columns[name].extend(array(self.columns[name].typecode, (value,)) * len(shown))

    def _advantages(self, first: int) -> None:
        """Rewards of the file's rows from `first` on, minus the mean of their group; infrastructure
        errors count nowhere.
        """
        rewards = np.frombuffer(self.columns["reward"], "f4")[first:].astype("f8")
        rated = np.flatnonzero(~np.isnan(rewards))
        if len(rated):
            rewards = rewards[rated]
            _, group = np.unique(np.frombuffer(self.columns["group"], "i4")[first:][rated], return_inverse=True)
            means = np.bincount(group, rewards) / np.bincount(group)
            np.frombuffer(self.columns["advantage"], "f4")[first:][rated] = rewards - means[group]

    def index(self) -> AnswerIndex:
        columns = {name: np.frombuffer(column, COLUMNS[name]) for name, column in self.columns.items()}
        names = {name: list(words) for name, words in self.names.items()}
        ends = np.frombuffer(self.prompt_ends, "i8")
        return AnswerIndex(
            self.target, self.files, self.stamps, columns, names, ends, bytes(self.prompts), self.text,
            damaged=self.damaged,
        )  # fmt: skip


def _save(index: AnswerIndex, place: Path) -> None:
    """Keep an index: one line of JSON that says what follows, then the arrays and the two texts.

    A place that takes no file is left alone: the index is in memory.
    """
    head = {
        "format": FORMAT, "rows": len(index), "damaged": index.damaged, "names": index.names,
        "num_prompts": len(index.prompt_ends),
        "prompts": len(index.prompts), "text": len(index.words),
        "files": [
            [str(s.path.relative_to(index.target)) if index.target.is_dir() else "", s.place, s.step, *stamp]
            for s, stamp in zip(index.files, index.stamps, strict=True)
        ],
    }  # fmt: skip
    line = json.dumps(head).encode()
    with contextlib.suppress(OSError, QwqError), atomic_file(place) as file:
        file.write(line + b" " * (-(len(line) + 1) % 8) + b"\n")  # arrays begin at a multiple of 8 bytes
        for block in _blocks(index):
            file.write(block)
            file.write(b"\0" * (-len(block) % 8))


def _blocks(index: AnswerIndex) -> Iterator[bytes | bytearray]:
    yield from (index.columns[name].tobytes() for name in COLUMNS)
    yield from (index.prompt_ends.tobytes(), index.prompts, index.words)


def _load(place: Path, target: Path) -> AnswerIndex | None:
    """A kept index; None if there is none of this format.

    ValueError, KeyError or TypeError if it is damaged.
    """
    if not place.is_file():
        return None
    with place.open("rb") as file:
        head = json.loads(file.readline())
        start = file.tell()
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if head["format"] != FORMAT:
        return None
    rows, at = head["rows"], start
    sizes = [rows * np.dtype(kind).itemsize for kind in COLUMNS.values()]
    sizes += [8 * head["num_prompts"], head["prompts"], head["text"]]
    starts = list(_starts(sizes, at))
    if starts[-1] + sizes[-1] > len(data):
        return None
    columns = {
        name: np.frombuffer(data, kind, rows, begin)
        for (name, kind), begin in zip(COLUMNS.items(), starts, strict=False)
    }
    files = [AnswerFile(target / f[0] if f[0] else target, f[1], f[2]) for f in head["files"]]
    ends = np.frombuffer(data, "i8", head["num_prompts"], starts[-3])
    prompts = data[starts[-2] : starts[-2] + head["prompts"]]
    return AnswerIndex(
        target, files, [(f[3], f[4]) for f in head["files"]], columns, head["names"], ends, prompts, data, starts[-1],
        head["damaged"],
    )  # fmt: skip


def _starts(sizes: Iterable[int], at: int) -> Iterator[int]:
    for size in sizes:
        yield at
        at += size + -size % 8
