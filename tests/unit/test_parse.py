"""A response in its parts: thinking, answer, tool calls."""

import pytest

from qwq.text.parse import parse_response
from qwq.types import ToolCall


def test_thinking_written_by_the_model() -> None:
    parsed = parse_response("<think>\nadd them\n</think>\n\nIt is 4.")
    assert (parsed.thinking, parsed.answer, parsed.thinking_closed) == ("add them", "It is 4.", True)


def test_thinking_opened_by_the_template() -> None:
    parsed = parse_response("add them\n</think>\n4", thinking_open=True)
    assert (parsed.thinking, parsed.answer, parsed.thinking_closed) == ("add them", "4", True)


@pytest.mark.parametrize(
    ("text", "opened"),
    [("<think>still at it", False), ("still at it", True), ("<think>a</think> b <think> again", False)],
)
def test_thinking_that_never_closes_leaves_no_answer(text: str, opened: bool) -> None:
    parsed = parse_response(text, thinking_open=opened)
    assert parsed.answer == "" and not parsed.thinking_closed and parsed.thinking is not None


def test_no_thinking_at_all() -> None:
    parsed = parse_response("  just this \n")
    assert (parsed.thinking, parsed.answer, parsed.thinking_closed) == (None, "just this", True)


def test_the_last_closing_tag_splits() -> None:
    assert parse_response("<think>a</think> b </think> c").answer == "c"


def test_tool_calls_are_read_and_taken_out_of_the_answer() -> None:
    text = (
        "<think>use it</think>Let me see.\n"
        '<tool_call>\n{"name": "calculator", "arguments": {"expression": "2+2"}}\n</tool_call>\n'
        '<tool_call>{"name": "calculator", "arguments": "{\\"expression\\": \\"3*3\\"}"}</tool_call>'
    )
    parsed = parse_response(text)
    assert parsed.answer == "Let me see."
    assert parsed.tool_calls == (
        ToolCall("calculator", {"expression": "2+2"}),
        ToolCall("calculator", {"expression": "3*3"}),
    )
    assert parsed.malformed_calls == ()


def test_a_call_inside_the_thinking_is_no_call() -> None:
    parsed = parse_response('<think><tool_call>{"name": "f", "arguments": {}}</tool_call></think>done')
    assert parsed.tool_calls == () and parsed.answer == "done"


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "f", "arguments": {"a": 1}',
        "f(1)",
        "[1, 2]",
        '{"arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "not json"}',
        '{"name": "f", "args": {}}',
        "[" * 20_000,
    ],
)
def test_malformed_calls_are_handed_back_as_text(raw: str) -> None:
    parsed = parse_response(f"<tool_call>{raw}</tool_call>rest")
    assert parsed.tool_calls == () and parsed.malformed_calls == (raw,) and parsed.answer == "rest"


def test_a_call_that_never_closes_is_malformed() -> None:
    parsed = parse_response('so <tool_call>{"name": "f", "arguments": {}}')
    assert parsed.tool_calls == () and len(parsed.malformed_calls) == 1 and parsed.answer == "so"
