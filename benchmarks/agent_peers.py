"""The same steps in smolagents and Qwen-Agent and the same cells in ipykernel, for
benchmarks/agent.py; runs in an environment that has them, without qwq; what is not installed is
left out. Prints one JSON object: CPU milliseconds a step, wall milliseconds of a cell and a start.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

FIGURES: dict[str, float] = {}
RUNS = 5  # of which a step's figure is the median, behind one that imports


def smolagents_steps() -> None:
    from smolagents import ToolCallingAgent, tool
    from smolagents.local_python_executor import LocalPythonExecutor
    from smolagents.models import (
        ChatMessage,
        ChatMessageToolCall,
        ChatMessageToolCallFunction,
        MessageRole,
        Model,
    )

    @tool
    def look(key: str) -> str:
        """Looks up.

        Args:
            key: what to look up
        """
        return key + "value value"

    class Scripted(Model):
        def __init__(self, num_steps: int) -> None:
            super().__init__()
            self.num_steps, self.count = num_steps, 0

        def generate(self, messages: Any, **more: Any) -> ChatMessage:
            self.count += 1
            last = self.count > self.num_steps
            function = (
                ChatMessageToolCallFunction(name="final_answer", arguments={"answer": "Done."})
                if last
                else ChatMessageToolCallFunction(name="look", arguments={"key": f"a{self.count}"})
            )
            made = [ChatMessageToolCall(id=str(self.count), type="function", function=function)]
            return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=made)

    steps = []
    for _ in range(1 + RUNS):
        agent = ToolCallingAgent(tools=[look], model=Scripted(40), verbosity_level=0, max_steps=45)
        started = time.process_time()
        agent.run("x")
        steps.append(1e3 * (time.process_time() - started) / 40)
    FIGURES["smolagents ToolCallingAgent step, 40 steps"] = statistics.median(steps[1:])
    executor = LocalPythonExecutor(additional_authorized_imports=[])
    executor.send_tools({})
    times = []
    for _ in range(200):
        began = time.perf_counter()
        executor("x = 41")
        times.append(1e3 * (time.perf_counter() - began))
    FIGURES["smolagents LocalPythonExecutor cell, no jail"] = statistics.median(times)


def qwen_agent_steps() -> None:
    from qwen_agent.agents.fncall_agent import FnCallAgent
    from qwen_agent.llm.schema import FunctionCall, Message
    from qwen_agent.tools.base import BaseTool, register_tool

    @register_tool("look")
    class Look(BaseTool):
        description = "Looks up."
        parameters = {  # noqa: RUF012  # its own protocol
            "type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]
        }  # fmt: skip

        def call(self, params: str, **more: Any) -> str:
            return json.loads(params)["key"] + "value value"

    class Scripted:
        support_multimodal_input = support_audio_input = False
        max_input, model = 0, "scripted"

        def __init__(self, num_steps: int) -> None:
            self.num_steps, self.count, self.generate_cfg = num_steps, 0, {}

        def chat(self, messages: Any = None, functions: Any = None, **more: Any) -> Iterator[list[Message]]:
            self.count += 1
            if self.count > self.num_steps:
                yield [Message(role="assistant", content="Done.")]
                return
            made = FunctionCall(name="look", arguments=json.dumps({"key": f"a{self.count}"}))
            yield [Message(role="assistant", content="", function_call=made, extra={"function_id": str(self.count)})]

    steps = []
    for _ in range(1 + RUNS):
        agent = FnCallAgent(function_list=["look"], llm=Scripted(18), system_message="s")  # it ends after 20 calls
        started = time.process_time()
        for _ in agent.run([{"role": "user", "content": "x"}]):
            pass
        steps.append(1e3 * (time.process_time() - started) / 18)
    FIGURES["Qwen-Agent FnCallAgent step, 18 steps"] = statistics.median(steps[1:])


def ipykernel_cells() -> None:
    from jupyter_client.manager import KernelManager

    starts, times = [], []
    for _ in range(3):
        began = time.perf_counter()
        manager = KernelManager()
        manager.start_kernel()
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            client.execute_interactive("1", timeout=60, output_hook=lambda message: None)
            starts.append(1e3 * (time.perf_counter() - began))
            for _ in range(60):
                began = time.perf_counter()
                client.execute_interactive("x = 41", timeout=60, output_hook=lambda message: None)
                times.append(1e3 * (time.perf_counter() - began))
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    FIGURES["ipykernel cell, no jail"] = statistics.median(times)
    FIGURES["ipykernel start to the first result"] = statistics.median(starts)


if __name__ == "__main__":
    for package, measure in (
        ("smolagents", smolagents_steps), ("qwen_agent", qwen_agent_steps), ("jupyter_client", ipykernel_cells)
    ):  # fmt: skip
        if importlib.util.find_spec(package) is not None:
            measure()
        else:
            print(f"{package}: not installed, left out", file=sys.stderr)
    print(json.dumps(FIGURES))
