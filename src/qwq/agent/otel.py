"""A run as OpenTelemetry spans, in OTLP's JSON form: `invoke_agent`, and below it `chat` and
`execute_tool`.

Names are those of the GenAI semantic conventions 1.37.0, which are not stable yet: the events of a
run are its own form, and this is an export. What was said and called is left out unless asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.agent.events import Event, EventKind, read_run
from qwq.common.files import write_atomic

CONVENTIONS = "https://opentelemetry.io/schemas/1.37.0"
INTERNAL, CLIENT = 1, 3  # kinds of spans
ERROR = 2  # status code
FINISH_REASONS = {"end": "stop", "length": "length", "context": "length"}


def write_trace(out: Path, path: Path, *, content: bool = False) -> int:
    """Write the spans of the run in `out`; returns how many. `content`: with what was said."""
    spans = spans_of(read_run(out), content=content)
    text = json.dumps(resource_spans(spans), ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, text.encode(errors="backslashreplace"))  # half a surrogate pair as JSON escapes it
    return len(spans)


def resource_spans(spans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Spans as an OTLP request holds them."""
    scope = {"scope": {"name": "qwq.agent"}, "spans": list(spans), "schemaUrl": CONVENTIONS}
    return {
        "resourceSpans": [{"resource": {"attributes": _attributes({"service.name": "qwq"})}, "scopeSpans": [scope]}]
    }


def spans_of(events: Sequence[Event], *, content: bool = False) -> list[dict[str, Any]]:
    """The spans of a run's events: the run, its model calls, its tool calls, by their start."""
    if not events:
        return []
    first, last = events[0], events[-1]
    trace = hashlib.sha256(f"{first['t']}{first['task']}".encode()).hexdigest()[:32]
    root = _span_id(trace, 0)
    provider = "openai" if first.get("endpoint") else "qwq"
    model = {"gen_ai.provider.name": provider, "gen_ai.request.model": first["model"]}
    said = {"gen_ai.input.messages": _message("user", first["task"])} if content else {}
    whole = _span(
        trace, first["n"], "", "invoke_agent qwq", INTERNAL, first["t"], last["t"],
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "qwq", **model, **said},
    )  # fmt: skip
    spans = [whole]
    calls = {e["id"]: e for e in events if e["event"] == EventKind.CALL}
    for event in events:
        if event["event"] in (EventKind.MODEL_TURN, EventKind.SUMMARY):
            spans.append(_chat(trace, root, event, model, content))
        elif event["event"] == EventKind.RESULT:
            spans.append(_tool(trace, root, event, calls[event["id"]], content))
    if last["event"] != EventKind.FINISH:
        whole["status"] = {"code": ERROR, "message": "the run has not ended"}
    return spans


def _chat(trace: str, root: str, turn: Event, model: Mapping[str, Any], content: bool) -> dict[str, Any]:
    params = {
        "gen_ai.operation.name": "chat", **model, "gen_ai.usage.output_tokens": turn["tokens"],
        "gen_ai.response.finish_reasons": [FINISH_REASONS.get(turn["stop_reason"], turn["stop_reason"])],
    }  # fmt: skip
    if turn["event"] == EventKind.SUMMARY:
        params["qwq.summary_of_turns"] = turn["turns"]
    if content:
        params["gen_ai.output.messages"] = _message("assistant", turn["text"])
    name = f"chat {model['gen_ai.request.model']}"
    return _span(trace, turn["n"], root, name, CLIENT, turn["t"] - turn["seconds"], turn["t"], params)


def _tool(trace: str, root: str, result: Event, call: Event, content: bool) -> dict[str, Any]:
    name = result["tool"] or "malformed"
    params = {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": result["id"],
    }  # fmt: skip
    if result["kind"] != "ok":
        params["error.type"] = result["kind"]
    if content:
        params["gen_ai.tool.call.arguments"] = json.dumps(call.get("arguments", call.get("malformed")))
        params["gen_ai.tool.call.result"] = result["text"]
    start = result["t"] - result["seconds"]
    span = _span(trace, result["n"], root, f"execute_tool {name}", INTERNAL, start, result["t"], params)
    if result["kind"] != "ok":
        span["status"] = {"code": ERROR, "message": result["kind"]}
    return span


def _span(
    trace: str, number: int, parent: str, name: str, kind: int, start: float, end: float, params: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "traceId": trace, "spanId": _span_id(trace, number), **({"parentSpanId": parent} if parent else {}),
        "name": name, "kind": kind, "startTimeUnixNano": _nanoseconds(start), "endTimeUnixNano": _nanoseconds(end),
        "attributes": _attributes(params),
    }  # fmt: skip


def _span_id(trace: str, number: int) -> str:
    return hashlib.sha256(f"{trace} {number}".encode()).hexdigest()[:16]


def _nanoseconds(seconds: float) -> str:
    return str(round(seconds * 1000) * 1_000_000)


def _attributes(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in params.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": str(value)}


def _message(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}], ensure_ascii=False)
