"""A server's answer in its parts: thinking, answer, calls, how it ended.

Servers with a reasoning parser hand the thinking out apart (`reasoning_content`, `reasoning`, parts
of type `thinking`); others give the text as the model wrote it. Where the chat template opens the
thinking itself, as QwQ's does, that text has no `<think>`, so a thought that was cut looks like an
answer. Three rules keep it from being read as one, in this order:

1. A text that begins with `<think>` says itself where its thought is. One that holds only
   `</think>` began in a thought, unless the caller knows that the template opens none.
2. A text without either that was cut off is an open thought, unless the caller knows that the
   template opens none.
3. A text without either that ended by itself is an answer, unless the caller knows that the
   template opens one.

What is thinking, answer and call is then `text.response`'s rule.

An answer counts as ended only where the server says so: `finish_reason` null, `error`, `abort` or
unknown is the server's failure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from qwq.errors import InfraError
from qwq.text.response import THINK_CLOSE, parse, parse_answer, written
from qwq.text.tool_calls import BLANKS, read_call
from qwq.types import ParsedResponse, StopReason, ToolCall, Turn

ENDED = {"stop", "tool_calls", "function_call", "end_turn", "eos", "eos_token", "stop_sequence"}  # the last three: TGI
CUT = {"length", "max_tokens", "model_length"}  # the last: Mistral
FILTERED = "content_filter"
END = StopReason.END


class RequestFailed(InfraError):
    """One request has no answer of the model; others may have one."""


class _OddShapeError(ValueError):
    """A part of an answer that no server of this kind gives."""


# Where the prompt alone fills the context; "refused" is our word for it.
FULL = Turn(ParsedResponse(None, ""), StopReason.CONTEXT, finish="refused")


def read_completion(
    data: Mapping[str, Any], *, tools: Collection[str] = (), opens_thinking: bool | None = None
) -> Turn:
    """The first choice of a chat completion. `tools`: names of the functions on offer; without any,
    a call in the text is text.

    `opens_thinking`: whether the chat template opens the thinking; None where that is not known.
    RequestFailed where the body is of another shape, or does not say how the answer ended.
    """
    try:
        choice, usage = data["choices"][0], _object(data, "usage")
        stop = _stop(choice)
        parsed = _parts(choice.get("message") or {}, stop, tools, opens_thinking)
        tokens = _count(usage, "completion_tokens")
        counted = min(tokens, _count(_object(usage, "completion_tokens_details"), "reasoning_tokens"))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        why = f" ({error})" if isinstance(error, _OddShapeError) else ""
        raise RequestFailed(f"an answer that is not of OpenAI's shape{why}: {json.dumps(data)[:200]}") from None
    thinking = parsed.thinking or ""
    estimated = bool(thinking) and not counted  # some servers state 0 for what they do not count
    if estimated:
        counted = round(tokens * len(thinking) / (len(thinking) + len(parsed.answer)))
    return Turn(
        parts=parsed,
        stop_reason=stop,
        text=written(parsed),
        num_tokens=tokens,
        num_thinking=counted,
        estimated=estimated,
        finish=choice["finish_reason"],
    )


def thinking_field(data: Mapping[str, Any]) -> str:
    """The field in which a completion gives its thoughts apart; "" where it does not."""
    return _thoughts_apart(data["choices"][0].get("message") or {})[0]


def _thoughts_apart(message: Mapping[str, Any]) -> tuple[str, str]:
    """(field, text) of the thoughts that a message gives apart, ("", "") where it gives none. A
    field of another shape is an addition of that server, no thought.
    """
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str | list) and (text := _text(message[name])[0]).strip():
            return name, text
    return "", ""


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _count(counts: Mapping[str, Any], name: str) -> int:
    """What a server has counted; 0 where it states no such number, which costs no answer."""
    try:
        return max(0, int(counts.get(name) or 0))
    except (TypeError, ValueError, OverflowError):
        return 0


def _parts(
    message: Mapping[str, Any], stop: StopReason, tools: Collection[str], opens_thinking: bool | None
) -> ParsedResponse:
    content, inner = _text(message.get("content"))
    if not content.strip() and isinstance(message.get("refusal"), str):
        content = message["refusal"]  # the model's words, in a field of their own
    apart = _thoughts_apart(message)[1] or inner
    attempts = _calls(message)
    calls = tuple(c for c in attempts if isinstance(c, ToolCall))
    malformed = tuple(c for c in attempts if isinstance(c, str))
    native = bool(calls or malformed)
    in_text = () if native else tools  # without native calls the server may have no parser for them
    if apart.strip():
        parts = parse_answer(content, tools=in_text, cut=stop.cut)
        closed = bool(content.strip() or calls or stop is END)
        parts = replace(parts, thinking=apart.strip(BLANKS), thinking_closed=closed)
    else:
        opened = opens_thinking
        if opened is None and stop is not END and not calls:
            opened = True
        if opened and calls and THINK_CLOSE not in content:
            opened = False
        parts = parse(content, thinking_open=opened, tools=in_text, cut=stop.cut)
    return replace(parts, tool_calls=calls, malformed_calls=malformed, attempts=attempts) if native else parts


def _stop(choice: Mapping[str, Any]) -> StopReason:
    finish = choice.get("finish_reason")
    if finish in ENDED:
        return END
    if finish in CUT:
        return StopReason.LOOP if choice.get("stop_reason") == "loop" else StopReason.LENGTH
    if finish == FILTERED:
        return StopReason.ABORT
    said = choice.get("error")
    reason = f" ({json.dumps(said)[:160]})" if said else ""
    raise RequestFailed(f"an answer with finish_reason {finish!r}{reason}, which says that the server failed")


def _text(content: Any) -> tuple[str, str]:
    """(text, thinking) of a message's content: a string, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise _OddShapeError("its content is neither text nor a list of parts")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if part is None or isinstance(part, str):
            texts.append(part or "")
        elif part.get("type") in ("thinking", "reasoning"):
            thoughts.append(_text(part.get("thinking") or part.get("text"))[0])
        else:
            texts.append(_text(part.get("text") or part.get("refusal"))[0])
    return "".join(texts), "".join(thoughts)


def _calls(message: Mapping[str, Any]) -> tuple[ToolCall | str, ...]:
    """The calls that the server has read, in order; the text of those that are none."""
    functions = [(item.get("function") or {}, item.get("id")) for item in message.get("tool_calls") or ()]
    functions += [(message["function_call"], None)] if message.get("function_call") else []
    raw = [
        json.dumps({"name": f.get("name"), "arguments": _arguments(f)} | ({"id": ident} if ident else {}))
        for f, ident in functions
    ]
    return tuple(read_call(text) or text for text in raw)


def _arguments(function: Mapping[str, Any]) -> Any:
    """A call's arguments as the model wrote them: some servers encode their JSON text once more."""
    given = function.get("arguments") or {}
    if isinstance(given, str) and given.lstrip(BLANKS).startswith('"'):
        try:
            inner = json.loads(given)
        except ValueError:
            return given
        return inner if isinstance(inner, str) else given
    return given
