"""Runs and tools as lines for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from qwq.agent.events import Event, EventKind, read_events
from qwq.envs.base import in_background
from qwq.envs.mcp import McpToolset
from qwq.envs.toolbox import Toolset, make_toolsets, toolset_names
from qwq.report.wording import counted, visible

WIDTH = 400  # characters of one text


def lines(out: Path) -> Iterator[str]:
    """A run's events, a few lines each."""
    for event in read_events(out):
        head = f"{event['s']:8.1f} s  {event['event']}"
        body = _body(event)
        yield f"{head}  {body[0]}".rstrip() if body else head
        yield from (f"            {line}" for line in body[1:])


def _body(event: Event) -> list[str]:
    match event["event"]:
        case EventKind.RUN:
            return [_cut(event["task"])]
        case EventKind.MODEL_TURN:
            thought = [f"(thought) {_cut(event['thinking'])}"] if event["thinking"] else []
            counts = f"{event['turn']}: {event['tokens']} tokens, {event['stop_reason']}"
            return [counts, *thought, *([_cut(event["answer"])] if event["answer"] else [])]
        case EventKind.CALL:
            what = event.get("malformed", json.dumps(event.get("arguments"), ensure_ascii=False))
            return [f"{event['id']} {one_line(event['tool']) or 'malformed'} {_cut(what)}"]
        case EventKind.RESULT:
            made = ", ".join(a["name"] for a in event["artefacts"])
            files = [f"artefacts: {made}"] if made else []
            return [f"{event['id']} {event['kind']} in {event['seconds']:.2f} s", _cut(event["text"]), *files]
        case EventKind.APPROVAL:
            return [f"{event['id']} {event['decision']}: {event.get('reason', '')}"]
        case EventKind.TOOL_STARTED:
            return [f"{event['id']} {one_line(event['tool'])} (effect {event['effect']})"]
        case EventKind.FINISH:
            return [event["stop_reason"], _cut(event["answer"])]
        case EventKind.SUMMARY:
            facts = [_cut(f"{fact['call']}: {fact['fact']}") for fact in event.get("facts", ())]
            return [summary_line(event), *facts, *(_cut(f"open: {step}") for step in event.get("open", ()))]
        case EventKind.RESUME:
            return [f"{len(event['rebuilt'])} calls ran again; changed: {', '.join(event['changed']) or 'none'}"]
    return [_cut(event.get("text", ""))]


def summary_line(event: Event) -> str:
    """What came of a `summary`, in a few words."""
    if "fault" in event:
        return f"of {counted(event['turns'], 'turn')} could not be used: {one_line(event['fault'])}"
    facts, steps = counted(len(event["facts"]), "fact"), counted(len(event["open"]), "open step")
    return f"of {counted(event['turns'], 'turn')}: {facts}, {steps}"


def one_line(text: str) -> str:
    """`text` on one line of a terminal: what would move its cursor or colour it is a mark."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def for_stream(text: str, stream: TextIO) -> str:
    """`text` as it is; on a terminal, characters that steer it are shown instead."""
    return visible(text) if stream.isatty() else text


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= WIDTH else f"{line[:WIDTH]} ... ({len(text):,} characters)"


# Options without which a toolset is off.
SHOWN: dict[str, dict[str, Any]] = {"fetch": {"allow_hosts": ["example.com"]}}


def _started(toolset: McpToolset) -> list[Toolset]:
    """A toolset that knows its tools, behind its start and end."""
    try:
        in_background(toolset.open()).result()
    finally:
        in_background(toolset.close()).result()
    return [toolset]


def tool_lines(*, as_json: bool, mcp: Path | None = None) -> Iterator[str]:
    """All tools, by toolset; those of the servers of the file `mcp` too."""
    for name in toolset_names():
        if name == "mcp" and mcp is None:
            continue
        for group in _started(McpToolset(mcp)) if name == "mcp" else make_toolsets([name], **SHOWN.get(name, {})):
            for spec in group.specs():
                facts = {
                    "toolset": name, "name": spec.name, "effect": spec.effect.value, "timeout_s": spec.timeout_s,
                    "idempotent": spec.idempotent, "untrusted": spec.untrusted, "schema": spec.schema,
                }  # fmt: skip
                if as_json:
                    yield json.dumps(facts, ensure_ascii=False)
                else:
                    words = spec.schema["function"]["description"].partition(". ")[0].rstrip(".")
                    yield f"{name:8} {spec.name:20} {spec.effect.value:10} {spec.timeout_s:5g} s  {words}"
