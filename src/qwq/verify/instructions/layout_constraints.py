"""Constraints on lines, paragraphs, formats, punctuation and copying."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from qwq.verify.instructions.constraint_table import (
    NAMES,
    PHRASES,
    ConstraintTable,
    first_word,
    one_of,
    some_keyword,
)
from qwq.verify.instructions.text_units import lines, occurrences, paragraphs, sentences, words

LAYOUT = ConstraintTable()
_constraint = LAYOUT.constraint


# -- lines and paragraphs --------------------------------------------------------------------------


@_constraint("lines:count", "Write exactly {n} lines, not counting blank ones.", "lines layout", one_of(n=range(3, 9)))
def _(text: str, *, n: int, **_: Any) -> bool:
    return len(lines(text)) == n


@_constraint(
    "lines:numbered",
    "Give a numbered list of exactly {n} items, written '1.', '2.' and so on, each on its own line.",
    "lines layout",
    one_of(n=range(3, 9)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    numbers = [int(m[1]) for line in lines(text) if (m := re.match(r"(\d{1,4})\. +\S", line))]
    return numbers == list(range(1, n + 1))


@_constraint(
    "lines:width",
    "Break your answer into lines of at most {n} characters.",
    "lines layout",
    one_of(n=range(40, 81, 10)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return bool(lines(text)) and max(len(line.rstrip()) for line in text.splitlines()) <= n


@_constraint(
    "lines:prefix",
    "Begin every line with '{prefix}', and write at least {n} lines.",
    "lines layout start",
    one_of(prefix=("> ", "- ", "~ ", "# ", "+ "), n=(3, 4, 5)),
)
def _(text: str, *, prefix: str, n: int, **_: Any) -> bool:
    found = lines(text)
    return len(found) >= n and all(line.startswith(prefix) for line in found)


@_constraint(
    "lines:longer_down",
    "Write {n} lines, each longer in characters than the line above it.",
    "lines layout",
    one_of(n=(3, 4, 5)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    sizes = [len(line) for line in lines(text)]
    return len(sizes) == n and all(a < b for a, b in itertools.pairwise(sizes))


@_constraint(
    "paragraphs:shape",
    "Write {paragraphs} paragraphs with a blank line between them, each of exactly {sentences} sentences.",
    "layout paragraphs sentences", one_of(paragraphs=(2, 3, 4), sentences=(2, 3)),
)  # fmt: skip
def _(text: str, *, paragraphs: int, sentences: int, **_: Any) -> bool:
    return _sentence_counts(text) == [sentences] * paragraphs


def _sentence_counts(text: str) -> list[int]:
    return [len(sentences(p)) for p in paragraphs(text)]


@_constraint(
    "paragraphs:first_word",
    "Write {n} paragraphs with a blank line between them, each beginning with the word '{keyword}'.",
    "layout paragraphs start",
    lambda rng: {**some_keyword(rng), "n": rng.randint(2, 4)},
)
def _(text: str, *, keyword: str, n: int, **_: Any) -> bool:
    return [first_word(p) for p in paragraphs(text)] == [keyword.lower()] * n


# -- formats ---------------------------------------------------------------------------------------


@_constraint(
    "format:table",
    "Give a Markdown table with exactly {columns} columns and at least {rows} rows below its header.",
    "layout lines",
    one_of(columns=(2, 3, 4), rows=(3, 4, 5)),
)
def _(text: str, *, columns: int, rows: int, **_: Any) -> bool:
    table = [line.strip("|").split("|") for line in lines(text) if line.startswith("|") and line.endswith("|")]
    rule = [i for i, cells in enumerate(table) if all(re.fullmatch(r"\s*:?-{3,}:?\s*", c) for c in cells)]
    filled = [any(c.strip() for c in cells) for cells in table]
    return rule == [1] and len(table) - 2 >= rows and all(len(cells) == columns for cells in table) and all(filled)


@_constraint(
    "format:headings",
    "Divide your answer by exactly {n} Markdown headings of the second level ('## ...').",
    "layout",
    one_of(n=(2, 3, 4)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum(bool(re.match(r"## +\S", line)) for line in lines(text)) == n


@_constraint(
    "format:bold_keyword",
    "Use the word '{keyword}' at least twice, and write it in **bold** every time.",
    "wording marks",
    some_keyword,
)
def _(text: str, *, keyword: str, **_: Any) -> bool:
    bold = len(re.findall(rf"\*\*{re.escape(keyword)}\*\*", text, re.IGNORECASE))
    return bold >= 2 and bold == occurrences(keyword, text)


@_constraint(
    "format:json_keys",
    "Answer with one JSON object that has exactly the keys {keys}, each with a text as its value, and nothing else.",
    "whole",
    lambda rng: {"keys": rng.sample(("title", "summary", "reason", "example", "advice", "warning"), rng.randint(2, 4))},
)
def _(text: str, *, keys: list[str], **_: Any) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n```", text.strip(), re.DOTALL | re.IGNORECASE)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(value, dict)
        and set(value) == set(keys)
        and all(isinstance(v, str) and v.strip() for v in value.values())
    )


@_constraint(
    "format:checklist",
    "Give a checklist of {n} lines that begin with '- [ ]' or '- [x]', exactly {done} of them ticked with an x.",
    "layout lines",
    lambda rng: {"n": (n := rng.randint(4, 7)), "done": rng.randint(1, n - 1)},
)
def _(text: str, *, n: int, done: int, **_: Any) -> bool:
    boxes = [m[1] for line in lines(text) if (m := re.match(r"- \[([ xX])\] +\S", line))]
    return len(boxes) == n and sum(b != " " for b in boxes) == done


@_constraint(
    "format:tag",
    "Put your whole answer between <{tag}> and </{tag}>.",
    "whole",
    one_of(tag=("answer", "reply", "note", "letter")),
)
def _(text: str, *, tag: str, **_: Any) -> bool:
    inner = re.fullmatch(rf"<{re.escape(tag)}>(.*)</{re.escape(tag)}>", text.strip(), re.DOTALL)
    return inner is not None and bool(words(inner[1])) and f"<{tag}>" not in inner[1]


@_constraint(
    "format:terms", "Include at least {n} lines of the form 'Term: explanation'.", "layout lines", one_of(n=(3, 4, 5))
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum(bool(re.match(r"[^\W\d_][\w '-]{0,40}: +\S+ +\S", line)) for line in lines(text)) >= n


@_constraint("format:signature", "Sign your answer: let its last line be '-- {name}'.", "end", one_of(name=NAMES))
def _(text: str, *, name: str, **_: Any) -> bool:
    found = lines(text)
    return len(found) > 1 and found[-1] == f"-- {name}"


# -- punctuation, case, copying --------------------------------------------------------------------


@_constraint("marks:without", "Do not use this punctuation mark anywhere: {mark}", "marks", one_of(mark=";:!?()-"))
def _(text: str, *, mark: str, **_: Any) -> bool:
    return bool(words(text)) and mark not in text


@_constraint("marks:count", "Use the mark '{mark}' exactly {n} times.", "marks", one_of(mark=";:!", n=(2, 3, 4)))
def _(text: str, *, mark: str, n: int, **_: Any) -> bool:
    return text.count(mark) == n


@_constraint(
    "case:one_sentence",
    "Write exactly {n} of your sentences in capital letters throughout, and the others as usual.",
    "case sentences",
    one_of(n=(1, 2)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    found = sentences(text)
    return len(found) > n and sum(s.isupper() and len(words(s)) > 1 for s in found) == n


@_constraint("copy:phrase", "Use the phrase '{phrase}' exactly {n} times.", "phrase", one_of(phrase=PHRASES, n=(2, 3)))
def _(text: str, *, phrase: str, n: int, **_: Any) -> bool:
    return occurrences(phrase, text) == n


@_constraint(
    "copy:frame",
    "Write this line both as the first and as the last line of your answer: {line}",
    "start end lines",
    one_of(
        line=(
            "Here is the heart of it.",
            "Let us begin and end here.",
            "Remember this above all.",
            "So much for the question.",
        )
    ),
)
def _(text: str, *, line: str, **_: Any) -> bool:
    found = lines(text)
    return len(found) > 2 and found[0] == line == found[-1]
