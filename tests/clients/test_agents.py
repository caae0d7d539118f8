"""openai-agents: chat, stream, tool round trip and typed output, over chat completions and over
responses.
"""

from __future__ import annotations

import asyncio

import pytest

agents = pytest.importorskip("agents")
from openai import AsyncOpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str
    size: int


@agents.function_tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest, base_url: str):
    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=base_url, api_key="none")
    kind = agents.OpenAIChatCompletionsModel if request.param == "chat" else agents.OpenAIResponsesModel
    return kind(model="scripted", openai_client=client)


def test_chat_tools_and_types(model) -> None:
    async def go() -> None:
        plain = agents.Agent(name="a", model=model)
        assert (await agents.Runner.run(plain, "hi")).final_output == "Hello, wörld!"
        streamed = agents.Runner.run_streamed(plain, "hi")
        kinds = [event.type async for event in streamed.stream_events()]
        assert streamed.final_output == "Hello, wörld!" and kinds.count("raw_response_event") > 3
        tools = agents.Agent(name="b", model=model, tools=[add])
        assert (await agents.Runner.run(tools, "add 3 and 4")).final_output == "The sum is 7."
        typed = agents.Agent(name="c", model=model, output_type=City)
        assert (await agents.Runner.run(typed, "json")).final_output == City(city="Paris", size=3)

    asyncio.run(go())
