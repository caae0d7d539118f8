"""Keys looked up in notes: each is told once, parts are lines, splits are apart."""

import random
import re

import pytest

from qwq.tasks import get
from qwq.types import SPLITS, Response
from qwq.verify.grade import grade


def read(text: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Lines, values by key and the asked keys, from the question's own words."""
    *lines, asked = text.split("\n")
    records = [found for line in lines if (found := re.fullmatch(r"([A-Z])=(\d{3})", line))]
    values = {found[1]: found[2] for found in records}
    assert len(values) == len(records)  # no key is told twice
    return lines, values, re.findall(r"\b[A-Z]\b", asked)


@pytest.mark.parametrize(("name", "num_lines"), [("needle", 0), ("needle:12", 12), ("needle:192", 192)])
def test_the_values_of_the_asked_keys_are_in_the_notes(name, num_lines):
    places = set()
    for problem in get(name).problems("test", 60):
        lines, values, asked = read(problem.messages[0].content)
        assert len(lines) == num_lines if num_lines else 2 <= len(lines) <= 12
        assert 1 <= len(asked) <= 8
        assert problem.truth["gold"] == ", ".join(values[key] for key in asked)
        places.add(next(i for i, line in enumerate(lines) if line.startswith(f"{asked[0]}=")) / len(lines))
    assert min(places) < 0.1 and max(places) > 0.85


def test_demonstrations_are_right_and_noisy_ones_mostly_wrong():
    task, wrong = get("needle"), 0
    for index in range(40):
        problem = task.problem(0, "train", index)
        for noisy in (False, True):
            (turn,) = task.demonstrate(problem, random.Random(index), noisy=noisy)
            passed = grade(problem, Response(turn.content, finished=True, thinking_open=True)).correct
            assert passed or noisy
            wrong += not passed
    assert wrong > 20  # with one key in the notes another's value is its own


def test_splits_share_no_question():
    forms = {split: {p.canonical for p in get("needle").problems(split, 200)} for split in SPLITS}
    assert sum(map(len, forms.values())) == len(set.union(*forms.values()))
