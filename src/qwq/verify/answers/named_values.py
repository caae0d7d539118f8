"""Answers as `@name[value]`, as InfiAgent-DABench scores them (Hu et al. 2024, arXiv 2401.05507,
eval_closed_form.py): a part is right where the texts are equal or both are numbers less than 1e-6
apart, a question where all its parts are.

Of a name that is written twice the last value counts. A value ends at the first closing bracket and
at the end of its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TOLERANCE = 1e-6
_NAME = re.compile(r"@(\w+)\[")


def read_values(text: str) -> dict[str, str]:
    """The values of a text by name, in time linear in it."""
    values: dict[str, str] = {}
    for line in text.split("\n"):
        at = 0
        while (name := _NAME.search(line, at)) and (end := line.find("]", name.end())) >= 0:
            values[name[1]] = line[name.end() : end]
            at = end + 1
    return values


def equal_value(answer: str | None, expected: str) -> bool:
    """Whether one value is right; None: the answer does not name it."""
    if answer is None or answer == expected:
        return answer is not None
    try:
        return abs(float(answer) - float(expected)) < TOLERANCE
    except ValueError:
        return False


def right_parts(answer: Mapping[str, str], expected: Mapping[str, str]) -> dict[str, bool]:
    """Whether each expected part is right."""
    return {name: equal_value(answer.get(name), value) for name, value in expected.items()}
