"""The calculator: exact values, and every refusal as a text that a model can read."""

import time

import pytest

from qwq.envs import answer_calls, environment_for
from qwq.envs.calculator import calculate
from qwq.types import Message, Problem, ToolCall


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", "14"),
        ("(2+3)*4", "20"),
        (" 7 - 10 ", "-3"),
        ("-(3-5)", "2"),
        ("+4", "4"),
        ("10/4", "2.5"),
        ("10/5", "2"),
        ("1/3", "0.3333333333"),
        ("1/3*3", "1"),  # exact in between
        ("0.1+0.2", "0.3"),
        ("1e3", "1000"),
        ("2*10000000000000000000000001", "20000000000000000000000002"),
        ("9" * 60, "9" * 60),  # the largest there is
    ],
)
def test_values_by_hand(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("1/0", "error: division by zero"),
        ("1/(2-2)", "error: division by zero"),
        ("", "error: not an arithmetic expression"),
        ("2+", "error: not an arithmetic expression"),
        ("2;3", "error: not an arithmetic expression"),
        ("x+1", "error: not an arithmetic expression"),
        ("abs(-1)", "error: not an arithmetic expression"),
        ("'a'*3", "error: not an arithmetic expression"),
        ("True+1", "error: not an arithmetic expression"),
        ("1j*1j", "error: not an arithmetic expression"),
        ("5%3", "error: not an arithmetic expression"),
        ("7//2", "error: not an arithmetic expression"),
        ("~1", "error: not an arithmetic expression"),
        ("1 < 2", "error: not an arithmetic expression"),
        ("[1][0]", "error: not an arithmetic expression"),
        ("().__class__", "error: not an arithmetic expression"),
        ("__import__('os').getpid()", "error: not an arithmetic expression"),
        ("1\x00", "error: not an arithmetic expression"),
        ("\ud800", "error: not an arithmetic expression"),
        ("1e999", "error: not an arithmetic expression"),
        ("(" * 150, "error: not an arithmetic expression"),
        ("1" + "0" * 60, "error: number too large"),
        ("9" * 60 + "+1", "error: number too large"),
        ("-" + "9" * 60 + "-1", "error: number too large"),
        ("1" * 201, "error: expression longer than 200 characters"),
    ],
)
def test_refusals(expression, error):
    assert calculate(expression) == error


def test_powers_are_refused_at_once():
    started = time.perf_counter()
    assert calculate("2**9**9") == "error: not an arithmetic expression"
    assert calculate("*".join(["9" * 30] * 6)) == "error: number too large"
    assert time.perf_counter() - started < 1.0


def test_the_environment_answers_each_call_in_order_and_raises_nothing():
    tool = {"type": "function", "function": {"name": "calculator", "parameters": {}}}
    environment = environment_for(Problem("t1", "tools", (Message("user", "?"),), {}, "c", tools=(tool,)))
    calls = [
        ToolCall("calculator", {"expression": "6*7"}),
        ToolCall("search", {"q": "x"}),
        ToolCall("calculator", {}),
        ToolCall("calculator", {"expression": 5}),
        ToolCall("calculator", {"expression": "1/0"}),
    ]
    assert answer_calls(environment, calls) == [
        Message("tool", "42"),
        Message("tool", "error: no tool 'search': valid names: calculator"),
        Message("tool", "error: calculator needs the text `expression`; its schema: {}"),
        Message("tool", "error: calculator needs the text `expression`; its schema: {}"),
        Message("tool", "error: division by zero"),
    ]
