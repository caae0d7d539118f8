"""What `qwq mcp` offers, called by the protocol's own client over both versions, and through the
command itself.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable

import pytest
from commands import QWQ

pytest.importorskip("mcp", reason="the extra agent is not installed")

from mcp import Client, StdioServerParameters

from qwq.envs.toolbox import Toolbox
from qwq.errors import UsageError
from qwq.sandbox import Sandbox
from qwq.serve.desks import Desks
from qwq.serve.mcp.offered import NAMES, OfferedTools
from qwq.serve.mcp.provider import make_server
from qwq.types import ToolCall

VERSIONS = {"auto": "2026-07-28", "legacy": "2025-11-25"}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(1) as box:
        yield box


def offered(sandbox: Sandbox, mode: str, work: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        tools = OfferedTools(sandbox=sandbox)
        try:
            async with Client(make_server(Toolbox([tools])), mode=mode) as client:
                assert client.protocol_version == VERSIONS[mode]
                await work(client)
        finally:
            await tools.close()

    asyncio.run(run())


def text_of(result) -> str:
    return result.content[0].text


@pytest.mark.parametrize("mode", sorted(VERSIONS))
def test_python_keeps_its_variables_by_handle(sandbox: Sandbox, mode: str) -> None:
    async def work(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == list(NAMES)
        assert tools[0].annotations.read_only_hint is False and tools[2].annotations.read_only_hint is True

        first = await client.call_tool("python", {"code": "x = 6 * 7\nx"})
        value, handle = text_of(first).splitlines()
        assert value == "42" and handle.startswith("[session ") and not first.is_error
        session = handle[len("[session ") : -1]
        again = await client.call_tool("python", {"code": "x + 1", "session": session})
        assert text_of(again) == "43"
        other = await client.call_tool("python", {"code": "x"})
        assert other.is_error and "NameError" in text_of(other), "sessions do not see each other"
        lost = await client.call_tool("python", {"code": "1", "session": "0123"})
        assert lost.is_error and "no session '0123' is open" in text_of(lost)

    offered(sandbox, mode, work)


@pytest.mark.parametrize("mode", sorted(VERSIONS))
def test_programs_and_verdicts(sandbox: Sandbox, mode: str) -> None:
    async def work(client: Client) -> None:
        ran = await client.call_tool("run_code", {"program": "print(input()[::-1])", "stdin": "abc"})
        assert text_of(ran).startswith("status ok, exit code 0, ") and text_of(ran).endswith("standard output:\ncba")
        broken = await client.call_tool("run_code", {"program": "raise SystemExit('no')"})
        assert broken.is_error and "exit code 1" in text_of(broken) and "no" in text_of(broken)

        right = await client.call_tool("verify_math", {"response": r"so \boxed{\frac{1}{2}}", "expected": "0.5"})
        assert json.loads(text_of(right))["outcome"] == "correct"
        tests = {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "expected": 2}]}
        wrong = await client.call_tool("verify_code", {"program": "def f(x): return x", "tests": tests})
        assert json.loads(text_of(wrong))["outcome"] == "wrong" and not wrong.is_error

    offered(sandbox, mode, work)


def test_the_reason_of_a_failed_call_is_what_the_model_reads(sandbox: Sandbox) -> None:
    async def work(client: Client) -> None:
        for name, arguments, words in [
            ("python", {"code": 1}, "code is 1, it must be string"),
            ("python", {}, "arguments lack 'code'"),
            ("run_code", {"program": "", "language": "cobol"}, "it must be one of 'python'"),
            ("verify_code", {"program": "x = 1", "tests": {"kind": "nothing"}}, "nothing"),
            ("pyton", {}, "did you mean 'python'?"),
        ]:
            result = await client.call_tool(name, arguments)
            assert result.is_error and words in text_of(result), text_of(result)

    offered(sandbox, "auto", work)


def test_the_network_is_out_of_reach(sandbox: Sandbox) -> None:
    async def work(client: Client) -> None:
        tried = await client.call_tool(
            "python", {"code": "import socket; socket.create_connection(('127.0.0.1', 80), 1)"}
        )
        assert tried.is_error and "Error" in text_of(tried)

    offered(sandbox, "auto", work)


@pytest.mark.parametrize("mode", sorted(VERSIONS))
def test_the_command(mode: str) -> None:
    async def run() -> None:
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "PYTHONPATH")}
        command = StdioServerParameters(command=QWQ, args=["mcp", "--tools", "python", "verify_math"], env=env)
        async with asyncio.timeout(120):
            async with Client(command, mode=mode) as client:
                assert client.protocol_version == VERSIONS[mode]
                assert [tool.name for tool in (await client.list_tools()).tools] == ["python", "verify_math"]
                assert text_of(await client.call_tool("python", {"code": "2 ** 10"})).startswith("1024\n[session ")

    asyncio.run(run())


def test_an_unknown_tool_is_named() -> None:
    with pytest.raises(UsageError, match="no tool 'bash' is offered"):
        OfferedTools(["bash"])


def test_the_oldest_session_makes_room(sandbox: Sandbox) -> None:
    async def run() -> None:
        desks = Desks(sandbox, max_open=2, prefix="s-")
        first, second = await desks.open(), await desks.open()
        assert first.startswith("s-") and len(desks) == 2
        desks.get(first)  # used, so the other one is the oldest
        third = await desks.open()
        assert first in desks and third in desks and second not in desks
        with pytest.raises(UsageError, match="made room for another"):
            desks.get(second)
        async with desks.get(first).turn, desks.get(third).turn:
            with pytest.raises(UsageError, match="2 sessions run at the moment"):
                await desks.open()
        desks.idle_s = 0.0
        await desks.open()
        assert len(desks) == 1, "the idle ones have ended"
        await desks.close()
        assert len(desks) == 0

    asyncio.run(run())


def test_a_cell_ends_with_its_caller(sandbox: Sandbox) -> None:
    async def run() -> None:
        desks = Desks(sandbox)
        desk = desks.get(await desks.open())
        await desk.run(ToolCall("python", {"code": "n = 1"}))
        waiting = asyncio.create_task(desk.run(ToolCall("python", {"code": "while True: n += 1"})))
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await desk.run(ToolCall("python", {"code": "n > 1"}))).text == "True"
        await desks.close()

    asyncio.run(run())
