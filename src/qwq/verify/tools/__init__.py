"""Did the model use its tools as asked, and is the answer right?

A right answer without the call that was asked for is wrong here, and the reason says so. What the
tools returned is not judged: results come from the environment, not from the model.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwq.common.callables import make_callable
from qwq.errors import DataError, nearest
from qwq.text.response import parts_of
from qwq.types import Outcome, Response, ToolCall, Verdict
from qwq.verify import math

VERIFIER = "tools"
_KEYS = ("gold", "calls", "min_calls", "max_calls", "tool")


def verify(
    response: Response,
    truth: Mapping[str, Any],
    *,
    known_tools: Collection[str] | None = None,
) -> Verdict:
    """Correct where the response ended, its final answer equals `truth["gold"]` and its calls are
    as asked.

    `truth`: `gold` (graded by `verify.math`, form "response"); `min_calls` (default 1) and
    `max_calls`; `tool`, the one tool name allowed; `calls`, a list of `{"name", "arguments"}` of
    which each must have been made, in any order. Arguments are compared as JSON values,
    `expression` strings without their spaces. `known_tools` are the names offered in the prompt;
    without it, those that `truth` names, if any.
    """
    start = time.perf_counter()
    check_truth(truth)
    if not response.finished:
        return Verdict(
            Outcome.UNFINISHED,
            "the response never ended",
            VERIFIER,
            seconds=time.perf_counter() - start,
        )
    last = parts_of(response, tools=known_tools)
    answer = math.verify(last, truth["gold"])
    answer = replace(answer, verifier=VERIFIER, seconds=time.perf_counter() - start)
    if not answer.correct:
        return answer
    malformed = response.malformed_calls + len(last.malformed_calls)
    problem = _calls_problem(response.calls, malformed, truth, known_tools)
    if problem is None and last.tool_calls:
        problem = "a call is in the last turn, so it was never answered"
    if problem is not None:
        return replace(answer, outcome=Outcome.WRONG, reason=f"the answer is right, but {problem}")
    return replace(answer, reason=f"{answer.reason}; {len(response.calls)} calls as asked")


def check_truth(truth: Any) -> None:
    """DataError where `truth` is not what `verify` reads."""
    if not isinstance(truth, Mapping):
        raise DataError(f"truth must be an object with the keys {', '.join(_KEYS)}, got {truth!r:.80}")
    for key in truth:
        if key not in _KEYS:
            raise DataError(f"unknown key {key!r} in truth: {nearest(str(key), _KEYS)}")
    if not isinstance(truth.get("gold"), str) or not truth["gold"].strip():
        raise DataError(f"truth needs a gold answer as a string, got {truth.get('gold')!r}")
    for key in ("min_calls", "max_calls"):
        if not isinstance(truth.get(key, 0), int):
            raise DataError(f"truth: {key} must be a whole number, got {truth[key]!r}")
    for call in truth.get("calls") or ():
        if not isinstance(call, Mapping) or set(call) != {"name", "arguments"}:
            raise DataError(f'truth: a call needs the form {{"name", "arguments"}}, got {call!r:.80}')


def _calls_problem(
    calls: Sequence[ToolCall],
    malformed: int,
    truth: Mapping[str, Any],
    known_tools: Collection[str] | None,
) -> str | None:
    """What is not as asked, as a clause, or None."""
    if malformed:
        return f"{malformed} calls could not be read"
    low, high = truth.get("min_calls", 1), truth.get("max_calls")
    if len(calls) < low:
        return f"it made {len(calls)} calls and needed at least {low}"
    if high is not None and len(calls) > high:
        return f"it made {len(calls)} calls and was allowed {high}"
    expected = truth.get("calls") or ()
    allowed = {truth["tool"]} if truth.get("tool") else set(known_tools or {c["name"] for c in expected})
    stranger = next((c.name for c in calls if allowed and c.name not in allowed), None)
    if stranger is not None:
        return f"it called {stranger!r}, and the tools are {', '.join(sorted(allowed))}"
    left = list(calls)
    for want in expected:
        match = next(
            (c for c in left if c.name == want["name"] and same_json(c.arguments, want["arguments"])),
            None,
        )
        if match is None:
            return f"the call {want['name']}({dict(want['arguments'])}) was not made"
        left.remove(match)
    return None


def same_json(a: Any, b: Any, key: str = "") -> bool:
    """Equal as JSON values: 1 equals 1.0 but not true; `expression` strings are compared without
    whitespace.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_json(a[k], b[k], k) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_json(x, y, key) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, str) and isinstance(b, str) and key == "expression":
        return "".join(a.split()) == "".join(b.split())
    return a == b


make_callable(__name__, f"{__name__}:verify")
