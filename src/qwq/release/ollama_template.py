"""A Jinja chat template as the Go template of an Ollama Modelfile.

The Jinja program is not translated: short conversations are rendered with it, and the Go template
is put together from the texts around their words. It writes the same prompts for conversations of
system, user, assistant (thinking, calls) and tool messages. Two things differ: the blanks in JSON
(Ollama writes its own), and system messages after the first one, which Ollama moves to the front.

Text stays text, because Ollama reads the thinking tags and the call tag from it. So no action trims
blanks, and the template is one long line where the Jinja template writes none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.errors import QwqError
from qwq.text.template import ChatFormat

# Words that stand for what a conversation says.
SYSTEM, USER, ANSWER, THOUGHT, RESULT, TOOL, ARGUMENT = (
    f"qwq{word}mark" for word in ("system", "user", "answer", "thought", "result", "tool", "argument")
)
MESSAGE = dict[str, Any]

NEXT_IS_TOOL = '(and (gt (len (slice $.Messages $i)) 1) (eq (index (slice $.Messages $i) 1).Role "tool"))'
LAST = "(eq (len (slice $.Messages $i)) 1)"


class _Unreadable(Exception):
    """The Jinja template does not write turns one after the other."""


@dataclass(frozen=True, slots=True)
class Around:
    """The text before and after a word."""

    before: str
    after: str

    @classmethod
    def of(cls, text: str, word: str) -> Around:
        before, mark, after = text.partition(word)
        if not mark or word in after:
            raise _Unreadable(f"{word} is written {text.count(word)} times")
        return cls(before, after)


def _user(number: int = 0) -> MESSAGE:
    return {"role": "user", "content": f"{USER}{number}"}


def _assistant(content: str = ANSWER, num_calls: int = 0, thought: str = "") -> MESSAGE:
    text = f"<think>\n{thought}\n</think>\n\n{content}" if thought else content
    calls = [
        {"type": "function", "function": {"name": f"{TOOL}{n}", "arguments": {ARGUMENT: n}}} for n in range(num_calls)
    ]
    return {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})


def _result(number: int) -> MESSAGE:
    return {"role": "tool", "content": f"{RESULT}{number}"}


def _tool(number: int) -> dict[str, Any]:
    properties = {f"{ARGUMENT}{n}": {"type": "string"} for n in range(2)}
    parameters = {"type": "object", "properties": properties, "required": [f"{ARGUMENT}0"]}
    return {"type": "function", "function": {"name": f"{TOOL}{number}", "description": "d", "parameters": parameters}}


class _Probe:
    """Renders conversations and takes the texts apart."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat

    def text(self, *messages: MESSAGE, tools: Sequence[Mapping[str, Any]] = (), opening: bool = False) -> str:
        named = self._chat.tokenizer.named_specials
        if self._chat.tokenizer.adds_bos:  # Ollama writes it itself
            named["bos_token"] = ""
        return self._chat.template.render(messages, tools=tools, add_generation_prompt=opening, **named)

    def added(self, before: Sequence[MESSAGE], *more: MESSAGE, opening: bool = False) -> str:
        """What `more` messages (or the opening of an answer) add to the text of `before`."""
        start, whole = self.text(*before), self.text(*before, *more, opening=opening)
        if not whole.startswith(start):
            raise _Unreadable("earlier turns change when others follow")
        return whole[len(start) :]

    def user(self) -> Around:
        return Around.of(self.added([_user(), _assistant()], _user(1)), f"{USER}1")

    def head(self, *first: MESSAGE, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """What comes before the first user's turn."""
        turn = self.user()
        text = self.text(*first, _user(), tools=tools)
        end = f"{turn.before}{USER}0{turn.after}"
        if not text.endswith(end):
            raise _Unreadable("the first user's turn is written in another way than later ones")
        return text.removesuffix(end)


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _tool_form(block: str) -> tuple[str, str, str]:
    """(text before the tools, Go action for one tool, text after them with the separator removed)
    of a rendered block with two tools.
    """
    first, second = (json.dumps(_tool(n), ensure_ascii=False) for n in range(2))
    action = "{{ $tool }}"
    if first not in block:
        first, second = (f"{TOOL}{n}({ARGUMENT}0, {ARGUMENT}1)" for n in range(2))
        action = (
            "{{ $tool.Function.Name }}({{ $comma := false }}{{ range $name, $_ := $tool.Function.Parameters.Properties "
            "}}{{ if $comma }}, {{ end }}{{ $comma = true }}{{ $name }}{{ end }})"
        )
    start, end = Around.of(block, first), Around.of(block, second)
    separator = end.before[len(start.before) + len(first) :]
    one = f"{{{{ range $t, $tool := .Tools }}}}{{{{ if $t }}}}{_literal(separator)}{{{{ end }}}}{action}{{{{ end }}}}"
    return start.before, one, end.after


def _head(probe: _Probe) -> str:
    """System message and tools."""
    system = {"role": "system", "content": SYSTEM}
    with_system = Around.of(probe.head(system), SYSTEM)
    plain = f"{_literal(with_system.before)}{{{{ .System }}}}{_literal(with_system.after)}"
    branches = [f"{{{{ if .System }}}}{plain}{{{{ else }}}}{_literal(probe.head())}{{{{ end }}}}"]
    tools = [_tool(0), _tool(1)]
    if f"{TOOL}1" in probe.head(system, tools=tools):
        before, loop, after = _tool_form(probe.head(system, tools=tools))
        around = Around.of(before, SYSTEM)
        full = f"{_literal(around.before)}{{{{ .System }}}}{_literal(around.after)}{loop}{_literal(after)}"
        before, loop, after = _tool_form(probe.head(tools=tools))
        bare = f"{_literal(before)}{loop}{_literal(after)}"
        branches.insert(
            0, f"{{{{ if .Tools }}}}{{{{ if .System }}}}{full}{{{{ else }}}}{bare}{{{{ end }}}}{{{{ else }}}}"
        )
        branches.append("{{ end }}")
    return "".join(branches)


def _calls(probe: _Probe, start: str, end: str) -> str:
    """The loop over an assistant's calls; "" where the template writes none."""
    text = probe.added([_user()], _assistant(num_calls=2), _user(1))
    if f"{TOOL}1" not in text:
        return ""
    block = text[len(start) : text.index(f"{end}{probe.user().before}", text.index(f"{TOOL}1"))]
    first, second = Around.of(block, f"{TOOL}0"), Around.of(block, f"{TOOL}1")
    arguments = [json.dumps({ARGUMENT: n}) for n in range(2)]
    between = Around.of(second.before[len(first.before) + len(f"{TOOL}0") :], arguments[0])
    last = Around.of(second.after, arguments[1])
    if between.before != last.before or between.after != last.after + first.before:
        raise _Unreadable("calls are joined in another way than one after the other")
    call = (
        f"{_literal(first.before)}{{{{ .Function.Name }}}}{_literal(last.before)}"
        f"{{{{ .Function.Arguments }}}}{_literal(last.after)}"
    )
    return f"{{{{ if .ToolCalls }}}}{{{{ range .ToolCalls }}}}{call}{{{{ end }}}}{{{{ end }}}}"


def _assistant_turn(probe: _Probe, thinks: bool) -> str:
    """An assistant's turn; its end is left out where it is the last one, which Ollama continues."""
    following = _user(1)
    user = probe.user()
    tail = f"{user.before}{USER}1{user.after}"

    def turn(message: MESSAGE) -> str:
        return probe.added([_user()], message, following).removesuffix(tail)

    told = Around.of(turn(_assistant()), ANSWER)
    calls = _calls(probe, f"{told.before}{ANSWER}", told.after)
    answer = "{{ .Content }}"
    thoughtful = turn(_assistant(thought=THOUGHT))
    silent = _literal(told.before)
    if calls:
        silent = _literal(_before_calls(turn(_assistant("", num_calls=1)), probe, told))
        if THOUGHT not in thoughtful:  # a dropped thought may leave a blank where nothing was said
            thought = _literal(_before_calls(turn(_assistant("", num_calls=1, thought=THOUGHT)), probe, told))
            silent = (
                silent if silent == thought else f"{{{{ if .Thinking }}}}{thought}{{{{ else }}}}{silent}{{{{ end }}}}"
            )
    body = f"{{{{ if .Content }}}}{_literal(told.before)}{answer}{{{{ else }}}}{silent}{{{{ end }}}}"
    if thinks and THOUGHT in thoughtful:
        around = Around.of(thoughtful.removesuffix(told.after), THOUGHT)
        body = _with_thought(around, body, told.before.rpartition("</think>"))
    elif thinks:
        # The template drops earlier thoughts. Ollama knows a thinking model by these tags.
        body += f"{{{{ if and {LAST} .Thinking }}}}<think>\n{{{{ .Thinking }}}}\n</think>{{{{ end }}}}"
    return f"{body}{calls}{{{{ if not {LAST} }}}}{_literal(told.after)}{{{{ end }}}}"


def _before_calls(text: str, probe: _Probe, told: Around) -> str:
    """How an assistant's turn begins that says nothing before its first call."""
    spoken = probe.added([_user()], _assistant(num_calls=1), _user(1))
    call = spoken[len(f"{told.before}{ANSWER}") : spoken.index(f"{TOOL}0")]
    return text[: text.index(f"{TOOL}0")].removesuffix(call)


def _with_thought(around: Around, without: str, empty: tuple[str, str, str]) -> str:
    """A turn whose thoughts the template writes: the tags stay text beside `.Thinking`.

    The blanks between thought and answer are lost in Ollama: they are those behind the empty
    thought that the template writes itself (`empty`), where it does.
    """
    start, tag, blank = around.before.rpartition("<think>")
    middle, word, _ = around.after.partition(ANSWER)
    if not tag or "</think>" not in middle or not word:
        raise _Unreadable("thoughts stand outside <think> and </think>")
    close, end, gap = middle.partition("</think>")
    gap = empty[2] if empty[1] else gap
    thought = f"{_literal(start)}{{{{ if .Thinking }}}}{tag}{_literal(blank)}{{{{ .Thinking }}}}{_literal(close)}{end}"
    told = f"{{{{ end }}}}{{{{ if .Content }}}}{_literal(gap)}{{{{ .Content }}}}{{{{ end }}}}"
    return f"{{{{ if .Thinking }}}}{thought}{told}{{{{ else }}}}{without}{{{{ end }}}}"


def _results(probe: _Probe) -> str:
    """Results of calls; a template may write those of one turn as one message."""
    before = [_user(), _assistant(num_calls=2)]
    if RESULT not in probe.text(*before, _result(0)):
        return ""
    one = Around.of(probe.added(before, _result(0)), f"{RESULT}0")
    two = probe.added(before, _result(0), _result(1))
    middle = two[len(f"{one.before}{RESULT}0") : two.index(f"{RESULT}1")]
    result = "{{ .Content }}"
    if middle == one.after + one.before:
        return f"{_literal(one.before)}{result}{_literal(one.after)}"
    return (
        f'{{{{ if eq $before "tool" }}}}{_literal(middle)}{{{{ else }}}}{_literal(one.before)}{{{{ end }}}}{result}'
        f"{{{{ if not {NEXT_IS_TOOL} }}}}{_literal(one.after)}{{{{ end }}}}"
    )


def go_template(chat: ChatFormat) -> str | None:
    """The Go template that writes what `chat`'s template writes; None where its texts cannot be
    taken apart, and Ollama's own reading of the Jinja template has to do.
    """
    probe = _Probe(chat)
    try:
        user = probe.user()
        thinks = chat.thinking_open or "<think>" in chat.template.source
        opening = _literal(probe.added([_user()], opening=True))
        roles = {
            "user": f"{_literal(user.before)}{{{{ .Content }}}}{_literal(user.after)}",
            "assistant": _assistant_turn(probe, thinks),
            "tool": _results(probe),
        }
        parts = "".join(
            f'{{{{ {"if" if n == 0 else "else if"} eq .Role "{role}" }}}}{text}'
            for n, (role, text) in enumerate((r, t) for r, t in roles.items() if t)
        )
        loop = (
            f'{{{{ $before := "" }}}}{{{{ range $i, $_ := .Messages }}}}{parts}{{{{ end }}}}{{{{ $before = .Role }}}}'
            f'{{{{ if and {LAST} (ne .Role "assistant") }}}}{opening}{{{{ end }}}}{{{{ end }}}}'
        )
        return _head(probe) + loop
    except (_Unreadable, QwqError, ValueError):
        return None
