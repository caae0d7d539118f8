"""Environments of a user's own: schemas from type hints, checked arguments, errors in place, calls
that run together.
"""

from __future__ import annotations

import threading
import time
from typing import Literal

import pytest

from qwq.envs import Environment, answer_calls, environment, environment_for, tool
from qwq.envs.base import ENVIRONMENTS, environment_class
from qwq.errors import ConfigError, InfraError
from qwq.types import Message, Problem, ToolCall

MEETING = threading.Barrier(3)


class Shop(Environment):
    timeout_s = 2.0

    async def reset(self, problem):
        self.sold = 0

    @tool
    async def sell(self, item: str, count: int = 1, size: Literal["small", "large"] = "small") -> str:
        """Sell so many of an item.

        Not shown to the model.
        """
        self.sold += count
        return f"{count} {size} {item}, {self.sold} in all"

    @tool
    def slow(self, seconds: float) -> str:
        """Wait."""
        time.sleep(seconds)
        return "done"

    @tool
    def meet(self) -> str:
        """Wait for two others."""
        MEETING.wait(timeout=20)
        return "met"

    @tool
    def broken(self) -> dict:
        """Fail."""
        raise KeyError("no till")

    @tool
    def stock(self) -> dict:
        """What there is."""
        return {"äpfel": 3}

    @tool
    def lost(self) -> str:
        """The machinery fails."""
        raise InfraError("the shop's server is gone")


ENVIRONMENTS["test-shop"] = Shop


def shop() -> Environment:
    made = environment_for(Problem("p", "d", (Message("user", "?"),), {}, "c", environment="test-shop"))
    assert made is not None
    return made


def test_the_schema_comes_from_hints_and_docstring():
    sell = Shop().schemas()[0]["function"]
    assert (sell["name"], sell["description"]) == ("sell", "Sell so many of an item.")
    parameters = sell["parameters"]
    assert parameters["required"] == ["item"]
    assert parameters["properties"]["count"]["type"] == "integer" and parameters["properties"]["size"]["enum"] == [
        "small",
        "large",
    ]


def test_each_call_is_answered_in_its_place_and_state_is_kept():
    made = shop()
    answers = answer_calls(made, [
        ToolCall("sell", {"item": "pear", "count": 2}), ToolCall("sell", {"item": "fig", "size": "large"}),
        ToolCall("stock", {}),
    ])  # fmt: skip
    assert [m.content for m in answers] == ["2 small pear, 2 in all", "1 large fig, 3 in all", '{"äpfel": 3}']
    assert all(m.role == "tool" for m in answers)
    assert (
        answer_calls(shop(), [ToolCall("sell", {"item": "pear"})])[0].content == "1 small pear, 1 in all"
    )  # a sample of its own


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (ToolCall("sel", {}), ["error: no tool 'sel'", "did you mean 'sell'?"]),
        (ToolCall("sell", {}), ["error: sell: item:", '"required": ["item"]']),
        (ToolCall("sell", {"item": "pear", "count": "many"}), ["error: sell: count:", "schema"]),
        (ToolCall("sell", {"item": "pear", "colour": "red"}), ["error: sell: colour:"]),
        (ToolCall("sell", {"item": "pear", "size": "huge"}), ["error: sell: size:", "small"]),
        (ToolCall("broken", {}), ["error: broken raised KeyError", "no till"]),
        (ToolCall("slow", {"seconds": 4}), ["error: slow gave no result within 2 s"]),
    ],
)
def test_a_bad_call_gets_an_error_that_says_what(call, parts):
    (answer,) = answer_calls(shop(), [call])
    assert all(part in answer.content for part in parts), answer.content


def test_slow_tools_run_together():
    # Each waits for the other two: one after the other, all would run into their time limit.
    answers = answer_calls(shop(), [ToolCall("meet", {})] * 3)
    assert [m.content for m in answers] == ["met"] * 3


def test_only_a_failure_of_the_machinery_is_raised():
    with pytest.raises(InfraError, match="server is gone"):
        answer_calls(shop(), [ToolCall("lost", {})])


def test_names_and_references(tmp_path):
    @environment("test-other")
    class Other(Environment):
        pass

    assert environment_class("test-other") is Other
    with pytest.raises(ConfigError, match="no environment 'test-othr': did you mean 'test-other'"):
        environment_class("test-othr")
    (tmp_path / "own.py").write_text(
        "import qwq.envs\nclass Own(qwq.envs.Environment):\n    pass\nclass Not:\n    pass\n"
    )
    assert environment_class(f"{tmp_path}/own.py:Own").__name__ == "Own"
    with pytest.raises(ConfigError, match="give a class made from qwq.Environment"):
        environment_class(f"{tmp_path}/own.py:Not")
