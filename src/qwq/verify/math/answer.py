"""Find the answer in a text: the last box, else an explicit final answer (`announce`).

Three forms: `bare`, the whole string is the answer; `extract`, an answer in any markup (a text such
as a data set's solution field); `response`, a model's response, which is held to stricter rules:
only what follows the thinking counts, only the last box counts, and without a box the answer must
be announced or be alone.

Every scan is linear in the text, and no pattern can backtrack over more than one line.
"""

from __future__ import annotations

import re

from qwq.text.response import parse
from qwq.types import ParsedResponse
from qwq.verify.math.announce import MATH, MAX_CHARS, announced, announcements, called_right, concluded, tagged

MAX_TEXT_CHARS = 200_000  # of the end of a response that is searched
FORMS = ("bare", "extract", "response")
BOXES = ("last", "all")

_TURN_END = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end)\|>")
_BRACE = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,4}\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed[ \t]{0,4}(?![{\s])([A-Za-z0-9])(?![A-Za-z])")
_DOUBLED = re.compile(r"\\\\(?=(?:boxed|fbox|d?frac|tfrac|sqrt|left|right|text|mathrm|pi|cdot|times|circ)(?![a-z]))")
_INVISIBLE = str.maketrans(
    dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad") | {"\u00a0": " ", "\u3000": " ", "\u2009": " ", "\u202f": " "}
)
_CLOSING_PHRASE = re.compile(r"I hope (?:it|this) is correct\.?\Z", re.IGNORECASE)
_HEDGED_BOX = re.compile(
    r"[}$\s\\)\].*]{0,8},?\s?(?:or|but)?\s?(?:maybe|perhaps|possibly|could (?:also )?be|might be|it could|not sure"
    r"|I am not sure|I'm not sure)\b",
    re.IGNORECASE,
)
_OR_BOXES = re.compile(r"\bor (?:maybe|perhaps|possibly)\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_LAST_CLAUSE = re.compile(r"\b(?:is|are|equals|be)\b[\s:]{0,9}", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:[.,]?\d+)?(?:e[-+]?\d{1,4})?(?:\s?/\s?\d+)?%?",
    re.IGNORECASE,
)
_SHORT_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def extract(
    text: str | ParsedResponse, form: str, *, thinking_open: bool | None = False, which: str = "last"
) -> str | None:
    """The answer as the text has it, or None where there is none. An empty box gives "".

    `thinking_open`: see `text.response.parse`. `which`: "last" takes a response's last box, "all"
    its boxes together as one list, in order and without repetition.
    """
    if isinstance(text, ParsedResponse):
        text = text.final
    elif form == "bare":
        return text
    elif form == "response":
        text = parse(text, thinking_open=thinking_open).final
    else:
        text = parse(text, thinking_open=None, tools=()).answer
    text = _TURN_END.split(text, maxsplit=1)[0][-MAX_TEXT_CHARS:]
    if not text.isascii():
        text = text.translate(_INVISIBLE)
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    found = boxes(text)
    if found is None:
        return None
    if found and form == "response" and which == "last":
        return _last_box(text, found)
    if found:
        return _joined_boxes(text, found) if which == "last" else _all_boxes(text, found)
    if bare := _BARE_BOX.findall(text):
        return bare[-1]
    return _explicit(text) if form == "response" else _any_markup(text)


def _last_box(text: str, found: list[tuple[int, int]]) -> str | None:
    """The last box; None where it is hedged: "or maybe" behind it, or between it and the one
    before.
    """
    start, end = found[-1]
    if _HEDGED_BOX.match(text, end + 1):
        return None
    if len(found) > 1 and start - found[-2][1] < 80 and _OR_BOXES.search(text, found[-2][1], start):
        return None
    return text[start:end]


def _all_boxes(text: str, found: list[tuple[int, int]]) -> str:
    contents = [text[start:end].strip() for start, end in found]
    return ", ".join(dict.fromkeys(c for c in contents if c))


def boxes(text: str) -> list[tuple[int, int]] | None:
    r"""Contents of the outermost closed boxes as (start, end), in order; None where the last
    `\boxed{` never closes.
    """
    stack: list[int] = []  # start of a box's content, -1 for a plain brace
    found: list[tuple[int, int]] = []
    for match in _BRACE.finditer(text):
        token = match.group()
        if token == "}":
            if not stack:
                continue
            start = stack.pop()
            if start >= 0:
                while found and found[-1][0] >= start:
                    found.pop()
                found.append((start, match.start()))
        elif token == "{":
            stack.append(-1)
        elif token[1] not in "\\{}":
            stack.append(match.end())
    open_box = max(stack, default=-1)
    if open_box >= 0 and (not found or found[-1][1] < open_box):
        return None
    return found


def _joined_boxes(text: str, found: list[tuple[int, int]]) -> str:
    """The last box, with the ones before it that only `and`, commas or a few words join to it."""
    first = len(found) - 1
    while first > 0:
        between = text[found[first - 1][1] + 1 : found[first][0]]
        between = re.sub(r"\\(?:boxed|fbox|framebox)\s{0,4}\{\Z", "", between)
        if len(between) > 60 or not _connects(between):
            break
        first -= 1
    return ",".join(text[start:end] for start, end in found[first:])


def _connects(between: str) -> bool:
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\(?:text|quad|qquad|mbox)\b", " ", between))
    return not words or ("and" in words and len(words) <= 4)


def _explicit(text: str) -> str | None:
    """The answer of a response without a box: in an answer tag, announced, in bold on the last
    line, or alone.
    """
    text = _CLOSING_PHRASE.sub("", text.strip()).rstrip()[-MAX_CHARS:]
    if (answer := tagged(text)) is not None:
        return answer
    if (answer := announced(text)) is not None:
        return answer
    if (answer := called_right(text)) is not None:
        return answer
    if announcements(text):
        return None
    last_line = text.rpartition("\n")[2]
    if bold := _BOLD.findall(last_line):
        return bold[-1]
    if (answer := concluded(last_line)) is not None:
        return answer
    if "\n" not in text and len(text) <= 200 and len(_SHORT_WORDS.findall(text)) <= 3:
        return text or None
    return None


def _any_markup(text: str) -> str | None:
    """The answer in a text without a box: announced, else the last math, else the last number, else
    the text.
    """
    text = _CLOSING_PHRASE.sub("", text.strip()).rstrip()
    found = announcements(text[-MAX_CHARS:])
    if found:
        text = text[-MAX_CHARS:][found[-1].end() :].strip()
    maths = list(MATH.finditer(text))
    if maths and not _clause_after(text, maths[-1].end(), bool(found)):
        joined = _joined_math(text, maths)
        return joined if joined is not None else next(g for g in maths[-1].groups() if g is not None)
    if not maths and (not _SHORT_WORDS.search(text) or "\\" in text):
        return text or None
    text = text[maths[-1].end() :] if maths else text
    clauses = list(_LAST_CLAUSE.finditer(text))
    tail = text[clauses[-1].end() :] if clauses else text
    for part in (tail, text):
        if numbers := [m.group() for m in _NUMBER.finditer(part) if any(c.isdigit() for c in m.group())]:
            return numbers[-1]
    return tail.strip(" .*") or None


def _clause_after(text: str, position: int, announced: bool) -> bool:
    """Whether the text goes on, after its last math, to state a number ("the largest $n$ is
    34").
    """
    rest = text[position:]
    return any(c.isdigit() for c in rest) and (announced or len(_SHORT_WORDS.findall(rest)) >= 3)


def _joined_math(text: str, maths: list[re.Match[str]]) -> str | None:
    """Several math segments that only `and`, `or`, commas join, as one list; a unit word after a
    lone one is kept.
    """
    pieces: list[str] = []
    if not text[: maths[0].start()].strip():
        end = 0
        for match in maths:
            between = text[end : match.start()].strip()
            if end and between not in ("and", "or", ",", ", and", ", or"):
                return None
            pieces.append(next(g for g in match.groups() if g is not None))
            end = match.end()
        rest = text[end:].strip().rstrip(".")
        if len(pieces) == 1:
            return f"{pieces[0]} \\text{{ {rest}}}" if rest and len(rest) <= 30 and rest[0].isalpha() else pieces[0]
        return ",".join(pieces) if not rest else None
    return None
