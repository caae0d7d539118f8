"""Which of a teacher's answers are worth learning: correct, finished, thought through, in one
language, without going in circles.

Each answer gets one reason for being left out, the first of `unfinished`, `no_thinking`, the
verdict's own (`wrong`, `no_answer`, ...), `repetitive`, `guessing`, `mixed_languages`. The last
three look at thinking and answer alike, and are rules on text:
1. repetitive: a line of some length four times, or a fifth of all runs of ten words seen before (as
   C4's and Gopher's authors sift);
2. guessing: the writer says that the answer is a guess, or picks one because the question seems to
   want it;
3. mixed languages: letters of a script that the prompt does not use, beyond a few. Greek is
   mathematics. Languages that share a script are not told apart.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from qwq.tasks.procedural.base import answer_turn
from qwq.text.response import parse
from qwq.types import CUSTOM, Message, Outcome, Problem, Verdict
from qwq.verify.instructions.ifeval_requests import describe

RUN_WORDS = 10
RESTATED_WORDS = 60
REPEATED_SHARE = 0.2
LINE_CHARS, LINE_TIMES = 24, 4
FOREIGN_LETTERS, FOREIGN_SHARE = 3, 0.005
GUESSING = re.compile(
    r"\b(?:i(?:'ll| will| would| must| have to| can only|'m| am)?|let(?:'s| us| me)|just|my best"
    r"|a (?:wild|random|lucky)|an educated) (?:just |simply |only )?guess(?:es|ed|ing)?\b"
    r"|\bguess(?:ing)? (?:the answer|at random|randomly|here)\b"
    r"|\b(?:pick|choose|select)(?:ing)? (?:one |an answer |an option |something )?(?:at random|randomly|arbitrarily)\b"
    r"|\bi(?:'m| am) not sure,? (?:but|so) (?:i(?:'ll| will)|let(?:'s| me)) (?:go with|answer|say|pick)\b"
    r"|\b(?:since|as) i can(?:'t|not) (?:determine|solve|compute|find)[^.\n]{0,60}\bi(?:'ll| will) (?:go with|answer"
    r"|say|pick|assume)\b",
    re.IGNORECASE,
)
SCRIPTS = {
    "cyrillic": r"\u0400-\u052f", "hebrew": r"\u0590-\u05ff", "arabic": r"\u0600-\u06ff\u0750-\u077f",
    "indic": r"\u0900-\u0dff", "thai": r"\u0e00-\u0eff", "kana": r"\u3040-\u30ff", "han": r"\u3400-\u9fff",
    "hangul": r"\uac00-\ud7af\u1100-\u11ff", "latin": r"A-Za-z\u00c0-\u024f",
}  # fmt: skip
_LETTERS = {name: re.compile(f"[{chars}]") for name, chars in SCRIPTS.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher gave: its text, whether it ended by itself, whether its template had opened
    the thinking.

    `finish` says how it ended, in the words of the server or the engine.
    """

    text: str
    finished: bool
    thinking_open: bool = False
    finish: str = ""


def reason_against(problem: Problem, answer: Answer, verdict: Verdict, *, wrap: bool = False) -> str | None:
    """Why this answer is left out, None where it is kept.

    `wrap` takes answers without thinking, if they can be divided.
    """
    thinking, final = parts_of(problem, answer, wrap=wrap)
    if not answer.finished or verdict.outcome is Outcome.UNFINISHED or thinking == "unclosed":
        return "unfinished"
    if not thinking:
        return "no_thinking"
    if (
        not verdict.correct and problem.domain != CUSTOM
    ):  # nothing can tell whether the answer to an open prompt is right
        return verdict.outcome.value
    text = f"{thinking}\n{final}"
    if is_repetitive(text):
        return "repetitive"
    if GUESSING.search(text):
        return "guessing"
    return "mixed_languages" if mixes_languages(_prompt(problem), text) and not _asks_for_language(problem) else None


def parts_of(problem: Problem, answer: Answer, *, wrap: bool = False) -> tuple[str | None, str]:
    """(thinking, answer after it). Thinking is "unclosed" where it never ends, None where there is
    none.

    With `wrap`, an answer without thinking to a math or code problem is divided: its program, or
    the paragraphs from the boxed result on, are the answer, what leads there is the thinking.
    Before a bare program or an answer to an open prompt goes the prompt in the first person
    (rephrase and respond, Deng et al. 2023, arXiv 2311.04205), and under constraints the list of
    them.
    """
    parsed = parse(answer.text, thinking_open=answer.thinking_open, tools=problem.tool_schemas)
    if parsed.open:
        return "unclosed", ""
    if parsed.thinking is not None or not wrap or not _can_wrap(problem):
        return parsed.thinking or None, parsed.answer
    text = answer.text.strip()
    if problem.domain == CUSTOM:
        return _restated(problem.messages[-1].content), text
    if problem.domain == "instructions":
        return _checklist(problem), text
    if problem.domain == "code":
        blocks = list(re.finditer(r"```.*?```", text, re.DOTALL))
        if not blocks:
            return None, text
        last = blocks[-1]
        return (text[: last.start()] + text[last.end() :]).strip() or _restated(
            problem.messages[-1].content
        ), last.group()
    lines = text.splitlines()
    at = next((i for i in reversed(range(len(lines))) if "\\boxed" in lines[i]), 0)
    if at and lines[at - 1].strip() in ("\\[", "$$"):  # a displayed formula is not taken apart
        at -= 1
    return "\n".join(lines[:at]).strip() or None, "\n".join(lines[at:]).strip()


def _can_wrap(problem: Problem) -> bool:
    return problem.domain in ("math", "code", CUSTOM) or "instruction_id_list" in problem.truth


def _restated(prompt: str) -> str:
    words = prompt.split()
    return f"I am asked: {' '.join(words[:RESTATED_WORDS])}{' ...' if len(words) > RESTATED_WORDS else ''}"


def _checklist(problem: Problem) -> str:
    """What is asked and what the answer has to keep to, point by point: a short thought that reads
    the prompt closely.
    """
    prompt, names, kwargs = (problem.truth[k] for k in ("prompt", "instruction_id_list", "kwargs"))
    points = [describe(n, k) for n, k in zip(names, kwargs, strict=True)]
    task = prompt.partition(points[0])[0].strip()  # the rest of a prompt that is worded otherwise is all of it
    return "\n".join(
        [
            _restated(task),
            "The answer has to keep to this:",
            *(f"- {p}" for p in points),
            "I write it and keep to each point.",
        ]
    )


def conversation(problem: Problem, answer: Answer, *, wrap: bool = False) -> list[dict[str, str]]:
    """The messages of an SFT row."""
    thinking, final = parts_of(problem, answer, wrap=wrap)
    turns: list[Message] = [*problem.messages, answer_turn(thinking or "", final)]
    return [{"role": m.role, "content": m.content} for m in turns]


def is_repetitive(text: str) -> bool:
    lines = Counter(line.strip() for line in text.splitlines() if len(line.strip()) >= LINE_CHARS)
    if any(times >= LINE_TIMES for times in lines.values()):
        return True
    words = text.lower().split()
    runs = Counter(tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1))
    total = sum(runs.values())
    return total >= 2 * RUN_WORDS and (total - len(runs)) / total > REPEATED_SHARE


def mixes_languages(prompt: str, text: str) -> bool:
    """Whether `text` has letters of a script that `prompt` lacks; a prompt in another script may be
    answered in Latin letters.
    """
    letters = {name: len(pattern.findall(text)) for name, pattern in _LETTERS.items()}
    total = sum(letters.values())
    allowed = {name for name, pattern in _LETTERS.items() if pattern.search(prompt)} | {"latin"}
    if "kana" in allowed:
        allowed.add("han")
    foreign = sum(count for name, count in letters.items() if name not in allowed)
    return foreign >= FOREIGN_LETTERS and foreign > FOREIGN_SHARE * total


def _prompt(problem: Problem) -> str:
    return "\n".join(m.content for m in problem.messages)


def _asks_for_language(problem: Problem) -> bool:
    return "language:response_language" in problem.truth.get("instruction_id_list", ())
