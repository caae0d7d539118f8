"""BFCL's verdict on a conversation with tools: the calls are executed on simulated back ends and
what they left behind is compared.

Source: the multi-turn checker of the Berkeley Function Calling Leaderboard, versions 3 and 4
(gorilla's bfcl-eval), whose rules these are. After each turn for which the truth has calls:
1. the model has made a call in that turn;
2. every back end is in the state in which the true calls leave it;
3. every answer that the true calls of this turn got is among the answers that the model has got
   so far, in any order.
A turn for which the truth has no calls (something is missing, so the model should ask) is executed
and not judged; what the calls there changed shows in the next turn. A conversation with another
number of turns is wrong.

Calls are read with `ast`: a function's name (or Class.name) and literals. Nothing is evaluated.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.envs.bfcl import WORLDS
from qwq.envs.bfcl.base import World
from qwq.errors import DataError, nearest
from qwq.types import Outcome, Verdict

VERIFIER = "tools"
MAX_CALL_CHARS = 100_000
FORM = 'a call such as "cd(folder=\'docs\')" or {"cd": {"folder": "docs"}}'
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class UnreadableCall(ValueError):
    """Not a call of literals."""


def read_call(given: Any) -> Call:
    """Name, positional and named arguments of a call as text, as `{name: {argument: value}}` or as
    `{"name", "arguments"}`.
    """
    if isinstance(given, Mapping):
        if (
            set(given) == {"name", "arguments"}
            and isinstance(given["arguments"], Mapping)
            and isinstance(given["name"], str)
        ):
            return given["name"].rpartition(".")[2], (), dict(given["arguments"])
        name, arguments = next(iter(given.items()), (None, None))
        if len(given) != 1 or not isinstance(arguments, Mapping):
            raise UnreadableCall(f"needs {FORM}, got {str(given)[:80]}")
        return str(name).rpartition(".")[2], (), dict(arguments)
    if not isinstance(given, str) or len(given) > MAX_CALL_CHARS:
        raise UnreadableCall(f"needs {FORM}, got {str(given)[:80]}")
    try:
        node = parse_python(given.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            raise UnreadableCall(f"needs {FORM}, got {given[:80]}")
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if any(k.arg is None for k in node.keywords):
            raise UnreadableCall(f"** in a call: {given[:80]}")
        return (
            name,
            tuple(map(ast.literal_eval, node.args)),
            {str(k.arg): ast.literal_eval(k.value) for k in node.keywords},
        )
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise (
            error if isinstance(error, UnreadableCall) else UnreadableCall(f"not a call of literals: {given[:80]}")
        ) from None


class GradedConversation:
    """The back ends of one task, from their initial configurations on."""

    def __init__(self, classes: Sequence[str], config: Mapping[str, Any], *, long_context: bool = False) -> None:
        for name in classes:
            if name not in WORLDS:
                raise DataError(f"no back end {name!r}: {nearest(name, WORLDS)}")
        self.worlds: dict[str, World] = {
            name: WORLDS[name]({**(config.get(name) or {}), "long_context": long_context}) for name in classes
        }
        self._owner = {function: world for world in self.worlds.values() for function in world.functions()}

    def execute(self, given: Any) -> tuple[str, bool]:
        """(the answer of a call, whether it ran without an error)."""
        try:
            name, positional, named = read_call(given)
        except UnreadableCall as error:
            return f"Error during execution: {error}", False
        if name not in self._owner:
            return f"Error during execution: no function {name}", False
        return self._owner[name].call(name, positional, named)


def turns_of(calls: Any, what: str) -> list[list[Any]]:
    """The calls of each turn.

    A turn is a list of calls, or of steps that are lists of calls. DataError for another shape.
    """
    if not isinstance(calls, list) or not all(isinstance(turn, list) for turn in calls):
        raise DataError(
            f"{what} of a multi-turn category must be a list of turns, each a list of calls or of steps with calls"
        )
    return [[call for step in turn for call in (step if isinstance(step, list) else [step])] for turn in calls]


def verify(
    calls: Sequence[Any],
    ground_truth: Sequence[Any],
    *,
    initial_config: Mapping[str, Any],
    involved_classes: Sequence[str],
    category: str = "multi_turn_base",
) -> Verdict:
    """Correct or wrong, with the turn and the rule that was broken. DataError where the task itself
    cannot be used.

    `category` tells whether the back ends are those of the long-context tasks.
    """
    truth, given = turns_of(ground_truth, "ground_truth"), turns_of(calls, "calls")
    if len(truth) != len(given):
        return _wrong(f"turns: {len(given)} where the task has {len(truth)}")
    model, expected = (
        GradedConversation(involved_classes, initial_config, long_context="long_context" in category) for _ in range(2)
    )
    answers: list[str] = []
    for number, (made, right) in enumerate(zip(given, truth, strict=True), 1):
        answers += [model.execute(call)[0] for call in made]
        wanted = [expected.execute(call)[0] for call in right]
        if not right:
            continue
        if not made:
            return _wrong(f"turn {number}: no call where {len(right)} are asked for")
        fault = _state_fault(model, expected) or _answer_fault(answers, wanted)
        if fault:
            return _wrong(f"turn {number}: {fault}")
    return Verdict(
        Outcome.CORRECT, f"all {len(truth)} turns leave the state and the answers of the true calls", VERIFIER
    )


def _wrong(reason: str) -> Verdict:
    return Verdict(Outcome.WRONG, reason, VERIFIER)


def _state_fault(model: GradedConversation, expected: GradedConversation) -> str | None:
    for name, world in expected.worlds.items():
        mine = model.worlds[name].state()
        for key, value in world.state().items():
            if mine[key] != value:
                return f"state: {name}.{key} is {str(mine[key])[:100]}, the true calls leave {str(value)[:100]}"
    return None


def _answer_fault(answers: Sequence[str], wanted: Sequence[str]) -> str | None:
    left = list(answers)
    for answer in wanted:
        if answer not in left:
            return f"answer: no call got {answer[:160]}"
        left.remove(answer)
    return None
