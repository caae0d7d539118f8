"""Find the answer in a text: the last box, else an explicit final answer.

Three forms: `bare`, the whole string is the answer; `extract`, an answer in any markup (a text such as a
data set's solution field); `response`, a model's response, which is held to stricter rules: only what follows
the thinking counts, only the last box counts, and without a box the answer must be announced or stand alone.

Every scan is linear in the text, and no pattern can backtrack over more than one line.
"""

from __future__ import annotations

import re

from qwq.text.parse import parse_response

MAX_TEXT_CHARS = 200_000  # of the end of a response that is searched
FORMS = ("bare", "extract", "response")

_TURN_END = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end)\|>")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed\s*(?![{\s])([A-Za-z0-9])")
_DOUBLED = re.compile(r"\\\\(?=(?:boxed|fbox|d?frac|tfrac|sqrt|left|right|text|mathrm|pi|cdot|times|circ)(?![a-z]))")
_ANNOUNCED = re.compile(
    r"(?:\bfinal\s+answer\b|\banswer\b|\bresult\b)[*_\s]{0,6}(?:\bis\b|\bare\b|=|:)[*_\s:]{0,6}|####[ \t]*"
    r"|\bfinal\s+answer[*_:]{0,4}\s{1,4}|(?:答案|结果)[*_\s]{0,6}(?:应该是|应为|就是|是|为|=|:|：)[*_\s:：]{0,6}",
    re.IGNORECASE,
)
_STOP = re.compile(r"\n|。|(?<=[^\d\s])\.(?=\s|\Z)|(?<=\d)\.(?=\s|\Z)|<")
_CLOSING_PHRASE = re.compile(r"I hope (?:it|this) is correct\.?\Z", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_MATH = re.compile(
    r"\$\$([^$]{1,2000})\$\$|\$([^$\n]{1,2000})\$|\\\[((?:[^\\]|\\(?![\[\]])){1,2000}+)\\\]|\\\(((?:[^\\]|\\(?![()])){1,2000}+)\\\)",
)
_LAST_CLAUSE = re.compile(r"\b(?:is|are|equals|be)\b[\s:]*", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:[.,]?\d+)?(?:e[-+]?\d{1,4})?(?:\s?/\s?\d+)?%?",
    re.IGNORECASE,
)
_LEADING = re.compile(r"([-+]?[$€£]?\d[\d,]*(?:\.\d+)?%?)(?=\s+(?!or\b|and\b|to\b|times\b|plus\b)[A-Za-z])")
_SHORT_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def extract(text: str, form: str, *, thinking_open: bool = False) -> str | None:
    """The answer as it stands in the text, or None where there is none. An empty box gives ""."""
    if form == "bare":
        return text
    if form == "response":
        text = parse_response(text, thinking_open=thinking_open).answer
    else:
        text = text.rpartition("</think>")[2]
    text = _TURN_END.split(text, maxsplit=1)[0][-MAX_TEXT_CHARS:]
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    found = boxes(text)
    if found is None:
        return None
    if found:
        return text[slice(*found[-1])] if form == "response" else _joined_boxes(text, found)
    if bare := _BARE_BOX.findall(text):
        return bare[-1]
    return _announced(text) if form == "response" else _any_markup(text)


def boxes(text: str) -> list[tuple[int, int]] | None:
    r"""Contents of the outermost closed boxes as (start, end), in order; None where the last `\boxed{` never closes."""
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
        between = re.sub(r"\\(?:boxed|fbox)\s*\{\Z", "", between)
        if len(between) > 60 or not _connects(between):
            break
        first -= 1
    return ",".join(text[start:end] for start, end in found[first:])


def _connects(between: str) -> bool:
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\(?:text|quad|qquad|mbox)\b", " ", between))
    return not words or ("and" in words and len(words) <= 4)


def _announced(text: str) -> str | None:
    """The answer of a response without a box: after `####` or "the answer is", in bold on the last line, or alone."""
    text = _CLOSING_PHRASE.sub("", text.strip())
    announcements = list(_ANNOUNCED.finditer(text))
    if announcements:
        rest = text[announcements[-1].end() :].strip()
        return _segment(rest)
    last_line = text.rpartition("\n")[2]
    if bold := _BOLD.findall(last_line):
        return bold[-1]
    if "\n" not in text and len(text) <= 200 and len(_SHORT_WORDS.findall(text)) <= 3:
        return text or None
    return None


def _segment(rest: str) -> str | None:
    """What an announcement announces: the math that follows at once, else the line up to the end of its sentence."""
    rest = rest.lstrip("*_ :\n")
    if (math := _MATH.match(rest)) and (math.end() == len(rest) or _STOP.match(rest, math.end())):
        return next(g for g in math.groups() if g is not None)
    line = rest.partition("\n")[0] if not rest.startswith(("\\[", "$$")) else rest
    stop = _STOP.search(line)
    line = (line[: stop.start()] if stop else line).strip().strip("*_").strip()
    if line.count("$") == 1 and not line.startswith("$"):
        line = line.replace("$", "")
    prose = len(_SHORT_WORDS.findall(line)) > 3 or re.search(r"\b(?:because|since|which|so)\b", line)
    if prose and "\\" not in line and (lead := _LEADING.match(line)):
        return lead[1]  # "73 apples, because ..."
    return line or None


def _any_markup(text: str) -> str | None:
    """The answer in a text without a box: announced, else the last math, else the last number, else the text."""
    text = _CLOSING_PHRASE.sub("", text.strip())
    announcements = list(_ANNOUNCED.finditer(text))
    announced = bool(announcements)
    if announced:
        text = text[announcements[-1].end() :].strip()
    maths = list(_MATH.finditer(text))
    if maths and not _clause_after(text, maths[-1].end(), announced):
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
    """Whether the text goes on, after its last math, to state a number ("the largest $n$ is 34")."""
    rest = text[position:]
    return any(c.isdigit() for c in rest) and (announced or len(_SHORT_WORDS.findall(rest)) >= 3)


def _joined_math(text: str, maths: list[re.Match[str]]) -> str | None:
    """Several math segments that only `and`, `or`, commas join, as one list; a unit word after a lone one is kept."""
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
