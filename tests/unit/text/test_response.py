"""A response in its parts, whole and streamed: one rule, the same parts wherever the text is cut,
nothing lost or made up.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.text.parts import Kind, Part, ResponseBuilder
from qwq.text.response import ResponseParser, parse, parse_answer, reopens_thinking
from qwq.types import ParsedResponse, ToolCall

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": {"c": "}"}}}\n</tool_call>'


def parts_of(pieces: list[str], *, opened: bool = False, tools: tuple[str, ...] | None = ("add",)) -> list[Part]:
    parser = ResponseParser(thinking_open=opened, tools=tools)
    parts = [p for piece in pieces for p in parser.push(piece)] + parser.finish()
    joined: list[Part] = []
    for p in parts:
        if joined and joined[-1].kind is p.kind and p.kind not in (Kind.CALL, Kind.BROKEN):
            joined[-1] = Part(p.kind, joined[-1].text + p.text, p.index)
        else:
            joined.append(p)
    return joined


def whole(text: str, **options) -> ResponseBuilder:
    out = ResponseBuilder()
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
    out = whole(f"<think>{CALL} or not")
    assert out.calls == [] and out.answer == "" and out.thinking == f"{CALL} or not"


F = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "thinking", "calls"),
    [
        (f"hm {F}", "hm", ["f"]),
        (f"{F}\n", "", ["f"]),
        (f"hm\n{F}\n{G}\n\n", "hm", ["f", "g"]),
        (f"hm {F.removesuffix('</tool_call>')}", "hm", ["f"]),
        (f"<tool_call>no {F}", "<tool_call>no", ["f"]),
        (f"{F} then {G}", f"{F} then", ["g"]),
        (
            f'hm <tool_call>{{"name": "x", "arguments": {{}}}}</tool_call>{G}',
            'hm <tool_call>{"name": "x", "arguments": {}}</tool_call>',
            ["g"],
        ),
        # A function that is not on offer, a call that is not whole, and one that more thinking
        # follows stay thoughts.
        (
            'hm <tool_call>{"name": "x", "arguments": {}}</tool_call>',
            'hm <tool_call>{"name": "x", "arguments": {}}</tool_call>',
            [],
        ),
        ('hm <tool_call>{"name": "f", "arguments": {"a": ', 'hm <tool_call>{"name": "f", "arguments": {"a":', []),
        (f"{F} or not", f"{F} or not", []),
        (f"{F}</tool", f"{F}</tool", []),
        (f"{F} <tool_call>", f"{F} <tool_call>", []),
        (f"{F}</tool_call>", f"{F}</tool_call>", []),
    ],
)
def test_calls_that_end_an_open_thinking(text: str, thinking: str, calls: list[str]) -> None:
    for opened, written in ((True, text), (False, f"<think>\n{text}")):
        out = whole(written, opened=opened, tools=("f", "g"))
        assert out.thinking == thinking and [name for name, _ in out.calls] == calls and out.answer == ""
    closed = whole(f"{text}</think>yes", opened=True, tools=("f", "g"))
    assert closed.calls == [] and closed.thinking == text.strip() and closed.answer == "yes"
    assert whole(text, opened=True, tools=()).thinking == text.strip()


def test_the_close_of_a_thinking_inside_a_calls_string_is_the_close() -> None:
    out = whole('<tool_call>{"name": "f", "arguments": {"a": "</think>yes', opened=True, tools=("f",))
    assert out.answer == "yes" and out.calls == []


def test_only_the_first_thing_said_can_open_the_thinking() -> None:
    assert whole("the tag <think> opens it</think>").answer == "the tag <think> opens it</think>"
    assert whole("x</think>y <think> z", opened=True).answer == "y <think> z"
    assert whole("<think>x</think>y", opened=True).thinking == "x"  # QwQ repeats its template's marker at times


@pytest.mark.parametrize(
    "raw",
    [
        "no json", '{"name": "f", "arguments": {"a": 1}', '{"name": "f", "arguments": [1]}',
        '{"name": "", "arguments": {}}', '{"name": 3, "arguments": {}}', '{"arguments": {}}',
        '{"name": "f", "arguments": {"a": NaN}}', '{"name": "f", "more": 1}', '{"name": "f", "arguments": {"a": 1]}}',
        '{"name": "f" "arguments": {}}', '{"name": "f", "name": "g", "arguments": {}}',
        '{"name": "f", "arguments": {"a": "open\n"}}', '{"name": "f", "arguments": {}, "arguments": {"b": 2}}',
        "{'name': 'f'}", "", '{"name": "f", "arguments": {"a": 01}}', '{"name": "f\n", "arguments": {}}', "[]",
        '{"name": "f", "arguments": "3"}',
    ],
)  # fmt: skip
def test_what_is_no_call_stays_text(raw: str) -> None:
    text = f"see: <tool_call>{raw}</tool_call> and {CALL}"
    out = whole(text)
    assert out.answer == f"see: <tool_call>{raw}</tool_call> and"
    assert out.calls == [("add", '{"a": 1, "b": {"c": "}"}}')]
    assert whole(f"<tool_call>{raw}").calls == []


def test_odd_but_good_calls() -> None:
    assert whole('<tool_call>{"arguments": {"x": "</tool_call>"}, "name": "f"}</tool_call>').calls == [
        ("f", '{"x": "</tool_call>"}')
    ]
    assert whole('<tool_call>{"name": "f"}</tool_call>').calls == [("f", "{}")]
    assert whole('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>').calls == [("f", '{"x": 1}')]
    assert whole('<tool_call>{"name": "f", "arguments": {}}').calls == [
        ("f", "{}")
    ]  # the end token came before the tag
    assert whole('<tool_call>{"name": "\\u00e9\\"", "arguments": {}}</tool_call>').calls == [('é"', "{}")]
    assert whole(CALL, tools=()).calls == [] and whole(CALL, tools=()).answer == CALL


def test_arguments_come_as_they_are_written() -> None:
    parser = ResponseParser(thinking_open=False, tools=None)
    assert parser.push('<tool_call>{"name": "f", "arg') == []
    assert parser.push('uments": {"text": "ab') == [Part(Kind.CALL, "f"), Part(Kind.ARGUMENTS, '{"text": "ab')]
    assert parser.push('c"') == [Part(Kind.ARGUMENTS, 'c"')]
    assert parser.push("}}</tool") == [Part(Kind.ARGUMENTS, "}")]
    assert parser.push("_call>") == [] == parser.finish()


def test_a_call_that_breaks_after_it_was_announced_is_taken_back() -> None:
    parser = ResponseParser(thinking_open=False, tools=None)
    parser.push('<tool_call>{"name": "f", "arguments": {"a": ')
    assert parser.push("<") == [Part(Kind.BROKEN, ""), Part(Kind.ANSWER, '<tool_call>{"name": "f", "arguments": {"a":')]
    assert parser.finish() == [Part(Kind.ANSWER, " <")]


def test_one_call_only() -> None:
    parser = ResponseParser(thinking_open=False, tools=None, parallel=False)
    out = ResponseBuilder()
    out.add(parser.push(CALL + CALL) + parser.finish())
    assert len(out.calls) == 1 and parser.complete


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        '{"name": "f", "arguments": {"a": [1, {"b": "x}"}]}}',
        CALL,
        "\n",
        " ",
        "word",
        '{"name": "f", ',
        '"arguments": {"k": "v\\"',
        "}",
        '"',
        "<",
        "</",
        "tool_call>",
        "é",
        '{"arguments": {}, "name": "g"}',
        "\\",
        ",",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PIECES, max_size=14),
    st.booleans(),
    st.sampled_from([(), ("f", "add"), None]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_where_the_text_is_cut_changes_nothing(
    pieces: list[str], opened: bool, tools: tuple[str, ...] | None, cut: bool, random
) -> None:
    text = "".join(pieces)
    expected = parse(text, thinking_open=opened, tools=tools, cut=cut)
    assert streamed(list(text), opened, tools, cut) == expected
    cuts = sorted(random.sample(range(len(text) + 1), min(3, len(text) + 1)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert streamed(chunks, opened, tools, cut) == expected
    kept = "".join((expected.thinking or "").split() + expected.answer.split())
    assert all(c in text for c in kept)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>hm, <tool_call></think>\n yes: {CALL} é\n{CALL}\n",
        CALL,
        "<tool_call>{</tool_call>",
        f"<think>so {CALL}\n{CALL}",
        f" <think>{F}, {F}</tool_call>",
        f'<think>a</think> "<think>" b <think> c </think>{F}<think>',
        f"a </think> b <think>{F}</think>",
        '<tool_call>{"name": "f", "arguments": {"a": "</think><tool_call>',
    ],
)
def test_every_single_cut(text: str) -> None:
    for opened in (False, True):
        for tools in ((), ("f",), None):
            expected = parse(text, thinking_open=opened, tools=tools)
            parts = parts_of([text], opened=opened, tools=tools)
            for at in range(len(text) + 1):
                assert streamed([text[:at], text[at:]], opened, tools) == expected
                assert parts_of([text[:at], text[at:]], opened=opened, tools=tools) == parts


def streamed(pieces: list[str], opened: bool, tools: tuple[str, ...] | None, cut: bool = False) -> ParsedResponse:
    """The parts of a stream put together as its reader can: calls from what was handed out, not
    from the parser's own list.
    """
    parser, out = ResponseParser(thinking_open=opened, tools=tools), ResponseBuilder()
    for piece in pieces:
        out.add(parser.push(piece))
    out.add(parser.finish(cut=cut))
    good = [a for a in parser.attempts if isinstance(a, ToolCall)]
    calls = out.calls[: len(good)]  # behind them only one that was cut off
    assert [(c.name, c.arguments) for c in good] == [(name, json.loads(arguments)) for name, arguments in calls]
    assert len(out.calls) == len(calls) or (cut and len(out.calls) == len(calls) + 1)
    return ParsedResponse(
        out.thinking if parser.has_thinking else None, out.answer, tuple(ToolCall(n, json.loads(a)) for n, a in calls),
        not parser.thinking, tuple(a.strip() for a in parser.attempts if isinstance(a, str)),
        reopens_thinking(out.answer),
    )  # fmt: skip


# -- whole texts: the table of the docstring, and more ---------------------------------------------


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer"),
    [
        ("<think>\nadd them\n</think>\n\nIt is 4.", False, "add them", "It is 4."),
        ("add them\n</think>\n4", True, "add them", "4"),
        ("  just this \n", False, None, "just this"),
        ("", False, None, ""),
        ("</think>4", True, "", "4"),
        ("<think></think>", False, "", ""),
        ("It is 5, not </think> 6", False, None, "It is 5, not </think> 6"),
        ("It is 5, not </think> 6", True, "It is 5, not", "6"),
        ("It is 5, not </think> 6", None, "It is 5, not", "6"),
        ("It is 5", None, None, "It is 5"),
        ("<think>a</think>5", None, "a", "5"),
        (
            "<think>\na\n</think>\nThe tag </think> ends it. \\boxed{1}",
            False,
            "a",
            "The tag </think> ends it. \\boxed{1}",
        ),
        ("<think>a</think> b </think> c", False, "a", "b </think> c"),
        ("Sure. <think>a</think> b", False, None, "Sure. <think>a</think> b"),
        ("<think>a</think> 5 <think>wait</think> 6", False, "a", "5 <think>wait</think> 6"),
        (" \n<think>a</think>b", False, "a", "b"),
    ],
)
def test_thinking_and_answer(text: str, opened: bool | None, thinking: str | None, answer: str) -> None:
    parsed = parse(text, thinking_open=opened)
    assert (parsed.thinking, parsed.answer, parsed.final) == (thinking, answer, answer)
    assert parsed.thinking_closed and not parsed.open


@pytest.mark.parametrize(
    ("text", "opened"), [("<think>still at it", False), ("still at it", True), ("", True), ("<think>", False)]
)
def test_thinking_that_never_closes_leaves_no_answer(text: str, opened: bool) -> None:
    parsed = parse(text, thinking_open=opened)
    assert (
        parsed.answer == parsed.final == ""
        and parsed.open
        and not parsed.thinking_closed
        and parsed.thinking is not None
    )


@pytest.mark.parametrize(
    ("answer", "voids"),
    [
        ("5\n<think>\nwait", True), ("5 <think>", True), ("5 <think>a</think> 6 <think>b", True),
        ("5 <think>a</think> 6", False), ("5 </think>", False), ("The mark `<think>` opens it.", False),
        ("t.partition(\"<think>\")", False), ("'<think>' 5 <think>wait `</think>`", True), ("`<think> wait", True),
        ("\"<think>' 5", True), ("'</think>'", False), ("<think>", True),
    ],
)  # fmt: skip
def test_a_thought_open_again_at_the_end_voids_the_answer(answer: str, voids: bool) -> None:
    parsed = parse(f"<think>a</think>{answer}")
    assert parsed.answer == answer and parsed.thinking_closed
    assert (parsed.reopened, parsed.open, parsed.final) == (voids, voids, "" if voids else answer)
    assert parse_answer(answer).final == parsed.final and parse_answer(answer).answer == answer
    if not answer.startswith("<think>"):
        assert parse(answer).final == parsed.final  # the same without any thinking


def test_tool_calls_are_read_and_taken_out_of_the_answer() -> None:
    text = (
        "<think>use it</think>Let me see.\n"
        '<tool_call>\n{"name": "calculator", "arguments": {"expression": "2+2"}}\n</tool_call>\n'
        '<tool_call>{"name": "calculator", "arguments": "{\\"expression\\": \\"3*3\\"}"}</tool_call>'
    )
    parsed = parse(text)
    assert parsed.answer == "Let me see."
    assert parsed.tool_calls == (
        ToolCall("calculator", {"expression": "2+2"}),
        ToolCall("calculator", {"expression": "3*3"}),
    )
    assert parsed.malformed_calls == ()
    assert (
        parse(text, tools=("other",)).tool_calls == parsed.tool_calls
    )  # a call of an unknown function is answered, not ignored
    assert parse(text, tools=()).answer == text.removeprefix("<think>use it</think>")


def test_a_closing_tag_in_an_argument_ends_nothing() -> None:
    parsed = parse('<think>x</think><tool_call>{"name":"f","arguments":{"s":"</tool_call>"}}</tool_call>')
    assert (
        parsed.tool_calls == (ToolCall("f", {"s": "</tool_call>"}),)
        and not parsed.malformed_calls
        and parsed.answer == ""
    )


def test_calls_and_thoughts() -> None:
    parsed = parse('<think><tool_call>{"name": "f", "arguments": {}}</tool_call></think>done')
    assert parsed.tool_calls == () and parsed.answer == "done"
    parsed = parse(f"hm {F}", thinking_open=True)
    assert parsed.tool_calls == (ToolCall("f", {"a": 1}),) and parsed.thinking == "hm" and not parsed.thinking_closed
    assert parse(f"hm {F}", thinking_open=True, tools=("g",)).tool_calls == ()
    assert parse(f"hm {F}", thinking_open=True, tools=()).thinking == f"hm {F}"
    assert parse(f"<think>a</think>5 <think>{F}").tool_calls == (
        ToolCall("f", {"a": 1}),
    )  # a call in the answer, like any


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "f", "arguments": {"a": 1}', "f(1)", "[1, 2]", '{"arguments": {}}', '{"name": 3, "arguments": {}}',
        '{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": "not json"}', '{"name": "f", "args": {}}',
        "[" * 20_000,
    ],
)  # fmt: skip
def test_malformed_calls_are_counted_and_stay_text(raw: str) -> None:
    parsed = parse(f"<tool_call>{raw}</tool_call>rest")
    assert (
        parsed.tool_calls == ()
        and parsed.malformed_calls == (raw,)
        and parsed.answer == f"<tool_call>{raw}</tool_call>rest"
    )


def test_each_malformed_call_is_counted_once() -> None:
    parsed = parse(f"a <tool_call> f(1)\n</tool_call> b {F} <tool_call>g(<tool_call>h")
    assert parsed.malformed_calls == ("f(1)", "g(", "h") and len(parsed.tool_calls) == 1
    assert parsed.answer == "a <tool_call> f(1)\n</tool_call> b  <tool_call>g(<tool_call>h"


def test_a_call_without_its_closing_tag() -> None:
    parsed = parse('so <tool_call>{"name": "f", "arguments": {}}')  # the end token came first
    assert parsed.tool_calls == (ToolCall("f", {}),) and parsed.malformed_calls == () and parsed.answer == "so"
    half = 'so <tool_call>{"name": "f", "arguments": {"a'
    assert parse(half).answer == half and len(parse(half).malformed_calls) == 1
    assert parse(half, cut=True).answer == "so" and len(parse(half, cut=True).malformed_calls) == 1


def test_an_answer_alone() -> None:
    parsed = parse_answer(f" <think>a</think> {F} b ", tools=("f",))
    assert parsed.thinking is None and parsed.answer == "<think>a</think>  b" and len(parsed.tool_calls) == 1


@pytest.mark.parametrize(
    "unit", ["<tool_call>", F, '<tool_call>{"name": "', '<tool_call>{"a": [', '"<think>', "<think></think>", f"{F} x"]
)
def test_time_is_linear_in_the_text(unit: str) -> None:
    """200,000 characters of marks, in thought and answer. What is quadratic takes minutes here."""
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for opened in (False, True):
        parse(text + "x", thinking_open=opened)
    assert time.process_time() - start < 20
