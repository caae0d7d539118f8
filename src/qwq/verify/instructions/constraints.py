"""Constraints to train instruction following on: each with an exact check, parameters to draw, and
its wording for a prompt.

In the manner of IFBench (Pyatkin et al. 2025, arXiv 2507.02833): precise, verifiable, beyond
IFEval's 25 types. The types are our own, and none is one of IFBench's 58 test types, so that a
model trained on these can still be tested on those. Each check gets the answer and the parameters,
as IFEval's do (`verify.ifeval`, which grades both kinds, `qwq verify instructions` too); none is
met by an empty text. Words, sentences, lines and paragraphs are those of `verify.text_units`.

`touches` names the sides of an answer that a constraint fixes. Two that fix the same side are not
asked for together.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qwq.errors import DataError
from qwq.verify.instructions.text_units import lines, occurrences, paragraphs, sentences, words

Check = Callable[..., bool]
Kwargs = dict[str, Any]
Draw = Callable[[random.Random], Kwargs]

# Plain words that fit into a text about nearly anything; the parameters of keyword constraints are
# drawn from them.
KEYWORDS = (
    "balance", "bridge", "candle", "careful", "change", "circle", "corner", "courage", "detail", "distance", "effort",
    "evening", "future", "garden", "gentle", "habit", "history", "honest", "journey", "kitchen", "lantern", "lesson",
    "market", "memory", "method", "mirror", "moment", "mountain", "neighbor", "orange", "patience", "pattern", "pencil",
    "question", "quiet", "reason", "river", "season", "shadow", "signal", "silver", "simple", "station", "steady",
    "story", "summer", "ticket", "tradition", "travel", "valley", "village", "window", "winter", "wonder",
)  # fmt: skip
PHRASES = (
    "step by step",
    "in the long run",
    "as a matter of fact",
    "one thing at a time",
    "more often than not",
    "all things considered",
)
NAMES = ("Mara", "Jonas", "Priya", "Tomás", "Ingrid", "Kofi", "Leila", "Pavel")
WHOLE = ("layout", "lines", "paragraphs", "start", "end", "case", "sentences", "length", "marks")


@dataclass(frozen=True, slots=True)
class Constraint:
    """One type: `check(text, **kwargs)`, `draw(rng)` gives kwargs, `wording` is the request with
    the kwargs in braces.
    """

    name: str
    wording: str
    draw: Draw
    touches: frozenset[str]
    check: Check

    def describe(self, kwargs: Mapping[str, Any]) -> str:
        shown = {k: ", ".join(v) if isinstance(v, list) else v for k, v in kwargs.items()}
        return self.wording.format(**shown)


CONSTRAINTS: dict[str, Constraint] = {}


def _constraint(name: str, wording: str, touches: str, draw: Draw = lambda rng: {}) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        sides = frozenset(touches.split()) if touches != "whole" else frozenset(WHOLE)
        CONSTRAINTS[name] = Constraint(name, wording, draw, sides, check)
        return check

    return register


def _keyword(rng: random.Random) -> Kwargs:
    return {"keyword": rng.choice(KEYWORDS)}


def _range(first: int, last: int, least: int, most: int) -> Draw:
    def draw(rng: random.Random) -> Kwargs:
        low = rng.randint(first, last)
        return {"low": low, "high": low + rng.randint(least, most)}

    return draw


def _of(**choices: Any) -> Draw:
    """Each parameter from a tuple of choices or a (first, last) range object."""
    return lambda rng: {key: rng.choice(list(values)) for key, values in choices.items()}


def _first_word(text: str) -> str:
    found = words(text)
    return found[0].lower() if found else ""


def _last_word(text: str) -> str:
    found = words(text)
    return found[-1].lower() if found else ""


# -- words -----------------------------------------------------------------------------------------


@_constraint("words:longest", "Use no word of more than {letters} letters.", "letters", _of(letters=range(8, 13)))
def _(text: str, *, letters: int, **_: Any) -> bool:
    found = words(text)
    return bool(found) and max(map(len, found)) <= letters


@_constraint(
    "words:long",
    "Use at least {n} words that have {letters} letters or more.",
    "letters",
    _of(n=range(3, 9), letters=(9, 10, 11)),
)
def _(text: str, *, n: int, letters: int, **_: Any) -> bool:
    return sum(len(w) >= letters for w in words(text)) >= n


@_constraint("words:once", "Use the word '{keyword}' exactly once.", "wording", _keyword)
def _(text: str, *, keyword: str, **_: Any) -> bool:
    return occurrences(keyword, text) == 1


@_constraint(
    "words:order", "Use both words '{first}' and '{second}', and let '{first}' come first.", "wording",
    lambda rng: dict(zip(("first", "second"), rng.sample(KEYWORDS, 2), strict=True)),
)  # fmt: skip
def _(text: str, *, first: str, second: str, **_: Any) -> bool:
    found = [w.lower() for w in words(text)]
    return (
        first.lower() in found and second.lower() in found and found.index(first.lower()) < found.index(second.lower())
    )


@_constraint(
    "words:repeat_limit", "Use no word of five or more letters more than {n} times.", "variety", _of(n=(1, 2, 3))
)
def _(text: str, *, n: int, **_: Any) -> bool:
    counts = Counter(w.lower() for w in words(text))
    return bool(counts) and max((c for w, c in counts.items() if len(w) >= 5), default=0) <= n


@_constraint(
    "words:from_end", "Make '{keyword}' word number {n} of your answer, counted from its end.", "end",
    lambda rng: {**_keyword(rng), "n": rng.randint(2, 10)},
)  # fmt: skip
def _(text: str, *, keyword: str, n: int, **_: Any) -> bool:
    found = words(text)
    return len(found) >= n and found[-int(n)].lower() == keyword.lower()


@_constraint(
    "words:hyphenated",
    "Use at least {n} words written with a hyphen, such as 'well-known'.",
    "letters",
    _of(n=(2, 3, 4)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum("-" in w for w in words(text)) >= n


@_constraint("words:same_ends", "Let the very first and the very last word of your answer be the same.", "start end")
def _(text: str, **_: Any) -> bool:
    return len(words(text)) > 1 and _first_word(text) == _last_word(text)


@_constraint("words:first", "Begin your answer with the word '{keyword}'.", "start", _keyword)
def _(text: str, *, keyword: str, **_: Any) -> bool:
    return _first_word(text) == keyword.lower()


@_constraint("words:last", "Let '{keyword}' be the last word of your answer.", "end", _keyword)
def _(text: str, *, keyword: str, **_: Any) -> bool:
    return _last_word(text) == keyword.lower()


# -- letters and digits ----------------------------------------------------------------------------


@_constraint(
    "letters:total",
    "Write between {low} and {high} characters in total, spaces included.",
    "length",
    _range(150, 900, 60, 200),
)
def _(text: str, *, low: int, high: int, **_: Any) -> bool:
    return low <= len(text.strip()) <= high


@_constraint(
    "letters:without", "Do not use the letter '{letter}' anywhere.", "letters wording start end", _of(letter="jqxzkvw")
)
def _(text: str, *, letter: str, **_: Any) -> bool:
    return bool(words(text)) and letter.lower() not in text.lower()


@_constraint(
    "letters:start",
    "Use at least {n} words that begin with the letter '{letter}'.",
    "letters",
    _of(n=range(4, 9), letter="abcdfghlmnprstw"),
)
def _(text: str, *, n: int, letter: str, **_: Any) -> bool:
    return sum(w.lower().startswith(letter.lower()) for w in words(text)) >= n


@_constraint("numbers:none", "Do not use any digits; write numbers as words.", "digits")
def _(text: str, **_: Any) -> bool:
    return bool(words(text)) and not any(c.isdigit() for c in text)


@_constraint(
    "numbers:ascending",
    "Write at least {n} numbers in digits, each larger than the one before it.",
    "digits",
    _of(n=range(3, 7)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    found = [float(m.replace(",", "")) for m in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]
    return len(found) >= n and all(a < b for a, b in itertools.pairwise(found))


# -- sentences -------------------------------------------------------------------------------------


@_constraint("sentences:range", "Write between {low} and {high} sentences.", "sentences", _range(3, 10, 0, 3))
def _(text: str, *, low: int, high: int, **_: Any) -> bool:
    return low <= len(sentences(text)) <= high


@_constraint("sentences:longest", "Let no sentence have more than {n} words.", "sentences", _of(n=range(10, 21)))
def _(text: str, *, n: int, **_: Any) -> bool:
    found = sentences(text)
    return bool(found) and max(len(words(s)) for s in found) <= n


@_constraint(
    "sentences:different_starts",
    "Write at least {n} sentences, no two of which begin with the same word.",
    "sentences",
    _of(n=(4, 5, 6)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    firsts = [_first_word(s) for s in sentences(text)]
    return len(firsts) >= n and len(set(firsts)) == len(firsts)


@_constraint(
    "sentences:acrostic", "Write {n} sentences whose first letters spell '{word}'.", "sentences start",
    lambda rng: {"word": rng.choice([k for k in KEYWORDS if len(k) == 6 and not set(k) & set("qvxz")]), "n": 6},
)  # fmt: skip
def _(text: str, *, word: str, **_: Any) -> bool:
    return "".join(_first_word(s)[:1] for s in sentences(text)) == word.lower()


@_constraint(
    "sentences:questions",
    "Include exactly {n} questions, each a sentence that ends with a question mark.",
    "marks",
    _of(n=(1, 2, 3)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum(s.rstrip("\"'”’)*_").endswith("?") for s in sentences(text)) == n


@_constraint(
    "sentences:growing",
    "Write {n} sentences, each with more words than the one before it.",
    "sentences",
    _of(n=(3, 4, 5)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    sizes = [len(words(s)) for s in sentences(text)]
    return len(sizes) == n and all(a < b for a, b in itertools.pairwise(sizes))


@_constraint(
    "sentences:keyword_ends", "Use the word '{keyword}' in your first and in your last sentence, and in none between.",
    "sentences wording", _keyword,
)  # fmt: skip
def _(text: str, *, keyword: str, **_: Any) -> bool:
    found = [bool(occurrences(keyword, s)) for s in sentences(text)]
    return len(found) > 2 and found[0] and found[-1] and not any(found[1:-1])


@_constraint("sentences:last_question", "End your answer with a question.", "end")
def _(text: str, **_: Any) -> bool:
    return bool(words(text)) and text.rstrip().rstrip("\"'”’)*_").endswith("?")


# -- lines and paragraphs --------------------------------------------------------------------------


@_constraint("lines:count", "Write exactly {n} lines, not counting blank ones.", "lines layout", _of(n=range(3, 9)))
def _(text: str, *, n: int, **_: Any) -> bool:
    return len(lines(text)) == n


@_constraint(
    "lines:numbered",
    "Give a numbered list of exactly {n} items, written '1.', '2.' and so on, each on its own line.",
    "lines layout",
    _of(n=range(3, 9)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    numbers = [int(m[1]) for line in lines(text) if (m := re.match(r"(\d{1,4})\. +\S", line))]
    return numbers == list(range(1, n + 1))


@_constraint(
    "lines:width", "Break your answer into lines of at most {n} characters.", "lines layout", _of(n=range(40, 81, 10))
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return bool(lines(text)) and max(len(line.rstrip()) for line in text.splitlines()) <= n


@_constraint(
    "lines:prefix",
    "Begin every line with '{prefix}', and write at least {n} lines.",
    "lines layout start",
    _of(prefix=("> ", "- ", "~ ", "# ", "+ "), n=(3, 4, 5)),
)
def _(text: str, *, prefix: str, n: int, **_: Any) -> bool:
    found = lines(text)
    return len(found) >= n and all(line.startswith(prefix) for line in found)


@_constraint(
    "lines:longer_down",
    "Write {n} lines, each longer in characters than the line above it.",
    "lines layout",
    _of(n=(3, 4, 5)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    sizes = [len(line) for line in lines(text)]
    return len(sizes) == n and all(a < b for a, b in itertools.pairwise(sizes))


@_constraint(
    "paragraphs:shape",
    "Write {paragraphs} paragraphs with a blank line between them, each of exactly {sentences} sentences.",
    "layout paragraphs sentences", _of(paragraphs=(2, 3, 4), sentences=(2, 3)),
)  # fmt: skip
def _(text: str, *, paragraphs: int, sentences: int, **_: Any) -> bool:
    return _sentence_counts(text) == [sentences] * paragraphs


def _sentence_counts(text: str) -> list[int]:
    return [len(sentences(p)) for p in paragraphs(text)]


@_constraint(
    "paragraphs:first_word",
    "Write {n} paragraphs with a blank line between them, each beginning with the word '{keyword}'.",
    "layout paragraphs start",
    lambda rng: {**_keyword(rng), "n": rng.randint(2, 4)},
)
def _(text: str, *, keyword: str, n: int, **_: Any) -> bool:
    return [_first_word(p) for p in paragraphs(text)] == [keyword.lower()] * n


# -- formats ---------------------------------------------------------------------------------------


@_constraint(
    "format:table",
    "Give a Markdown table with exactly {columns} columns and at least {rows} rows below its header.",
    "layout lines",
    _of(columns=(2, 3, 4), rows=(3, 4, 5)),
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
    _of(n=(2, 3, 4)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum(bool(re.match(r"## +\S", line)) for line in lines(text)) == n


@_constraint(
    "format:bold_keyword",
    "Use the word '{keyword}' at least twice, and write it in **bold** every time.",
    "wording marks",
    _keyword,
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
    _of(tag=("answer", "reply", "note", "letter")),
)
def _(text: str, *, tag: str, **_: Any) -> bool:
    inner = re.fullmatch(rf"<{re.escape(tag)}>(.*)</{re.escape(tag)}>", text.strip(), re.DOTALL)
    return inner is not None and bool(words(inner[1])) and f"<{tag}>" not in inner[1]


@_constraint(
    "format:terms", "Include at least {n} lines of the form 'Term: explanation'.", "layout lines", _of(n=(3, 4, 5))
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum(bool(re.match(r"[^\W\d_][\w '-]{0,40}: +\S+ +\S", line)) for line in lines(text)) >= n


@_constraint("format:signature", "Sign your answer: let its last line be '-- {name}'.", "end", _of(name=NAMES))
def _(text: str, *, name: str, **_: Any) -> bool:
    found = lines(text)
    return len(found) > 1 and found[-1] == f"-- {name}"


# -- punctuation, case, copying --------------------------------------------------------------------


@_constraint("marks:without", "Do not use this punctuation mark anywhere: {mark}", "marks", _of(mark=";:!?()-"))
def _(text: str, *, mark: str, **_: Any) -> bool:
    return bool(words(text)) and mark not in text


@_constraint("marks:count", "Use the mark '{mark}' exactly {n} times.", "marks", _of(mark=";:!", n=(2, 3, 4)))
def _(text: str, *, mark: str, n: int, **_: Any) -> bool:
    return text.count(mark) == n


@_constraint(
    "case:one_sentence",
    "Write exactly {n} of your sentences in capital letters throughout, and the others as usual.",
    "case sentences",
    _of(n=(1, 2)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    found = sentences(text)
    return len(found) > n and sum(s.isupper() and len(words(s)) > 1 for s in found) == n


@_constraint("copy:phrase", "Use the phrase '{phrase}' exactly {n} times.", "phrase", _of(phrase=PHRASES, n=(2, 3)))
def _(text: str, *, phrase: str, n: int, **_: Any) -> bool:
    return occurrences(phrase, text) == n


@_constraint(
    "copy:frame",
    "Write this line both as the first and as the last line of your answer: {line}",
    "start end lines",
    _of(
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


# -- choosing --------------------------------------------------------------------------------------


def compatible(names: list[str], known: Mapping[str, Constraint]) -> bool:
    """Whether constraints can be asked for together: no two fix the same side of an answer."""
    sides = [side for name in names for side in known[name].touches]
    return len(sides) == len(set(sides))


def check_kwargs(constraint: Constraint, kwargs: Mapping[str, Any]) -> None:
    """DataError where a parameter that the wording names has not the kind of value that the
    constraint draws.
    """
    for key, drawn in constraint.draw(random.Random(0)).items():
        value = kwargs.get(key)
        whole = (
            isinstance(drawn, int)
            and isinstance(value, int | float)
            and not isinstance(value, bool)
            and value == int(value)
        )
        if key in kwargs and not whole and (type(value) is not type(drawn) or value in ("", [])):
            raise DataError(f"{constraint.name}: {key} is {value!r}, a value such as {drawn!r} is needed")
