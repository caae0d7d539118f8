"""Which answers are looked at: filters, the search for text, the order."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from qwq.errors import ConfigError, nearest
from qwq.look.index import AnswerIndex

MANY = 1000
SORTS = ("order", "reward", "advantage", "tokens")


@dataclass(frozen=True, slots=True)
class Query:
    """A filter.

    What is None or empty filters nothing; `step` is one step, counted from 1 as in the metrics'
    display, or `FIRST:LAST`.
    """

    outcome: str = ""
    place: str = ""
    task: str = ""
    problem: str = ""
    step: str = ""
    min_reward: float | None = None
    max_reward: float | None = None
    text: str = ""
    sort: str = "order"
    reverse: bool = False

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, f.name) == f.default for f in fields(self) if f.name not in ("sort", "reverse"))


def select(index: AnswerIndex, query: Query) -> np.ndarray[Any, Any]:
    """Row numbers of the answers that fit, in the order asked for.

    ConfigError for a value that no answer has.
    """
    columns = index.columns
    fits = np.ones(len(index), bool)
    for name in ("outcome", "place", "task", "problem"):
        if word := getattr(query, name):
            fits &= columns[name] == _number(index, name, word)
    if query.step:
        first, last = _steps(query.step)
        fits &= (columns["step"] >= first - 1) & (columns["step"] <= last - 1)
    if query.min_reward is not None:
        fits &= columns["reward"] >= query.min_reward - 1e-6  # float32 columns
    if query.max_reward is not None:
        fits &= columns["reward"] <= query.max_reward + 1e-6
    if query.text:
        fits &= _holding(index, query.text)
    rows = np.flatnonzero(fits)
    if query.sort not in SORTS:
        raise ConfigError(f"no order {query.sort!r}: {nearest(query.sort, SORTS)}")
    if query.sort != "order":
        keys = columns[query.sort][rows].astype("f8")
        keys = np.where(np.isnan(keys), -np.inf if query.reverse else np.inf, keys)  # what has no value comes last
        rows = rows[np.argsort(-keys if query.reverse else keys, kind="stable")]
    elif query.reverse:
        rows = rows[::-1]
    return rows


def _number(index: AnswerIndex, name: str, word: str) -> int:
    words = index.names[name]
    if word not in words:
        label = {"place": "stage"}.get(name, name)
        shown = words if len(words) <= 40 else words[:5]
        raise ConfigError(f"no answer has the {label} {word!r}: {nearest(word, shown)}")
    return words.index(word)


def _steps(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    try:
        low = int(first or 1)
        return low, (int(last or 2**31 - 1) if colon else low)
    except ValueError:
        raise ConfigError(f"--step {text}: give one step, such as 3, or a range, such as 3:10") from None


def _holding(index: AnswerIndex, text: str) -> np.ndarray[Any, Any]:
    """Which answers hold `text` in prompt, output, reason, expected or problem id, in any case."""
    needle = text.lower().encode("utf-8", "replace")
    fits = np.zeros(len(index), bool)
    fits[_pieces(index.words, index.columns["text_end"], needle)] = True
    prompts = np.zeros(len(index.prompt_ends), bool)
    prompts[_pieces(index.prompts, index.prompt_ends, needle)] = True
    return fits | prompts[index.columns["prompt"]]


def _pieces(words: bytes | bytearray, ends: Any, needle: bytes) -> list[int]:
    """The numbers of the pieces of `words`, cut at `ends`, that hold `needle` whole."""
    limits: list[int] = ends.tolist()
    find: Callable[[int], int] = _finder(words, needle)
    pieces, at = [], find(0)
    while at >= 0:
        piece = bisect_right(limits, at)
        if at + len(needle) <= limits[piece]:
            pieces.append(piece)
            if len(pieces) == MANY:
                find = partial(words.find, needle)  # short ways from hit to hit: the cheaper call
            at = find(limits[piece])
        else:  # it reaches into the next piece
            at = find(at + 1)
    return pieces


def _finder(words: bytes | bytearray, needle: bytes) -> Callable[[int], int]:
    """`words.find(needle, start)` by `start`; the C library's memmem is 2 to 5 times faster."""
    try:
        memmem = ctypes.CDLL(None).memmem
    except (OSError, AttributeError, TypeError):
        return lambda start: words.find(needle, start)
    memmem.restype = ctypes.c_void_p
    memmem.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    held = (ctypes.c_char * len(words)).from_buffer(words) if isinstance(words, bytearray) else ctypes.c_char_p(words)
    base = ctypes.cast(held, ctypes.c_void_p).value or 0

    def find(start: int) -> int:
        place = memmem(base + start, len(words) - start, needle, len(needle))  # `words` is held while this is
        return -1 if place is None else place - base

    return find
