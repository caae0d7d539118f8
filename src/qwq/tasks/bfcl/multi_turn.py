"""BFCL's multi-turn categories: a user with several wishes, functions whose back ends are
simulated, calls until a wish is met.

A turn of the user lasts until the model answers without a call that can be read; after 20 steps in
one turn the conversation is over, and so wrong. Functions are those of the involved classes without
the excluded ones; in miss_func some come only in a later turn, which says so. Facts of the
protocol: gorilla's bfcl-eval (Apache-2.0); the back ends and the verdict are those of
`verify.tools.bfcl_multi_turn`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.jsonl import read_objects
from qwq.envs.base import Environment
from qwq.errors import DataError
from qwq.tasks.bfcl import calls as bfcl_calls
from qwq.tasks.questions import need
from qwq.types import Message, ParsedResponse, Problem, ToolCall, Verdict
from qwq.verify.tools import bfcl_multi_turn as rules

Row = Mapping[str, Any]

MAX_STEPS = 20
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "PostingAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking", "VehicleControlAPI": "vehicle_control",
}  # fmt: skip
# BFCL's own wording (bfcl_eval/constants/default_prompts.py, Apache-2.0).
MORE_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"


def problem(category: str, row: Row, truth: Any, folder: Path, where: str, *, native: bool) -> Problem:
    """A row of a multi-turn file. DataError names the field that is missing."""
    question = need(row, "question", where, list)
    classes, config = need(row, "involved_classes", where, list), need(row, "initial_config", where, dict)
    late = {int(turn): list(names) for turn, names in (row.get("missed_function") or {}).items()}
    hidden = {*(row.get("excluded_function") or ())}
    functions = [f for c in classes for f in _documents(folder, c, where) if f["name"] not in hidden]
    if not question or any(not isinstance(t, list) or (not t and i not in late) for i, t in enumerate(question)):
        raise DataError(f"{where}: field 'question' must be a list of turns, each a list of messages")
    later = {name for names in late.values() for name in names}
    first = [f for f in functions if f["name"] not in later]
    messages = [Message(need(m, "role", where), need(m, "content", where)) for m in question[0]]
    if not native:
        messages.insert(0, Message("system", bfcl_calls.system_prompt(first, "python")))
    about = {
        "category": category, "question": question, "classes": classes, "config": config, "ground_truth": truth,
        "late": late, "functions": functions, "native": native,
    }  # fmt: skip
    offered = _offered(about, 0)
    ident = need(row, "id", where)
    return Problem(
        ident,
        "tools",
        tuple(messages),
        about,
        ident,
        offered,
        source=category,
        environment=f"{__name__}:MultiTurnEnvironment",
    )


@functools.lru_cache(maxsize=32)
def _read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_objects(path, "BFCL's rows, one object a line")]


def _documents(folder: Path, name: str, where: str) -> list[dict[str, Any]]:
    """The functions of a back end. DataError where it or its file is unknown."""
    if name not in DOCUMENTS:
        raise DataError(f"{where}: field 'involved_classes': no back end {name!r}, there are {', '.join(DOCUMENTS)}")
    path = folder / "multi_turn_func_doc" / f"{DOCUMENTS[name]}.json"
    if not path.is_file():
        raise DataError(f"no {path}: multi-turn needs the functions' documents (bfcl-eval's data has them)")
    return _read(path)


class MultiTurnEnvironment(Environment):
    """The user, and the back ends that answer the model's calls.

    Without native tools calls are read from the text.
    """

    instant = True
    max_calls = 10_000  # steps of a turn are limited instead

    async def reset(self, problem: Problem) -> None:
        self.truth = problem.truth
        self.backs = _backs(self.truth)
        self.number = self.steps = 0  # of the user's turn, and of the model's in it
        self.offered = _offered(self.truth, 0)

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return self.offered

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        return self._execute([{c.name: dict(c.arguments)} for c in calls])

    async def next_messages(self, turn: ParsedResponse) -> Sequence[Message]:
        if calls := calls_of(turn, self.truth["native"]):
            return self._execute(calls)
        self.number, self.steps = self.number + 1, 0
        if self.number == len(self.truth["question"]):
            return ()
        self.offered = _offered(self.truth, self.number)
        return _said(self.truth, self.number)

    def _execute(self, calls: Sequence[Mapping[str, Any]]) -> list[Message]:
        self.steps += 1
        self.over = self.steps > MAX_STEPS
        return [Message("tool", self.backs.execute(call)[0]) for call in calls]


def _backs(truth: Mapping[str, Any]) -> rules.GradedConversation:
    return rules.GradedConversation(truth["classes"], truth["config"], long_context="long_context" in truth["category"])


def _offered(truth: Mapping[str, Any], number: int) -> tuple[Mapping[str, Any], ...]:
    """The tools on offer in the user's turn `number`."""
    if not truth["native"]:
        return ()
    later = {name for turn, names in truth["late"].items() if turn > number for name in names}
    return tuple(bfcl_calls.tools([f for f in truth["functions"] if f["name"] not in later], "python"))


def _said(truth: Mapping[str, Any], number: int) -> list[Message]:
    """What the user says in turn `number`, or that functions have come."""
    names = truth["late"].get(number)
    if names is None:
        return [Message(m["role"], m["content"]) for m in truth["question"][number]]
    new = [f for f in truth["functions"] if f["name"] in names]
    shown = "" if truth["native"] else json.dumps(bfcl_calls.described(new, "python"), indent=4) + "\n"
    return [Message("user", shown + MORE_FUNCTIONS)]


def calls_of(turn: ParsedResponse, native: bool) -> list[dict[str, dict[str, Any]]]:
    """The calls of one turn; none if they cannot be read."""
    if native:
        return [{c.name: dict(c.arguments)} for c in turn.tool_calls]
    try:
        return bfcl_calls.read_calls(turn.answer) if turn.answer else []
    except bfcl_calls.NotCalls:
        return []


def judge(problem: Problem, turns: Sequence[ParsedResponse]) -> Verdict:
    """The verdict on a conversation: the calls of each turn of the user, which end with a turn of
    the model without calls.
    """
    truth = problem.truth
    calls: list[list[Any]] = [[]]
    for turn in turns[:-1]:
        made = calls_of(turn, truth["native"])
        calls[-1] += made
        if not made and not turn.malformed_calls:
            calls.append([])
    calls[-1] += calls_of(turns[-1], truth["native"])
    return rules.verify(
        calls,
        truth["ground_truth"],
        initial_config=truth["config"],
        involved_classes=truth["classes"],
        category=truth["category"],
    )
