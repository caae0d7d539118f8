"""pydantic-ai: chat, stream, tool round trip and typed output."""

from __future__ import annotations

import asyncio

import pytest

pydantic_ai = pytest.importorskip("pydantic_ai")
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    city: str
    size: int


def test_chat_tools_and_types(base_url: str) -> None:
    model = OpenAIChatModel("scripted", provider=OpenAIProvider(base_url=base_url, api_key="none"))
    assert Agent(model).run_sync("hi").output == "Hello, wörld!"

    async def stream() -> str:
        async with Agent(model).run_stream("hi") as result:
            return [text async for text in result.stream_text()][-1]

    assert asyncio.run(stream()) == "Hello, wörld!"
    agent = Agent(model)

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    assert agent.run_sync("add 3 and 4").output == "The sum is 7."
    assert Agent(model, output_type=NativeOutput(City)).run_sync("json").output == City(city="Paris", size=3)
