"""The incremental parser: the same parts at every place a text may be cut, and nothing lost or made up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.text.parse import parse_response
from qwq.text.stream import Kind, Part, ResponseParser, Whole

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": {"c": "}"}}}\n</tool_call>'


def parts_of(pieces: list[str], *, opened: bool = False, tools: bool = True, known: tuple[str, ...] = ()) -> list[Part]:
    parser = ResponseParser(thinking_open=opened, tools=tools, known=known)
    parts = [p for piece in pieces for p in parser.push(piece)] + parser.finish()
    joined: list[Part] = []
    for p in parts:
        if joined and joined[-1].kind is p.kind and p.kind not in (Kind.CALL, Kind.BROKEN):
            joined[-1] = Part(p.kind, joined[-1].text + p.text, p.index)
        else:
            joined.append(p)
    return joined


def whole(text: str, **options) -> Whole:
    out = Whole()
    out.add(parts_of([text], **options))
    return out


def test_thinking_answer_and_call() -> None:
    assert parts_of([f"<think>\nso 1 and c\n</think>\n\nI add. \n{CALL}"]) == [
        Part(Kind.THINKING, "so 1 and c"), Part(Kind.ANSWER, "I add."), Part(Kind.CALL, "add"),
        Part(Kind.ARGUMENTS, '{"a": 1, "b": {"c": "}"}}'),
    ]  # fmt: skip
    assert parts_of([f"a\n\n{CALL}\nb {CALL} "])[2:] == [
        Part(Kind.ARGUMENTS, '{"a": 1, "b": {"c": "}"}}'), Part(Kind.ANSWER, "\n\n\nb"), Part(Kind.CALL, "add", 1),
        Part(Kind.ARGUMENTS, '{"a": 1, "b": {"c": "}"}}', 1),
    ][:]  # fmt: skip


def test_a_call_inside_the_thinking_is_a_thought() -> None:
    out = whole(f"I could write {CALL} here</think>done", opened=True)
    assert out.calls == [] and CALL in out.thinking and out.answer == "done"
    out = whole(f"<think>{CALL}")
    assert out.calls == [] and out.answer == "" and out.thinking == CALL


F = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "thinking", "calls"),
    [
        (f"hm {F}", "hm", ["f"]), (f"{F}\n", "", ["f"]), (f"hm\n{F}\n{G}\n\n", "hm", ["f", "g"]), (f"hm {F.removesuffix('</tool_call>')}", "hm", ["f"]),
        (f"<tool_call>no {F}", "<tool_call>no", ["f"]), (f"{F} then {G}", f"{F} then", ["g"]), (f'hm <tool_call>{{"name": "x", "arguments": {{}}}}</tool_call>{G}', 'hm <tool_call>{"name": "x", "arguments": {}}</tool_call>', ["g"]),
        # A function that is not on offer, a call that is not whole, and one that more thinking follows stay thoughts.
        ('hm <tool_call>{"name": "x", "arguments": {}}</tool_call>', 'hm <tool_call>{"name": "x", "arguments": {}}</tool_call>', []),
        ('hm <tool_call>{"name": "f", "arguments": {"a": ', 'hm <tool_call>{"name": "f", "arguments": {"a":', []), (f"{F} or not", f"{F} or not", []),
        (f"{F}</tool", f"{F}</tool", []), (f"{F} <tool_call>", f"{F} <tool_call>", []), (f"{F}</tool_call>", f"{F}</tool_call>", []),
    ],
)  # fmt: skip
def test_calls_that_end_an_open_thinking(text: str, thinking: str, calls: list[str]) -> None:
    for opened, written in ((True, text), (False, f"<think>\n{text}")):
        out = whole(written, opened=opened, known=("f", "g"))
        assert out.thinking == thinking and [name for name, _ in out.calls] == calls and out.answer == ""
    closed = whole(f"{text}</think>yes", opened=True, known=("f", "g"))
    assert closed.calls == [] and closed.thinking == text.strip() and closed.answer == "yes"
    assert whole(text, opened=True, known=("f", "g"), tools=False).thinking == text.strip()


def test_the_close_of_a_thinking_inside_a_calls_string_is_the_close() -> None:
    out = whole('<tool_call>{"name": "f", "arguments": {"a": "</think>yes', opened=True, known=("f",))
    assert out.answer == "yes" and out.calls == []


def test_only_the_first_thing_said_can_open_the_thinking() -> None:
    assert whole("the tag <think> opens it</think>").answer == "the tag <think> opens it</think>"
    assert whole("x</think>y <think> z", opened=True).answer == "y <think> z"
    assert whole("<think>x</think>y", opened=True).thinking == "x"  # QwQ repeats its template's marker at times


@pytest.mark.parametrize(
    "raw",
    [
        "no json", '{"name": "f", "arguments": {"a": 1}', '{"name": "f", "arguments": [1]}', '{"name": "", "arguments": {}}',
        '{"name": 3, "arguments": {}}', '{"arguments": {}}', '{"name": "f", "arguments": {"a": NaN}}', '{"name": "f", "more": 1}',
        '{"name": "f", "arguments": {"a": 1]}}', '{"name": "f" "arguments": {}}', '{"name": "f", "name": "g", "arguments": {}}',
        '{"name": "f", "arguments": {"a": "open\n"}}', '{"name": "f", "arguments": {}, "arguments": {"b": 2}}', "{'name': 'f'}", "",
        '{"name": "f", "arguments": {"a": 01}}', '{"name": "f\n", "arguments": {}}', "[]", '{"name": "f", "arguments": "3"}',
    ],
)  # fmt: skip
def test_what_is_no_call_stays_text(raw: str) -> None:
    text = f"see: <tool_call>{raw}</tool_call> and {CALL}"
    out = whole(text)
    assert out.answer == f"see: <tool_call>{raw}</tool_call> and"
    assert out.calls == [("add", '{"a": 1, "b": {"c": "}"}}')]
    assert whole(f"<tool_call>{raw}").calls == []


def test_odd_but_good_calls() -> None:
    assert whole('<tool_call>{"arguments": {"x": "</tool_call>"}, "name": "f"}</tool_call>').calls == [("f", '{"x": "</tool_call>"}')]
    assert whole('<tool_call>{"name": "f"}</tool_call>').calls == [("f", "{}")]
    assert whole('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>').calls == [("f", '{"x": 1}')]
    assert whole('<tool_call>{"name": "f", "arguments": {}}').calls == [("f", "{}")]  # the end token came before the tag
    assert whole('<tool_call>{"name": "\\u00e9\\"", "arguments": {}}</tool_call>').calls == [('é"', "{}")]
    assert whole(CALL, tools=False).calls == [] and whole(CALL, tools=False).answer == CALL


def test_arguments_come_as_they_are_written() -> None:
    parser = ResponseParser(thinking_open=False, tools=True)
    assert parser.push('<tool_call>{"name": "f", "arg') == []
    assert parser.push('uments": {"text": "ab') == [Part(Kind.CALL, "f"), Part(Kind.ARGUMENTS, '{"text": "ab')]
    assert parser.push('c"') == [Part(Kind.ARGUMENTS, 'c"')]
    assert parser.push("}}</tool") == [Part(Kind.ARGUMENTS, "}")]
    assert parser.push("_call>") == [] == parser.finish()


def test_a_call_that_breaks_after_it_was_announced_is_taken_back() -> None:
    parser = ResponseParser(thinking_open=False, tools=True)
    parser.push('<tool_call>{"name": "f", "arguments": {"a": ')
    assert parser.push("<") == [Part(Kind.BROKEN, ""), Part(Kind.ANSWER, '<tool_call>{"name": "f", "arguments": {"a":')]
    assert parser.finish() == [Part(Kind.ANSWER, " <")]


def test_one_call_only() -> None:
    parser = ResponseParser(thinking_open=False, tools=True, parallel=False)
    out = Whole()
    out.add(parser.push(CALL + CALL) + parser.finish())
    assert len(out.calls) == 1 and parser.complete


PIECES = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {"a": [1, {"b": "x}"}]}}', CALL, "\n", " ", "word",
     '{"name": "f", ', '"arguments": {"k": "v\\"', "}", '"', "<", "</", "tool_call>", "é", '{"arguments": {}, "name": "g"}', "\\", ","]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=14), st.booleans(), st.booleans(), st.sampled_from([(), ("f", "add")]), st.randoms(use_true_random=False))
def test_where_the_text_is_cut_changes_nothing(pieces: list[str], opened: bool, tools: bool, known: tuple[str, ...], random) -> None:
    text = "".join(pieces)
    expected = parts_of([text], opened=opened, tools=tools, known=known)
    assert parts_of(list(text), opened=opened, tools=tools, known=known) == expected
    cuts = sorted(random.sample(range(len(text) + 1), min(3, len(text) + 1)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parts_of(chunks, opened=opened, tools=tools, known=known) == expected
    out = Whole()
    out.add(expected)
    for _, arguments in out.calls:
        assert isinstance(json.loads(arguments), dict)
    kept = "".join(out.thinking.split() + out.answer.split())
    assert all(c in text for c in kept)


@pytest.mark.parametrize("text", [f"<think>hm, <tool_call></think>\n yes: {CALL} é\n{CALL}\n", f"{CALL}", "<tool_call>{</tool_call>"])
def test_every_single_cut(text: str) -> None:
    for opened in (False, True):
        expected = parts_of([text], opened=opened)
        for at in range(len(text)):
            assert parts_of([text[:at], text[at:]], opened=opened) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["word", " ", "\n", CALL, "é"]), max_size=8), st.sampled_from(["", "hm "]))
def test_it_agrees_with_the_parser_of_rewards(pieces: list[str], thought: str) -> None:
    text = f"<think>{thought}</think>" + "".join(pieces)
    mine, theirs = whole(text), parse_response(text)
    assert mine.thinking == (theirs.thinking or "") and mine.answer == theirs.answer
    assert [(n, json.loads(a)) for n, a in mine.calls] == [(c.name, dict(c.arguments)) for c in theirs.tool_calls]
