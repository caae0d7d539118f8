"""The rules an answer can be held to: a registry from rule id to an exact check.

A rule is written `{"id": "num_words", "n": 5, "relation": "at_most"}`: an id and its parameters,
which are the keyword arguments of the function of that name below. Each function takes the stripped
answer and returns None where the rule holds, or one clause saying what was found instead. Common
meanings:

- A **word** is a run of non-whitespace with the punctuation around it stripped; a run of
  punctuation alone is no word.
- A **sentence** ends with `.`, `!` or `?` (closing quotes and brackets included) followed by
  whitespace or the end; a rest without such an ending counts as one more. `3.5` therefore ends
  nothing.
- A **line** is one that is not blank.
- A **relation** is "exactly", "at_least" or "at_most".

These are the procedural families' rules. IFEval's own checkers have other definitions and live
apart.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from qwq.errors import DataError, nearest

Relation = Literal["exactly", "at_least", "at_most"]
Order = Literal["ascending", "descending"]
Check = Callable[..., str | None]

RULES: dict[str, Check] = {}

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”‘’…–—«»"
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s|\Z)")


def rule(check: Check) -> Check:
    RULES[check.__name__.rstrip("_")] = check
    return check


def words(text: str) -> list[str]:
    """The words of a text, surrounding punctuation stripped."""
    return [w for w in (raw.strip(_PUNCTUATION) for raw in text.split()) if w]


def sentences(text: str) -> list[str]:
    parts = _SENTENCE_END.split(text)
    return [p.strip() for p in parts if words(p)]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def check_rule(answer: str, spec: Mapping[str, Any]) -> str | None:
    """None where `answer` meets the rule, else what was found.

    DataError for a rule that is not usable.
    """
    check, params = resolve(spec)
    return check(answer, **params)


def resolve(spec: Mapping[str, Any]) -> tuple[Check, dict[str, Any]]:
    """The check and the parameters of a rule. DataError names the nearest valid id or parameter."""
    rule_id = spec.get("id") if isinstance(spec, Mapping) else None
    if not isinstance(rule_id, str):
        raise DataError(f'a rule needs the form {{"id": ..., parameters}}, got {json.dumps(spec, default=str)[:120]}')
    if rule_id not in RULES:
        raise DataError(f"unknown rule {rule_id!r}: {nearest(rule_id, RULES)}")
    check = RULES[rule_id]
    accepted = dict(list(inspect.signature(check).parameters.items())[1:])
    params = {k: v for k, v in spec.items() if k != "id"}
    for name in params:
        if name not in accepted:
            known = nearest(name, accepted) if accepted else "it takes none"
            raise DataError(f"rule {rule_id!r} has no parameter {name!r}: {known}")
    for name, parameter in accepted.items():
        if name in params:
            _check_type(rule_id, name, params[name], parameter.annotation)
        elif parameter.default is inspect.Parameter.empty:
            raise DataError(f"rule {rule_id!r} needs the parameter {name!r}, got only {sorted(params) or 'none'}")
    return check, params


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "list[str]": (list, tuple),
}


def _check_type(rule_id: str, name: str, value: Any, annotation: str) -> None:
    kind = annotation.removesuffix(" | None")
    if kind in ("Relation", "Order"):
        choices = get_args(Relation if kind == "Relation" else Order)
        if value not in choices:
            raise DataError(f"rule {rule_id!r}: {name} must be one of {', '.join(choices)}, got {value!r}")
        return
    if value is None and annotation.endswith("None"):
        return
    good = isinstance(value, _TYPES[kind]) and not (kind == "int" and isinstance(value, bool))
    if kind == "int" and good and value < 0:
        good = False
    if kind == "list[str]" and good:
        good = bool(value) and all(isinstance(v, str) for v in value)
    if kind == "str" and good and not value:
        good = False
    if not good:
        wanted = {
            "int": "a whole number, 0 or more",
            "str": "a string that is not empty",
            "bool": "true or false",
        }
        raise DataError(f"rule {rule_id!r}: {name} must be {wanted.get(kind, 'a list of strings')}, got {value!r}")


def _count(found: int, n: int, relation: str, what: str) -> str | None:
    holds = {"exactly": found == n, "at_least": found >= n, "at_most": found <= n}[relation]
    return None if holds else f"{found} {what}, asked for {relation.replace('_', ' ')} {n}"


def _occurrences(answer: str, text: str) -> int:
    """Occurrences of `text`, letter case ignored, that do not cut a word in two."""
    before = r"(?<!\w)" if re.match(r"\w", text) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", text) else ""
    return len(re.findall(before + re.escape(text) + after, answer, re.IGNORECASE))


def _items(answer: str, separator: str) -> list[str]:
    return [part.strip() for part in answer.split(separator)]


@rule
def num_words(answer: str, n: int, relation: Relation = "exactly") -> str | None:
    """The answer has that many words."""
    return _count(len(words(answer)), n, relation, "words")


@rule
def num_sentences(answer: str, n: int, relation: Relation = "exactly") -> str | None:
    """The answer has that many sentences."""
    return _count(len(sentences(answer)), n, relation, "sentences")


@rule
def num_lines(answer: str, n: int, relation: Relation = "exactly") -> str | None:
    """The answer has that many lines that are not blank."""
    return _count(len(lines(answer)), n, relation, "lines")


@rule
def num_items(answer: str, n: int, separator: str, relation: Relation = "exactly") -> str | None:
    """Split at the separator, the answer has that many parts, and none of them is blank."""
    parts = _items(answer, separator)
    if "" in parts:
        return f"an empty item between separators {separator!r}"
    return _count(len(parts), n, relation, "items")


@rule
def upper_case(answer: str) -> str | None:
    """No lower-case letter, at least one letter."""
    return None if answer.isupper() else "not all in upper case"


@rule
def lower_case(answer: str) -> str | None:
    """No upper-case letter, at least one letter."""
    return None if answer.islower() else "not all in lower case"


@rule
def title_case(answer: str) -> str | None:
    """Each word that starts with a letter starts with a capital, and there is one."""
    starts = [w for w in words(answer) if w[0].isalpha()]
    small = next((w for w in starts if not w[0].isupper()), None)
    if small is not None:
        return f"the word {small!r} does not start with a capital"
    return None if starts else "no word that starts with a letter"


@rule
def starts_with(answer: str, text: str) -> str | None:
    """The answer starts with exactly this text."""
    return None if answer.startswith(text) else f"starts with {answer[: len(text)]!r}, not {text!r}"


@rule
def ends_with(answer: str, text: str) -> str | None:
    """The answer ends with exactly this text."""
    return None if answer.endswith(text) else f"ends with {answer[-len(text) :]!r}, not {text!r}"


@rule
def contains(answer: str, text: str, times: int = 1, relation: Relation = "at_least") -> str | None:
    """The text is in the answer that many times, as whole words, letter case ignored."""
    return _count(_occurrences(answer, text), times, relation, f"occurrences of {text!r}")


@rule
def avoids(answer: str, text: str) -> str | None:
    """The text is not in the answer as whole words, letter case ignored."""
    return f"contains {text!r}" if _occurrences(answer, text) else None


@rule
def avoids_letter(answer: str, letter: str) -> str | None:
    """The letter is nowhere in the answer, in either case."""
    return f"contains the letter {letter!r}" if letter.casefold() in answer.casefold() else None


@rule
def every_word_starts_with(answer: str, letter: str) -> str | None:
    """Each word starts with the letter, in either case, and there is a word."""
    found = words(answer)
    other = next((w for w in found if not w.casefold().startswith(letter.casefold())), None)
    if other is not None:
        return f"the word {other!r} does not start with {letter!r}"
    return None if found else "no word"


@rule
def no_commas(answer: str) -> str | None:
    """No comma."""
    return "contains a comma" if "," in answer else None


@rule
def quoted(answer: str) -> str | None:
    """The whole answer is in straight double quotes, with something between them."""
    return wrapped_in(answer, '"', '"')


@rule
def json_object(answer: str, keys: list[str] | None = None) -> str | None:
    """The whole answer is one JSON object (no code fence); with `keys`, it has each of them."""
    try:
        data = json.loads(answer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({str(error)[:60]})"
    if not isinstance(data, dict):
        return f"JSON, but a {type(data).__name__} and not an object"
    missing = [k for k in keys or () if k not in data]
    return f"the object lacks {', '.join(missing)}" if missing else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


@rule
def bullets(answer: str, n: int, relation: Relation = "exactly") -> str | None:
    """That many lines start with `- ` and say something after it."""
    found = sum(1 for line in answer.splitlines() if line.startswith("- ") and line[2:].strip())
    return _count(found, n, relation, "bullets")


@rule
def wrapped_in(answer: str, left: str, right: str) -> str | None:
    """The answer starts with `left`, ends with `right`, and has something between."""
    good = answer.startswith(left) and answer.endswith(right) and len(answer) > len(left) + len(right)
    return None if good else f"not wrapped in {left!r} and {right!r}"


@rule
def repeats_prompt(answer: str, text: str) -> str | None:
    """The answer starts with the text; letter case and the amount of whitespace do not matter."""
    flat, wanted = (
        " ".join(answer.split()).casefold(),
        " ".join(text.split()).casefold(),
    )
    return None if flat.startswith(wanted) else "does not start by repeating the request"


@rule
def max_chars(answer: str, n: int) -> str | None:
    """At most that many characters."""
    return _count(len(answer), n, "at_most", "characters")


@rule
def from_set(
    answer: str,
    words: list[str],
    n: int | None = None,
    relation: Relation = "exactly",
    repeats: bool = False,
) -> str | None:
    """Each item is one of `words` (case ignored); no item twice unless `repeats`; with `n`, that
    many items.

    Items are separated by commas where there is one, else by line ends where there is one, else by
    whitespace.
    """
    items = [part.strip().strip(_PUNCTUATION).casefold() for part in _split_items(answer)]
    allowed = {w.casefold() for w in words}
    stranger = next((item for item in items if item not in allowed), None)
    if stranger is not None:
        return f"{stranger!r} is not one of {', '.join(words[:8])}"
    if not repeats and len(set(items)) < len(items):
        return "an item appears twice"
    return None if n is None else _count(len(items), n, relation, "items")


def _split_items(answer: str) -> Sequence[str]:
    if "," in answer:
        return answer.split(",")
    return answer.splitlines() if "\n" in answer else answer.split()


@rule
def sorted_(answer: str, order: Order, separator: str) -> str | None:
    """Two items or more, none blank, in order: by value where all are numbers, else by letters,
    case ignored.

    Equal neighbours are in order.
    """
    parts = _items(answer, separator)
    if len(parts) < 2 or "" in parts:
        return f"needs at least two items separated by {separator!r}"
    keys = _sort_keys(parts)
    steps = itertools.pairwise(keys)
    good = all(a <= b for a, b in steps) if order == "ascending" else all(a >= b for a, b in steps)
    return None if good else f"not in {order} order"


def _sort_keys(parts: Sequence[str]) -> list[Any]:
    if all(re.fullmatch(r"[+-]?\d{1,300}(\.\d{1,300})?", p) for p in parts):
        return [float(p) for p in parts]
    return [p.casefold() for p in parts]


@rule
def items(
    answer: str,
    words: list[str],
    n: int,
    separator: str,
    prefix: str | None = None,
    suffix: str | None = None,
) -> str | None:
    """Between the fixed prefix and suffix are exactly n different items of the list, letter case
    counting, so separated.
    """
    if prefix and not answer.startswith(prefix):
        return f"does not start with {prefix!r}"
    if suffix and not answer.endswith(suffix):
        return f"does not end with {suffix!r}"
    body = answer[len(prefix or "") : len(answer) - len(suffix or "")]
    found = body.split(separator)
    stranger = next((item for item in found if item not in words), None)
    if stranger is not None:
        return f"{stranger[:40]!r} is not one of the things asked for"
    if len(set(found)) != len(found):
        return "an item is named twice"
    return _count(len(found), n, "exactly", "items")
