"""Answers made to hang, crash or fool the math verifier: every verdict comes in time, none scores,
nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwq.types import Outcome
from qwq.verify import math

GOLD = r"\frac{22}{7}+q"  # nothing below equals it
# Processor time of one verdict, here and in the workers: no hang, whatever else the machine does.
# benchmarks/verifier.py holds the second that a verdict may take.
LIMIT_CPU_S = 5.0

DIGITS = st.integers(2, 10**6).map(str)
TOWERS = st.lists(DIGITS, min_size=3, max_size=40).map(lambda ds: "^{".join(ds) + "}" * (len(ds) - 1))
FACTORIALS = st.tuples(DIGITS, st.integers(1, 60)).map(lambda t: f"{t[0]}{'!' * t[1]}")
NESTED = st.tuples(
    st.sampled_from(["()", "[]", "{}", (r"\sqrt{", "}"), (r"\frac{1}{", "}"), (r"\left(", r"\right)")]),
    st.integers(50, 4000),
).map(lambda t: t[0][0] * t[1] + "1" + t[0][1] * t[1])
LONG = st.tuples(
    st.sampled_from(
        [
            "1",
            "a",
            "-",
            "1,",
            "1.",
            r"\pm",
            r"\text{a}",
            "x=",
            "<",
            ".1",
            "1 ",
            r"\dot",
            "C_1^",
            "(mod ",
            "$",
            "{",
            r"\cup",
        ]
    ),
    st.integers(1000, 250_000),
).map(lambda t: t[0] * (min(1_000_000, t[1] * len(t[0])) // len(t[0])))
# What makes a careless pattern try every division of the text: long runs that almost match and then
# do not.
NEARLY = st.tuples(
    st.sampled_from(["1", " ", "1 ", "a,", "0.3", "\\text{ ", "((", "9.", "1\\,"]),
    st.integers(100, 3000),
    st.sampled_from(["!", r"\dot", "\\ldots", "}", "\\in", "U", "am", "x"]),
).map(lambda t: t[0] * t[1] + t[2])
BOXES = st.tuples(
    st.sampled_from([r"\boxed{", r"\boxed{1}", r"\boxed{\boxed{2}}", r"\fbox{3} and "]), st.integers(500, 8000)
).map(lambda t: t[0] * t[1])
UNICODE = st.text(st.characters(codec=None, categories=("Cs", "Co", "Cn", "Mn", "No", "Sm")), max_size=400)
SYMBOLIC = st.tuples(
    st.sampled_from(
        [
            r"\int_0^1 x^{%s} dx",
            r"\sum_{k=1}^{%s} k^k",
            r"\prod_{k=1}^{%s} k",
            r"(x+y+z)^{%s}",
            r"\binom{%s}{7}",
            r"\sin(%s!)",
            r"x^{%s}-1",
        ]
    ),
    DIGITS,
).map(lambda t: t[0] % t[1])
HOSTILE = st.one_of(TOWERS, FACTORIALS, NESTED, LONG, NEARLY, BOXES, UNICODE, SYMBOLIC)


@pytest.fixture(scope="module", autouse=True)
def workers_are_started_before_and_gone_after():
    math.warm()
    math.verify(r"\int_0^1 x dx", r"\frac19", form="bare")
    yield
    pids = math._pool.pids()
    math._pool.close()
    assert pids and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def cpu_s() -> float:
    """Processor seconds of this process and of all workers so far, ended ones included."""
    ticks = 0
    for pid in math._pool.pids():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


@given(HOSTILE, st.sampled_from(math.FORMS))
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_generated_answers_end_in_time_and_do_not_score(text: str, form: str) -> None:
    for answer in (text, f"<think>x</think>The answer is \\boxed{{{text}}}."):
        start = cpu_s()
        verdict = math.verify(answer, GOLD, form=form)
        seconds = cpu_s() - start
        assert verdict.outcome in (Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNDECIDED), verdict
        assert seconds < LIMIT_CPU_S, (seconds, verdict.reason)
        assert len(math._pool.pids()) <= 4
        if verdict.reason.startswith("symbolic"):
            break  # the box leads to the same comparison, and to all of its time


@given(HOSTILE)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_hostile_gold_harms_no_more_than_a_hostile_answer(text: str) -> None:
    start = cpu_s()
    assert math.verify(r"\boxed{\frac{22}{7}+q}", text).outcome is not Outcome.INFRA_ERROR
    assert cpu_s() - start < LIMIT_CPU_S
