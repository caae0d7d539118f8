"""A sample as it is stored: a record, one JSON line, and the response that a verifier sees of
it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from qwq.eval.folder import Key
from qwq.rollout.episode import Episode, EpisodeJob
from qwq.tasks.base import Mark
from qwq.text.response import reopens_thinking, written
from qwq.types import Outcome, ParsedResponse, Response, StopReason, ToolCall, Turn, Verdict

Record = dict[str, Any]


def key_of_job(job: EpisodeJob) -> Key:
    """The name of a job's record within its task."""
    return job.problem.id, job.number, job.thinking_budget


def record_of(episode: Episode, text: str = "") -> Record:
    """The record of a sample that is not graded yet.

    `text` is all that was generated, to be kept for readers.
    """
    job, turns = episode.job, episode.turns
    problem, last = job.problem, turns[-1] if turns else Turn(ParsedResponse(None, ""), StopReason.ABORT)
    assert episode.stop_reason is not None
    record: Record = {
        "problem_id": problem.id, "sample": job.number, "thinking_budget": job.thinking_budget, "group": problem.source,
        "seed": job.seed, "prompt": problem.messages[-1].content, "output": written(last.parts),
        "stop_reason": episode.stop_reason.value, "tokens": episode.num_tokens, "thinking_tokens": episode.num_thinking,
        "seconds": round(sum(t.seconds for t in turns), 3), "made": round(time.time(), 3),
    }  # fmt: skip
    if problem.environment:
        record["wall_seconds"] = round(episode.seconds, 3)  # with the tools and all waiting
    if (expected := problem.expected) is not None:
        record["expected"] = expected
    if text:
        record["text"] = text
    if len(problem.messages) > 1:
        record["messages"] = [m.to_dict() for m in problem.messages]
    if last.finish:
        record["finish"] = last.finish
    results = iter(episode.results)
    record["turns"] = [_turn(turn, [r for _, r in zip(turn.calls, results, strict=False)]) for turn in turns]
    return record


def graded(record: Mapping[str, Any], mark: Mark) -> Record:
    """The record with its mark.

    The turns repeat the output, so they are kept only if there is more than that.
    """
    turns = record["turns"] if len(record["turns"]) > 1 or any(t["calls"] for t in record["turns"]) else None
    stored = {k: v for k, v in record.items() if k != "turns"} | ({"turns": turns} if turns else {})
    return stored | {"verdict": mark.verdict.to_dict(), "score": mark.score, "detail": mark.detail}


def failed(record: Mapping[str, Any], reason: str, verifier: str) -> Record:
    """The record of a failure of a server or of a tool's machinery.

    It has no score, since nobody answered.
    """
    verdict = Verdict(Outcome.INFRA_ERROR, reason, verifier).to_dict()
    return {k: v for k, v in record.items() if k != "turns"} | {"verdict": verdict, "score": None, "detail": {}}


def response_of(record: Mapping[str, Any]) -> Response:
    """What a verifier sees of a stored record: its last turn, and the turns, calls and results
    before it.
    """
    parts = [_parts(turn) for turn in record["turns"]]
    answered = [turn for turn in record["turns"] if turn.get("results")]
    return Response(
        written(parts[-1]), finished=record["stop_reason"] == StopReason.END.value,
        calls=tuple(c for turn in answered for c in _calls(turn)[: len(turn["results"])]),
        results=tuple(r for turn in answered for r in turn["results"]), parts=parts[-1], turns=tuple(parts[:-1]),
    )  # fmt: skip


def _parts(turn: Mapping[str, Any]) -> ParsedResponse:
    return ParsedResponse(
        turn["thinking"] or None, turn["answer"], _calls(turn),
        thinking_closed=turn.get("thinking_closed", bool(turn["answer"] or turn["calls"]) or not turn["thinking"]),
        malformed_calls=("",) * turn["malformed"], reopened=reopens_thinking(turn["answer"]),
    )  # fmt: skip


def _calls(turn: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(c["name"], c["arguments"]) for c in turn["calls"])


def _turn(turn: Turn, results: list[str]) -> Record:
    out: Record = {
        "thinking": turn.parts.thinking or "", "answer": turn.answer, "stop": turn.stop_reason.value,
        "tokens": turn.num_tokens, "thinking_tokens": turn.num_thinking,
        "calls": [{"name": c.name, "arguments": dict(c.arguments)} for c in turn.calls],
        "malformed": len(turn.malformed), "seconds": turn.seconds, "estimated": turn.estimated, "finish": turn.finish,
        "thinking_closed": turn.parts.thinking_closed,
    }  # fmt: skip
    return out | ({"results": results} if results else {})
