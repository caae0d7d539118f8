"""Sums by level: right answers, disjoint splits, demonstrations that the verifier accepts."""

import itertools
import re

import pytest

from qwq.config import Source
from qwq.errors import ConfigError
from qwq.pipeline.stages.sft import SftStage
from qwq.tasks import get
from qwq.tasks.procedural import arithmetic
from qwq.tasks.sources import load_source
from qwq.verify import math


@pytest.mark.parametrize("level", arithmetic.LEVELS)
def test_golds_are_right_and_demonstrations_are_accepted(level):
    problems = arithmetic.problems(level, "train", 60)
    assert len(problems) == 60
    for p in problems:
        terms = p.canonical.partition("/")[2]
        assert re.fullmatch(r"\d+( [+*-] \d+)+", terms) and terms in p.messages[0].content
        assert eval(terms) == int(p.truth["gold"])  # our own digits and signs, matched above
        turn = arithmetic.demonstrate(p).content
        assert math.verify(turn, p.truth["gold"]).correct
        for left, right in re.findall(r"(\d[\d +*-]*) = (-?\d+)", turn):
            assert eval(left) == int(right)


@pytest.mark.parametrize("level", [1, 3])
def test_splits_share_no_sum_and_stay_as_they_are(level):
    sets = {s: {p.id for p in arithmetic.problems(level, s)} for s in ("train", "validation", "test")}
    assert all(sets.values())
    for a, b in itertools.combinations(sets.values(), 2):
        assert not a & b
    assert [p.id for p in arithmetic.problems(level, "test")][:3] == [
        p.id for p in arithmetic.problems(level, "test", 3)
    ]


def test_as_a_source():
    assert len(load_source(Source(kind="arithmetic", level=2, limit=7))) == 7
    for bad in (
        {"kind": "arithmetic"},
        {"kind": "arithmetic", "level": 2, "path": "x"},
        {"kind": "gsm8k"},
        {"kind": "gsm8k", "path": "x", "level": 2},
    ):
        with pytest.raises(ValueError, match="arithmetic takes a level, the others a path"):
            Source.model_validate(bad)
    with pytest.raises(ValueError, match="demonstrations come from one of"):
        SftStage.model_validate({"kind": "sft", "source": {"kind": "gsm8k", "path": "x"}})
    for given in ({"source": {"kind": "arithmetic", "level": 1}}, {"path": "x.jsonl"}):
        with pytest.raises(ValueError, match=r"recheck is 0\.5, and demonstrations come from"):
            SftStage.model_validate({"kind": "sft", "recheck": 0.5} | given)
    with pytest.raises(ConfigError, match="levels are 1 to 6"):
        arithmetic.problems(9, "train")


def test_all_levels_together_hold_each_sum_once():
    every = get("arithmetic").problems("test")
    assert len({p.id for p in every}) == len(every) and {p.level for p in every} == set(arithmetic.LEVELS)
    assert len(get("arithmetic").problems("test", 4)) == 4  # a sum that several levels have counted for each
