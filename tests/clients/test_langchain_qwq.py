"""langchain-qwq: chat with its thinking, stream, tool round trip and typed output."""

from __future__ import annotations

import pytest

langchain_qwq = pytest.importorskip("langchain_qwq")
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel


class City(BaseModel):
    city: str
    size: int


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def test_chat_tools_and_types(base_url: str) -> None:
    model = langchain_qwq.ChatQwQ(model="scripted", base_url=base_url, api_key="none")
    answer = model.invoke("hi")
    assert answer.content == "Hello, wörld!" and answer.additional_kwargs["reasoning_content"] == "so it is"
    assert "".join(str(c.content) for c in model.stream("hi")) == "Hello, wörld!"
    bound, messages = model.bind_tools([add]), [HumanMessage("add 3 and 4")]
    first = bound.invoke(messages)
    (call,) = first.tool_calls
    assert call["args"] == {"a": 3, "b": 4}
    messages += [first, ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"])]
    assert bound.invoke(messages).content == "The sum is 7."
    assert model.with_structured_output(City).invoke("json") == City(city="Paris", size=3)  # by a call
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": City.model_json_schema()}}
    assert City.model_validate_json(model.bind(response_format=form).invoke("json").content) == City(
        city="Paris", size=3
    )
