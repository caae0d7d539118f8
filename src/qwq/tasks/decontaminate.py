"""Which training rows hold a benchmark's questions: word n-grams in common, as GPT-3's authors
looked for them.

Brown et al. 2020 (arXiv 2005.14165, appendix C) call a text contaminated that shares 13 words in a
row with a benchmark. So here, on lower-case words and numbers without punctuation, with what their
rule leaves open:
1. A question of fewer than n words is looked for whole, if it has at least `MIN_WORDS`; a shorter
   one makes only an equal text a match.
2. An n-gram that is in more than `COMMON` questions of one benchmark is its boilerplate ("write
   a python function to ..."), and is no evidence.
3. In scripts that put no blanks between words (Chinese, Japanese, Thai ...) every letter counts as
   a word: without that a question with one more sentence before it would match nothing.
What is read of a row is its question: the fields of `FIELDS`, or the user's turns of `messages` and
`conversations`; of a training row also what the assistant says, since an answer can quote a
question. System prompts are not read.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.common.files import atomic_file
from qwq.common.jsonl import BOM, object_of, parse_line, to_line
from qwq.data.row_files import read_rows, split_in_name
from qwq.errors import ConfigError, DataError, nearest
from qwq.tasks import registry
from qwq.tasks.agent.base import AgentTask
from qwq.tasks.mbpp import MBPP_IDS
from qwq.types import Problem

NGRAM = 13
MIN_WORDS = 8
COMMON = 10
FIELDS = (
    "prompt",
    "question",
    "problem",
    "text",
    "instruction",
    "input",
    "query",
    "user",
    "content",
    "question_content",
    "description",
)
TURNS = ("messages", "conversations", "conversation", "prompt", "question", "turns")
ANSWERS = (
    "response",
    "output",
    "answer",
    "solution",
    "completion",
    "chosen",
    "rejected",
)  # as lists they can hold the question too
SUFFIXES = (".jsonl", ".json", ".parquet")

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Match:
    """Where a text meets a benchmark: its name, the question's number there (from 1), and the words
    in common.
    """

    benchmark: str
    row: int
    words: str


def words_of(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word[0].isalnum() or word[0] == "_"]


class NgramIndex:
    """The n-grams of some benchmarks' questions."""

    def __init__(self, n: int = NGRAM) -> None:
        if n < MIN_WORDS:
            raise ConfigError(
                f"--n is {n}: fewer than {MIN_WORDS} words in a row are often chance, give {MIN_WORDS} or more "
                f"({NGRAM} is usual)"
            )
        self.n = n
        self._grams: dict[int, dict[tuple[str, ...], tuple[str, int]]] = {n: {}}
        self._whole: dict[tuple[str, ...], tuple[str, int]] = {}
        self.sizes: dict[str, int] = {}

    def add(self, name: str, questions: Iterable[str]) -> None:
        """The questions of a benchmark, in order."""
        found: dict[tuple[str, ...], int] = {}
        counts: Counter[tuple[str, ...]] = Counter()
        size = 0
        for size, question in enumerate(questions, 1):
            words = tuple(words_of(question))
            if len(words) < MIN_WORDS:
                self._whole.setdefault(words, (name, size))
                continue
            grams = {words[i : i + self.n] for i in range(max(1, len(words) - self.n + 1))}
            counts.update(grams)
            for gram in grams:
                found.setdefault(gram, size)
        self.sizes[name] = self.sizes.get(name, 0) + size
        for gram, row in found.items():
            if counts[gram] <= COMMON:
                self._grams.setdefault(len(gram), {}).setdefault(gram, (name, row))

    def match(self, text: str) -> Match | None:
        """The first words that `text` has in common with a question."""
        words = tuple(words_of(text))
        whole = self._whole.get(words) if words else None
        if whole:
            return Match(*whole, " ".join(words))
        for length, grams in self._grams.items():
            for i in range(len(words) - length + 1):
                found = grams.get(words[i : i + length])
                if found:
                    return Match(*found, " ".join(words[i : i + length]))
        return None

    def without(self, problems: Sequence[Problem], question: Any) -> tuple[list[Problem], list[tuple[Problem, Match]]]:
        """Problems that match nothing, and the others with what they match.

        `question(problem)` is the text to look at.
        """
        clean, dropped = [], []
        for problem in problems:
            match = self.match(question(problem))
            if match is None:
                clean.append(problem)
            else:
                dropped.append((problem, match))
        return clean, dropped


def text_of(row: Mapping[str, Any], *, answers: bool = False) -> str:
    """What a row asks; with `answers`, what its turns say in reply too.

    Empty where no known field holds text.
    """
    parts: list[str] = []
    for key in dict.fromkeys((*FIELDS, *TURNS)):
        value = row.get(key)
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, list) and key in TURNS:
            parts += _turns(value, answers)
    for key in ANSWERS:
        value = row.get(key)
        if isinstance(value, str):
            parts += [value] if answers else []
        elif isinstance(value, list | dict):
            turns = [
                t
                for t in (value if isinstance(value, list) else [value])
                if isinstance(t, dict) and ("role" in t or "from" in t)
            ]
            parts += _turns(turns, answers)
    return "\n".join(parts)


def _turns(value: Sequence[Any], answers: bool) -> Iterator[str]:
    for turn in value:
        if isinstance(turn, list):  # BFCL: turns of messages
            yield from _turns(turn, answers)
        elif isinstance(turn, str):  # LiveBench: turns of texts
            yield turn
        elif isinstance(turn, dict):
            role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
            if isinstance(text, list):  # OpenAI: parts of a content
                text = "\n".join(p["text"] for p in text if isinstance(p, dict) and isinstance(p.get("text"), str))
            if isinstance(text, str) and (
                role in ("user", "human", None) or (answers and role in ("assistant", "gpt"))
            ):
                yield text


# -- benchmarks ------------------------------------------------------------------------------------


def build_index(benchmarks: Sequence[str], data: Path | None = None, n: int = NGRAM) -> NgramIndex:
    """The index of benchmarks named by path or, with a data folder, by name.

    DataError where one cannot be read.
    """
    if not benchmarks:
        raise ConfigError("name at least one benchmark: --against FILE, or --against gsm8k --data DIR")
    index = NgramIndex(n)
    for benchmark in benchmarks:
        if (questions := _agent_questions(benchmark, data)) is not None:
            index.add(benchmark, questions)
            continue
        for path in benchmark_files(benchmark, data):
            name = benchmark if not Path(benchmark).exists() else _label(path)
            index.add(name, _questions(path))
    return index


def _agent_questions(benchmark: str, data: Path | None) -> list[str] | None:
    """The questions of a set for agents, named with a data folder or by its own folder; None for
    any other benchmark.
    """
    path = Path(benchmark).expanduser()
    name, place = (path.name, path) if path.is_dir() else (benchmark, data)
    task = registry.get(name) if name in registry.OWN else None
    return task.questions(place) if isinstance(task, AgentTask) and place is not None else None


def benchmark_files(benchmark: str, data: Path | None) -> list[Path]:
    """The file itself; or those of a folder (DATA/NAME or a path) that are not training files by
    their names.
    """
    path = Path(benchmark).expanduser()
    if not path.exists():
        if data is None:
            raise DataError(f"no benchmark file at {path}: give a path, or a name with --data DIR")
        if not data.is_dir():
            raise DataError(f"no folder {data}: give the one that holds the benchmarks' folders")
        names = [p.name for p in data.iterdir() if p.is_dir()]
        if benchmark not in names:
            raise DataError(f"{data} has no benchmark {benchmark!r}: {nearest(benchmark, names)}")
        path = data / benchmark
    if path.is_file():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and (p.suffix != ".json" or _has_rows(p)))
    tests = [p for p in files if split_in_name(p.name) == "test"] or [
        p for p in files if split_in_name(p.name) != "train"
    ]
    if not tests:
        raise DataError(
            f"{path} holds no test file, only {', '.join(p.name for p in files[:6]) or 'nothing to read'}: name a file"
        )
    return tests


def _has_rows(path: Path) -> bool:
    """Whether a .json file is one object a line (as BFCL names its files), not one document."""
    with path.open("rb") as file:
        try:
            return isinstance(json.loads(file.readline()), dict)
        except ValueError:
            return False


def _label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem


def _questions(path: Path) -> Iterator[str]:
    empty = True
    for _, _, row in read_rows(path):
        if "test_list" in row and isinstance(row.get("task_id"), int) and row["task_id"] not in MBPP_IDS["test"]:
            yield ""  # keeps the numbers of the others
            continue
        text = text_of(row)
        empty = empty and not text.strip()
        yield text
    if empty:
        raise DataError(
            f"{path}: no row has a question: one of {', '.join(FIELDS)}, messages or conversations is needed"
        )


# -- a training file -------------------------------------------------------------------------------


def decontaminate_file(train: Path, index: NgramIndex, out: Path, report: Path | None = None) -> dict[str, Any]:
    """Write the rows of `train` that match nothing to `out`, byte for byte; returns the counts.

    `report` gets a JSON line for each row that is left out. Both files appear whole or not at all.
    """
    if not train.is_file():
        raise DataError(f"no file at {train}: give a file of JSON lines")
    if out.exists() and out.samefile(train):
        raise ConfigError(f"--out {out} is the training file itself: name another file")
    dropped: Counter[str] = Counter()
    rows = unread = 0
    with atomic_file(out) as clean, atomic_file(report or Path(os.devnull)) as matches, train.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            rows += 1
            where = f"{train}, line {number}"
            text = text_of(object_of(parse_line(line.removeprefix(BOM), where), where), answers=True)
            unread += not text.strip()
            match = index.match(text)
            if match is None:
                clean.write(line if line.endswith(b"\n") else line + b"\n")
                continue
            dropped[match.benchmark] += 1
            entry = {"line": number, "benchmark": match.benchmark, "row": match.row, "words": match.words}
            matches.write(to_line(entry))
    if rows == unread:
        raise DataError(
            f"{train}: no row has a text to look at: one of {', '.join(FIELDS)}, messages or conversations is needed"
        )
    return {
        "rows": rows, "kept": rows - sum(dropped.values()), "dropped": dict(dropped), "without_text": unread,
        "n": index.n, "benchmarks": index.sizes, "out": str(out),
    }  # fmt: skip
