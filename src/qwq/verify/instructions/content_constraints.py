"""Constraints on words, letters, digits and sentences."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

from qwq.verify.instructions.constraint_table import (
    KEYWORDS,
    ConstraintTable,
    between,
    first_word,
    last_word,
    one_of,
    some_keyword,
)
from qwq.verify.instructions.text_units import occurrences, sentences, words

CONTENT = ConstraintTable()
_constraint = CONTENT.constraint


# -- words -----------------------------------------------------------------------------------------


@_constraint("words:longest", "Use no word of more than {letters} letters.", "letters", one_of(letters=range(8, 13)))
def _(text: str, *, letters: int, **_: Any) -> bool:
    found = words(text)
    return bool(found) and max(map(len, found)) <= letters


@_constraint(
    "words:long",
    "Use at least {n} words that have {letters} letters or more.",
    "letters",
    one_of(n=range(3, 9), letters=(9, 10, 11)),
)
def _(text: str, *, n: int, letters: int, **_: Any) -> bool:
    return sum(len(w) >= letters for w in words(text)) >= n


@_constraint("words:once", "Use the word '{keyword}' exactly once.", "wording", some_keyword)
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
    "words:repeat_limit", "Use no word of five or more letters more than {n} times.", "variety", one_of(n=(1, 2, 3))
)
def _(text: str, *, n: int, **_: Any) -> bool:
    counts = Counter(w.lower() for w in words(text))
    return bool(counts) and max((c for w, c in counts.items() if len(w) >= 5), default=0) <= n


@_constraint(
    "words:from_end", "Make '{keyword}' word number {n} of your answer, counted from its end.", "end",
    lambda rng: {**some_keyword(rng), "n": rng.randint(2, 10)},
)  # fmt: skip
def _(text: str, *, keyword: str, n: int, **_: Any) -> bool:
    found = words(text)
    return len(found) >= n and found[-int(n)].lower() == keyword.lower()


@_constraint(
    "words:hyphenated",
    "Use at least {n} words written with a hyphen, such as 'well-known'.",
    "letters",
    one_of(n=(2, 3, 4)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum("-" in w for w in words(text)) >= n


@_constraint("words:same_ends", "Let the very first and the very last word of your answer be the same.", "start end")
def _(text: str, **_: Any) -> bool:
    return len(words(text)) > 1 and first_word(text) == last_word(text)


@_constraint("words:first", "Begin your answer with the word '{keyword}'.", "start", some_keyword)
def _(text: str, *, keyword: str, **_: Any) -> bool:
    return first_word(text) == keyword.lower()


@_constraint("words:last", "Let '{keyword}' be the last word of your answer.", "end", some_keyword)
def _(text: str, *, keyword: str, **_: Any) -> bool:
    return last_word(text) == keyword.lower()


# -- letters and digits ----------------------------------------------------------------------------


@_constraint(
    "letters:total",
    "Write between {low} and {high} characters in total, spaces included.",
    "length",
    between(150, 900, 60, 200),
)
def _(text: str, *, low: int, high: int, **_: Any) -> bool:
    return low <= len(text.strip()) <= high


@_constraint(
    "letters:without",
    "Do not use the letter '{letter}' anywhere.",
    "letters wording start end",
    one_of(letter="jqxzkvw"),
)
def _(text: str, *, letter: str, **_: Any) -> bool:
    return bool(words(text)) and letter.lower() not in text.lower()


@_constraint(
    "letters:start",
    "Use at least {n} words that begin with the letter '{letter}'.",
    "letters",
    one_of(n=range(4, 9), letter="abcdfghlmnprstw"),
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
    one_of(n=range(3, 7)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    found = [float(m.replace(",", "")) for m in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]
    return len(found) >= n and all(a < b for a, b in itertools.pairwise(found))


# -- sentences -------------------------------------------------------------------------------------


@_constraint("sentences:range", "Write between {low} and {high} sentences.", "sentences", between(3, 10, 0, 3))
def _(text: str, *, low: int, high: int, **_: Any) -> bool:
    return low <= len(sentences(text)) <= high


@_constraint("sentences:longest", "Let no sentence have more than {n} words.", "sentences", one_of(n=range(10, 21)))
def _(text: str, *, n: int, **_: Any) -> bool:
    found = sentences(text)
    return bool(found) and max(len(words(s)) for s in found) <= n


@_constraint(
    "sentences:different_starts",
    "Write at least {n} sentences, no two of which begin with the same word.",
    "sentences",
    one_of(n=(4, 5, 6)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    firsts = [first_word(s) for s in sentences(text)]
    return len(firsts) >= n and len(set(firsts)) == len(firsts)


@_constraint(
    "sentences:acrostic", "Write {n} sentences whose first letters spell '{word}'.", "sentences start",
    lambda rng: {"word": rng.choice([k for k in KEYWORDS if len(k) == 6 and not set(k) & set("qvxz")]), "n": 6},
)  # fmt: skip
def _(text: str, *, word: str, **_: Any) -> bool:
    return "".join(first_word(s)[:1] for s in sentences(text)) == word.lower()


@_constraint(
    "sentences:questions",
    "Include exactly {n} questions, each a sentence that ends with a question mark.",
    "marks",
    one_of(n=(1, 2, 3)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    return sum(s.rstrip("\"'”’)*_").endswith("?") for s in sentences(text)) == n


@_constraint(
    "sentences:growing",
    "Write {n} sentences, each with more words than the one before it.",
    "sentences",
    one_of(n=(3, 4, 5)),
)
def _(text: str, *, n: int, **_: Any) -> bool:
    sizes = [len(words(s)) for s in sentences(text)]
    return len(sizes) == n and all(a < b for a, b in itertools.pairwise(sizes))


@_constraint(
    "sentences:keyword_ends", "Use the word '{keyword}' in your first and in your last sentence, and in none between.",
    "sentences wording", some_keyword,
)  # fmt: skip
def _(text: str, *, keyword: str, **_: Any) -> bool:
    found = [bool(occurrences(keyword, s)) for s in sentences(text)]
    return len(found) > 2 and found[0] and found[-1] and not any(found[1:-1])


@_constraint("sentences:last_question", "End your answer with a question.", "end")
def _(text: str, **_: Any) -> bool:
    return bool(words(text)) and text.rstrip().rstrip("\"'”’)*_").endswith("?")
