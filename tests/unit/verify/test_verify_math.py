"""The math verifier: what it reads, what it calls equal, and that nothing makes it hang, crash or
guess.
"""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.errors import ConfigError, DataError, InfraError
from qwq.types import Outcome
from qwq.verify import math
from qwq.verify.cli_io import print_verdicts, verify_file
from qwq.verify.math import words, worker
from qwq.verify.math.adapters import compute_score, reward_function
from qwq.verify.math.audit import audit_file, audit_gold
from qwq.verify.math.numbers import read

SAMPLE = Path(__file__).parents[2] / "data" / "math_verdicts_sample.jsonl"
SHARED = Path(__file__).parents[4] / "shared" / "data"

EQUAL = [
    ("10^{-30}", "1e-30"), ("e", r"\mathrm{e}"), (r"1-\frac1e", "1-e^{-1}"), ("101_2", "101_{2}"), ("101_2", "5"),
    ("2+3i", "3i+2"), (r"\sin 30^\circ", "1/2"), (r"60^\circ", "60"), (r"60^\circ", r"\frac{\pi}{3}"), ("1e3", "1000"),
    (r"\$5", "5.00"), (r"2\frac13", "7/3"), ("2 1/3", r"\frac73"), ("-1.5", r"-1\frac12"),
    ("1,2,\\ldots,n", "1, 2, ..., n"), ("1:2:3", "2:4:6"), ("3:4", r"\frac34"), (r"\emptyset", r"\varnothing"),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1\text{ or }x>2"), (r"[1,\infty)", r"x\ge1"), ("(1,2)", "1<x<2"), ("B", "B. 5"),
    ("B", r"(B)\ 5"), ("B", r"\textbf{(B)}"), ("1000000", r"1\,000\,000"), ("1000000", "1{,}000{,}000"),
    ("12", "12 apples"), (r"36\text{ square meters}", r"36\ \text{m}^2"), ("9.8", r"9.8\,\mathrm{m/s^2}"),
    ("y=2x+1", "y = 2*x+1"), (r"\frac{\sqrt{2}}{2}", "1/sqrt(2)"), (r"\sin^2 x", "sin(x)^2"), ("x^2", "x**2"),
    ("25%", "0.25"), (r"25\%", "25"), (r"\{1,2\}", "2,1"), ("x=1,y=2", "y=2, x=1"), ("(x,y)=(1,2)", "(1,2)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), (r"0.\overline{3}", "1/3"), (r"\sqrt{2}", "1.41421"),
    (r"\pm 3", "x=3,-3"), (r"\cos 2x", r"1-2\sin^2(x)"), ("x+y=1", "2x+2y-2=0"), ("f(x)=x^2", "x^2"),
    (r"\text{Monday}", "monday"), (r"\mathbb{R}", r"(-\infty,\infty)"), ("4x^n", r"4 x ^ { n }"),
    ("(n+1)!", "(n+1) n!"),
]  # fmt: skip
DIFFERENT = [
    ("10^{-30}", "10^{-31}"), ("0", "1e-30"), ("1-1/e", "1+1/e"), ("1011_2", "1011_3"), ("2+3i", "2-3i"),
    ("1:2:3", "1:4:9"), ("12:00", "1:00"), ("3:4", "4:3"), ("1,3,5,\\ldots", "1,2,3,\\ldots"), ("B", "A. 5"),
    ("12", "1,2"), ("(1,2)", "[1,2]"), ("(1,2)", "(2,1)"), ("(1,2)", r"\{1,2\}"), ("5", "5,6"), ("5", r"\pm5"),
    (r"12\text{ cm}", r"12\text{ m}"), ("|x|", "x"), ("x^2+1", "x^2+2"), ("x+y=1", "x+y=2"), ("2x+z=1", "1"),
    (r"\frac13", "0.33"), (r"\sqrt{2}", "1.41422"), (r"\text{Monday}", "Sunday"), (r"[1,\infty)", "x>1"),
    (r"\infty", r"-\infty"), ("1", r"\frac{0}{0}"), (r"\frac{1}{1000!}", r"\frac{1}{1001!}"), ("3", "3 1/2"),
    ("x=1,y=2", "x=2,y=1"), (r"\cos(x)=\frac{1}{2}", r"\sin(x)=\frac{1}{2}"), (r"0.05\%", "0.05"), ("12", r"12\neq5"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
    ("123456789012345678901234567890", "123456789012345678901234567891"), (r"\emptyset", "0"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _no_leaked_process():
    yield
    pids = math._pool.pids()
    math._pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    verdict = math.verify(answer, gold, form="bare")
    assert verdict.outcome is Outcome.CORRECT, verdict


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    for one, other in ((gold, answer), (answer, gold)):
        assert math.verify(other, one, form="bare").outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("response", "outcome", "answer"),
    [
        (r"First \boxed{1}, then \boxed{2}.", Outcome.CORRECT, "2"),
        (r"<think>\boxed{2}</think> I cannot say how much it would be.", Outcome.NO_ANSWER, None),
        (r"<think>\boxed{1}</think> \boxed{2}", Outcome.CORRECT, "2"),
        (r"<think>\boxed{2}", Outcome.NO_ANSWER, None),
        (r"\boxed{2} <think> wait", Outcome.NO_ANSWER, None),
        (r"\boxed{2} and \boxed{}", Outcome.NO_ANSWER, None),
        (r"\boxed{2", Outcome.NO_ANSWER, None),
        (r"\boxed{\boxed{2}}", Outcome.CORRECT, r"\boxed{2}"),
        ("48/24 = <<48/24=2>>2\n#### 2", Outcome.CORRECT, "2"),
        ("The answer is $2$.", Outcome.CORRECT, "2"),
        ("It is 3 or so.\n\n**Final Answer**\n\n2", Outcome.CORRECT, "2"),
        ("The answer is **2**.", Outcome.CORRECT, "2"),
        ("2", Outcome.CORRECT, "2"),
        ("The answer is 3.", Outcome.WRONG, "3"),
    ],
)
def test_what_is_read_out_of_a_response(response: str, outcome: Outcome, answer: str | None) -> None:
    verdict = math.verify(response, "2")
    assert (verdict.outcome, verdict.answer or None) == (outcome, answer)


def test_template_that_opened_the_thinking() -> None:
    assert math.verify(r"\boxed{2}", "2", thinking_open=True).outcome is Outcome.NO_ANSWER
    assert math.verify(r"\boxed{3}</think>\boxed{2}", "2", thinking_open=True).correct


def test_unfinished_never_scores() -> None:
    assert math.verify(r"\boxed{2}", "2", finished=False).outcome is Outcome.UNFINISHED


@pytest.mark.parametrize("gold", ["", " ", r"\boxed{}", "$ $"])
def test_empty_gold_never_scores(gold: str) -> None:
    assert not math.verify(r"\boxed{}", gold).correct
    assert not math.verify("2", gold, form="bare").correct


def test_unknown_form_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'response'"):
        math.verify("2", "2", form="respons")


def test_boxes_together_as_one_list() -> None:
    response = r"The roots are \boxed{2} and \boxed{3}; again, \boxed{2}."
    assert math.verify(response, "2,3", boxes="all").correct
    assert not math.verify(response, "2,3").correct and math.verify(response, "2").correct
    assert not math.verify(response, "2", boxes="all").correct
    with pytest.raises(ConfigError, match="'last'"):
        math.verify("2", "2", boxes="lst")


def test_units_are_converted_only_where_asked() -> None:
    pairs = [
        (r"100\text{ cm}", r"1\text{ m}"),
        (r"36\text{ km/h}", r"10\text{ m/s}"),
        (r"\$1.50", r"150\text{ cents}"),
        (r"1\text{ ft}", r"12\text{ inches}"),
        (r"2\text{ m}^2", r"20000\text{ cm}^2"),
    ]
    for gold, answer in pairs:
        assert not math.verify(answer, gold, form="bare").correct
        assert math.verify(answer, gold, form="bare", units="convert").correct
        assert not math.verify(answer, gold, form="bare").correct  # the option is part of what is remembered
    for gold, answer in [
        (r"100\text{ cm}", r"2\text{ m}"),
        (r"1\text{ m}", r"1\text{ s}"),
        (r"1\text{ m}", r"1\text{ m}^2"),
        (r"\$1", "€1"),
    ]:
        assert not math.verify(answer, gold, form="bare", units="convert").correct


def test_sympy_decides_what_the_types_do_not_cover() -> None:
    assert math.verify(r"\frac12", r"\int_0^1 x dx", form="bare").correct
    assert math.verify(r"\frac13", r"\int_0^1 x dx", form="bare").outcome is Outcome.WRONG


def test_labelled_cases_with_their_sources() -> None:
    cases = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    assert len(cases) == 20
    for case in cases:
        assert math.verify(case["pred"], case["gold"], form=case["form"]).correct == case["expected"], case


@pytest.mark.parametrize("name", ["handwritten", "variants"])
def test_handwritten_cases(name: str) -> None:
    """Near misses, markup, units, systems, announcements in many wordings and languages for every
    rule, labelled by hand.
    """
    for line in SAMPLE.with_name(f"math_verdicts_{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        case = json.loads(line)
        verdict = math.verify(case["pred"], case["gold"], form=case["form"])
        assert verdict.correct == case["expected"], (case, verdict.reason)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_all_labelled_cases() -> None:
    lines = (SHARED / "math_verdicts" / "cases.jsonl").read_text().splitlines()
    cases = [c for c in map(json.loads, lines) if not c.get("contested")]
    got = [(math.verify(c["pred"], c["gold"], form=c["form"]).correct, c["expected"]) for c in cases]
    assert sum(a == b for a, b in got) >= 0.98 * len(got)
    assert sum(a and not b for a, b in got) <= 0.005 * sum(not b for _, b in got)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_second_round_of_labelled_cases() -> None:
    cases = [
        json.loads(line)
        for line in (SHARED / "round2" / "math_verdicts.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    got = [(math.verify(c["pred"], c["gold"], form=c["form"]).correct, c["label"]) for c in cases]
    assert sum(a == b for a, b in got) >= 0.99 * len(got)
    assert not any(a and not b for a, b in got)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_gsm8k_golds_verify_against_their_solutions() -> None:
    rows = [json.loads(line) for line in (SHARED / "gsm8k" / "test.jsonl").read_text().splitlines()]
    for row in rows:
        gold = row["answer"].rpartition("#### ")[2]
        assert math.verify(row["answer"], gold).correct and math.verify(rf"\boxed{{{gold}}}", row["answer"]).correct
    assert len(rows) == 1319


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_math_golds_verify_against_themselves_and_no_other() -> None:
    rows = [json.loads(line) for line in (SHARED / "math" / "train.jsonl").read_text().splitlines()]
    golds = [str(row["answer"]) for row in rows]
    right = sum(math.verify(rf"\boxed{{{gold}}}", gold).correct for gold in golds)
    assert right >= 0.995 * len(golds)
    rng = random.Random(0)
    for _ in range(10_000):
        one, other = rng.sample(golds, 2)
        if math.verify(rf"\boxed{{{one}}}", other).correct:
            # The same value in another dress (a unit, a name, a currency, in words) has the same
            # numerals in the same order.
            assert numerals(one) == numerals(other), (one, other)


def numerals(gold: str) -> list[str]:
    spoken = words.number(re.sub(r"\\(?:text|mbox) ?\{([^{}]*)\}", r"\1", gold).strip())
    return [str(spoken)] if spoken is not None else re.findall(r"\d+", gold)


def mutants(gold: str, rng: random.Random) -> Iterator[str]:
    """The gold with one digit, its sign, a root, an exponent or a half-open end changed: another
    value, by construction.
    """
    if digits := [m.start() for m in re.finditer(r"\d", gold)]:
        at = rng.choice(digits)
        yield f"{gold[:at]}{(int(gold[at]) + rng.randint(1, 8)) % 10}{gold[at + 1 :]}"
    if gold[:1] in "123456789" and gold[:1]:
        yield f"-{gold}"
    if gold.startswith("-"):
        yield gold[1:]
    if "\\sqrt" in gold:
        yield gold.replace("\\sqrt", "", 1)
    if "[" in gold and ")" in gold:
        yield gold.replace("[", "(", 1)
    if match := re.search(r"\^\{?(\d)", gold):
        yield f"{gold[: match.start(1)]}{(int(match[1]) + 1) % 10}{gold[match.end(1) :]}"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_no_mutant_of_a_math_gold_passes() -> None:
    rng, num, passed = random.Random(1), 0, []
    for line in (SHARED / "math" / "train.jsonl").read_text().splitlines():
        gold = str(json.loads(line)["answer"])
        for mutant in mutants(gold, rng):
            num += 1
            if math.verify(rf"\boxed{{{mutant}}}", gold).correct:
                passed.append((gold, mutant))
    print(f"{num} mutants, {len(passed)} pass")
    assert num > 10_000 and not passed


@given(st.integers(-(10**20), 10**20), st.integers(-(10**20), 10**20))
@settings(max_examples=200, deadline=None)
def test_whole_numbers_are_compared_exactly(a: int, b: int) -> None:
    assert math.verify(str(a), str(b), form="bare").correct == (a == b)
    assert math.verify(f"{a:,}", str(a), form="bare").correct


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
@settings(max_examples=200, deadline=None)
def test_fractions_are_compared_exactly(a: Fraction, b: Fraction) -> None:
    written = rf"\frac{{{a.numerator}}}{{{a.denominator}}}"
    assert math.verify(written, f"{b.numerator}/{b.denominator}", form="bare").correct == (a == b)


def test_plain_numbers_never_leave_the_first_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math.equality, "compare", lambda *_: pytest.fail("fell through"))
    for answer, gold in (("71", "72"), ("-3.5", "7/2"), ("1,234", "1234"), (r"\frac{1}{3}", "0.5"), ("50%", "51%")):
        math._decided.__wrapped__(answer, gold)
    start = time.perf_counter()
    for number in range(1000):
        math.verify(f"\\boxed{{{number}}}", "-1")
    assert time.perf_counter() - start < 1.0  # a millisecond each on a machine under load; about 20 us on a quiet one


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 000", 1000), ("1,000.50", Fraction(2001, 2)), (".5", Fraction(1, 2)), ("3 1/2", Fraction(7, 2)), ("1e3", 1000),
     (r"3.2\times 10^{5}", 320000), (r"-\frac72", Fraction(-7, 2)), ("0,5", None), ("1/0", None), ("1e99999", None)],
)  # fmt: skip
def test_numbers_are_read_exactly(text: str, value: Fraction | None) -> None:
    number = read(text)
    assert (number.value if number else None) == value


HOSTILE = [
    "9^{9^{9^{9}}}", "((99!)!)!", "(" * 3000 + "1" + ")" * 3000, "{" * 3000, "a" * 1_000_000, "1" * 1_000_000,
    r"\boxed{" * 5000, r"\boxed{1}" * 5000, r"\frac{" * 2000, r"\frac1" * 400, "x^" * 400 + "x", "-" * 3000 + "1",
    r"\sqrt{" * 500 + "2" + "}" * 500, "\ud800\udfff", "\x00", "1," * 5000 + "1", r"\binom{10^{9}}{5\cdot10^{8}}",
    "(x+y+z+w)^{2000}", r"\sin(10^{5000})", "x^{1000000}-1", "__import__('os').system('sleep 9')", "$" * 10000,
    "answer is " * 5000, "#### " * 5000, r"\left(" * 500, r"1\pm" * 200 + "1", "|" * 301, r"\text{a} " * 1000,
    r"\begin{pmatrix}" + "1&" * 500 + r"1\end{pmatrix}", "1:" * 900 + "1", "²" * 1000, "1\u0300" * 900,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: ascii(t[:12]))
def test_hostile_answers_end_in_time_and_do_not_score(text: str) -> None:
    start = time.perf_counter()
    for form in math.FORMS:
        for answer in (text, f"The answer is \\boxed{{{text}}}."):
            verdict = math.verify(answer, "7", form=form)
            assert verdict.outcome in (Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNDECIDED)
    assert time.perf_counter() - start < 15.0  # six verdicts, one or two seconds each at worst


MARKUP = [
    *"0123xyei()[]{}\\^_,.:;|!+-*/=<>%$ ",
    r"\frac",
    r"\sqrt",
    r"\pm",
    r"\text{",
    r"\cup",
    r"\{",
    " or ",
    r"\ldots",
]


@given(st.lists(st.sampled_from(MARKUP), max_size=60).map("".join))
@settings(max_examples=150, deadline=None)
def test_random_markup_never_crashes(text: str) -> None:
    assert math.verify(text, r"\frac{1}{7}+x", form="extract").outcome is not Outcome.INFRA_ERROR


def test_a_worker_over_its_limit_is_killed_and_replaced() -> None:
    pool = worker.Pool("qwq.verify.math.symbolic", size=1)
    try:
        with pytest.raises(worker.OverLimit):
            pool.request({"gold": "1", "answer": r"\prod_{k=1}^{10^{9}}k"}, 0.3)
        assert pool.request({"gold": "x+1", "answer": "1+x"}, 5.0) == {"equal": True}
    finally:
        pool.close()
    assert pool.pids() == []


def least_collections(pool: worker.Pool, payload: dict[str, str]) -> int:
    """The smallest limit within which a request is decided."""
    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        try:
            pool.request(payload, 30.0, middle)
            high = middle
        except worker.OverLimit:
            low = middle + 1
    return low


def test_the_limit_of_a_request_does_not_depend_on_load() -> None:
    """Pairs within twice their need, and within half of it, end the same way beside eight busy
    processes.
    """
    pool = worker.Pool("qwq.verify.math.symbolic", size=1)
    requests = [{"gold": "3", "answer": rf"\int_0^1 x^{n} e^x dx"} for n in (1, 2, 3)]
    requests += [{"gold": "n^3", "answer": rf"\sum_{{k=1}}^{{n}} k^{n}"} for n in (1, 2, 3)]
    busy: list[subprocess.Popen[bytes]] = []
    try:
        limits = [least_collections(pool, r) for r in requests]
        assert min(limits) > 2
        pool.close()  # another worker, with another layout of its memory
        busy += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
        for payload, limit in zip(requests, limits, strict=True):
            # Not one collection around the need itself: what a worker has computed before moves it
            # by one or two.
            assert pool.request(payload, 30.0, 2 * limit) == {"equal": False}
            with pytest.raises(worker.OverLimit, match=f"within {limit // 2} garbage collections"):
                pool.request(payload, 30.0, limit // 2)
    finally:
        for process in busy:
            process.kill()
            process.wait()
        pool.close()


@pytest.mark.parametrize("limit", ["SYMBOLIC_LIMIT_S", "SYMBOLIC_COLLECTIONS"])
def test_a_verdict_that_ran_out_of_resources_is_not_remembered(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    pair = (r"\sum_{k=1}^{m} k", r"\frac{m(m+1)}{2}")
    with monkeypatch.context() as patched:
        patched.setattr(math, limit, 0.0001 if limit.endswith("_S") else 1)
        verdict = math.verify(*pair, form="bare")
        assert verdict.outcome is Outcome.UNDECIDED and "no decision within" in verdict.reason
    assert math.verify(*pair, form="bare").correct
    math._decided.cache_clear()


def test_cpu_time_that_ran_out_on_a_busy_machine_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[float] = []

    def request(self: worker.Worker, payload: dict, limit_s: float, collections: int | None = None) -> dict:
        attempts.append(limit_s)
        if len(attempts) == 1:
            raise worker.OverLimit("no decision within 1 s of CPU time", retry=True)
        return {"equal": True}

    monkeypatch.setattr(worker.Worker, "request", request)
    pool = worker.Pool("qwq.verify.math.symbolic", size=1)
    try:
        assert pool.request({}, 1.0) == {"equal": True}
        assert attempts == [1.0, 1.0]
    finally:
        pool.close()


def test_a_worker_that_is_never_scheduled_is_an_infra_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time alone says nothing about the pair, so it never makes a verdict."""
    pool = worker.Pool("qwq.verify.math.symbolic", size=1)
    try:
        assert pool.request({"gold": "x", "answer": "x"}, 5.0) == {"equal": True}
        monkeypatch.setattr(worker, "WALL_CAP_S", 0.3)
        os.kill(pool.pids()[0], signal.SIGSTOP)
        with pytest.raises(InfraError, match="wall time"):
            pool.request({"gold": "x", "answer": "x"}, 5.0)
        assert pool.pids() == []
    finally:
        pool.close()


def test_nothing_is_left_of_a_worker_that_is_killed_at_work() -> None:
    pool = worker.Pool("qwq.verify.math.symbolic", size=1)
    pool.request({"gold": "x", "answer": "x"}, 5.0)
    pid = pool.pids()[0]
    errors: list[Exception] = []

    def ask() -> None:
        try:
            pool.request({"gold": "1", "answer": r"\prod_{k=1}^{10^{9}}k"}, 20.0)
        except InfraError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not (child := children.read_text().split()):
        time.sleep(0.01)
    pool._permits.acquire(blocking=False)
    for _ in range(3):  # the request is tried again on a new worker, which is closed too
        pool.close()
        time.sleep(0.05)
    thread.join(60)
    assert not thread.is_alive() and errors
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child[0]}").exists()


def test_a_long_list_in_another_order_is_compared_in_linear_steps() -> None:
    surds = [rf"\sqrt{{{k}}}" for k in range(2, 202)]
    start = time.process_time()
    assert math.verify(", ".join(reversed(surds)), ", ".join(surds), form="bare").correct
    assert not math.verify(", ".join(reversed([*surds[:-1], r"\sqrt{203}"])), ", ".join(surds), form="bare").correct
    assert time.process_time() - start < 1.4  # 0.2 on a quiet machine, over 1.6 where each is compared with each


def test_a_worker_that_dies_twice_is_an_infra_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = worker.Pool("qwq.verify.no_such_module", size=1)
    with pytest.raises(InfraError, match="died"):
        pool.request({}, 1.0)
    monkeypatch.setattr(math, "_pool", pool)
    verdict = math.verify(r"\frac15", r"\int_0^1 x^4 dx", form="bare")
    assert verdict.outcome is Outcome.INFRA_ERROR
    assert reward_function(None, [r"\boxed{\frac15}"], gold=[r"\int_0^1 x^4 dx"]) == [None]
    with pytest.raises(InfraError):
        compute_score("math", r"\boxed{\frac15}", r"\int_0^1 x^4 dx")


def test_threads_and_asyncio_agree_with_one_thread() -> None:
    pairs = [(a, g) for g, a in EQUAL + DIFFERENT] + [(r"\frac14", r"\int_0^1 x^3 dx")]
    alone = [math.verify(a, g, form="bare").outcome for a, g in pairs]
    math._decided.cache_clear()
    results: dict[int, list[Outcome]] = {}

    def grade(name: int) -> None:
        results[name] = [math.verify(a, g, form="bare").outcome for a, g in pairs]

    async def grade_all() -> list[Outcome]:
        verdicts = await asyncio.gather(*(asyncio.to_thread(math.verify, a, g, form="bare") for a, g in pairs))
        return [v.outcome for v in verdicts]

    threads = [threading.Thread(target=grade, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    looped = asyncio.run(grade_all())
    for thread in threads:
        thread.join()
    assert looped == alone and all(results[n] == alone for n in range(8))


def test_reward_function_in_trl_form() -> None:
    completions = [r"\boxed{4}", [{"role": "assistant", "content": r"\boxed{5}"}], r"\boxed{4}"]
    rewards = reward_function(
        prompts=["?"] * 3, completions=completions, answer=["4"] * 3, finished=[True, True, False]
    )
    assert rewards == [1.0, 0.0, 0.0]
    with pytest.raises(DataError, match="gold column"):
        reward_function(["?"], ["4"], label=["4"])


def test_compute_score_in_verl_form() -> None:
    assert compute_score("gsm8k", "so #### 4", "4") == 1.0
    assert compute_score("gsm8k", "so #### 4", "4", {"finished": False}) == 0.0


def test_verify_file_prints_one_line_each_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"gold": "4", "pred": "\\\\boxed{4}"}\n\n{"gold": "4", "pred": "5", "form": "bare"}\n')
    summary = print_verdicts("math", path)
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["index"], line["outcome"]) for line in lines] == [(0, "correct"), (1, "wrong")]
    assert set(lines[0]) == {"index", "outcome", "reason", "seconds"}
    assert summary["score"] == 0.5 and "50.0% correct" in err


@pytest.mark.parametrize(
    ("line", "hint"),
    [("{", "line 2: not JSON"), ("[1]", "line 2: a JSON object"), ('{"gold": 4, "pred": "4"}', "line 2: gold"),
     ('{"gold": "4", "pred": "4", "form": "bar"}', "'bare'")],
)  # fmt: skip
def test_a_bad_line_is_named_after_the_verdicts_before_it(tmp_path: Path, line: str, hint: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"gold": "4", "pred": "4"}\n' + line + "\n")
    lines = verify_file("math", path, strict=True)
    assert next(lines)["outcome"] == "correct"
    with pytest.raises(DataError, match=hint):
        next(lines)


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        next(verify_file("math", tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        next(verify_file("math", tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="'math'"):
        next(verify_file("maths", tmp_path / "empty.jsonl"))


@pytest.mark.parametrize(
    ("gold", "kind"),
    [("72", "gradable"), (r"\frac{x}{2}", "gradable"), (r"\text{Evelyn}", "gradable"), ("a #### 5", "gradable"),
     (r"\int_0^1 x dx", "gradable"), ("", "empty"), (None, "empty"), (3, "gradable"), (r"\boxed{}", "empty"),
     ("The two rows were switched, so the sign of the determinant changes.", "prose"),
     ("$x=1$ when $y=2$", "several"), ("1" * 5000, "too_large")],
)  # fmt: skip
def test_audit_of_a_gold(gold: object, kind: str) -> None:
    assert audit_gold(gold)[0] == kind


def test_audit_names_the_rule_of_a_gold(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(
        "".join(
            json.dumps({"answer": gold}) + "\n"
            for gold in ("3", r"x\equiv1\pmod5", r"\nabla\times F", r"\int_0^1 x dx")
        )
    )
    lines = list(audit_file(path))
    assert [(line["rule"], line["gradable"]) for line in lines] == [
        ("expressions", True),
        ("congruences", True),
        (None, False),
        (None, True),
    ]
    assert "falls under no rule" in lines[2]["reason"]


def test_audit_writes_the_clean_set(tmp_path: Path) -> None:
    path, clean_path = tmp_path / "set.jsonl", tmp_path / "clean.jsonl"
    path.write_text('{"q": "a", "answer": "3"}\n{"q": "b", "answer": ""}\n')
    lines = list(audit_file(path, clean_path))
    assert [(line["index"], line["gradable"], line["kind"]) for line in lines] == [
        (0, True, "gradable"),
        (1, False, "empty"),
    ]
    assert json.loads(clean_path.read_text()) == {"q": "a", "answer": "3"}
    with pytest.raises(DataError, match="no column 'gold'"):
        list(audit_file(path, field="gold"))
