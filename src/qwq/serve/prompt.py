"""Messages of the API as chat templates expect them, and what becomes of earlier thinking.

1. Thinking before the last user turn is dropped: the model has moved on, and it fills the context.
2. Thinking behind it (between a call and its result) is handed to the template, which keeps or
   drops it as its model was trained with. `--keep-tool-thinking` writes it even where the template
   drops it.
3. A last assistant turn that is to be continued is the prefill of the answer.

Results of parallel calls are put in the order of their calls: a template writes them without their
ids, and the model tells them apart by their place alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.errors import ModelError
from qwq.serve.errors import RequestRefused
from qwq.serve.schema_messages import ChatMessage, TemplateFields, Tool
from qwq.text.response import THINK_CLOSE, THINK_OPEN, parse
from qwq.text.template import THOUGHT, ChatFormat

RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "documents", "bos_token", "eos_token", "pad_token", "unk_token"}
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation in tokens. `thinking_open`: it ends inside the thinking. `unthinking`: which
    is to end at once. `continued`: it ends inside the answer's own words.
    """

    ids: list[int]
    thinking_open: bool
    unthinking: bool = False
    continued: bool = False


def make_prompt(
    chat: ChatFormat,
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool],
    body: TemplateFields,
    *,
    keep_tool_thinking: bool = False,
    think: bool | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Prompt:
    """The prompt of a chat request. `think`: whether the model is to think, if the request says so;
    the template is told if it reads that. `defaults`: variables of the template that the request
    does not set.
    """
    variables, think = _thinking_switch(chat, {**(defaults or {}), **(body.chat_template_kwargs or {})}, body, think)
    messages, last = _continued(messages, body)
    dicts, thoughts = template_messages(in_order_of_calls(messages))
    plain_tools = [t.model_dump(exclude_none=True) for t in tools]
    _check_text(plain_tools, "tools")
    injected = thoughts if keep_tool_thinking and not chat.keeps_tool_thinking else {}
    if not injected:
        for i, thought in thoughts.items():
            dicts[i]["content"] = THOUGHT.format(thought) + dicts[i]["content"]
    opening = last is not None or body.add_generation_prompt is not False
    try:
        ids = chat.prompt_ids(dicts, plain_tools, variables=variables, thoughts=injected, opening=opening)
    except ModelError as error:
        # A template reads inside a tool's schema, which may hold anything.
        raise RequestRefused(
            str(error), "tools" if plain_tools and _renders(chat, dicts, variables) else None
        ) from None
    thinking_open = opening and (chat.opens_thinking(variables) if variables else chat.thinking_open)
    if last is None:
        return Prompt(ids, thinking_open, think is False)
    text, inside = _prefill(last, len(messages), thinking_open)
    return Prompt([*ids, *chat.own_ids(text)], inside, think is False, continued=bool(text))


def _renders(chat: ChatFormat, dicts: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> bool:
    """Whether the template takes the messages without tools."""
    with contextlib.suppress(ModelError):
        chat.prompt_ids(dicts, variables=variables)
        return True
    return False


def _thinking_switch(
    chat: ChatFormat, variables: dict[str, Any], body: TemplateFields, think: bool | None
) -> tuple[dict[str, Any], bool | None]:
    """The template's variables, and whether to think.

    `enable_thinking` in `chat_template_kwargs` is the same switch as the request's own fields: a
    template that reads it is told, for one that does not it is obeyed by the server. RequestRefused
    if the model cannot think.
    """
    requested = "enable_thinking" in (body.chat_template_kwargs or {})
    if think is not None and not requested:
        variables.pop("enable_thinking", None)
    if "enable_thinking" in chat.template.variables:
        if think is not None:
            variables.setdefault("enable_thinking", think)
        return _checked_variables(chat, variables), think
    switch = variables.pop("enable_thinking", None)
    if think is None and isinstance(switch, bool):
        think = switch
    if think and not (chat.thinking_open or "think" in chat.template.source):
        raise RequestRefused(
            "enable_thinking: this model does not think: leave it out, or make it false", "enable_thinking"
        )
    return _checked_variables(chat, variables), think


def _continued(
    messages: Sequence[ChatMessage], body: TemplateFields
) -> tuple[Sequence[ChatMessage], ChatMessage | None]:
    """The messages, and apart from them the last one if it is to be continued."""
    if not body.continue_final_message:
        return messages, None
    if body.add_generation_prompt:
        raise RequestRefused(
            "continue_final_message: leave add_generation_prompt out, or make it false", "continue_final_message"
        )
    if messages[-1].role != "assistant" or messages[-1].tool_calls:
        raise RequestRefused(
            "continue_final_message: the last message must be the assistant's, without calls", "continue_final_message"
        )
    return messages[:-1], messages[-1]


def _prefill(message: ChatMessage, index: int, thinking_open: bool) -> tuple[str, bool]:
    """The text of a message that is continued, and whether it ends inside the thinking."""
    thinking, words = message.reasoning_content or message.reasoning or "", _content(message, index)
    thinks = bool(thinking_open or thinking)
    if not thinks:
        return words, False
    text = thinking if thinking_open else f"{THINK_OPEN}\n{thinking}"
    return (f"{text}\n{THINK_CLOSE}\n\n{words}", False) if words else (text, True)


def in_order_of_calls(
    messages: Sequence[ChatMessage], fields: Sequence[str] | None = None, key: str = "tool_call_id"
) -> list[ChatMessage]:
    """The messages, the results behind an assistant's calls in the order of those calls. One
    without an id keeps its place.

    RequestRefused: a result before any call, and one whose id no call before it has. `fields` are
    the request's names of the messages, `key` its name of the id.
    """
    out: list[ChatMessage] = []
    ids: list[str | None] = []  # of all calls so far
    run: list[ChatMessage] = []  # results that follow one another
    calls: list[str | None] = []  # those of the last assistant's turn
    for i, m in enumerate(messages):
        if m.role == "tool":
            _check_result(m, ids, f"messages.{i}" if fields is None else fields[i], key)
            run.append(m)
            continue
        out += _sorted_results(run, calls)
        run, calls = [], [c.id or None for c in m.tool_calls or ()]
        ids += calls
        out.append(m)
    return out + _sorted_results(run, calls)


def _check_result(m: ChatMessage, ids: Sequence[str | None], param: str, key: str) -> None:
    if not ids:
        raise RequestRefused(f"{param}: is a tool's result, and no call comes before it", param)
    # A call without an id may be any result's.
    if m.tool_call_id and m.tool_call_id not in ids and None not in ids:
        param += f".{key}"
        calls = ", ".join(repr(id[:60]) for id in ids[-8:] if id)
        raise RequestRefused(
            f"{param}: no call has the id {m.tool_call_id[:60]!r}; the calls before it are {calls}", param
        )


def _sorted_results(results: list[ChatMessage], calls: Sequence[str | None]) -> list[ChatMessage]:
    out = list(results)
    placed = [i for i, r in enumerate(results) if r.tool_call_id and r.tool_call_id in calls]
    for i, r in zip(
        placed, sorted((results[i] for i in placed), key=lambda r: calls.index(r.tool_call_id)), strict=True
    ):
        out[i] = r
    return out


def template_messages(messages: Sequence[ChatMessage]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Messages for a template, without their thinking, and the thinking that still counts, by the
    message's number.
    """
    last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    dicts, thoughts = [], {}
    for i, m in enumerate(messages):
        out: dict[str, Any] = {"role": "system" if m.role == "developer" else m.role, "content": _content(m, i)}
        if m.role == "assistant":
            inline, out["content"] = _split_thinking(out["content"])
            thinking = m.reasoning_content or m.reasoning or inline
            _check_text(thinking, f"messages.{i}.reasoning_content")
            if thinking and i > last_user:
                thoughts[i] = thinking.strip()
            if m.tool_calls:
                out["tool_calls"] = [_call(m, i, k) for k in range(len(m.tool_calls))]
        elif m.tool_calls:
            raise RequestRefused(f"messages.{i}.tool_calls: only an assistant calls tools", f"messages.{i}.tool_calls")
        if m.role == "tool" and m.name:
            out["name"] = m.name
        dicts.append(out)
    return dicts, thoughts


def _split_thinking(content: str) -> tuple[str, str]:
    """(thinking, the rest) of content in which a client has left the thinking."""
    parts = parse(content, tools=())
    if parts.thinking is None or not parts.thinking_closed:
        return "", content
    return parts.thinking, parts.answer


def _content(m: ChatMessage, index: int) -> str:
    param = f"messages.{index}.content"
    content = m.content if isinstance(m.content, str) else "".join(part.words for part in m.content or ())
    _check_text(content, param)
    return content


def _call(m: ChatMessage, index: int, number: int) -> dict[str, Any]:
    param = f"messages.{index}.tool_calls"
    function = (m.tool_calls or [])[number].function
    arguments: Any = function.arguments
    if arguments is None or isinstance(arguments, str):
        # A model may have written something else; it sees its own words again.
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments or "{}")
    _check_text([arguments, function.name], param)
    return {"type": "function", "function": {"name": function.name, "arguments": arguments}}


def _checked_variables(chat: ChatFormat, variables: dict[str, Any]) -> dict[str, Any]:
    """RequestRefused if the template does not read one of the variables."""
    for name in variables:
        param = f"chat_template_kwargs.{name}"
        if name in RESERVED:
            raise RequestRefused(f"{param}: is set by the request itself", param)
        if name not in chat.template.variables:
            raise RequestRefused(f"{param}: this model's chat template does not read it", param)
    _check_text(variables, "chat_template_kwargs")
    return variables


def _check_text(value: Any, param: str) -> None:
    """JSON can spell half a surrogate pair, which is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestRefused(f"{param}: holds half a surrogate pair, which is no text", param) from None
    except RecursionError:
        raise RequestRefused(f"{param}: is nested too deeply", param) from None
