"""Chat templates: messages to text, and text to the token ids a model is trained on and sampled
from.

A template is a Jinja program that comes with a model, so it is somebody else's code: it runs in
Jinja's sandbox, and what it writes is text only. Where its text becomes tokens, two things are
kept:

1. Only the template writes special tokens. A special token spelled out in a message (`<|im_end|>`
   in what a user typed, in a tool's result, in a tool's description) is encoded as ordinary
   characters. What an assistant says may hold `<think>` and `<tool_call>`, but no other special
   token.
2. Text is encoded piece by piece, cut where the assistant's own words begin and end. So a prompt's
   tokens are exactly the first tokens of a training example that continues it, and no token ever
   spans the cut.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox

from qwq.errors import ModelError, UsageError
from qwq.text.tokenizer import MARKUP_TOKENS, Tokenizer, default_template_source
from qwq.types import Message

MessageLike = Message | Mapping[str, Any]
MARKERS = range(0xE000, 0xF8FF)  # characters for private use
THOUGHT = "<think>\n{}\n</think>\n\n"  # as QwQ's kind of model writes its thinking


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: some templates mark the assistant's words so.

    Written as if not there.
    """

    tags: set[str] = {"generation"}  # noqa: RUF012  # declared so by Jinja

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Refused(Exception):
    """A template's own raise_exception."""


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes <, > and & for web pages; templates of language models mean plain
    # JSON.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


class ChatTemplate:
    """A Jinja chat template, rendered as transformers renders it. ModelError where it does not
    parse.

    `variables` are the names that it reads from outside, those that `render` gives it itself among
    them.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(
                jinja2.meta.find_undeclared_variables(environment.parse(source)) - set(environment.globals)
            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"chat template, line {error.lineno}: {error.message}; mend chat_template.jinja or take the model's own"
            ) from None

    def render(
        self,
        messages: Sequence[MessageLike],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        **kw: Any,
    ) -> str:
        """Text of the messages. `kw` are further variables that the template may read.

        UsageError where the template refuses the messages, ModelError where it fails on them.
        """
        dicts = [m.to_dict() if isinstance(m, Message) else dict(m) for m in messages]
        try:
            return self._template.render(
                messages=dicts, tools=_plain(tools) or None, add_generation_prompt=add_generation_prompt, **kw
            )
        except _Refused as refusal:
            raise UsageError(f"the chat template refuses these messages: {refusal}") from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise ModelError(
                f"the chat template fails on these messages ({type(error).__name__}: {error}): check both"
            ) from None


def default_template() -> ChatTemplate:
    """The template of the models trained here (chatml.jinja)."""
    return ChatTemplate(default_template_source())


def _plain(value: Any) -> Any:
    """Mappings and sequences as dicts and lists, as templates and JSON want them."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict | Mapping):  # dict first: asking the abstract class is slow
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | Sequence):
        return [_plain(v) for v in value]
    return value


class _Unstable(Exception):
    """The template writes earlier turns differently once more turns follow."""


class ChatFormat:
    """A tokenizer and a template: messages to ids, with the guarantees named at the top of this
    file.

    `eos_ids` end an assistant's turn, the template's own end-of-turn token first. `thinking_open`
    says that the generation prompt has opened `<think>` itself.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        # Some vocabularies also add runs of blanks, which are nobody's to forge.
        everything = [t for t in tokenizer.added_tokens if t.strip()]
        control = [t for t in everything if t in tokenizer.special_tokens and t not in MARKUP_TOKENS]
        self._tokens = everything
        self._any_token, self._any_control = _occurrences(everything), _occurrences(control)
        self.end_of_turn = self._end_of_turn(everything)
        end_id = tokenizer.added_tokens[self.end_of_turn]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys((end_id, *tokenizer.eos_ids)))
        self.thinking_open = self.opens_thinking({})

    @classmethod
    def from_folder(cls, folder: str | Path) -> ChatFormat:
        """Tokenizer and template of a model folder. ModelError where either is missing."""
        tokenizer = Tokenizer.from_folder(folder)
        if tokenizer.chat_template is None:
            raise ModelError(
                f"no chat template in {folder}: put a chat_template.jinja there (models trained here bring one)"
            )
        return cls(tokenizer, ChatTemplate(tokenizer.chat_template))

    def save(self, folder: str | Path) -> None:
        self.tokenizer.chat_template = self.template.source
        self.tokenizer.save(folder)

    def opens_thinking(self, variables: Mapping[str, Any]) -> bool:
        """Whether the generation prompt opens `<think>` itself, given what else the template is
        told.
        """
        opening = self._opening(variables)
        return "<think>" in opening and "</think>" not in opening.rpartition("<think>")[2]

    def _opening(self, variables: Mapping[str, Any]) -> str:
        """What the template writes to open an assistant's turn."""
        user = {"role": "user", "content": "x"}
        return self._render([user], (), True, variables)[len(self._render([user], (), False, variables)) :]

    @cached_property
    def keeps_tool_thinking(self) -> bool:
        """Whether the template writes the thinking before a call again when the call's result
        follows.
        """
        call = {"type": "function", "function": {"name": "f", "arguments": {}}}
        turn = {"role": "assistant", "content": f"{THOUGHT.format('remember')}y", "tool_calls": [call]}
        messages: list[Mapping[str, Any]] = [{"role": "user", "content": "x"}, turn, {"role": "tool", "content": "z"}]
        return "remember" in self._render(messages, (), True)

    def prompt_ids(
        self,
        messages: Sequence[MessageLike],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        variables: Mapping[str, Any] | None = None,
        thoughts: Mapping[int, str] | None = None,
        opening: bool = True,
    ) -> list[int]:
        """Ids of the conversation so far and the opening of the assistant's next turn (unless
        `opening` is false).

        `variables` are told to the template. `thoughts` are written before the words of the
        messages with these numbers, whatever the template does with thinking. UsageError where it
        does not write those messages once each.
        """
        variables, thoughts = variables or {}, thoughts or {}
        if not messages:
            return self.tokenizer.encode_rendered(self._opening(variables))
        messages, tools, marker = self._protect(messages, tools)
        if thoughts:
            marker = marker or _unused(messages, tools, list(thoughts.values()))
            thoughts = {i: _mark(t, self._any_control, marker) for i, t in thoughts.items()}
            return self._encode(self._with_thoughts(messages, tools, variables, thoughts, opening), marker)
        try:
            if _role(messages[0]) == "assistant":
                raise _Unstable  # many templates cannot write what comes before the first turn
            pieces = self._pieces(messages, tools, opening, variables)
        except _Unstable:
            # A template that drops earlier thinking: no piece of this prompt is the beginning of
            # anything.
            pieces = [(self._render(messages, tools, opening, variables), 0)]
        return [i for text, _ in pieces for i in self._encode(text, marker)]

    def own_ids(self, text: str) -> list[int]:
        """Ids of an assistant's words: `<think>` and `<tool_call>` in them are tokens, other
        special tokens are not.
        """
        marker = _unused(text)
        return self._encode(_mark(text, self._any_control, marker), marker)

    def _with_thoughts(
        self, messages: Sequence[Any], tools: Sequence[Any], variables: Mapping[str, Any], thoughts: Mapping[int, str],
        opening: bool,
    ) -> str:  # fmt: skip
        """The rendered text with thoughts put in where a character that stands for them was
        written.
        """
        place = _unused(messages, tools, list(thoughts.values()))
        messages = [m | {"content": place + m["content"]} if i in thoughts else m for i, m in enumerate(messages)]
        pieces = self._render(messages, tools, opening, variables).split(place)
        if len(pieces) != len(thoughts) + 1:
            raise UsageError(
                "the chat template leaves out turns whose thinking is to be kept: serve without --keep-tool-thinking"
            )
        kept = [THOUGHT.format(thoughts[i]) for i in sorted(thoughts)]
        return "".join(piece + thought for piece, thought in zip(pieces, [*kept, ""], strict=True))

    def training_example(
        self, messages: Sequence[MessageLike], tools: Sequence[Mapping[str, Any]] = (), *, unlearnt: Container[int] = ()
    ) -> tuple[list[int], list[int]]:
        """Ids of a whole conversation, and a mask: 1 where the assistant writes, its end-of-turn
        token included, else 0.

        The mask is 0 also in the messages with the numbers (from 0) in `unlearnt`. Ends with the
        end-of-turn token where the last turn is the assistant's. UsageError where the template
        rewrites earlier turns as the conversation grows, so that no single text holds what the
        assistant saw and wrote.
        """
        messages, tools, marker = self._protect(messages, tools)
        try:
            pieces = self._pieces(messages, tools, False)
        except _Unstable as reason:
            raise UsageError(f"no training example from these messages: {reason}") from None
        own_turns = [i for i, m in enumerate(messages) if _role(m) == "assistant"]
        learnt = iter([i not in unlearnt for i in own_turns])
        ids: list[int] = []
        mask: list[int] = []
        for text, own in pieces:
            piece = self._encode(text, marker)
            ids += piece
            mask += [int(own and next(learnt))] * len(piece)
        return ids, mask

    def next_turn_ids(self, messages: Sequence[MessageLike]) -> list[int]:
        """Ids that follow an assistant's end-of-turn token: the rest of its turn, `messages`, the
        opening of the next turn.

        Found by rendering a short conversation with and without `messages`. ModelError where the
        template does not write them as a plain continuation.
        """
        before = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        if _role(messages[0]) == "tool":
            before[1]["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": {}}}]  # type: ignore[assignment]
        messages, _, marker = self._protect(messages, ())
        start = self._render(before, (), False)
        start = start[: start.rfind(self.end_of_turn) + len(self.end_of_turn)]
        whole = self._render([*before, *messages], (), True)
        if not whole.startswith(start):
            raise ModelError(
                "this chat template rewrites the assistant's turn when others follow, "
                "so a conversation cannot continue from its tokens: use another template"
            )
        return self._encode(whole[len(start) :], marker)

    def tool_result_ids(self, results: Sequence[str]) -> list[int]:
        """Ids that follow an assistant's end-of-turn token when its calls are answered with
        `results`, in order.
        """
        return self.next_turn_ids([Message("tool", r) for r in results])

    # -- text --------------------------------------------------------------------------------------

    def _render(
        self,
        messages: Sequence[MessageLike],
        tools: Sequence[Any],
        opening: bool,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        told = {**self.tokenizer.named_specials, **(variables or {})}
        return self.template.render(messages, tools=tools, add_generation_prompt=opening, **told)

    def _end_of_turn(self, tokens: Sequence[str]) -> str:
        """The special token that the template writes behind an assistant's words."""
        words = "words"
        text = self._render([{"role": "user", "content": "x"}, {"role": "assistant", "content": words}], (), False)
        match = re.search("|".join(map(re.escape, tokens)) or r"\Z.", text[text.rindex(words) + len(words) :])
        if match is None:
            raise ModelError(
                "the chat template writes no special token at the end of an assistant's turn: it does not go with "
                "this tokenizer"
            )
        return match.group()

    def _pieces(
        self,
        messages: Sequence[MessageLike],
        tools: Sequence[Any],
        opening: bool,
        variables: Mapping[str, Any] | None = None,
    ) -> list[tuple[str, int]]:
        """The rendered text cut at the edges of the assistant's own words, which are marked 1."""
        pieces: list[tuple[str, int]] = []
        done = after = ""
        for i, message in enumerate(messages):
            if _role(message) != "assistant":
                continue
            prompt = self._render(messages[:i], tools, True, variables)
            after = self._render(messages[: i + 1], tools, False, variables)
            if not prompt.startswith(done):
                raise _Unstable(_first_change("the chat template rewrites earlier turns", done, prompt))
            if not after.startswith(prompt):
                what = f"turn {i + 1} does not begin as the template opens an assistant's turn"
                raise _Unstable(_first_change(what, prompt, after))
            end = after.rfind(self.end_of_turn, len(prompt)) + len(self.end_of_turn)
            assert end > len(prompt), "the template ended this turn when it was tried out"
            pieces += [(prompt[len(done) :], 0), (after[len(prompt) : end], 1)]
            done = after[:end]
        if opening or not messages or _role(messages[-1]) != "assistant":
            whole = self._render(messages, tools, opening, variables)
            if not whole.startswith(done):
                raise _Unstable(_first_change("the chat template rewrites earlier turns", done, whole))
            pieces.append((whole[len(done) :], 0))
        return pieces

    def _encode(self, text: str, marker: str) -> list[int]:
        if not marker:
            return self.tokenizer.encode_rendered(text)
        return [i for part in text.split(marker) for i in self.tokenizer.encode_rendered(part)]

    def _protect(
        self, messages: Sequence[MessageLike], tools: Sequence[Any]
    ) -> tuple[Sequence[MessageLike], Sequence[Any], str]:
        """Break up special tokens spelled out in the messages with a marker character, at which
        `_encode` cuts.
        """
        dicts: list[Any] = _plain([m.to_dict() if isinstance(m, Message) else m for m in messages])
        tools = _plain(tools)
        text = json.dumps([dicts, tools], ensure_ascii=False)
        if not any(token in text for token in self._tokens):
            return dicts, tools, ""
        marker = next(c for c in map(chr, MARKERS) if c not in text)
        for message in dicts:
            own = message["role"] == "assistant"
            for key, value in message.items():
                if key != "role":
                    message[key] = _mark(
                        value, self._any_control if own and key == "content" else self._any_token, marker
                    )
        return dicts, _mark(tools, self._any_token, marker), marker


def _unused(*values: Any) -> str:
    """A character for private use that is in none of the values."""
    text = json.dumps(values, ensure_ascii=False)
    return next(c for c in map(chr, MARKERS) if c not in text)


def _role(message: MessageLike) -> str:
    return message.role if isinstance(message, Message) else message["role"]


def _occurrences(tokens: Sequence[str]) -> re.Pattern[str]:
    """Finds the first character of every token, also where one begins inside another."""
    return re.compile("(?=" + "|".join(map(re.escape, tokens)) + ")." if tokens else r"\Z.", re.DOTALL)


def _mark(value: Any, tokens: re.Pattern[str], marker: str) -> Any:
    if isinstance(value, str):
        return tokens.sub(lambda m: m.group() + marker, value)
    if isinstance(value, dict):
        return {_mark(k, tokens, marker): _mark(v, tokens, marker) for k, v in value.items()}
    if isinstance(value, list):
        return [_mark(v, tokens, marker) for v in value]
    return value


def _first_change(what: str, expected: str, found: str) -> str:
    """`what`, and the two texts where they part."""
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    return f"{what}: expected {expected[at : at + 30]!r}, found {found[at : at + 30]!r}"
