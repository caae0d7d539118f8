"""BFCL's multi-turn categories: a user with several wishes, functions whose back ends are simulated, calls until a wish is met.

A turn of the user goes on until the model answers without a call that can be read; after 20 steps in one turn the conversation is
over, and so wrong. Functions are those of the involved classes without the excluded ones; in miss_func some come only in a later turn, which
says so. The conversation is replayed from the replies each time, so nothing but the replies has to be kept. Facts of the protocol:
gorilla's bfcl-eval (Apache-2.0); the back ends and the verdict are `verify.bfcl_multi_turn`'s.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwq.common.jsonl import read_objects
from qwq.errors import DataError
from qwq.tasks.benchmark import Row, need
from qwq.tasks.bfcl import calls as bfcl_calls
from qwq.types import Message, Problem, StopReason, Turn, Verdict
from qwq.verify.tools import bfcl_multi_turn as rules

MAX_STEPS = 20
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api", "TwitterAPI": "posting_api",
    "PostingAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot", "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
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
        "category": category, "question": question, "classes": classes, "config": config, "ground_truth": truth, "late": late,
        "functions": functions, "native": native,
    }  # fmt: skip
    offered = tuple(bfcl_calls.tools(first, "python")) if native else ()
    ident = need(row, "id", where)
    return Problem(ident, "tools", tuple(messages), about, ident, offered, source=category)


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


@dataclass(slots=True)
class _State:
    """Where a conversation stands: the calls of each turn so far, and what the last calls gave."""

    turn: int = 0
    steps: int = 0
    calls: list[list[Any]] = field(default_factory=lambda: [[]])
    results: list[tuple[str, str]] = field(default_factory=list)  # (name, answer) of the last reply's calls
    over: bool = False


def _replay(problem: Problem, replies: Sequence[Turn]) -> _State:
    truth = problem.truth
    backs = rules.Conversation(truth["classes"], truth["config"], long_context="long_context" in truth["category"])
    state = _State()
    for reply in replies:
        calls = calls_of(reply, truth["native"])
        state.results = []
        if calls:
            state.steps += 1
            state.calls[-1] += calls
            state.results = [(next(iter(c)), backs.execute(c)[0]) for c in calls]
            state.over = state.steps > MAX_STEPS
        else:
            state.turn, state.steps = state.turn + 1, 0
            state.over = state.turn == len(truth["question"]) or reply.stop_reason is StopReason.CONTEXT
            if not state.over:
                state.calls.append([])
    return state


def calls_of(reply: Turn, native: bool) -> list[dict[str, dict[str, Any]]]:
    """The calls of one reply; none where it was cut off or cannot be read."""
    if not reply.finished:
        return []
    if native:
        return [{c.name: dict(c.arguments)} for c in reply.calls]
    try:
        return bfcl_calls.read_calls(reply.answer) if reply.answer else []
    except bfcl_calls.NotCalls:
        return []


def go_on(problem: Problem, replies: Sequence[Turn]) -> list[dict[str, Any]] | None:
    """The answers of the last calls, or the user's next turn; None where the conversation is over."""
    state, truth = _replay(problem, replies), problem.truth
    if state.over:
        return None
    if state.results:
        return [{"role": "tool", "name": name, "content": answer} for name, answer in state.results]
    names = truth["late"].get(state.turn)
    if names is None:
        return [{"role": m["role"], "content": m["content"]} for m in truth["question"][state.turn]]
    new = [f for f in truth["functions"] if f["name"] in names]
    shown = "" if truth["native"] else json.dumps(bfcl_calls.described(new, "python"), indent=4) + "\n"
    return [{"role": "user", "content": shown + MORE_FUNCTIONS}]


def tools(problem: Problem, replies: Sequence[Turn]) -> tuple[Mapping[str, Any], ...]:
    """The tools on offer after these replies."""
    truth = problem.truth
    if not truth["native"] or not truth["late"]:
        return problem.tools
    turn = _replay(problem, replies).turn
    missing = {name for at, names in truth["late"].items() if at > turn for name in names}
    return tuple(bfcl_calls.tools([f for f in truth["functions"] if f["name"] not in missing], "python"))


def judge(problem: Problem, replies: Sequence[Turn]) -> Verdict:
    truth = problem.truth
    return rules.verify(
        _replay(problem, replies).calls, truth["ground_truth"], initial_config=truth["config"], involved_classes=truth["classes"],
        category=truth["category"],
    )  # fmt: skip
