r"""Grade a final answer: `verify(response, gold)` -> `Verdict`.

The ladder, cheapest rung first: find the answer (`answer`), equal strings after cheap
normalisation (`normal`), exact plain numbers (`numbers`), typed comparison of expressions, tuples,
sets, intervals, equations, matrices, choices and text (`equality`), symbolic equivalence in a
worker process (`symbolic` behind `worker`). The first rung that can decide decides; if none can
within its limits the outcome is `undecided`, never `wrong`.

    the answer in a response   answer, announce
    its text, tidied           normal, unicode, separators, labels
    its value                  read -> typed; expr (lexer, operators, letters) -> trees; single,
                               units, unit_tables, words, whole, systems, regions, relations
    two values                 equality, evaluate, alike, choices; symbolic, worker
    around it                  rule_examples (docs/verify_math.md), audit, adapters

Safe from threads and asyncio (call it through `asyncio.to_thread`); no signals. Verdicts of the
same answer and gold are cached, but not those that ran out of resources. No limit is wall time: the
same pair gets the same verdict on a busy machine and on a quiet one.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import lru_cache

from qwq.common.callables import make_callable
from qwq.errors import ConfigError, InfraError, nearest
from qwq.text.response import parse
from qwq.types import Outcome, ParsedResponse, Verdict
from qwq.verify.math import equality, normal, numbers, worker
from qwq.verify.math.answer import BOXES, FORMS, extract
from qwq.verify.math.separators import split

VERIFIER = "math"
# What decides whether sympy gets through is the first, which is the same on every run (`worker`);
# 100 to 180 of them take a CPU second on a current core. The second stops what allocates little,
# and is far enough above that load does not decide.
SYMBOLIC_COLLECTIONS = 64
SYMBOLIC_LIMIT_S = 1.5
SYMBOLIC_MAX_CHARS = 600
SYMBOLIC_MAX_NESTING = 20
CACHE_SIZE = 1 << 16
UNITS = ("strict", "convert")

_NOT_FOR_SYMPY = re.compile(r"\d{60}|__|[\"'`@#]\s{0,9}\w{0,30}\s{0,9}\(|import")
_GROWS = re.compile(r"\\prod|!|\\binom")
_LARGE = re.compile(r"\d{5}|\d\s?\^\s?\{?\s?(?:[4-9]|\d{2}|\d\s?\^)")

# What sympy's reader of LaTeX is known to read as it is meant. Anything else it may drop without a
# word: a modulus, a side of an inequality, an operator between sets.
_COMMANDS = frozenset(
    "frac sqrt int iint sum prod lim to infty pi cdot times left right binom sin cos tan cot sec csc arcsin arccos "
    "arctan sinh cosh tanh ln log exp alpha beta gamma delta theta lambda mu phi psi omega mathrm min max".split()
)
_NEEDED = re.compile(
    r"\\(?:int|iint|sum|prod|lim)(?![A-Za-z])|\\frac ?\{ ?(?:d|\\mathrm ?\{d\}) ?\} ?\{ ?(?:d"
    r"|\\mathrm ?\{d\}) ?[a-z] ?\}"
)
_DERIVATIVE = re.compile(r"\\frac ?\{ ?(?:d|\\mathrm ?\{d\}) ?\} ?\{ ?(?:d|\\mathrm ?\{d\}) ?([a-z]) ?\}")
_ONE_SIDED = re.compile(r"\^ ?\{? ?[+-] ?(?![\w({\\ ])")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_SIMPLE_LABEL = re.compile(r"\A[A-Za-z](?:_\{?\w\}?)?(?: ?\( ?[a-z] ?\))? ?=(?!=)")

_pool = worker.Pool("qwq.verify.math.symbolic", size=2)


def verify(
    response: str | ParsedResponse,
    gold: str,
    *,
    form: str = "response",
    finished: bool = True,
    thinking_open: bool | None = False,
    boxes: str = "last",
    units: str = "strict",
) -> Verdict:
    """Grade `response` against `gold`; the verdict's `answer` is what was read out of the response.

    `form`: "bare" (the whole string is the answer), "extract" (an answer in any markup), "response"
    (a model's response, as text or in its parts: the last box after the thinking, else an explicit
    final answer). `thinking_open` says that the chat template had opened `<think>`, None that it is
    not known. `boxes`: "last", or "all" for the boxes of a response together as one list. `units`:
    "strict" (5 m is not 500 cm), or "convert". Unfinished responses, empty golds and empty boxes
    never score. ConfigError for an unknown form or option. `infra_error` where the worker process
    died or could not be started twice in a row.
    """
    start = time.perf_counter()
    for name, value, valid in (("form", form, FORMS), ("boxes", boxes, BOXES), ("units", units, UNITS)):
        if value not in valid:
            raise ConfigError(f"unknown {name} {value!r}: {nearest(value, valid)}")
    if not finished:
        return Verdict(Outcome.UNFINISHED, "the response never ended", VERIFIER, seconds=time.perf_counter() - start)
    if form == "response" and isinstance(response, str):
        response = parse(response, thinking_open=thinking_open)
    answer = extract(response, form, which=boxes)
    verdict = _judge(response, answer, gold, form, units == "convert")
    return replace(verdict, seconds=time.perf_counter() - start)


def _judge(response: str | ParsedResponse, answer: str | None, gold: str, form: str, convert: bool) -> Verdict:
    if answer is None or not normal.clean(answer):
        return Verdict(
            Outcome.NO_ANSWER,
            _why_none(response, answer),
            VERIFIER,
        )
    wanted = gold_answer(gold, form)
    if not wanted:
        return Verdict(
            Outcome.WRONG,
            "the gold answer is empty, and nothing equals that",
            VERIFIER,
            answer=answer,
        )
    return _compare(answer, wanted, convert)


def gold_answer(gold: str, form: str = "response") -> str:
    r"""The gold answer out of what a data set has as one: after `####`, in a `\boxed`, else as it
    is; "" for none.
    """
    if form == "extract" or "\\boxed" in gold or "####" in gold:
        gold = extract(gold, "extract") or ""
    return gold if normal.clean(gold) else ""


def _why_none(response: str | ParsedResponse, answer: str | None) -> str:
    if answer is not None:
        return "the answer is empty"
    if isinstance(response, ParsedResponse) and response.open:
        return "the thinking was never closed"
    return "no box and no explicit final answer after the thinking"


def _compare(answer: str, gold: str, convert: bool) -> Verdict:
    if len(answer) > normal.MAX_CHARS or len(gold) > normal.MAX_CHARS:
        if answer.strip() == gold.strip():
            return Verdict(Outcome.CORRECT, "the same text", VERIFIER, answer=answer[:200])
        reason = f"an answer of {len(answer)} characters, {normal.MAX_CHARS} are read"
        return Verdict(Outcome.UNDECIDED, reason, VERIFIER, answer=answer[:200])
    return _compare_cached(answer, gold, convert)


@lru_cache(maxsize=CACHE_SIZE)
def _decided(answer: str, gold: str, convert: bool = False) -> tuple[Outcome, str]:
    """Outcome and reason of a pair; raises InfraError and worker.OverLimit, which are not
    cached.
    """
    a, g = normal.clean(answer), normal.clean(gold)
    if a == g:
        return _said(True, "the same after normalisation")
    number, wanted = numbers.read(a), numbers.read(g)
    if number is not None and wanted is not None:
        return _said(numbers.same(wanted, number), f"numbers {a} and {g}")
    decision = equality.compare(g, a, convert=convert)
    if decision.equal is not None:
        return _said(decision.equal, decision.reason)
    if decision.final:
        return Outcome.UNDECIDED, decision.reason
    a, g = (_SIMPLE_LABEL.sub("", t).strip() for t in (a, g))
    if not (_NEEDED.search(a) or _NEEDED.search(g)) or not (_understood(a) and _understood(g)):
        return Outcome.UNDECIDED, decision.reason
    if not (_sendable(a) and _sendable(g)):
        return Outcome.UNDECIDED, "too long, too deep or too many digits for a symbolic comparison"
    reply = _pool.request({"gold": g, "answer": a}, SYMBOLIC_LIMIT_S, SYMBOLIC_COLLECTIONS)
    if reply["equal"] is None:
        return Outcome.UNDECIDED, "sympy cannot tell"
    return _said(reply["equal"], f"{'' if reply['equal'] else 'not '}equal by sympy")


def _understood(text: str) -> bool:
    """Whether a text is one expression all of whose commands sympy's reader knows, with nothing
    related to anything.
    """
    if not all(name in _COMMANDS or name in ",;! {}" for name in _COMMAND.findall(text)):
        return False
    if _ONE_SIDED.search(text) or (
        (operator := _DERIVATIVE.search(text)) and operator[1] not in _COMMAND.sub(" ", text[operator.end() :])
    ):
        return False
    return len(split(text, "r")) == 1 and not re.search(r"[^\x20-\x7e]|[A-Za-z]{4,}", _COMMAND.sub(" ", text))


def _sendable(text: str) -> bool:
    """Whether sympy may see the text: short, shallow, no long digits, nothing that its parser would
    evaluate as code.

    Nor large numbers in a product, factorial or power: those become integers of millions of digits
    inside a single operation, which only CPU time could stop, and that depends on the machine.
    """
    if len(text) > SYMBOLIC_MAX_CHARS or not text.isprintable() or _NOT_FOR_SYMPY.search(text):
        return False
    if _GROWS.search(text) and _LARGE.search(text):
        return False
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest <= SYMBOLIC_MAX_NESTING


def _compare_cached(answer: str, gold: str, convert: bool) -> Verdict:
    try:
        outcome, reason = _decided(answer, gold, convert)
    except InfraError as error:
        return Verdict(Outcome.INFRA_ERROR, str(error), VERIFIER, answer=answer)
    except worker.OverLimit as over:
        return Verdict(Outcome.UNDECIDED, f"symbolic comparison: {over}", VERIFIER, answer=answer)
    return Verdict(outcome, reason, VERIFIER, answer=answer)


def _said(equal: bool, reason: str) -> tuple[Outcome, str]:
    return (Outcome.CORRECT if equal else Outcome.WRONG), reason


def warm() -> None:
    """Start the worker processes now, so that the first hard pair does not wait for their
    imports.
    """
    _pool.warm()


make_callable(__name__, f"{__name__}:verify")
