"""Calls in the forms that models fall into: read where the function is on offer, the same wherever
the text is cut.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.text.parts import Kind, ResponseBuilder
from qwq.text.response import ResponseParser
from qwq.text.tool_calls import loose_call

F = {
    "properties": {
        "path": {"type": "string"},
        "n": {"type": "integer"},
        "on": {"type": "boolean"},
        "more": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        "any": {},
    }
}
KNOWN = {"f": F, "g": None}


def read(*pieces: str, opened: bool = False, known=KNOWN, parallel: bool = True) -> ResponseBuilder:
    parser, whole = ResponseParser(thinking_open=opened, tools=known, parallel=parallel), ResponseBuilder()
    for piece in pieces:
        whole.add(parser.push(piece))
    whole.add(parser.finish())
    return whole


XML = "<function=f>\n<parameter=path>\n/tmp/x\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>"
XML_CALL = ("f", '{"path":"/tmp/x","n":3}')
BARE = '{"name": "f", "arguments": {"n": 1}}'


@pytest.mark.parametrize(
    ("text", "answer", "calls"),
    [
        (f"<tool_call>\n{XML}\n</tool_call>", "", [XML_CALL]),
        (f"Words.\n{XML}", "Words.", [XML_CALL]),
        (f"<tool_call>{XML}", "", [XML_CALL]),
        (f"a <tool_call>\n{XML}\n</tool_call>\n<tool_call>\n{XML}\n</tool_call> b", "a \n b", [XML_CALL] * 2),
        (f"{XML}\n</tool_call>\n{XML}", "", [XML_CALL] * 2),
        ('<tool_call>{"name": "f", "parameters": {"n": 1}}</tool_call>', "", [("f", '{"n":1}')]),
        (
            "<tool_call>{'name': 'f', 'arguments': {'on': True, 'path': \"it's\"}}</tool_call> so",
            " so",
            [("f", '{"on":true,"path":"it\'s"}')],
        ),
        (
            '<tool_call>{"type": "function", "function": {"name": "g", "arguments": "{}"}}</tool_call>',
            "",
            [("g", "{}")],
        ),
        ("<tool_call>{'name': 'g'}", "", [("g", "{}")]),
        (BARE, "", [("f", '{"n":1}')]),
        (f"\n```json\n{BARE}\n```\n", "", [("f", '{"n":1}')]),
        (f"{BARE}\n{BARE}", "", [("f", '{"n":1}')] * 2),
        (f"```\n{BARE}", "", [("f", '{"n":1}')]),
        ('{"name": "g", "parameters": {}}', "", [("g", "{}")]),
        # What is something else stays text.
        (f"{BARE} is a call", f"{BARE} is a call", []),
        (f"So: {BARE}", f"So: {BARE}", []),
        ('{"name": "x", "arguments": {}}', '{"name": "x", "arguments": {}}', []),
        ('{"city": "Rome"}', '{"city": "Rome"}', []),
        ("```python\n{1: 2}\n```", "```python\n{1: 2}\n```", []),
        ("<tool_call>{'name': 'x'}</tool_call>", "<tool_call>{'name': 'x'}</tool_call>", []),
        ("<function=x>\n</function>", "<function=x>\n</function>", []),
        ("the tag <function= opens it", "the tag <function= opens it", []),
        ("<tool_call>no</tool_call>", "<tool_call>no</tool_call>", []),
        ("<tool_call>{bad <tool_call>" + BARE + "</tool_call>", "<tool_call>{bad", [("f", '{"n": 1}')]),
        ("```", "```", []),
        ("{", "{", []),
        ("`code`", "`code`", []),
    ],
)
def test_forms_of_calls(text: str, answer: str, calls: list[tuple[str, str]]) -> None:
    out = read(text)
    assert (out.answer, out.calls) == (answer.strip(), calls)
    assert (lambda w: (w.answer, w.calls))(read(*text)) == (answer.strip(), calls)
    for at in range(1, len(text)):
        cut = read(text[:at], text[at:])
        assert (cut.answer, cut.calls) == (answer.strip(), calls), at


def test_without_functions_on_offer_they_are_text() -> None:
    for text in (XML, BARE, f"<tool_call>{XML}</tool_call>", '<tool_call>{"name": "f", "parameters": {}}</tool_call>'):
        assert read(text, known=()).calls == [] and read(text, known=()).answer == text
    assert len(read(f"{XML}{XML}", parallel=False).calls) == len(read(f"{BARE}\n{BARE}", parallel=False).calls) == 1


@pytest.mark.parametrize(
    "call", [f"<tool_call>\n{XML}\n</tool_call>", "<tool_call>{'name': 'f', 'arguments': {'n': 1}}</tool_call>"]
)
def test_at_the_end_of_an_open_thinking(call: str) -> None:
    for pieces in ([f"hm {call}\n"], list(f"hm {call}\n")):
        out = read(*pieces, opened=True)
        assert out.thinking == "hm" and [name for name, _ in out.calls] == ["f"] and out.answer == ""
    for text in (
        f"hm {call} or not",
        f"hm {call}</think>yes",
        "a tag <tool_call> and more thoughts",
        "<tool_call>{'name': 'x'}</tool_call>",
    ):
        out = read(text, opened=True)
        assert out.calls == [] and out.thinking == text.partition("</think>")[0]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("path", "3", "3"), ("path", "a\nb\n", "a\nb\n"), ("n", "3", 3), ("n", "three", "three"), ("on", "True", True),
        ("on", "false", False), ("more", '{"a": [1]}', {"a": [1]}), ("more", "None", None), ("any", "3", "3"),
        ("unknown", "[1]", "[1]"), ("path", "<b>&amp;</b>", "<b>&amp;</b>"),
    ],
)  # fmt: skip
def test_a_parameter_is_what_its_schema_says(key: str, text: str, value: object) -> None:
    name, arguments = loose_call(f"<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>", KNOWN) or (
        "",
        "",
    )
    assert name == "f" and json.loads(arguments) == {key: value}
    # A tag that is left out ends where the next parameter begins.
    _, both = loose_call(f"<function=f><parameter={key}>{text}<parameter=n>1</function>", KNOWN) or ("", "{}")
    if key != "n" and not text.endswith("\n"):
        assert json.loads(both) == {key: value, "n": 1}


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "{" * 5000,
        "{'name': 'f', 'arguments': " + "[" * 300,
        '{"name": "f", "arguments": [1]}',
        '{"name": 3}',
        '{"name": "f", "x": 1}',
        "<function=f>",
        "{'name': 'f', 'arguments': {1, 2}}",
        '{"name": "f", "arguments": "3"}',
    ],
)
def test_what_is_no_call(raw: str) -> None:
    assert loose_call(raw, KNOWN) is None


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<function=f>",
        "</function>",
        "<parameter=n>",
        "</parameter>",
        "1",
        BARE,
        "{'name': 'f'}",
        "```json\n",
        "```",
        "\n",
        " ",
        "word",
        "{",
        '"name"',
        "<",
        "<func",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12), st.booleans(), st.randoms(use_true_random=False))
def test_where_the_text_is_cut_changes_nothing(pieces: list[str], opened: bool, random) -> None:
    text = "".join(pieces)
    expected = read(text, opened=opened)
    cut = random.randrange(len(text) + 1)
    for other in (read(*text, opened=opened), read(text[:cut], text[cut:], opened=opened)):
        assert (other.thinking, other.answer, other.calls) == (expected.thinking, expected.answer, expected.calls)
    for _, arguments in expected.calls:
        assert isinstance(json.loads(arguments), dict)


def test_text_that_is_no_call_is_not_held_back_for_long() -> None:
    parser = ResponseParser(thinking_open=False, tools=KNOWN)
    assert [p.text for p in parser.push('{"city": ') if p.kind is Kind.ANSWER] == ['{"city":']
    parser = ResponseParser(thinking_open=False, tools=KNOWN)
    assert [p.text for p in parser.push("<tool_call> is a tag, and") if p.kind is Kind.ANSWER] == [
        "<tool_call> is a tag, and"
    ]


def test_a_dictionary_with_a_list_as_key_is_no_call() -> None:
    assert loose_call("{[1]: 2}", KNOWN) is None
