"""The page over a scripted model: `python scripted.py PORT DATABASE`.

What is answered depends on the last question's words.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from qwq.serve.page.routes import mount

MATH = (
    "The area is \\(\\pi r^2\\), and\n\n\\[\\int_0^1 x^2\\,dx = \\frac{1}{3}\\]\n\n"
    "It costs $120 or $130 a piece, while $x_1 + y$ is a sum.\n\n"
    "```python\ndef area(r: float) -> float:\n    return 3.14159 * r**2  # roughly\n```\n\n| a | b |\n|---|---:|\n"
    "| 1 | 2 |\n\n- first\n- **second**\n"
)
HOSTILE = (
    "<script>window.hacked = 1</script>\n\n<img src=x onerror='window.hacked=1'>\n\n"
    "[click](javascript:window.hacked=1) "
    "![x](https://example.invalid/p.png)\n\n<style>body{display:none}</style><iframe src=/></iframe>\n\n"
    "**never closed [and (this\n\n"
    "\\(\\href{javascript:window.hacked=1}{x}\\) $\\htmlStyle{color:red}{y}$\n\n| broken | table\n|--\n\n"
    + ">" * 3000
    + "\n\n"
)
CALLS: list[dict[str, Any]] = []


def parts(body: dict[str, Any]) -> tuple[str, str, dict[str, Any] | None]:
    """(thinking, answer, call)"""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return "The tool answered.", f"The result is {last['content']}.", None
    question = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
    if "hostile" in question:
        return (
            "<script>window.hacked=1</script>",
            HOSTILE + "x" * 100_000 + "\n\n" + "[" * 100_000 + "\n\n" + "*a_`$" * 20_000,
            None,
        )
    if "wide" in question:
        return "", "\\[" + " + ".join(f"x_{{{i}}}^{{2}}" for i in range(40)) + "\\]", None
    if "math" in question:
        return "Let me recall \\(e^{i\\pi} = -1\\).", MATH, None
    if "tool" in question:
        return "I need the calculator.", "", {"name": "calculator", "arguments": '{"expression": "6*7"}'}
    if "slow" in question:
        return "Step by step. " * 20, "word " * 400, None
    return "Hmm, a short thought.", f"You said: {question[:2000]}", None


async def chat(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    CALLS.append(body)
    thinking, answer, call = parts(body)
    last = body["messages"][-1]
    question = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
    if "fail" in question:
        yield {"error": {"message": "the prompt has 40000 tokens, the context 32768: shorten it"}}
        return
    if body.get("continue_final_message"):
        assert thinking.startswith(last.get("reasoning_content", "")) and answer.startswith(last["content"])
        thinking, answer = thinking[len(last.get("reasoning_content", "")) :], answer[len(last["content"]) :]
    pause = 0.02 if "slow" in question else 0.002
    n = 0
    for kind, text in (("reasoning_content", thinking), ("content", answer)):
        step = 5 if len(text) < 20_000 else 5_000
        for at in range(0, len(text), step):
            n += 1
            yield {"choices": [{"index": 0, "delta": {kind: text[at : at + step]}, "finish_reason": None}]}
            await asyncio.sleep(pause)
    if call:
        yield {
            "choices": [
                {
                    "index": 0,
                    "delta": {
                        "tool_calls": [
                            {"index": 0, "id": "call_1", "function": {"name": call["name"], "arguments": ""}}
                        ]
                    },
                }
            ]
        }
        for at in range(0, len(call["arguments"]), 7):
            yield {
                "choices": [
                    {
                        "index": 0,
                        "delta": {
                            "tool_calls": [{"index": 0, "function": {"arguments": call["arguments"][at : at + 7]}}]
                        },
                    }
                ]
            }
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if call else "stop"}]}
    details = {"reasoning_tokens": -(-len(thinking) // 5)}
    yield {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": n, "completion_tokens_details": details}}


def create(database: Path | None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for close in app.state.closing:
            await close()

    app = FastAPI(lifespan=lifespan)
    app.state.chat, app.state.closing = chat, []
    mount(app, database=database)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": "scripted-1b", "max_model_len": 32768, "sampling": {"temperature": 0.6}}],
        }

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
