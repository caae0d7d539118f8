r"""What a set's question is, apart from the instructions that a task adds to it, and how it is
recognised in another wording.

Canonical form: a hash of the question's words and numbers, so that a problem is recognised with
other spacing, case and punctuation, and in another file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwq.errors import DataError
from qwq.types import Problem

# The instruction that the Qwen models' cards give for math problems.
MATH_SENTENCE = "Please reason step by step, and put your final answer within \\boxed{}."
MATH_INSTRUCTION = f"\n\n{MATH_SENTENCE}"
# MBPP shows the tests in the prompt (paper, section 3): they name the function and its arguments.
TESTS_HINT = "\n\nYour code should pass these tests:\n\n"
CODE_INSTRUCTION = "\n\nAnswer with the whole program in one ```python block."

_KINDS = {"str": "text", "list": "a list", "dict": "an object", "int": "a number", "float": "a number"}


def need(row: Mapping[str, Any], key: str, where: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of a row; texts without blanks around them.

    DataError with row and field if it is missing, blank or of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    value = row.get(key)
    blank = isinstance(value, str) and not value.strip()
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or blank:
        names = " or ".join(dict.fromkeys(_KINDS.get(k.__name__, k.__name__) for k in kinds))
        names += ", not blank" if blank else ""
        raise DataError(
            f"{where}: field {key!r} must be {names}, found {str(value)[:40]!r} (the row has "
            f"{', '.join(map(str, row)) or 'no fields'})"
        )
    return value


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """A text of a row, with the line ends of this project and without blanks around it."""
    return need(row, key, where).replace("\r\n", "\n").strip()


def normalise(text: str) -> str:
    """Lower case, single spaces, no punctuation but what changes a sum: + - * / = < > ^ % ( ) and
    decimal points.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.+\-*/=<>^%()]|_", " ", text)
    return " ".join(re.sub(r"([+\-*/=<>^%()])", r" \1 ", text).split())


def canonical(domain: str, question: str) -> str:
    """Names a problem by its question: equal for two texts that differ only in spacing, case and
    punctuation.
    """
    words = hashlib.blake2b(normalise(question).encode(), digest_size=12).hexdigest()
    return f"{domain}/text/{words}"


def question_of(problem: Problem) -> str:
    """The question as the set has it, without the instructions that tasks add."""
    text = problem.messages[-1].content
    return text.removesuffix(MATH_INSTRUCTION).removesuffix(CODE_INSTRUCTION).split(TESTS_HINT)[0]


def contaminated(texts: Iterable[str], problems: Sequence[Problem]) -> list[Problem]:
    """Those of `problems` whose question is part of one of `texts`, up to spacing, case and
    punctuation.
    """
    # A question is looked up by its first words, then compared whole.
    by_length: dict[int, dict[tuple[str, ...], list[tuple[list[str], Problem]]]] = {}
    for problem in problems:
        words = normalise(question_of(problem)).split()
        head = tuple(words[:8])
        by_length.setdefault(len(head), {}).setdefault(head, []).append((words, problem))
    matched: set[int] = set()
    for text in texts:
        words = normalise(text).split()
        for length, heads in by_length.items():
            for start in range(len(words) - length + 1):
                for question, problem in heads.get(tuple(words[start : start + length]), ()):
                    if words[start : start + len(question)] == question:
                        matched.add(id(problem))
    return [p for p in problems if id(p) in matched]
