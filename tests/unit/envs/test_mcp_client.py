"""Tools of MCP servers: both protocols, both transports, servers that fail, hang, die and are left
behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the extra agent is not installed")

from qwq.envs.mcp import McpToolset, read_content, tool_names
from qwq.envs.mcp_servers import McpServer, parse_servers, read_mcp_file
from qwq.envs.toolbox import Effect, ResultKind, Toolbox, make_toolsets
from qwq.errors import ConfigError, InfraError, UsageError
from qwq.types import Problem, ToolCall

SUPPORT = Path(__file__).parents[2] / "support"
PROBLEM = Problem("p", "custom", (), {}, "p")


def sdk_server(folder: Path, **fields: object) -> McpServer:
    command = (sys.executable, str(SUPPORT / "mcp_sdk_server.py"), str(folder / "notes.txt"))
    return McpServer("demo", command, **{"start_timeout_s": 60.0, **fields})  # type: ignore[arg-type]


OLD = McpServer("old", (sys.executable, str(SUPPORT / "mcp_old_server.py")), start_timeout_s=60.0)


def with_tools(server: McpServer, work: Callable[[Toolbox], Awaitable[None]]) -> None:
    async def run() -> None:
        box = Toolbox([McpToolset([server])])
        try:
            await box.reset(PROBLEM)
            await work(box)
        finally:
            await box.close()

    asyncio.run(run())


def test_a_server_of_today_by_stdio(tmp_path: Path) -> None:
    async def work(box: Toolbox) -> None:
        toolset = box.toolsets[0]
        assert isinstance(toolset, McpToolset)
        assert toolset.versions() == {"demo": "2026-07-28"}
        names = [s.name for s in toolset.specs()]
        assert names == [f"demo__{n}" for n in ("add", "die", "fail", "hang", "note", "picture", "say")]
        specs = {s.name: s for s in toolset.specs()}
        assert specs["demo__add"].effect is Effect.NONE and specs["demo__add"].idempotent
        assert specs["demo__note"].effect is Effect.EXTERNAL and not specs["demo__note"].idempotent
        assert all(s.untrusted for s in specs.values())
        assert specs["demo__add"].schema["function"]["description"] == "Add two whole numbers."

        added = await box.run_call(ToolCall("demo__add", {"a": 20, "b": 22}))
        assert (added.text, added.kind) == ("42", ResultKind.OK)
        wrong = await box.run_call(ToolCall("demo__add", {"a": "x", "b": 1}))
        assert wrong.kind is ResultKind.ERROR and "a is 'x', it must be integer" in wrong.text
        failed = await box.run_call(ToolCall("demo__fail", {"reason": "sales"}))
        assert failed.kind is ResultKind.ERROR and "no such table: sales" in failed.text
        seen = await box.run_call(ToolCall("demo__picture", {}))
        assert seen.text.startswith("a red pixel\n[image-1.png: image/png, ")
        assert [(a.name, a.data[:4]) for a in seen.artefacts] == [("image-1.png", b"\x89PNG")]
        await box.run_call(ToolCall("demo__note", {"text": "bought"}))
        assert (tmp_path / "notes.txt").read_text() == "bought\n"

    with_tools(sdk_server(tmp_path), work)


def test_a_server_of_2025_11_25_by_stdio() -> None:
    async def work(box: Toolbox) -> None:
        toolset = box.toolsets[0]
        assert isinstance(toolset, McpToolset)
        assert toolset.versions() == {"old": "2025-11-25"}
        assert [s.name for s in toolset.specs()] == ["old__double", "old__zeta_last"], "both pages, sorted"
        assert (await box.run_call(ToolCall("old__double", {"x": 21}))).text == "42"
        assert (await box.run_call(ToolCall("old__zeta_last", {}))).text == "zeta"

    with_tools(OLD, work)


def test_a_server_over_http(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = sdk_server(tmp_path)
    process = subprocess.Popen([*server.command, "http", str(port)])
    try:
        wait_for_port(port)

        async def work(box: Toolbox) -> None:
            assert (await box.run_call(ToolCall("web__add", {"a": 1, "b": 2}))).text == "3"

        with_tools(McpServer("web", url=f"http://127.0.0.1:{port}/mcp", start_timeout_s=30.0), work)
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server did not listen")


def test_a_call_that_takes_too_long_is_an_answer_and_the_server_goes_on(tmp_path: Path) -> None:
    async def work(box: Toolbox) -> None:
        late = await box.run_call(ToolCall("demo__hang", {}))
        assert late.kind is ResultKind.TIMEOUT and late.text == "error: demo__hang gave no result within 1 s"
        assert (await box.run_call(ToolCall("demo__say", {"text": "here"}))).text == "here"

    with_tools(sdk_server(tmp_path, call_timeout_s=1.0), work)


def test_a_server_that_dies_is_started_once_more(tmp_path: Path) -> None:
    async def work(box: Toolbox) -> None:
        died = await box.run_call(ToolCall("demo__die", {}))
        assert died.kind is ResultKind.UNKNOWN, "it may have done something before"
        assert "ended while demo__die ran" in died.text and "look before you repeat it" in died.text
        assert "segmentation fault" in died.text and "was started again" in died.text
        assert (await box.run_call(ToolCall("demo__add", {"a": 1, "b": 1}))).text == "2"
        again = await box.run_call(ToolCall("demo__die", {}))
        assert "has ended again and is not started a third time" in again.text
        gone = await box.run_call(ToolCall("demo__add", {"a": 1, "b": 1}))
        assert gone.kind is ResultKind.ERROR and "not started a third time" in gone.text

    with_tools(sdk_server(tmp_path), work)


def test_servers_end_with_the_run(tmp_path: Path) -> None:
    before = children()
    with_tools(sdk_server(tmp_path), lambda box: asyncio.sleep(0))
    deadline = time.monotonic() + 10
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() - before == set()


def children() -> set[int]:
    """Processes that this one has started, and theirs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, todo = set(), [os.getpid()]
    while todo:
        parent = todo.pop()
        more = [p for p, of in parents.items() if of == parent]
        found |= set(more)
        todo += more
    return found


DRIVER = """
import asyncio, sys
from qwq.envs.mcp import McpToolset
from qwq.envs.mcp_servers import McpServer

async def main():
    tools = McpToolset([McpServer("demo", tuple(sys.argv[1:]), start_timeout_s=60.0)])
    await tools.open(None)
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at a parent's death is Linux's")
def test_servers_end_when_the_run_is_killed(tmp_path: Path) -> None:
    """The server starts a process of its own, as `npx` does; neither is left."""
    script = tmp_path / "start.sh"
    script.write_text(f'sleep 600 &\n"{sys.executable}" "{SUPPORT / "mcp_old_server.py"}"\n')
    run = subprocess.Popen([sys.executable, "-c", DRIVER, "sh", str(script)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "up\n"
    mine = {p for p in children() if is_below(p, run.pid)}
    assert len(mine) >= 4, "guard, shell, sleep and server"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 10
    while any(alive(p) for p in mine) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [p for p in mine if alive(p)] == []


def is_below(pid: int, parent: int) -> bool:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if pid == parent:
            return True
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (("no-such-program-here",), ConfigError, "no program 'no-such-program-here'"),
        ((sys.executable, "-c", "raise SystemExit('no licence')"), InfraError, "no licence"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), InfraError, "within 1 s"),
    ],
)
def test_a_server_that_does_not_come_up_is_named_with_the_reason(command, error, words) -> None:
    server = McpServer("bad", command, start_timeout_s=1.0 if "within" in words else 30.0)
    with pytest.raises(error, match="the MCP server 'bad'") as raised:
        with_tools(server, lambda box: asyncio.sleep(0))
    assert words in str(raised.value)


def test_names_are_those_that_chat_apis_take() -> None:
    assert tool_names("s", ["b", "a.b", "a/b", "a_c"]) == [
        "s__b", "s__a_b_2e7336", "s__a_b_c14cdd", "s__a_c",
    ]  # fmt: skip
    (long,) = tool_names("s", ["x" * 90])
    assert len(long) == 64 and long.startswith("s__xxx")


def test_what_cannot_be_read_is_named_in_its_place() -> None:
    from mcp_types import CallToolResult

    result = CallToolResult.model_validate(
        {
            "content": [
                {"type": "image", "data": "no base64!", "mimeType": "image/png"},
                {"type": "resource_link", "name": "log", "uri": "file:///log.txt"},
                {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
                {"type": "resource", "resource": {"uri": "file:///b", "blob": "aGk=", "mimeType": "text/plain"}},
            ]
        }
    )
    text, artefacts = read_content(result)
    assert text.splitlines() == [
        "[image that is no base64]", "[link: log, file:///log.txt]", "inside", "[file-1.plain: text/plain, 2 bytes]",
    ]  # fmt: skip
    assert [(a.name, a.data) for a in artefacts] == [("file-1.plain", b"hi")]
    assert read_content(CallToolResult(content=[])) == ("(no output)", ())
    assert read_content(CallToolResult(content=[], structured_content={"rows": 3}))[0] == '{"rows": 3}'


def test_a_file_of_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "secret")
    file = tmp_path / "mcp.json"
    file.write_text(
        json.dumps(
            {
                "mcpServers": {
                    "web": {"url": "https://x.test/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN_OF_TEST}"}},
                    "files": {"command": "npx", "args": ["-y", "${PLACE_OF_TEST:-/data}"], "env": {"A": "b"}},
                    "off": {"command": "x", "disabled": True},
                }
            }
        )
    )
    files, web = read_mcp_file(file)
    assert files == McpServer("files", ("npx", "-y", "/data"), {"A": "b"})
    assert web.headers == {"Authorization": "Bearer secret"} and web.url == "https://x.test/mcp"
    (toolset,) = make_toolsets(["mcp"], mcp=str(file))
    assert toolset.name == "mcp"
    with pytest.raises(UsageError, match="--mcp FILE"):
        make_toolsets(["mcp"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "give `command`"),
        ({"command": "x", "url": "y"}, "one of the two"),
        ({"command": "x", "arguments": []}, "unknown key 'arguments': did you mean 'args'?"),
        ({"command": "x", "autoApprove": ["a"]}, "approvals are rules of the policy file"),
        ({"url": "ftp://x"}, "begins with http"),
        ({"url": "https://x", "type": "sse"}, "type 'sse'"),
        ({"command": "x", "args": "y"}, "args is 'y'"),
        ({"command": "x", "args": [1]}, "`args` a list of texts"),
        ({"command": "x", "env": {"A": 1}}, "write numbers in quotes"),
        ({"command": "x", "env": {"A": "${NOT_SET_IN_TEST}"}}, "the environment has no NOT_SET_IN_TEST"),
        ({"command": "x", "start_timeout_s": 0}, "give seconds above 0"),
        ({"command": "x", "start_timeout_s": True}, "its type is"),
        ([], "list where an object"),
    ],
)
def test_a_wrong_entry_is_told_in_one_line(entry, words) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_servers({"one": entry}, "mcp.json")
    assert words in str(raised.value) and str(raised.value).startswith("mcp.json: one: ")


def test_a_name_that_would_be_mistaken_is_refused() -> None:
    with pytest.raises(ConfigError, match="rename it"):
        parse_servers({"a__b": {"command": "x"}}, "mcp.json")
