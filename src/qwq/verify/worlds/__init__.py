"""Verdicts on episodes in worlds, made by replaying the recorded calls in a fresh world.

The environment that served the model is never asked: what it answered, or what a model wrote in its
place, changes no verdict. So a rollout of an old log can be judged again (`judge_rollout`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwq.envs.worlds import WORLD, make_rules
from qwq.errors import DataError
from qwq.text.response import parse, parts_of
from qwq.types import Outcome, Response, Rollout, ToolCall, Verdict, tool_schemas

# Registers the rules.
from qwq.verify.worlds import hidden_place, linked_entries, mutated_function, small_database, unknown_columns

if TYPE_CHECKING:
    from qwq.text.template import ChatFormat

__all__ = [
    "hidden_place", "judge_rollout", "linked_entries", "mutated_function", "replay", "response_of_rollout",
    "small_database", "unknown_columns", "verify",
]  # fmt: skip
VERIFIER = "agent"
_BOX = re.compile(r"\\boxed\s*\{([^{}]*)\}")


def verify(response: Response, truth: Mapping[str, Any]) -> Verdict:
    """Correct where the response ended and the world of `truth["world"]`, after the response's
    calls in their order, accepts its answer (`answer_of`).

    DataError for a spec of no known world; an InfraError of a sandbox is an infra_error.
    """
    start = time.perf_counter()
    if WORLD not in truth:
        raise DataError(f"truth needs {WORLD!r}, the spec of a world; it has {sorted(truth)}")
    if not response.finished:
        return Verdict(Outcome.UNFINISHED, "the response never ended", VERIFIER, seconds=time.perf_counter() - start)
    parts = parts_of(response)
    answer = answer_of(parts.final)
    fault = "a call in the last turn was never answered" if parts.tool_calls or parts.malformed_calls else None
    if fault is None:
        fault = replay(truth[WORLD], response.calls, answer)
    outcome = Outcome.CORRECT if fault is None else Outcome.WRONG if parts.final.strip() else Outcome.NO_ANSWER
    reason = fault or f"{len(response.calls)} calls, and the answer is right"
    return Verdict(outcome, reason, VERIFIER, answer=answer[:200], seconds=time.perf_counter() - start)


def answer_of(final: str) -> str:
    """The answer in what follows the thinking: the last `\\boxed{}`, else the last word."""
    boxes = _BOX.findall(final)
    words = boxes[-1:] or final.split()[-1:]
    return words[0].strip().strip("$`'\"*.").strip() if words else ""


def replay(spec: Mapping[str, Any], calls: Sequence[ToolCall], answer: str) -> str | None:
    """Why an episode of these calls and this answer is wrong; None where it is right."""
    world = make_rules(spec)
    for call in calls:
        world.call(call.name, call.arguments)
    return world.verdict(answer)


def response_of_rollout(rollout: Rollout, chat: ChatFormat, tools: Mapping[str, Any]) -> Response:
    """What a verifier sees of a stored rollout: its turns are cut where the model ended them, by
    token, so that no text that a model wrote counts as a turn or as a tool's result. `tools` were
    on offer.
    """
    turns: list[list[int]] = [[]]
    between = False
    columns = [pair for s in rollout.all_segments for pair in zip(s.completion_ids, s.sampled_mask, strict=True)]
    for token, sampled in columns:
        if between and not sampled:
            continue
        if between:
            turns.append([])
        turns[-1].append(token)
        between = bool(sampled) and token in chat.eos_ids
    texts = [chat.tokenizer.decode([t for t in turn if t not in chat.eos_ids]) for turn in turns]
    parts = [parse(text, thinking_open=chat.thinking_open, tools=tools) for text in texts]
    calls = tuple(call for turn in parts[:-1] for call in turn.tool_calls)
    return Response(
        texts[-1], finished=rollout.finished, thinking_open=chat.thinking_open, calls=calls, parts=parts[-1],
        turns=tuple(parts[:-1]),
    )  # fmt: skip


def judge_rollout(rollout: Rollout, chat: ChatFormat) -> Verdict:
    """The verdict on a rollout of a log, from its tokens and the spec that it keeps.

    DataError for a rollout of another domain.
    """
    if rollout.domain != VERIFIER or not isinstance(rollout.expected, Mapping):
        raise DataError(f"rollout {rollout.problem_id} is of domain {rollout.domain!r}: only {VERIFIER!r} has worlds")
    tools = tool_schemas(tool.schema for tool in make_rules(rollout.expected[WORLD]).tools)
    return verify(response_of_rollout(rollout, chat, tools), rollout.expected)
